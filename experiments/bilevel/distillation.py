"""A data set of 1,000 digits in ten images, one for each class.

The images are the hyper-parameters: a network that is drawn anew each time and
trained on them alone is to do well on the 1,000. Random search draws a real
image of each class.
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
  draw_layers,
  losses_of,
)
from experiments.bilevel.setting import (
  Data,
  Kind,
  Rival,
)
from metajax.base import Batch, PyTree, Task
from metajax.bilevel import Problem

__all__ = ['DISTILLATION']

_TRAINING = 1000
_SIZES = SIDE**2, 64, CLASSES


def _init(key: jax.Array, inputs: jax.Array) -> PyTree:
  """Starts from what the support set has, images of noise."""
  del key
  return jnp.asarray(inputs)


def _start(key: jax.Array, images: PyTree, inputs: PyTree) -> PyTree:
  del images, inputs
  return draw_layers(key, *_SIZES)


def _inner(params: PyTree, images: PyTree, support: Batch) -> jax.Array:
  return jnp.mean(losses_of(apply_layers(params, images), support.targets))


def _predict(params: PyTree, images: PyTree, inputs: PyTree) -> jax.Array:
  del images
  return apply_layers(params, inputs)


def _data(seed: int) -> dict[str, Data]:
  (images, labels), test = digits(seed, _TRAINING)
  draws = np.random.default_rng([seed, 5])
  of_class = [np.flatnonzero(labels == each) for each in range(CLASSES)]
  noise = draws.random((CLASSES, SIDE**2)).astype(np.float32)
  support = Batch(noise, np.arange(CLASSES, dtype=np.int32))
  means = np.stack([images[each].mean(0) for each in of_class])
  real = np.stack([images[each[0]] for each in of_class])
  rivals = {
    'class means': Rival(means),
    'real images, the first of each class': Rival(real),
  }
  table = np.zeros((CLASSES, max(map(len, of_class))), np.int32)
  for row, each in zip(table, of_class, strict=True):
    row[: len(each)] = each
  counts = np.array([len(each) for each in of_class])
  draw = partial(_draw, images, table, counts)
  task = Task(support, Batch(images, labels))
  return {'': Data(task, Batch(*test), draw, rivals, real)}


def _draw(
  images: np.ndarray, table: np.ndarray, counts: np.ndarray, key: jax.Array
) -> jax.Array:
  places = jax.random.randint(key, (CLASSES,), 0, counts)
  chosen = jnp.asarray(table)[jnp.arange(CLASSES), places]
  return jnp.asarray(images)[chosen]


def _show(data: Data, images: PyTree) -> dict[str, Any]:
  return {
    'learned': np.asarray(images).tolist(),
    'means': data.rivals['class means'].hyperparams.tolist(),
    'real': data.truth.tolist(),
  }


DISTILLATION = Kind(
  about='1,000 digits in ten images',
  problem=Problem(_init, _start, _inner, _predict),
  data=_data,
  inner_lr=0.05,
  inner_steps=40,
  outer_lr=0.03,
  outer_steps=1000,
  seeds=5,
  random='a real image of each class',
  show=_show,
)
