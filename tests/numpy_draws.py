"""What tests compute with, of NumPy: it compiles nothing."""

import jax
import numpy as np

from metajax.base import Batch, PyTree, Task

KEY = jax.random.key(0)


def numbers_like(shapes: PyTree, seed: int = 0) -> PyTree:
  """Normal numbers in double precision; what counts something is zero."""
  generator = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: (
      0.5 * generator.normal(size=leaf.shape)
      if np.issubdtype(leaf.dtype, np.floating)
      else np.zeros(leaf.shape, leaf.dtype)
    ),
    shapes,
  )


def parameters(init, inputs, seed: int = 0) -> PyTree:
  """Numbers of the shapes that a model or a method has for such inputs."""
  shapes = jax.eval_shape(init, KEY, inputs)
  return numbers_like(shapes, seed)


def at(tree: PyTree, index) -> PyTree:
  """One of what is along the first axis, or several."""
  return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def stacked(*trees: PyTree) -> PyTree:
  """Trees along a new first axis."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def in_double(tree: PyTree) -> PyTree:
  """The same numbers in double precision; integers stay."""
  return jax.tree.map(
    lambda leaf: (
      np.asarray(leaf, np.float64)
      if np.issubdtype(leaf.dtype, np.floating)
      else leaf
    ),
    tree,
  )


def sinusoids(num: int, shots: int = 4, queries: int = 5) -> Task:
  """Finn's sine waves, leaves `[num, examples, 1]`."""
  generator = np.random.default_rng(0)
  x = generator.uniform(-5, 5, (num, shots + queries, 1))
  phase = generator.uniform(0, np.pi, (num, 1, 1))
  y = generator.uniform(0.1, 5, (num, 1, 1)) * np.sin(x - phase)
  return Task(
    Batch(x[:, :shots], y[:, :shots]), Batch(x[:, shots:], y[:, shots:])
  )


def classes(num: int, ways: int, support: int, query: int) -> Task:
  """Inputs without structure, of classes in turn, `[num, examples, 5]`."""

  def batch(seed: int, examples: int) -> Batch:
    generator = np.random.default_rng(seed)
    targets = np.arange(examples, dtype=np.int32) % ways
    return Batch(
      generator.normal(size=(num, examples, 5)), np.tile(targets, (num, 1))
    )

  return Task(batch(0, support), batch(1, query))


def noise(num: int, ways: int, shots: int, queries: int) -> Task:
  """Images of noise, of classes in turn, `[num, examples, 3, 3, 1]`."""
  generator = np.random.default_rng(0)

  def batch(each: int) -> Batch:
    targets = np.tile(np.arange(ways, dtype=np.int32), (num, each))
    inputs = generator.uniform(size=(*targets.shape, 3, 3, 1))
    return Batch(inputs.astype(np.float32), targets)

  return Task(batch(shots), batch(queries))
