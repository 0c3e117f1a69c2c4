"""Classes that arrive a few at a time, and adapters that meet them.

A network has been meta-trained. Then come classes that it has never seen, some
at an arrival, with a few examples each; after every arrival it is to tell all
apart that have come so far. What it does with its adapters is a strategy.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import EXCLUDED, Batch, PyTree, Task, Weighted
from metajax.equality import Frozen
from metajax.inner.descend import descend
from metajax.inner.optimizers import adam
from metajax.objectives import cross_entropy

__all__ = ['STRATEGIES', 'Stream', 'accuracies', 'forgetting', 'sort_by_class']


class Stream(NamedTuple):
  """Classes in the order that they arrive in, the same number each time."""

  support: jax.Array  # [classes, shots, ...]
  query: jax.Array  # [classes, queries, ...]
  each: int  # classes of an arrival


class _Network(NamedTuple):
  """What a strategy has: features of inputs, by adapters, and how to learn."""

  encoder: Frozen  # a model, and what it stands on
  start: PyTree  # adapters as they were meta-trained
  rate: float
  steps: int


class _Known(NamedTuple):
  """What is known after an arrival; two classes have one row each."""

  adapters: PyTree
  kernel: jax.Array  # [classes, features]; of what has not come it is 0
  bias: jax.Array  # [classes]


_Strategy = Callable[[_Network, Stream], Iterator[_Known]]


def sort_by_class(task: Task, each: int) -> Stream:
  """A task of all classes as a stream of them, in the order of their numbers.

  Args:
    task: as many examples of one class as of another.
    each: classes of an arrival.
  """
  targets = np.asarray(task.support.targets)
  ways = int(targets.max()) + 1

  def by_class(batch: Batch) -> jax.Array:
    order = np.argsort(np.asarray(batch.targets), kind='stable')
    inputs = batch.inputs[order]
    return inputs.reshape(ways, -1, *inputs.shape[1:])

  return Stream(by_class(task.support), by_class(task.query), each)


def accuracies(
  strategy: str,
  encoder: Frozen,
  adapters: PyTree,
  stream: Stream,
  rate: float,
  steps: int,
) -> np.ndarray:
  r"""What a strategy tells apart after every arrival.

  Args:
    strategy: one of `STRATEGIES`.
    encoder: a model whose outputs are features.
    adapters: its parameters, as they were meta-trained.
    stream: what arrives.
    rate: of Adam, where adapters are learned.
    steps: of it, at every arrival.

  Returns:
    `[arrivals, arrivals]`; the entry :math:`a_{t,i}` is the accuracy on queries
    of the classes of arrival i after arrival t, when all classes up to t are to
    be told apart; 0 where i has not come yet.
  """
  network = _Network(encoder, adapters, rate, steps)
  number, each = len(stream.support) // stream.each, stream.each
  found = np.zeros((number, number))
  for last, known in enumerate(STRATEGIES[strategy](network, stream)):
    correct = _correct(encoder, known, stream.query, each * (last + 1))
    by_arrival = np.asarray(correct).reshape(number, each).mean(1)
    found[last, : last + 1] = by_arrival[: last + 1]
  return found


def forgetting(found: np.ndarray) -> np.ndarray:
  r"""Average forgetting, after the last arrival.

  .. math::
    F = \frac{1}{T - 1} \sum_{i < T} \max_{t < T} a_{t,i} - a_{T,i}

  Args:
    found: accuracies `[..., arrivals, arrivals]`, as those of `accuracies`.

  Returns:
    `[...]`.

  References:
    Chaudhry, Dokania, Ajanthan, Torr (2018), Riemannian walk for incremental
    learning, https://arxiv.org/abs/1801.10112

  Example:
    >>> found = np.array([[0.9, 0, 0], [0.5, 0.8, 0], [0.6, 0.7, 0.9]])
    >>> float(forgetting(found).round(3))
    0.2
  """
  best = found[..., :-1, :-1].max(-2)
  average: np.ndarray = (best - found[..., -1, :-1]).mean(-1)
  return average


def _means(network: _Network, stream: Stream) -> Iterator[_Known]:
  """The mean of every class that has come, by adapters as they were."""
  known = _nothing(network, stream)
  for place in _arrivals(stream):
    known = _with_means(network, stream, known, network.start, place)
    yield known


def _kept(network: _Network, stream: Stream) -> Iterator[_Known]:
  """Adapters learned at the first arrival; then means alone."""
  known = _nothing(network, stream)
  for number, place in enumerate(_arrivals(stream)):
    known = _with_means(network, stream, known, known.adapters, place)
    if number == 0:
      adapters = _learned(network, stream, known, place, place.stop).adapters
      known = _with_means(network, stream, known, adapters, place)
    yield known


def _averaged(network: _Network, stream: Stream) -> Iterator[_Known]:
  """The mean of the adapters that every arrival would have had alone."""
  known, total = _nothing(network, stream), None
  for number, place in enumerate(_arrivals(stream)):
    nothing = _nothing(network, stream)
    alone = _with_means(network, stream, nothing, network.start, place)
    alone = _learned(network, stream, alone, place, place.stop, place.start)
    total = (
      alone.adapters
      if total is None
      else jax.tree.map(jnp.add, total, alone.adapters)
    )
    mean = jax.tree.map(lambda leaf: leaf / (number + 1), total)  # noqa: B023
    known = _with_means(network, stream, known, mean, place)
    yield known


def _relearnt(network: _Network, stream: Stream) -> Iterator[_Known]:
  """Adapters and rows of all classes go on learning, on the new examples."""
  known = _nothing(network, stream)
  for place in _arrivals(stream):
    known = _with_means(network, stream, known, known.adapters, place)
    known = _learned(network, stream, known, place, place.stop)
    yield known


def _relearnt_on_all(network: _Network, stream: Stream) -> Iterator[_Known]:
  """As if all that have come had come at once: the upper bound."""
  means = _nothing(network, stream)
  for place in _arrivals(stream):
    means = _with_means(network, stream, means, network.start, place)
    everything = slice(0, place.stop)
    yield _learned(network, stream, means, everything, place.stop)


# By the names that results have.
STRATEGIES: dict[str, _Strategy] = {
  'means': _means,
  'kept': _kept,
  'averaged': _averaged,
  'relearnt': _relearnt,
  'relearnt_on_all': _relearnt_on_all,
}


def _arrivals(stream: Stream) -> Iterator[slice]:
  for start in range(0, len(stream.support), stream.each):
    yield slice(start, start + stream.each)


def _nothing(network: _Network, stream: Stream) -> _Known:
  """Before anything has come."""
  features = jax.eval_shape(
    lambda encoder, params, inputs: encoder.made().apply(params, inputs),
    network.encoder, network.start, stream.support[0],
  )  # fmt: skip
  classes = len(stream.support)
  kernel = jnp.zeros((classes, features.shape[-1]), features.dtype)
  return _Known(network.start, kernel, jnp.zeros(classes, features.dtype))


def _with_means(
  network: _Network,
  stream: Stream,
  known: _Known,
  adapters: PyTree,
  place: slice,
) -> _Known:
  r"""Rows by which outputs are distances to the means of new classes.

  .. math:: -\|f - \mu\|^2 + \|f\|^2 = 2 \mu \cdot f - \|\mu\|^2
  """
  support = stream.support[place]
  features = _features(
    network.encoder, adapters, support.reshape(-1, *support.shape[2:])
  )
  means = features.reshape(*support.shape[:2], -1).mean(1)
  return _Known(
    adapters,
    known.kernel.at[place].set(2 * means),
    known.bias.at[place].set(-jnp.sum(jnp.square(means), -1)),
  )


def _learned(
  network: _Network,
  stream: Stream,
  known: _Known,
  place: slice,
  stop: int,
  start: int = 0,
) -> _Known:
  """Descends on the examples of some classes; told apart are start to stop."""
  # One shape for all, so that one program serves all arrivals: what is not in
  # place has no weight. New examples alone have a shape of their own.
  whole = place.stop - place.start != stream.each
  taken = slice(None) if whole else place
  support = stream.support[taken]
  classes = jnp.arange(len(stream.support), dtype=jnp.int32)
  inside = (classes >= place.start) & (classes < place.stop)
  shots = support.shape[1]
  return _descended(
    network.encoder,
    known,
    support.reshape(-1, *support.shape[2:]),
    jnp.repeat(classes[taken], shots),
    jnp.repeat(inside[taken].astype(known.kernel.dtype), shots),
    (classes >= start) & (classes < stop),
    network.rate,
    network.steps,
  )


@partial(jax.jit, static_argnums=7)
def _descended(
  encoder: Frozen,
  known: _Known,
  inputs: jax.Array,
  targets: jax.Array,
  weights: jax.Array,
  among: jax.Array,
  rate: jax.Array | float,
  steps: int,
) -> _Known:
  model = encoder.made()

  def loss(known: _Known, step: jax.Array) -> jax.Array:
    del step
    outputs = _outputs(model, known, inputs, among)
    value, _ = cross_entropy(outputs, Weighted(targets, weights))
    return value

  learned, _ = descend(loss, known, adam(rate), steps, second_order='none')
  return learned


def _outputs(
  model: Any, known: _Known, inputs: jax.Array, among: jax.Array
) -> jax.Array:
  features = model.apply(known.adapters, inputs)
  outputs = features @ known.kernel.T + known.bias[None]
  return jnp.where(among[None], outputs, EXCLUDED)


@jax.jit
def _features(
  encoder: Frozen, adapters: PyTree, inputs: jax.Array
) -> jax.Array:
  features: jax.Array = encoder.made().apply(adapters, inputs)
  return features


@jax.jit
def _correct(
  encoder: Frozen, known: _Known, query: jax.Array, seen: jax.Array | int
) -> jax.Array:
  """The share of queries of each class that are told, among those seen."""
  classes, queries = query.shape[:2]
  numbers = jnp.arange(classes)
  outputs = _outputs(
    encoder.made(), known, query.reshape(-1, *query.shape[2:]), numbers < seen
  )
  told = jnp.argmax(outputs, -1).reshape(classes, queries)
  return jnp.mean(told == numbers[:, None], 1)
