r"""The loss of training is learned, for labels of which four tenths are wrong.

With p the softmax of the outputs divided by a temperature and t the label with
a part s of it given to all classes, an example costs

.. math:: \sum_c t_c \, \frac{1 - p_c^q}{q} ,

the cross-entropy for q near 0, the mean absolute error at q = 1 (Zhang and
Sabuncu, 2018, Generalized cross entropy loss, https://arxiv.org/abs/1805.07836).
Temperature, smoothing s, and q are the hyper-parameters.
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
)
from experiments.bilevel.setting import (
  Data,
  Kind,
  Rival,
)
from metajax.base import Batch, PyTree, Task
from metajax.bilevel import Problem

__all__ = ['LOSS']

_TRAINING, _VALIDATION = 500, 100
_WRONG = 0.4  # part of the labels
_SIZES = SIDE**2, 64, CLASSES


def _named(temperature: Any, smoothing: Any, power: Any) -> PyTree:
  """A logarithm and two logits."""
  return {
    'temperature': jnp.float32(temperature),
    'smoothing': jnp.float32(smoothing),
    'power': jnp.float32(power),
  }


def _values(hyper: PyTree) -> tuple[jax.Array, jax.Array, jax.Array]:
  return (
    jnp.exp(hyper['temperature']),
    jax.nn.sigmoid(hyper['smoothing']),
    0.01 + jax.nn.sigmoid(hyper['power']),
  )


def _init(key: jax.Array, inputs: jax.Array) -> PyTree:
  del key, inputs
  return _named(0.0, -3.0, -1.0)


def _start(key: jax.Array, hyper: PyTree, inputs: PyTree) -> PyTree:
  del hyper, inputs
  return draw_layers(key, *_SIZES)


def _inner(params: PyTree, hyper: PyTree, support: Batch) -> jax.Array:
  temperature, smoothing, power = _values(hyper)
  outputs = apply_layers(params, support.inputs) / temperature
  labels = jax.nn.one_hot(support.targets, CLASSES)
  labels = (1 - smoothing) * labels + smoothing / CLASSES
  # p^q by logarithms, whose slope is finite where p is 0.
  powers = jnp.exp(power * jax.nn.log_softmax(outputs))
  return jnp.mean(jnp.sum(labels * (1 - powers) / power, axis=1))


def _predict(params: PyTree, hyper: PyTree, inputs: PyTree) -> jax.Array:
  temperature, _, _ = _values(hyper)
  return apply_layers(params, inputs) / temperature


def _data(seed: int) -> dict[str, Data]:
  (images, right), clean, test = digits(seed, _TRAINING, _VALIDATION)
  draws = np.random.default_rng([seed, 4])
  others = (right + draws.integers(1, CLASSES, len(right))) % CLASSES
  labels = np.where(draws.random(len(right)) < _WRONG, others, right)
  task = Task(Batch(images, labels.astype(np.int32)), Batch(*clean))
  rivals = {
    'cross-entropy': Rival(_named(0.0, -30.0, -30.0)),
    'cross-entropy, smoothing 0.1': Rival(_named(0.0, -2.2, -30.0)),
    'generalised cross-entropy, q 0.7': Rival(_named(0.0, -30.0, 0.8)),
    'clean validation alone': Rival(_named(0.0, -30.0, -30.0), Batch(*clean)),
  }
  return {'': Data(task, Batch(*test), _draw, rivals)}


def _draw(key: jax.Array) -> PyTree:
  temperature, smoothing, power = jax.random.normal(key, (3,))
  return _named(temperature, 2 * smoothing - 2, 2 * power)


def _show(data: Data, hyper: PyTree) -> dict[str, Any]:
  """The loss of an example by the probability of its label."""
  del data
  temperature, smoothing, power = map(float, _values(hyper))
  shares = np.linspace(0.002, 0.998, 200)
  others = (1 - shares) / (CLASSES - 1)

  def cost(share: np.ndarray) -> np.ndarray:
    return (1 - share**power) / power

  losses = (1 - smoothing + smoothing / CLASSES) * cost(shares) + smoothing * (
    CLASSES - 1
  ) / CLASSES * cost(others)
  return {
    'temperature': temperature,
    'smoothing': smoothing,
    'power': power,
    'shares': shares.tolist(),
    'losses': losses.tolist(),
  }


LOSS = Kind(
  about='500 digits, four tenths of the labels wrong, a loss of 3 numbers',
  problem=Problem(_init, _start, _inner, _predict),
  data=_data,
  inner_lr=0.1,
  inner_steps=100,
  outer_lr=0.1,
  outer_steps=40,
  seeds=3,
  random='temperature, smoothing and power',
  show=_show,
)
