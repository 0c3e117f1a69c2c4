"""What checks are made on: a method on a few small tasks, compiled once."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import (
  Batch,
  Head,
  MetaLearner,
  Metrics,
  Model,
  Objective,
  PyTree,
  Task,
)
from metajax.models import mlp
from metajax.objectives import cross_entropy

__all__ = [
  'Compiled',
  'Trial',
  'in_double',
  'is_number',
  'make_trial',
  'small_network',
  'small_tasks',
]

_STEP = 1e-5  # in double precision the error of a slope is of order 1e-10
_TINY = 1e-6  # what is smaller is nothing
_SIDE = 4  # of an image
_FEATURES = 5  # where the head has no size; not the number of classes

_Parameters = ParamSpec('_Parameters')
_Result = TypeVar('_Result')


def in_double(
  function: Callable[_Parameters, _Result],
) -> Callable[_Parameters, _Result]:
  """The same function, run in double precision."""

  @functools.wraps(function)
  def inside(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
    with jax.enable_x64(True):
      return function(*args, **kwargs)

  return inside


def is_number(leaf: Any) -> bool:
  """Whether a leaf holds real numbers, and not indices or keys."""
  return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _as_double(tree: PyTree) -> PyTree:
  # A leaf that is double already stays as it is, weakly typed or not.
  return jax.tree.map(
    lambda leaf: (
      jnp.asarray(leaf, jnp.float64)
      if is_number(leaf) and jnp.result_type(leaf) != jnp.float64
      else jnp.asarray(leaf)
    ),
    tree,
  )


# What a method is tried on.


def small_network(head: Head | None = None, num_outputs: int = 3) -> Model:
  """A small network with the head that a method wants.

  Its parameters have the precision of the inputs, and no last bit that depends
  on how they were drawn.

  Args:
    head: what stands at its end; by default outputs.
    num_outputs: how many, where the head is one of outputs.

  Returns:
    A model of inputs `[examples, ...]`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from metajax.base import Head
    >>> model = small_network(Head('maps'))
    >>> params = model.init(jax.random.key(0), jnp.zeros((2, 4, 4, 1)))
    >>> model.apply(params, jnp.zeros((2, 4, 4, 1))).shape
    (2, 2, 2, 5)
  """
  head = Head() if head is None else head
  size = {
    'features': head.size or _FEATURES,
    'maps': 2 * 2 * _FEATURES,
  }.get(head.kind, num_outputs)
  model = mlp([8], size, warps=head.warps)

  def init(key: jax.Array, inputs: jax.Array) -> PyTree:
    # It is drawn in float32, whose last bit depends on what XLA fuses.
    params = model.init(key, inputs)
    return jax.tree.map(
      lambda leaf: (jnp.round(leaf * 1024) / 1024).astype(inputs.dtype), params
    )

  def apply(params: PyTree, inputs: jax.Array) -> jax.Array:
    outputs = model.apply(params, inputs)
    if head.kind == 'maps':
      return outputs.reshape(outputs.shape[0], 2, 2, _FEATURES)
    return outputs

  return Model(init, apply)


def small_tasks(
  ways: int = 3,
  shots: int = 2,
  queries: int = 4,
  *,
  num_tasks: int = 5,
  seed: int = 0,
) -> Task:
  """Tasks of telling random patterns apart, of which examples are noisy.

  Args:
    ways: classes of a task.
    shots: support examples of a class.
    queries: query examples of a class.
    num_tasks: how many tasks.
    seed: of what is drawn.

  Returns:
    Tasks, inputs `[tasks, examples, 4, 4, 1]` from 0 to 1 and targets `[tasks,
    examples]`, in random order.

  Example:
    >>> small_tasks(ways=3, shots=2).support.inputs.shape
    (5, 6, 4, 4, 1)
  """
  generator = np.random.default_rng(seed)
  patterns = generator.uniform(0, 0.8, (num_tasks, ways, 1, _SIDE, _SIDE, 1))

  def batch(each: int) -> Batch:
    noise = generator.uniform(0, 0.2, (num_tasks, ways, each, _SIDE, _SIDE, 1))
    inputs = (patterns + noise).reshape(num_tasks, -1, _SIDE, _SIDE, 1)
    targets = np.tile(
      np.repeat(np.arange(ways, dtype=np.int32), each), (num_tasks, 1)
    )
    order = np.argsort(generator.uniform(size=targets.shape), axis=1)
    rows = np.arange(num_tasks)[:, None]
    return Batch(
      jnp.asarray(inputs[rows, order]), jnp.asarray(targets[rows, order])
    )

  return Task(support=batch(shots), query=batch(queries))


class Compiled:
  """A compiled function that counts how often it was traced."""

  def __init__(self, function: Callable[..., Any]) -> None:
    self.traces = 0

    def counted(*args: Any) -> Any:
      self.traces += 1
      return function(*args)

    self._compiled = jax.jit(counted)

  def __call__(self, *args: Any) -> Any:
    """What the function returns."""
    return self._compiled(*args)


class Trial(NamedTuple):
  """A meta-learner, and its meta-gradient on some tasks, computed once."""

  learner: MetaLearner
  objective: Objective
  tasks: Task  # to adapt to
  trained_on: Task  # of the meta-gradient
  key: jax.Array
  meta_params: PyTree
  grad: Compiled
  adapt: Compiled
  predict: Compiled
  gradient: PyTree
  metrics: Metrics

  def task(self, index: int) -> Task:
    """One of the tasks to adapt to."""
    return jax.tree.map(lambda leaf: leaf[index], self.tasks)


@in_double
def make_trial(
  learner: MetaLearner,
  *,
  objective: Objective = cross_entropy,
  tasks: Task | None = None,
  trained_on: Task | None = None,
  key: jax.Array | None = None,
) -> Trial:
  """Draws meta-parameters and computes their meta-gradient.

  Args:
    learner: any. What it draws while it adapts should have the precision of
      the inputs (`metajax.precision.drawn_like_inputs`), as checks are of
      double precision.
    objective: the one that it was made with, whose metrics it reports.
    tasks: at least two to adapt to, leaves `[tasks, examples, ...]`; by default
      those of `small_tasks`, of 3 classes.
    trained_on: what the meta-gradient is of; the same tasks by default.
    key: of everything that is drawn.

  Returns:
    What the checks take.

  Example:
    >>> import metajax
    >>> from metajax.testing import check_other_key, check_structure
    >>> learner = metajax.protonet(small_network(), metajax.cross_entropy, 3)
    >>> trial = make_trial(learner)
    >>> check_structure(trial)
    >>> check_other_key(trial)
  """
  tasks = _as_double(small_tasks() if tasks is None else tasks)
  trained_on = tasks if trained_on is None else _as_double(trained_on)
  key = jax.random.key(0) if key is None else key
  inputs = jax.tree.map(lambda leaf: leaf[0], trained_on.support.inputs)
  meta_params = _as_double(jax.jit(learner.init)(key, inputs))
  grad = Compiled(learner.grad)
  gradient, metrics = grad(key, meta_params, trained_on)
  return Trial(
    learner,
    objective,
    tasks,
    trained_on,
    key,
    meta_params,
    grad,
    Compiled(learner.adapt),
    Compiled(learner.predict),
    gradient,
    metrics,
  )
