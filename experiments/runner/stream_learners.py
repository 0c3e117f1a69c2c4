"""Methods of which everything learns from a stream of classes; and all methods.

They start with what was pretrained; `experiments.runner.streams` has those on
features that stay as they are.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.runner.streams import (
  FROZEN,
  Course,
  Found,
  Known,
  Method,
  as_found,
  as_numbers,
  features_of,
  nearest,
  of_head,
  segments,
  told,
)
from metajax.adaptation.heads import TransferParams, linear_head, with_head
from metajax.adaptation.learned_descent import LearnedDescent
from metajax.adaptation.streams import learn_stream
from metajax.algorithms.la_maml import by_learned_rates, la_maml
from metajax.algorithms.protonet import protonet
from metajax.base import Batch, Model, PyTree, Task
from metajax.objectives import cross_entropy
from metajax.tasks import arriving

__all__ = ['METHODS', 'REPLAYED', 'Memory', 'empty', 'keep', 'recall']

REPLAYED = 10  # kept examples beside a new one
_SLOW = (1e-5, 1e-3, 0.01, 0.1)
_AHEAD = (0.03, 0.1, 0.3)  # of La-MAML, whose outer steps are few
_AT_ONCE, _GLANCES = 5, 5  # examples of its outer steps, and how many steps
_META_WAYS, _META_SHOTS, _META_QUERIES = 5, 5, 5  # of tasks from the buffer
_META_RATE = 1e-4


def _whole(known: Known, course: Course) -> tuple[Model, TransferParams]:
  head = linear_head(len(course.support))
  params = known.params['pretrained']
  features = features_of(known.model, params, course.support[:1, :1], 1)
  start = head.init(jax.random.key(0), features[0])
  return with_head(known.model, head), TransferParams(params, start)


def _judged(
  known: Known, params: TransferParams, course: Course, number: int
) -> tuple[float, float]:
  """On queries, and on as many examples of the stream."""
  size, each = math.gcd(*course.numbers), course.query.shape[1]
  on_queries, on_stream = (
    told(
      of_head(
        params.head, features_of(known.model, params.params, inputs, size)
      )
    )
    for inputs in (course.query[:number], course.support[:number, :each])
  )
  return on_queries, on_stream


def _everything(known: Known, course: Course, rate: float) -> Found:
  """A step of every parameter at every example, and nothing kept."""
  model, params = _whole(known, course)
  found = []
  for place, number in segments(course):
    params = _learn_all(model, params, *_labelled(course, place), rate)
    if number is not None:
      found.append(_judged(known, params, course, number))
  return as_found(found)


def _labelled(course: Course, place: slice) -> tuple[Any, jax.Array]:
  classes = jnp.arange(place.start, place.stop)
  shots = course.support.shape[1]
  return course.support[place], jnp.repeat(classes[:, None], shots, axis=1)


@partial(jax.jit, static_argnums=0)
def _learn_all(
  model: Model, params: PyTree, inputs: Any, targets: jax.Array, rate: Any
) -> PyTree:
  def loss(params: PyTree, one: Batch) -> jax.Array:
    return cross_entropy(model.apply(params, one.inputs), one.targets)[0]

  def of_class(params: PyTree, each: Any) -> tuple[PyTree, None]:
    stream = Batch(as_numbers(each[0]), each[1])
    params, _ = learn_stream(
      loss, params, optax.sgd(rate), stream, second_order='none'
    )
    return params, None

  return jax.lax.scan(of_class, params, (inputs, targets))[0]


class Memory(NamedTuple):
  """Places of the examples that are kept: a reservoir of all that have come."""

  places: jax.Array  # [most]
  seen: jax.Array | int  # examples that have come


def empty(most: int) -> Memory:
  """A memory of nothing.

  Args:
    most: how many examples there is room for.
  """
  return Memory(jnp.zeros((most,), jnp.int32), jnp.int32(0))


def keep(key: jax.Array, memory: Memory, place: jax.Array) -> Memory:
  """Keeps an example, or not, so that each that has come is as likely kept.

  References:
    Vitter (1985), Random sampling with a reservoir.
  """
  most = len(memory.places)
  drawn = jax.random.randint(key, (), 0, memory.seen + 1)
  slot = jnp.where(memory.seen < most, memory.seen, drawn)
  # Beyond the end nothing is written.
  places = memory.places.at[slot].set(place.astype(jnp.int32), mode='drop')
  return Memory(places, memory.seen + 1)


def recall(key: jax.Array, memory: Memory, number: int) -> jax.Array:
  """Draws some of what is kept, each by itself; there has to be some."""
  there = jnp.minimum(memory.seen, len(memory.places))
  return memory.places[jax.random.randint(key, (number,), 0, there)]


def _replay(known: Known, course: Course, rate: float) -> Found:
  """A step of every parameter, at an example and ten that were kept."""
  model, params = _whole(known, course)
  shots = course.support.shape[1]
  inputs = course.support.reshape(-1, *course.support.shape[2:])
  key = jax.random.key(course.seed)
  memory = empty(course.memory)
  found = []
  for place, number in segments(course):
    steps = np.arange(place.start * shots, place.stop * shots)
    params, memory = _learn_replayed(
      model, shots, (params, memory), inputs, steps, rate, key
    )
    if number is not None:
      found.append(_judged(known, params, course, number))
  return as_found(found)


@partial(jax.jit, static_argnums=(0, 1))
def _learn_replayed(
  model: Model, shots: int, state: PyTree, inputs: Any, steps: Any, rate: Any,
  key: jax.Array,
) -> PyTree:  # fmt: skip
  def loss(params: PyTree, places: jax.Array) -> jax.Array:
    outputs = model.apply(params, as_numbers(jnp.asarray(inputs)[places]))
    return cross_entropy(outputs, places // shots)[0]

  def step(state: PyTree, at: jax.Array) -> tuple[PyTree, None]:
    params, memory = state
    keys = jax.random.split(jax.random.fold_in(key, at))
    memory = keep(keys[0], memory, at)
    old = recall(keys[1], memory, REPLAYED)
    slope = jax.grad(loss)(params, jnp.append(old, at.astype(old.dtype)))
    moved = jax.tree.map(lambda p, g: p - rate * g, params, slope)
    return (moved, memory), None

  return jax.lax.scan(step, state, steps)[0]


def _look_ahead(known: Known, course: Course, rate: float) -> Found:
  """La-MAML: outer steps for every few examples, on them and on kept ones."""
  model, start = _whole(known, course)
  learner = la_maml(model, cross_entropy)  # it starts with rates of its own
  rates = jax.tree.map(lambda leaf: jnp.full_like(leaf, rate), start)
  state = LearnedDescent(start, rates), empty(course.memory)
  shots = course.support.shape[1]
  at_once = max(n for n in range(1, _AT_ONCE + 1) if shots % n == 0)
  inputs = course.support.reshape(-1, *course.support.shape[2:])
  key = jax.random.key(course.seed)
  found = []
  for place, number in segments(course):
    first, end = place.start * shots, place.stop * shots
    news = np.arange(first, end, dtype=np.int32).reshape(-1, at_once)
    state = _looked_ahead(learner.grad, shots, rate, state, inputs, news, key)
    if number is not None:
      found.append(_judged(known, state[0].params, course, number))
  return as_found(found)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _looked_ahead(
  grad: Any, shots: int, rate: float, state: PyTree, inputs: Any, news: Any,
  key: jax.Array,
) -> PyTree:  # fmt: skip
  outer = by_learned_rates(rate)  # rates move in proportion to themselves

  def batch(places: jax.Array) -> Batch:
    there = as_numbers(jnp.asarray(inputs)[places])
    return Batch(there[None], (places // shots)[None])

  def step(state: PyTree, new: jax.Array) -> tuple[PyTree, None]:
    params, memory = state
    keys = jax.random.split(jax.random.fold_in(key, new[0]), len(new) + 1)
    memory, _ = jax.lax.scan(
      lambda memory, each: (keep(each[0], memory, each[1]), None),
      memory,
      (keys[1:], new),
    )

    def glance(params: PyTree, key: jax.Array) -> tuple[PyTree, None]:
      old = recall(key, memory, REPLAYED)
      task = Task(batch(new), batch(jnp.concatenate([new, old])))
      gradient, _ = grad(key, params, task)
      updates, _ = outer.update(gradient, outer.init(params), params)
      return optax.apply_updates(params, updates), None

    glances = jax.random.split(keys[0], _GLANCES)
    return (jax.lax.scan(glance, params, glances)[0], memory), None

  return jax.lax.scan(step, state, news)[0]


def _follow(known: Known, course: Course, rate: float) -> Found:
  """Follow-the-meta-leader: meta-training on tasks of all that has come."""
  del rate
  classes, shots = course.support.shape[:2]
  images = course.support.reshape(-1, *course.support.shape[2:])
  labels = np.repeat(np.arange(classes), shots)
  ways = min(_META_WAYS, course.numbers[0])
  each = min(_META_SHOTS, shots - 1)
  sample = arriving(
    images, labels, ways, each, min(_META_QUERIES, shots - each)
  )
  learner = protonet(known.model, cross_entropy, ways)
  params = known.params['pretrained']
  state = (params, optax.adam(_META_RATE).init(params))
  found = []
  for place, number in segments(course):
    # Step t is taken when `ways + t` classes have come.
    steps = np.arange(max(0, place.start - ways + 1), place.stop - ways + 1)
    key = jax.random.key(course.seed)
    state = _follow_on(learner.grad, state, sample, steps, key)
    if number is None:
      continue
    stream, queries = (
      features_of(
        known.model, state[0], inputs[:number], place.stop - place.start
      )
      for inputs in (course.support, course.query)
    )
    means = jnp.mean(stream, axis=1)
    found.append((nearest(queries, means), nearest(stream, means)))
  return as_found(found)


@partial(jax.jit, static_argnums=0)
def _follow_on(
  grad: Any, state: PyTree, sample: Any, steps: Any, key: jax.Array
) -> PyTree:
  outer = optax.adam(_META_RATE)

  def step(state: PyTree, at: jax.Array) -> tuple[PyTree, None]:
    params, moments = state
    own = jax.random.fold_in(key, at)
    task = jax.tree.map(lambda leaf: leaf[None], sample.at(at)(own))
    gradient, _ = grad(own, params, task)
    updates, moments = outer.update(gradient, moments, params)
    return (optax.apply_updates(params, updates), moments), None

  return jax.lax.scan(step, state, steps)[0]


METHODS: dict[str, Method] = {
  'oml': FROZEN['oml'],
  'anml': FROZEN['anml'],
  'la_maml': Method(_look_ahead, 'pretrained', _AHEAD, 'so many examples'),
  'ftml': Method(_follow, 'pretrained', (), 'all examples'),
  'replay': Method(_replay, 'pretrained', _SLOW, 'so many examples'),
  'means': FROZEN['means'],
  'linear': FROZEN['linear'],
  'everything': Method(_everything, 'pretrained', _SLOW),
  'pixels': FROZEN['pixels'],
}
