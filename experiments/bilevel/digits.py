"""Scikit-learn's digits, and the small models that are trained on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data.digits import load_digits
from metajax.base import PyTree

__all__ = [
  'CLASSES', 'SIDE', 'apply_layers', 'digits', 'draw_layers', 'losses_of',
  'momentum',
]  # fmt: skip

SIDE = 8
CLASSES = 10


def digits(seed: int, *sizes: int) -> list[tuple[np.ndarray, np.ndarray]]:
  """Parts of the 1,797 digits that share none, in an order of the seed.

  Args:
    seed: of the order.
    *sizes: of the parts; all that are left make one more.

  Returns:
    Of each part images `[examples, 64]` in [0, 1], and classes.

  Raises:
    UsageError: if scikit-learn is not installed.
  """
  images, labels = load_digits('problem')
  images = (images.reshape(-1, SIDE**2) / 16).astype(np.float32)
  labels = labels.astype(np.int32)
  order = np.random.default_rng(seed).permutation(len(images))
  places = np.split(order, np.cumsum(sizes))
  return [(images[each], labels[each]) for each in places]


def draw_layers(key: jax.Array, *sizes: int) -> PyTree:
  """Weights of dense layers, drawn by He, and offsets of 0."""
  keys = jax.random.split(key, len(sizes) - 1)
  return [
    {
      'weights': jax.random.normal(key, (m, n)) * (2 / m) ** 0.5,
      'offsets': jnp.zeros((1, n)),
    }
    for key, m, n in zip(keys, sizes, sizes[1:], strict=False)
  ]


def apply_layers(params: PyTree, inputs: jax.Array) -> jax.Array:
  """Dense layers with a smooth slope between them, `[examples, outputs]`."""
  *hidden, last = params
  for layer in hidden:
    inputs = jax.nn.gelu(inputs @ layer['weights'] + layer['offsets'])
  return inputs @ last['weights'] + last['offsets']


def losses_of(outputs: jax.Array, classes: jax.Array) -> jax.Array:
  """The cross-entropy of each example."""
  losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(
    outputs, classes
  )
  return losses


def momentum(rate: float) -> optax.GradientTransformation:
  """The inner optimiser of most problems."""
  return optax.sgd(rate, momentum=0.9)
