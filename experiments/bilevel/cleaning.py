"""Which labels are wrong: a weight for every training image is learned.

Half of the labels of 900 training images are drawn at random; 100 images with
right labels validate. A linear model is trained on the weighted images.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bilevel.digits import (
  CLASSES,
  SIDE,
  apply_layers,
  digits,
  losses_of,
)
from experiments.bilevel.setting import Data, Kind, Rival
from metajax.base import Batch, PyTree, Task
from metajax.bilevel import Problem

__all__ = ['CLEANING']

_TRAINING, _VALIDATION = 900, 100
_RANDOM = 0.5  # part of the labels
_SURE = 20.0  # a logit of which the sigmoid is 1


def _init(key: jax.Array, inputs: jax.Array) -> jax.Array:
  del key
  return jnp.zeros(len(inputs))


def _start(key: jax.Array, logits: PyTree, inputs: PyTree) -> PyTree:
  del key, logits, inputs
  shapes = {'weights': (SIDE**2, CLASSES), 'offsets': (1, CLASSES)}
  return [{name: jnp.zeros(shape) for name, shape in shapes.items()}]


def _inner(params: PyTree, logits: PyTree, support: Batch) -> jax.Array:
  losses = losses_of(apply_layers(params, support.inputs), support.targets)
  return jnp.mean(jax.nn.sigmoid(logits) * losses)


def _predict(params: PyTree, logits: PyTree, inputs: PyTree) -> jax.Array:
  del logits
  return apply_layers(params, inputs)


def _data(seed: int) -> dict[str, Data]:
  (images, right), clean, test = digits(seed, _TRAINING, _VALIDATION)
  draws = np.random.default_rng([seed, 1])
  labels = np.where(
    draws.random(len(right)) < _RANDOM,
    draws.integers(0, CLASSES, len(right)),
    right,
  ).astype(np.int32)
  wrong = labels != right
  return {
    '': Data(
      Task(Batch(images, labels), Batch(*clean)),
      Batch(*test),
      partial(_draw, len(images)),
      {
        'all, noisy': Rival(np.full(len(images), _SURE, np.float32)),
        'clean validation alone': Rival(
          np.full(len(clean[0]), _SURE, np.float32), Batch(*clean)
        ),
        'oracle': Rival(np.where(wrong, -_SURE, _SURE).astype(np.float32)),
      },
      wrong,
    )
  }


def _draw(examples: int, key: jax.Array) -> jax.Array:
  return 3 * jax.random.normal(key, (examples,))


def _measure(data: Data, logits: PyTree) -> dict[str, float]:
  """How well weights below a half tell which labels are wrong."""
  found = np.asarray(logits) < 0
  if found.shape != data.truth.shape:
    return {}
  hits = float(np.sum(found & data.truth))
  return {'f1': 2 * hits / max(1.0, float(found.sum() + data.truth.sum()))}


def _show(data: Data, logits: PyTree) -> dict[str, Any]:
  weights = np.asarray(jax.nn.sigmoid(logits))
  surest = np.argsort(weights)[:30]  # of the lowest weight
  images, labels = data.task.support
  return {
    'weights': weights.tolist(),
    'wrong': data.truth.tolist(),
    'images': images[surest].tolist(),
    'labels': labels[surest].tolist(),
    'found': data.truth[surest].tolist(),
  }


CLEANING = Kind(
  about='900 digits, half of the labels drawn at random, a weight of each',
  problem=Problem(_init, _start, _inner, _predict),
  data=_data,
  inner_lr=0.1,
  inner_steps=200,
  outer_lr=0.5,
  outer_steps=60,
  seeds=10,
  random='a weight for every image',
  measure=_measure,
  show=_show,
)
