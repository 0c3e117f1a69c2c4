"""A stream of classes, one example after another, on features that stay.

What was learned before the stream is in `Known`; a method goes through the
classes of a `Course` in turn, once, and is asked for all that have come so far
at some numbers of them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.adaptation.heads import linear_head
from metajax.algorithms.anml import gated
from metajax.base import Model, PyTree
from metajax.models import conv4, mlp
from metajax.objectives import cross_entropy

__all__ = [
  'FROZEN',
  'RATES',
  'Course',
  'Found',
  'Known',
  'Method',
  'are_finite',
  'as_found',
  'as_numbers',
  'by_means',
  'embedding',
  'features_of',
  'nearest',
  'of_head',
  'segments',
  'told',
]

RATES = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1)


class Course(NamedTuple):
  """Classes in the order in which they come."""

  support: np.ndarray  # [classes, shots, ...], the stream
  query: np.ndarray  # [classes, queries, ...], to judge by
  numbers: Sequence[int]  # of classes, at which it is judged
  seed: int
  memory: int  # examples that a method may keep


class Known(NamedTuple):
  """What was learned before: parameters of embeddings, by method."""

  model: Model
  params: dict[str, PyTree]  # of 'oml', 'anml', 'pretrained'


class Found(NamedTuple):
  """Accuracies at the numbers of a course."""

  on_queries: np.ndarray  # [numbers]
  on_stream: np.ndarray  # [numbers], on what it has learned from


class Method(NamedTuple):
  """A row of the table of methods."""

  run: Callable[[Known, Course, float], Found]
  start: str | None  # what of `Known` it starts with
  rates: tuple[float, ...] = ()  # of which validation chooses
  keeps: str = 'nothing'  # of the examples


def embedding(shape: Sequence[int], width: int) -> Model:
  """A network that sees each example by itself, for inputs of a shape.

  Args:
    shape: of one example: an image, or a vector.
    width: of its layers.
  """
  if len(shape) == 1:
    return mlp([4 * width], 2 * width)
  return conv4(
    None, width=width, pool='flatten', halvings=3, normalisation='example'
  )


def as_numbers(inputs: Any) -> jax.Array:
  """Images of 8 bits as fractions, with an axis of channels."""
  inputs = jnp.asarray(inputs)
  if inputs.dtype != jnp.uint8:
    return inputs
  return inputs.astype(jnp.float32) / 255


def features_of(
  model: Model, params: PyTree, inputs: np.ndarray, size: int
) -> jax.Array:
  """Features `[classes, examples, features]`, of so many classes at a time."""
  parts = [
    _features(model, params, inputs[start : start + size])
    for start in range(0, len(inputs), size)
  ]
  return jnp.concatenate(parts)


@partial(jax.jit, static_argnums=0)
def _features(model: Model, params: PyTree, inputs: jax.Array) -> jax.Array:
  found = model.apply(params, as_numbers(inputs.reshape(-1, *inputs.shape[2:])))
  return found.reshape(*inputs.shape[:2], -1)


def segments(course: Course) -> Iterator[tuple[slice, int | None]]:
  """Parts of one size, so that one program serves them all.

  Each with the number of classes after it, where the course is judged then.
  """
  size = math.gcd(*course.numbers)
  for start in range(0, course.numbers[-1], size):
    stop = start + size
    yield slice(start, stop), stop if stop in course.numbers else None


def told(outputs: jax.Array) -> float:
  """The share of `[classes, examples, outputs]` whose class is the highest.

  Outputs that are no numbers are right nowhere.
  """
  right = jnp.argmax(outputs, -1) == jnp.arange(len(outputs))[:, None]
  right &= jnp.all(jnp.isfinite(outputs), -1)
  return float(jnp.mean(right))


def are_finite(known: Known, name: str, inputs: np.ndarray) -> bool:
  """Whether what was learned before has features that are all numbers."""
  model = gated(known.model) if name == 'anml' else known.model
  features = features_of(model, known.params[name], inputs, len(inputs))
  return bool(jnp.all(jnp.isfinite(jnp.square(features))))


def as_found(pairs: Sequence[tuple[float, float]]) -> Found:
  """From accuracies on queries and on the stream, at each number."""
  return Found(*np.asarray(pairs).T)


# Features that stay as they are.


def _head(
  known: Known, course: Course, rate: float, start: str, model: Model
) -> Found:
  """A linear head of zeros, with an output for every class that will come."""
  params = known.params[start]
  size = math.gcd(*course.numbers)
  stream = features_of(model, params, course.support, size)
  queries = features_of(model, params, course.query, size)
  classes, shots, _ = stream.shape
  head = linear_head(classes).init(jax.random.key(0), stream[0])
  targets = jnp.repeat(jnp.arange(classes), shots).reshape(classes, shots)
  found = []
  for place, number in segments(course):
    head = _learn_head(head, stream[place], targets[place], rate)
    if number is None:
      continue
    apply = partial(of_head, head)
    found.append((told(apply(queries[:number])), told(apply(stream[:number]))))
  return as_found(found)


def of_head(head: PyTree, features: jax.Array) -> jax.Array:
  """Outputs `[classes, examples, outputs]` of a linear head."""
  return features @ head['kernel'] + head['bias'][None, None]


@jax.jit
def _learn_head(
  head: PyTree, features: jax.Array, targets: jax.Array, rate: Any
) -> PyTree:
  """What `learn_stream` does, without the way that it keeps."""
  apply = linear_head(1).apply

  def loss(head: PyTree, one: jax.Array, target: jax.Array) -> jax.Array:
    return cross_entropy(apply(head, one[None]), target[None])[0]

  def step(head: PyTree, each: Any) -> tuple[PyTree, None]:
    slope = jax.grad(loss)(head, *each)
    return jax.tree.map(lambda p, g: p - rate * g, head, slope), None

  flat = features.reshape(-1, features.shape[-1]), targets.reshape(-1)
  return jax.lax.scan(step, head, flat)[0]


def _oml(known: Known, course: Course, rate: float) -> Found:
  return _head(known, course, rate, 'oml', known.model)


def _anml(known: Known, course: Course, rate: float) -> Found:
  return _head(known, course, rate, 'anml', gated(known.model))


def _linear(known: Known, course: Course, rate: float) -> Found:
  return _head(known, course, rate, 'pretrained', known.model)


def _means(known: Known, course: Course, rate: float) -> Found:
  """Running means of the features of classes."""
  del rate
  params, size = known.params['pretrained'], math.gcd(*course.numbers)
  return by_means(
    features_of(known.model, params, course.support, size),
    features_of(known.model, params, course.query, size),
    course,
  )


def _pixels(known: Known, course: Course, rate: float) -> Found:
  """Running means of the inputs themselves."""
  del known, rate
  stream, queries = map(as_numbers, (course.support, course.query))
  return by_means(
    stream.reshape(*stream.shape[:2], -1),
    queries.reshape(*queries.shape[:2], -1),
    course,
  )


def by_means(stream: jax.Array, queries: jax.Array, course: Course) -> Found:
  """By the nearest of the means of the classes that have come."""
  means = jnp.mean(stream, axis=1)
  return as_found(
    [
      (nearest(queries[:n], means[:n]), nearest(stream[:n], means[:n]))
      for n in course.numbers
    ]
  )


def nearest(features: jax.Array, means: jax.Array) -> float:
  """The share of features `[classes, examples, size]` nearest to their mean."""
  squares = jnp.sum(jnp.square(means), -1)
  return told(2 * features @ means.T - squares[None, None])


FROZEN: dict[str, Method] = {
  'oml': Method(_oml, 'oml', RATES),
  'anml': Method(_anml, 'anml', RATES),
  'means': Method(_means, 'pretrained', (), 'sums by class'),
  'linear': Method(_linear, 'pretrained', RATES),
  'pixels': Method(_pixels, None, (), 'sums by class'),
}
