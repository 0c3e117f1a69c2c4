r"""The cell of a small network is chosen, for each of two distributions.

Classes of the first are patterns of 3 by 3 pixels that lie anywhere in noise,
so a convolution should win; those of the second are digits whose pixels are
exchanged by a fixed permutation, which leaves no neighbours: a product with
all pixels should. As in DARTS every place of the cell has a mixture of
operations,

.. math:: \sum_o \mathrm{softmax}(\alpha)_o \, o(x) ,

whose weights are the hyper-parameters. Of the three likeliest cells of one
operation at every place, each trained anew, the best in validation is tested.

References:
  Liu, Simonyan, Yang (2019), DARTS: differentiable architecture search,
  https://arxiv.org/abs/1806.09055
  Wang et al. (2021), Rethinking architecture selection in differentiable NAS,
  https://arxiv.org/abs/2108.04392
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bilevel.digits import CLASSES, SIDE, digits, losses_of
from experiments.bilevel.setting import Data, Kind
from metajax.base import Batch, PyTree, Task
from metajax.bilevel import Problem

__all__ = ['ARCHITECTURE', 'named']

_TRAINING, _VALIDATION, _TEST = 100, 100, 500
_CHANNELS = 6
_PATCH, _PATCHES = 3, 5  # pixels of a pattern, and how many lie in an image
# What there is to choose from, at every place of the cell.
PLACES = {
  'first': ('convolution', 'all pixels', 'skip'),
  'second': ('convolution', 'all pixels', 'skip'),
  'readout': ('mean', 'each pixel'),
}
_FEW = 3  # cells that validation chooses from
_SURE = 30.0  # a logit beside which the others count nothing


def _operations(inputs: jax.Array, params: PyTree) -> list[jax.Array]:
  """What each operation makes of images `[n, 8, 8, channels]`."""
  shape = inputs.shape
  around = jnp.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)), mode='wrap')
  neighbours = jnp.concatenate(
    [
      around[:, i : i + SIDE, j : j + SIDE]
      for i, j in itertools.product(range(3), range(3))
    ],
    axis=-1,
  )
  pixels = inputs.reshape(shape[0], SIDE**2, _CHANNELS)
  return [
    neighbours @ params['convolution'],
    jnp.einsum('npc,pq->nqc', pixels, params['pixels']).reshape(shape),
    inputs,
  ]


def _mixed(options: list[jax.Array], logits: jax.Array) -> jax.Array:
  weights = jax.nn.softmax(logits)
  return sum(
    (weight * each for weight, each in zip(weights, options, strict=True)),
    start=jnp.zeros_like(options[0]),
  )


def _init(key: jax.Array, inputs: jax.Array) -> PyTree:
  del key, inputs
  return {name: jnp.zeros(len(names)) for name, names in PLACES.items()}


def _start(key: jax.Array, logits: PyTree, inputs: PyTree) -> PyTree:
  del logits, inputs
  keys = jax.random.split(key, 7)

  def drawn(key: jax.Array, *shape: int, of: int) -> jax.Array:
    return jax.random.normal(key, shape) * (2 / of) ** 0.5

  def place(first: jax.Array, second: jax.Array) -> PyTree:
    fan = 9 * _CHANNELS
    return {
      'convolution': drawn(first, fan, _CHANNELS, of=fan),
      'pixels': drawn(second, SIDE**2, SIDE**2, of=SIDE**2),
    }

  flat = SIDE**2 * _CHANNELS
  return {
    'stem': drawn(keys[0], 1, _CHANNELS, of=1),
    'first': place(keys[1], keys[2]),
    'second': place(keys[3], keys[4]),
    'mean': drawn(keys[5], _CHANNELS, CLASSES, of=_CHANNELS),
    'each': drawn(keys[6], flat, CLASSES, of=flat),
  }


def _predict(params: PyTree, logits: PyTree, inputs: jax.Array) -> jax.Array:
  images = inputs.reshape(-1, SIDE, SIDE, 1) @ params['stem']
  for name in ('first', 'second'):
    images = _mixed(_operations(images, params[name]), logits[name])
    images = jax.nn.gelu(images)
  return _mixed(
    [
      8 * images.mean((1, 2)) @ params['mean'],
      images.reshape(len(images), -1) @ params['each'],
    ],
    logits['readout'],
  )


def _inner(params: PyTree, logits: PyTree, support: Batch) -> jax.Array:
  outputs = _predict(params, logits, support.inputs)
  return jnp.mean(losses_of(outputs, support.targets))


def _patterns(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
  """Images of noise in which the pattern of their class lies a few times."""
  draws = np.random.default_rng([seed, 6])
  patterns = draws.choice([-1.0, 1.0], (CLASSES, _PATCH, _PATCH))
  parts = []
  for examples in (_TRAINING, _VALIDATION, _TEST):
    labels = draws.integers(0, CLASSES, examples).astype(np.int32)
    images = 0.3 * draws.normal(size=(examples, SIDE, SIDE))
    for image, label in zip(images, labels, strict=True):
      for row, column in draws.integers(0, SIDE - _PATCH + 1, (_PATCHES, 2)):
        image[row : row + _PATCH, column : column + _PATCH] = patterns[label]
    parts.append((images.reshape(examples, -1).astype(np.float32), labels))
  return parts


def _exchanged(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
  """Digits without neighbours."""
  order = np.random.default_rng([seed, 7]).permutation(SIDE**2)
  *parts, test = digits(seed, _TRAINING, _VALIDATION)
  parts.append((test[0][:_TEST], test[1][:_TEST]))
  return [(images[:, order], labels) for images, labels in parts]


def _data(seed: int) -> dict[str, Data]:
  found = {}
  for name, draw in (('patterns', _patterns), ('exchanged', _exchanged)):
    training, validation, test = (Batch(*part) for part in draw(seed))
    found[name] = Data(Task(training, validation), test, _draw, {})
  return found


def _draw(key: jax.Array) -> PyTree:
  """One operation at every place."""
  keys = jax.random.split(key, len(PLACES))
  return {
    name: _SURE
    * jax.nn.one_hot(jax.random.randint(key, (), 0, len(names)), len(names))
    for key, (name, names) in zip(keys, PLACES.items(), strict=True)
  }


def _settle(logits: PyTree) -> list[PyTree]:
  """The likeliest cells of one operation at every place.

  The operation of the largest weight need not be good alone: a mixture lets
  gradients through a skip, and leaves the work to the others.
  """
  weights = {
    name: jax.nn.softmax(jnp.asarray(of)) for name, of in logits.items()
  }
  cells = itertools.product(*(range(len(PLACES[name])) for name in weights))

  def likelihood(cell: tuple[int, ...]) -> float:
    chosen = zip(weights.values(), cell, strict=True)
    return float(np.prod([of[number] for of, number in chosen]))

  return [
    {
      name: np.float32(_SURE) * np.eye(len(of), dtype=np.float32)[number]
      for (name, of), number in zip(weights.items(), cell, strict=True)
    }
    for cell in sorted(cells, key=likelihood, reverse=True)[:_FEW]
  ]


def named(logits: PyTree) -> str:
  """What a cell is made of."""
  return ', '.join(
    PLACES[name][int(np.argmax(logits[name]))] for name in PLACES
  )


def _show(data: Data, logits: PyTree) -> dict[str, Any]:
  return {
    'weights': {
      name: dict(
        zip(
          PLACES[name],
          np.asarray(jax.nn.softmax(jnp.asarray(logits[name]))).tolist(),
          strict=True,
        )
      )
      for name in PLACES
    },
    'cell': named(logits),
    'images': data.test.inputs[:8].tolist(),
  }


ARCHITECTURE = Kind(
  about='patterns anywhere, or digits with exchanged pixels; a cell for each',
  problem=Problem(_init, _start, _inner, _predict),
  data=_data,
  optimizer=optax.adam,
  inner_lr=0.02,
  inner_steps=30,
  outer_lr=0.15,
  outer_steps=15,
  seeds=3,
  random='one of the 18 cells',
  settle=_settle,
  show=_show,
)
