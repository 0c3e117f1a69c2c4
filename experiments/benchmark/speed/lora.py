"""A pretrained transformer with low-rank adapters, in JAX.

It has the form of BERT, and is drawn at random: what a step costs does not
depend on what the weights say.
"""

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmark.speed.base import (
  IMAGES_PER_CLASS,
  LORA_RANK,
  SEED,
  Problem,
  Workload,
  folder_of,
)
from metajax.base import PyTree
from metajax.equality import Frozen
from metajax.models import pretrained
from metajax.models.frozen import on_weights
from metajax.models.tuning import lora

__all__ = ['draw_pretrained', 'in_type_of', 'on_pretrained', 'random_texts']

_HEAD_WIDTH = 32  # as in MiniLM


def draw_pretrained(workload: Workload) -> dict[str, bytes]:
  """The files of a transformer, as somebody would publish it.

  Args:
    workload: whose network it is.

  Returns:
    What is in them, by name; nothing for other networks.
  """
  if workload.network != 'lora':
    return {}
  width = workload.width
  config = pretrained.TransformerConfig(
    'bert', workload.vocabulary, width, workload.depth,
    max(1, width // _HEAD_WIDTH), 4 * width, 512, types=2, epsilon=1e-12,
  )  # fmt: skip
  params = jax.jit(pretrained.text_encoder(config).init)(
    jax.random.key(SEED), random_texts(workload)[0][:1]
  )
  with tempfile.TemporaryDirectory() as folder:
    pretrained.save(folder, config, params)
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def on_pretrained(problem: Problem) -> Frozen:
  """The network of a problem: the weights stay, adapters and head are learned.

  The head stands on the mean over the tokens.
  """
  with folder_of(problem) as folder:
    found = pretrained.load(folder)
  encoder = pretrained.text_encoder(found.config, problem.workload.ways)
  return on_weights(encoder, found.params, lora(LORA_RANK))


def in_type_of(weights: PyTree, learner: Frozen) -> Frozen:
  """The learner on its arrays in the type that the learned weights have."""
  dtype = jax.tree.leaves(weights)[0].dtype
  wide: Frozen = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), learner)
  return wide


def random_texts(workload: Workload) -> tuple[np.ndarray, Any]:
  """Random tokens, in texts of half the length and more, and their classes."""
  random = np.random.default_rng(SEED)
  number, side = workload.classes * IMAGES_PER_CLASS, workload.side
  tokens = random.integers(workload.vocabulary, size=(number, side))
  lengths = random.integers(side // 2, side + 1, size=(number, 1))
  tokens = np.where(np.arange(side) < lengths, tokens, -1).astype(np.int32)
  return tokens, np.repeat(np.arange(workload.classes), IMAGES_PER_CLASS)
