"""The types that everything else is written in: tasks, models, learners.

A task is data; a learner is a way to adapt to it; a meta-learner adds a way to
estimate how the meta-parameters should change. All of them are NamedTuples of
arrays or of pure functions, so any single piece can be taken out and used.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
  'EXCLUDED',
  'Adapt',
  'Adaptation',
  'Apply',
  'Batch',
  'ByStep',
  'Freeze',
  'Head',
  'InitLearner',
  'InitModel',
  'Learner',
  'Measure',
  'MetaGradient',
  'MetaLearner',
  'Metrics',
  'Model',
  'Objective',
  'Predict',
  'PyTree',
  'SampleTask',
  'Task',
  'Weighted',
  'as_argument',
  'as_key',
  'map_tasks',
  'num_tasks',
  'sample_tasks',
  'task_keys',
  'values_and_weights',
]

PyTree = Any
Metrics = dict[str, jax.Array]

# The score of what must not be chosen: a class that a task does not have, an
# example that is padding. Minus infinity would make the loss of such a class
# infinite, and gradients that meet it (inf - inf, 0 * inf) no numbers.
EXCLUDED = -1e30
_HeadKind = Literal['outputs', 'features', 'maps', 'words', 'memory', 'none']


class Batch(NamedTuple):
  """Labelled examples; every leaf has a leading axis of examples."""

  inputs: PyTree  # leaves [examples, ...]
  targets: PyTree  # leaves [examples, ...], possibly `Weighted`


class Weighted(NamedTuple):
  r"""Targets that do not all count the same.

  .. math:: \frac{\sum_i w_i L_i}{\sum_i w_i}

  stands wherever a mean over examples would. Objectives, class means, closed
  forms and neural processes honour it; a weight of 0 makes an example padding,
  which fills a batch up to its shape and changes nothing that is learned from
  it. What attends to examples, or reads them one by one, attends alike to all
  whose weight is not 0.

  Example:
    >>> import jax.numpy as jnp, metajax
    >>> targets = Weighted(jnp.array([[1.0], [9.0]]), jnp.array([1.0, 0.0]))
    >>> float(metajax.mean_squared_error(jnp.zeros((2, 1)), targets)[0])
    1.0
  """

  values: PyTree  # the targets, leaves [examples, ...]
  weights: jax.Array | np.ndarray  # [examples] or [examples, ...], from 0


def values_and_weights(targets: PyTree) -> tuple[PyTree, Any]:
  """The targets themselves, and their weights where they have some."""
  return targets if isinstance(targets, Weighted) else (targets, None)


class Task(NamedTuple):
  """What a learner adapts to, and what it is then judged on.

  A batch of tasks is a `Task` whose leaves have one more leading axis.
  """

  support: Batch
  query: Batch


class InitModel(Protocol):
  """Draws parameters for inputs of the given shape."""

  def __call__(self, key: jax.Array, inputs: PyTree, /) -> PyTree: ...


class Apply(Protocol):
  """Maps a batch of inputs to a batch of outputs.

  With an argument `key`, None at test, it trains: see `metajax.models.modes`.
  """

  def __call__(self, params: PyTree, inputs: PyTree, /) -> PyTree: ...


class Measure(Protocol):
  """Normalisation statistics of the given inputs."""

  def __call__(self, params: PyTree, inputs: PyTree, /) -> PyTree: ...


class Freeze(Protocol):
  """The same model with these normalisation statistics held fixed."""

  def __call__(self, statistics: PyTree, /) -> 'Model': ...


class Model(NamedTuple):
  """A network as two pure functions.

  Models are stateless: batch normalisation uses the batch at hand. A model with
  such layers also offers to measure their statistics over some inputs and to
  hold them fixed (`metajax.normalisation`).
  """

  init: InitModel
  apply: Apply
  measure: Measure | None = None
  freeze: Freeze | None = None


class InitLearner(Protocol):
  """Draws meta-parameters for inputs of the given shape."""

  def __call__(self, key: jax.Array, inputs: PyTree, /) -> PyTree: ...


class Adapt(Protocol):
  """Adapts to one support set.

  Returns what `predict` needs, and an `Adaptation` that describes the way.
  """

  def __call__(
    self, key: jax.Array, meta_params: PyTree, support: Batch, /
  ) -> tuple[PyTree, 'Adaptation']: ...


class Predict(Protocol):
  """Outputs for inputs that were not adapted to."""

  def __call__(self, adapted: PyTree, inputs: PyTree, /) -> PyTree: ...


class MetaGradient(Protocol):
  """The meta-gradient over a batch of tasks, and averages worth logging."""

  def __call__(
    self, key: jax.Array, meta_params: PyTree, tasks: Task, /
  ) -> tuple[PyTree, Metrics]: ...


class Adaptation(NamedTuple):
  """How an adaptation went, step by step."""

  losses: jax.Array  # [steps], the support loss before each step
  # Leaves [steps + 1, ...]: `adapted` after 0, 1, ...; None where it stays.
  trajectory: PyTree

  def after(self, step: Any, adapted: PyTree) -> PyTree:
    """What was adapted after so many steps, from what it was in the end."""
    return jax.tree.map(
      lambda leaves, last: last if leaves is None else leaves[step],
      self.trajectory,
      adapted,
      is_leaf=lambda leaf: leaf is None,
    )


class Learner(NamedTuple):
  """A way to adapt to one task."""

  init: InitLearner
  adapt: Adapt
  predict: Predict


class MetaLearner(NamedTuple):
  """A `Learner` and the estimator of its meta-gradient.

  It is to meta-learning what `optax.GradientTransformation` is to optimisation:
  whatever trains, tests or distributes takes one, and knows no method by name.
  """

  init: InitLearner
  adapt: Adapt
  predict: Predict
  grad: MetaGradient


class Head(NamedTuple):
  """What a method wants at the end of a network.

  `outputs`: a linear layer called `head`, an output for every class or target.
  `features`: a vector for every example, of `size` numbers where it is given.
  `maps`: maps of features, `[examples, height, width, channels]`. `words`:
  scores of words at each place. `memory`: outputs at each step. `none`: none.
  """

  kind: _HeadKind = 'outputs'
  size: int | None = None  # of a vector of features
  warps: bool = False  # whether linear layers called `warp_...` are in it

  def describe(self) -> str:
    """What it is, in the words of an error."""
    size = f' of size {self.size}' if self.size else ''
    warps = ' with warps between its layers' if self.warps else ''
    return f'{self.kind}{size}{warps}'


class Objective(Protocol):
  """Compares outputs with targets: a scalar to minimise, and its metrics."""

  def __call__(
    self, outputs: PyTree, targets: PyTree, /
  ) -> tuple[jax.Array, Metrics]: ...


class SampleTask(Protocol):
  """A task distribution: draws one task, inside jit."""

  def __call__(self, key: jax.Array, /) -> Task: ...


def as_key(key: jax.Array) -> jax.Array:
  """Keys of `jax.random.key`, of those or of what `jax.random.PRNGKey` makes.

  Args:
    key: typed keys of any shape, or their data, `[..., 2]` of uint32.

  Returns:
    Typed keys, the same random numbers.

  Raises:
    ValueError: if it is anything else, such as a seed.

  Example:
    >>> import jax
    >>> as_key(jax.random.PRNGKey(0)) == jax.random.key(0)
    Array(True, dtype=bool)
  """
  dtype = getattr(key, 'dtype', None)
  if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
    return key
  words = jax.random.key_data(jax.random.key(0)).shape
  if dtype == jnp.uint32 and key.shape[-1:] == words:
    return jax.random.wrap_key_data(jnp.asarray(key))
  what = type(key).__name__
  if dtype is not None:
    what = f'{dtype} of shape {jnp.shape(key)}'
  raise ValueError(f'use jax.random.key(seed) for a key; got {what}')


def task_keys(key: jax.Array, num_tasks: int) -> jax.Array:
  """One key per task: key of task i is `fold_in(key, i)`.

  The key of a task depends on nothing but `key` and its index, so any split
  of a batch of tasks into chunks or over devices computes the same thing. An
  array of keys, already one per task, is returned as it is.

  Args:
    key: a key (see `as_key`), or `num_tasks` of them.
    num_tasks: how many keys are wanted.

  Returns:
    Typed keys of shape `[num_tasks]`.

  Raises:
    ValueError: if an array of keys has another length, or is none.
  """
  key = as_key(key)
  if key.ndim:
    if len(key) != num_tasks:
      raise ValueError(
        f'got {len(key)} keys for {num_tasks} tasks; pass one key, or one key'
        ' per task'
      )
    return key
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_tasks))


def num_tasks(tasks: PyTree) -> int:
  """The length of the leading axis that all leaves of `tasks` share.

  Raises:
    ValueError: if there is no leaf, or if leaves disagree.
  """
  lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tasks)}
  if len(lengths) != 1 or () in lengths:
    raise ValueError(
      'a batch of tasks needs leaves with one common leading axis; got the'
      f' leading axes {sorted(lengths)}'
    )
  return lengths.pop()[0]


def map_tasks(
  function: Callable[[jax.Array, Task], PyTree], key: jax.Array, tasks: Task
) -> PyTree:
  """Applies `function(key, task)` to every task of a batch, vectorised.

  Args:
    function: computes something for one task.
    key: one key, or one key per task (see `task_keys`).
    tasks: leaves `[tasks, ...]`.

  Returns:
    What `function` returns, with a leading axis of tasks.
  """
  keyed = task_keys(key, num_tasks(tasks)), tasks
  if num_tasks(tasks) > 1:
    return jax.vmap(function)(*keyed)
  # An axis of length 1 would hide from the compiler that products are plain.
  only = function(*jax.tree.map(lambda leaf: leaf[0], keyed))
  return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), only)


@jax.tree_util.register_pytree_node_class
class ByStep:
  """A task distribution that changes in training: a curriculum, a stream.

  `make_train_step` draws the tasks of step n with `sample(key, n)`. Whatever
  else draws tasks, such as `evaluate`, draws those of one step: the first, or
  that of `at`.

  Args:
    sample: `(key, step) -> Task`, the step an int32 scalar; arrays of it are
      arguments of compiled programs if it is a `jax.tree_util.Partial`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> def shifted(key, step):
    ...   inputs = jax.random.normal(key, (5, 1))
    ...   return Task(*2 * [Batch(inputs, inputs + 0.1 * step)])
    >>> sample = ByStep(shifted)
    >>> task = sample.at(10)(jax.random.key(0))
    >>> bool(jnp.allclose(task.query.targets, task.query.inputs + 1))
    True
  """

  def __init__(
    self,
    sample: Callable[[jax.Array, jax.Array], Task],
    step: jax.Array | int = 0,
  ) -> None:
    self.sample = (
      sample
      if isinstance(sample, jax.tree_util.Partial)
      else jax.tree_util.Partial(sample)
    )
    self.step = step

  def __call__(self, key: jax.Array) -> Task:
    """A task of the step that this is at."""
    task: Task = self.sample(key, jnp.int32(self.step))
    return task

  def at(self, step: jax.Array | int) -> 'ByStep':
    """The distribution at another step."""
    return ByStep(self.sample, step)

  def tree_flatten(self) -> tuple[tuple[Any, Any], None]:
    """Its arrays."""
    return (self.sample, self.step), None

  @classmethod
  def tree_unflatten(cls, _: None, children: tuple[Any, Any]) -> 'ByStep':
    """From its arrays."""
    return cls(*children)


def as_argument(sample: SampleTask) -> Any:
  """A sampler that can be passed into jit, its arrays as arguments."""
  is_tree = not jax.tree_util.all_leaves([sample])
  return sample if is_tree else jax.tree_util.Partial(sample)


def sample_tasks(sample: SampleTask, key: jax.Array, num: int) -> Task:
  """Draws a batch of `num` tasks; task i depends on `key` and i alone."""
  return jax.vmap(sample)(task_keys(key, num))
