"""The network of a run on several modalities."""

import math
from typing import Any

from experiments.runner.errors import UsageError
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS
from metajax.base import Head, Model
from metajax.models import mlp, multimodal
from metajax.models.encoders import encoder
from metajax.models.pretrained import TransformerConfig, text_encoder
from metajax.precision import with_precision
from metajax.tasks.captions import LENGTH

__all__ = ['make_multimodal']


def make_multimodal(given: Any, recipe: Recipe, vocabulary: int) -> Model:
  """Makes encoders of images and of texts, and what they share.

  Args:
    given: settings of the run.
    recipe: of the method; its width is that of everything.
    vocabulary: tokens that there are.

  Raises:
    UsageError: if the method wants another head, or the network of the images
      makes no features.
  """
  head = ALGORITHMS[given.algorithm].head
  if head.kind not in ('outputs', 'features') or head.warps:
    raise UsageError(
      'algorithm',
      f'{given.algorithm} wants {head.describe()} of a network, which one of'
      ' several modalities does not have',
    )
  width = recipe.width or 64
  try:
    images = encoder(
      recipe.network or 'conv4',
      Head('features'),
      0,
      width=width,
      depth=recipe.depth,
    )
  except ValueError as error:
    raise UsageError('network', str(error)) from error
  texts = text_encoder(
    TransformerConfig(
      'llama', vocabulary, width, 2, math.gcd(width, 4), 2 * width, LENGTH,
      activation='silu', attention_bias=False, feed_forward_bias=False,
    )
  )  # fmt: skip
  outputs = recipe.ways if head.kind == 'outputs' else head.size or width
  model = multimodal(
    {'images': images, 'texts': texts}, mlp([width], outputs), width
  )
  return with_precision(model, given.precision)
