r"""How far training images are to be turned, moved, and so on, is learned.

Training has 100 upright digits; those of validation and test are turned by up
to 30 degrees, moved sideways by up to 1.5 pixels, and noisy. A training image
and four copies of it are trained on; in a copy each change is a fixed draw of
[-1, 1] times a magnitude, which is learned, as is the weight of copies.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

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

__all__ = ['AUGMENTATION', 'MAGNITUDES']

_TRAINING, _VALIDATION, _COPIES = 100, 200, 4
_SIZES = SIDE**2, 64, CLASSES
# Of each change the unit of its magnitude, and what the test has of it.
MAGNITUDES = {
  'turn (degrees)': (30.0, 30.0),
  'move sideways (pixels)': (1.0, 1.5),
  'move upwards (pixels)': (1.0, 0.0),
  'zoom (%)': (20.0, 0.0),
  'noise (standard deviations)': (0.1, 0.1),
}
_SHIFTS = len(MAGNITUDES) - 1
_TRUTH = np.array([test / unit for unit, test in MAGNITUDES.values()])


def changed(
  images: jax.Array, draws: jax.Array, noise: jax.Array, sizes: jax.Array
) -> jax.Array:
  """Images `[n, 64]`, changed by draws `[n, 4]` and noise times magnitudes."""
  units = jnp.array([unit for unit, _ in MAGNITUDES.values()])
  sizes = sizes * units
  rows, columns = jnp.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2

  def one(image: jax.Array, draw: jax.Array) -> jax.Array:
    angle, right, up, zoom = draw * sizes[:_SHIFTS]
    angle, scale = jnp.deg2rad(angle), 1 + zoom / 100
    sine, cosine = jnp.sin(angle) / scale, jnp.cos(angle) / scale
    places = (
      cosine * rows - sine * columns + up + (SIDE - 1) / 2,
      sine * rows + cosine * columns + right + (SIDE - 1) / 2,
    )
    return map_coordinates(image.reshape(SIDE, SIDE), places, order=1).ravel()

  return jax.vmap(one)(images, draws) + sizes[_SHIFTS] * noise


def _init(key: jax.Array, inputs: PyTree) -> PyTree:
  del key, inputs
  return {'sizes': jnp.full(len(MAGNITUDES), 0.2), 'copies': jnp.zeros(())}


def _start(key: jax.Array, hyper: PyTree, inputs: PyTree) -> PyTree:
  del hyper, inputs
  return draw_layers(key, *_SIZES)


def _inner(params: PyTree, hyper: PyTree, support: Batch) -> jax.Array:
  images, draws, noise = (
    support.inputs[name] for name in ('images', 'draws', 'noise')
  )
  repeated = jnp.repeat(images, _COPIES, 0)
  copies = changed(
    repeated, draws.reshape(-1, _SHIFTS), noise.reshape(-1, SIDE**2),
    hyper['sizes'],
  )  # fmt: skip
  own = losses_of(apply_layers(params, images), support.targets)
  of_copies = losses_of(
    apply_layers(params, copies), jnp.repeat(support.targets, _COPIES)
  )
  share = jax.nn.sigmoid(hyper['copies'])
  return (1 - share) * jnp.mean(own) + share * jnp.mean(of_copies)


def _predict(params: PyTree, hyper: PyTree, inputs: PyTree) -> jax.Array:
  del hyper
  return apply_layers(params, inputs)


def _data(seed: int) -> dict[str, Data]:
  training, *parts = digits(seed, _TRAINING, _VALIDATION)
  draws = np.random.default_rng([seed, 3])

  def numbers(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    return (
      draws.uniform(-1, 1, (*shape, _SHIFTS)).astype(np.float32),
      draws.normal(size=(*shape, SIDE**2)).astype(np.float32),
    )

  validation, test = (
    Batch(
      np.asarray(
        changed(*map(jnp.asarray, (images, *numbers(len(images)), _TRUTH)))
      ),
      labels,
    )
    for images, labels in parts
  )
  shifts, noise = numbers(_TRAINING, _COPIES)
  inputs = {'images': training[0], 'draws': shifts, 'noise': noise}
  rivals = {
    'no augmentation': Rival(_as(np.zeros(len(_TRUTH)), -30.0)),
    'oracle, the magnitudes of the test': Rival(_as(_TRUTH, 2.0)),
  }
  task = Task(Batch(inputs, training[1]), validation)
  return {'': Data(task, test, _draw, rivals, _TRUTH)}


def _as(sizes: np.ndarray, copies: float) -> PyTree:
  return {
    'sizes': np.asarray(sizes, np.float32),
    'copies': np.float32(copies),
  }


def _draw(key: jax.Array) -> PyTree:
  sizes, copies = jax.random.split(key)
  return {
    'sizes': jax.random.uniform(sizes, (len(MAGNITUDES),), maxval=2.0),
    'copies': 2 * jax.random.normal(copies),
  }


def _show(data: Data, hyper: PyTree) -> dict[str, Any]:
  inputs = data.task.support.inputs
  images = inputs['images'][:8]
  copies = [
    changed(
      jnp.asarray(images), inputs['draws'][:8, copy],
      inputs['noise'][:8, copy], jnp.asarray(hyper['sizes']),
    ).tolist()
    for copy in range(_COPIES)
  ]  # fmt: skip
  units = np.array([unit for unit, _ in MAGNITUDES.values()])
  return {
    'names': list(MAGNITUDES),
    'sizes': (np.abs(hyper['sizes']) * units).tolist(),
    'truth': (data.truth * units).tolist(),
    'copies': float(jax.nn.sigmoid(hyper['copies'])),
    'images': [images.tolist(), *copies],
    'test': data.test.inputs[:8].tolist(),
  }


AUGMENTATION = Kind(
  about='100 upright digits, a test that turns and moves them, magnitudes',
  problem=Problem(_init, _start, _inner, _predict),
  data=_data,
  inner_lr=0.05,
  inner_steps=100,
  outer_lr=0.1,
  outer_steps=40,
  seeds=3,
  random='magnitudes up to twice their unit, and the weight of copies',
  show=_show,
)
