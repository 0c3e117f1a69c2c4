"""A weight decay for each of 10,018 parameters.

Digits stand beside as many pixels of noise, which a network of one hidden layer
learns by heart from 100 images. A decay of its own for every weight can leave
out what is noise; random search draws one decay for all, as is usual. Decays
are sigmoids of the hyper-parameters: above 1 the inner steps would diverge.
"""

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

__all__ = ['REGULARISATION']

_TRAINING, _VALIDATION = 100, 300
_SIZES = 2 * SIDE**2, 72, CLASSES
_USUAL = -8.0  # the logit of the decay that learning starts from
_RANGE = -12.0, -2.0  # of what random search draws


def _like(value: jax.Array | float) -> PyTree:
  """Logits of decays that are all equal."""
  shapes = draw_layers(jax.random.key(0), *_SIZES)
  return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value), shapes)


def _init(key: jax.Array, inputs: jax.Array) -> PyTree:
  del key, inputs
  return _like(_USUAL)


def _start(key: jax.Array, decays: PyTree, inputs: PyTree) -> PyTree:
  del decays, inputs
  return draw_layers(key, *_SIZES)


def _inner(params: PyTree, decays: PyTree, support: Batch) -> jax.Array:
  losses = losses_of(apply_layers(params, support.inputs), support.targets)
  terms = jax.tree.map(
    lambda leaf, decay: jnp.sum(jax.nn.sigmoid(decay) * leaf**2), params, decays
  )
  return jnp.mean(losses) + jax.tree.reduce(jnp.add, terms)


def _predict(params: PyTree, decays: PyTree, inputs: PyTree) -> jax.Array:
  del decays
  return apply_layers(params, inputs)


def _data(seed: int) -> dict[str, Data]:
  draws = np.random.default_rng([seed, 2])
  batches = []
  for images, labels in digits(seed, _TRAINING, _VALIDATION):
    noise = draws.random(images.shape).astype(np.float32)
    batches.append(Batch(np.concatenate([images, noise], 1), labels))
  training, validation, test = batches
  rivals = {
    'no decay': Rival(_like(-30.0)),
    'one decay, as learning starts': Rival(_like(_USUAL)),
  }
  return {'': Data(Task(training, validation), test, _draw, rivals)}


def _draw(key: jax.Array) -> PyTree:
  return _like(jax.random.uniform(key, (), minval=_RANGE[0], maxval=_RANGE[1]))


def _show(data: Data, decays: PyTree) -> dict[str, Any]:
  del data
  first = np.asarray(decays[0]['weights']).mean(1)
  return {
    'digit': first[: SIDE**2].tolist(),
    'noise': first[SIDE**2 :].tolist(),
    'start': _USUAL,
  }


REGULARISATION = Kind(
  about='100 digits beside noise, a decay for each of 10,018 parameters',
  problem=Problem(_init, _start, _inner, _predict),
  data=_data,
  inner_lr=0.05,
  inner_steps=60,
  outer_lr=0.5,
  outer_steps=40,
  seeds=3,
  random='one decay for all parameters',
  show=_show,
)
