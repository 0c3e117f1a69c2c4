"""What every method must do, as checks of any meta-learner.

`check_method` runs all of them on a few small tasks; one that fails raises an
AssertionError which says what was expected and what was found. Each is a
function of its own, too, of a `Trial`. They compute in double precision,
whatever is set outside, so that rounding hides no mistake.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from metajax.base import (
  PADDING,
  Batch,
  Head,
  MetaGradient,
  MetaLearner,
  Metrics,
  Model,
  Objective,
  PyTree,
  Task,
)
from metajax.devices.parallel import microbatch
from metajax.models import mlp
from metajax.objectives import cross_entropy

__all__ = [
  'Compiled',
  'Slopes',
  'Trial',
  'check_before_adaptation',
  'check_differences',
  'check_finite',
  'check_method',
  'check_metrics',
  'check_microbatches',
  'check_one_trace',
  'check_other_key',
  'check_same_key',
  'check_structure',
  'check_trajectory',
  'check_without_jit',
  'make_trial',
  'slopes',
  'small_network',
  'small_tasks',
]

_STEP = 1e-5  # in double precision the error of a slope is of order 1e-10
_TINY = 1e-6  # what is smaller is nothing
_SIDE = 4  # of an image
_FEATURES = 5  # where the head has no size; not the number of classes

_Parameters = ParamSpec('_Parameters')
_Result = TypeVar('_Result')


def _in_double(
  function: Callable[_Parameters, _Result],
) -> Callable[_Parameters, _Result]:
  """The same function, run in double precision."""

  @functools.wraps(function)
  def inside(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
    with jax.enable_x64(True):
      return function(*args, **kwargs)

  return inside


def _is_number(leaf: Any) -> bool:
  return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _as_double(tree: PyTree) -> PyTree:
  # A leaf that is double already stays as it is, weakly typed or not.
  return jax.tree.map(
    lambda leaf: (
      jnp.asarray(leaf, jnp.float64)
      if _is_number(leaf) and jnp.result_type(leaf) != jnp.float64
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
      return outputs.reshape(len(outputs), 2, 2, _FEATURES)
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


@_in_double
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


# All checks.


def check_method(
  learner: MetaLearner,
  *,
  objective: Objective = cross_entropy,
  tasks: Task | None = None,
  trained_on: Task | None = None,
  adapts_at_random: bool = False,
  num_steps: int | None = None,
  weights: Callable[[PyTree], PyTree] | None = None,
  exact: bool = True,
  key: jax.Array | None = None,
) -> None:
  """Checks all that a method must do, in half a minute or less.

  Args:
    learner: the method, on a small network. By default tasks are of 3 classes
      of images `[4, 4, 1]`.
    objective: the one that it was made with.
    tasks: at least two to adapt to, leaves `[tasks, examples, ...]`, where the
      default will not do.
    trained_on: what the meta-gradient is of, where it is not the same tasks.
    adapts_at_random: whether another key makes another meta-gradient.
    num_steps: of an adaptation, where it descends.
    weights: from meta-parameters to the weights that adaptation starts at,
      where it does.
    exact: whether the meta-gradient is the derivative of the `loss` that is
      reported with it. It is not where the method approximates, as first-order
      and evolutionary ones do, or adds terms of its own.
    key: of everything that is drawn.

  Raises:
    AssertionError: says which check failed, and of what.

  Example:
    >>> import metajax
    >>> network = small_network()
    >>> check_method(metajax.protonet(network, metajax.cross_entropy, 3))

    >>> learner = metajax.fomaml(network, metajax.cross_entropy, 0.1, 1)
    >>> check_differences(make_trial(learner))
    Traceback (most recent call last):
      ...
    AssertionError: the meta-gradient is not the derivative of the loss ...
  """
  trial = make_trial(
    learner, objective=objective, tasks=tasks, trained_on=trained_on, key=key
  )
  check_structure(trial)
  check_finite(trial)
  check_metrics(trial)
  check_trajectory(trial, num_steps=num_steps, weights=weights)
  check_before_adaptation(trial)
  check_same_key(trial)
  check_other_key(trial, adapts_at_random=adapts_at_random)
  check_one_trace(trial)
  check_microbatches(trial)
  check_without_jit(trial)
  if exact:
    check_differences(trial)


# Of the meta-gradient.


@_in_double
def check_structure(trial: Trial) -> None:
  """Whether the gradient has an entry for every meta-parameter, and no other.

  Raises:
    AssertionError: names what is missing, too much or of another shape.
  """
  expected, found = _shapes(trial.meta_params), _shapes(trial.gradient)
  for path in [*expected, *found]:
    one, other = (tree.get(path, 'nothing') for tree in (expected, found))
    _require(
      one == other,
      'the gradient should have the structure of the meta-parameters, but at'
      f' {path} these have {one} and it has {other}',
    )
  _require(
    _same_structure(trial.meta_params, trial.gradient),
    'the gradient should have the structure of the meta-parameters,'
    f' {jax.tree.structure(trial.meta_params)}; it is'
    f' {jax.tree.structure(trial.gradient)}',
  )


@_in_double
def check_finite(trial: Trial) -> None:
  """Whether the gradient is finite, and not zero all over.

  Raises:
    AssertionError: names the entries that are not finite.
  """
  leaves = jax.tree.leaves_with_path(trial.gradient)
  bad = [_name(path) for path, leaf in leaves if not np.isfinite(leaf).all()]
  _require(
    not bad, f'the gradient should be finite; it is not at {", ".join(bad)}'
  )
  largest = max(
    (np.abs(leaf).max() for _, leaf in leaves if leaf.size), default=1
  )
  _require(
    largest > _TINY,
    f'the gradient should not be zero; its largest entry is {largest:.1e}.'
    ' Something on the way from the meta-parameters to the loss of the queries'
    ' is held constant',
  )


@_in_double
def check_metrics(trial: Trial) -> None:
  """Whether metrics are finite scalars: `loss`, and those of the objective.

  Raises:
    AssertionError: names the metric.
  """

  def of_objective(task: Task) -> Metrics:
    adapted, _ = trial.learner.adapt(trial.key, trial.meta_params, task.support)
    outputs = trial.learner.predict(adapted, task.query.inputs)
    return trial.objective(outputs, task.query.targets)[1]

  expected = {'loss', *jax.eval_shape(of_objective, trial.task(0))}
  _require(
    set(trial.metrics) == expected,
    f'metrics should be {sorted(expected)}; found {sorted(trial.metrics)}',
  )
  for name, value in trial.metrics.items():
    _require(
      jnp.shape(value) == (),
      f'the metric {name} should be a scalar, the mean over tasks; it has the'
      f' shape {jnp.shape(value)}',
    )
    _require(
      bool(np.isfinite(value)),
      f'the metric {name} should be finite; it is {value}',
    )
  accuracy = trial.metrics.get('accuracy', 0)
  _require(
    bool(0 <= accuracy <= 1),
    f'accuracy should be from 0 to 1; it is {accuracy}',
  )


@_in_double
def check_same_key(trial: Trial) -> None:
  """Whether the same key gives the same meta-gradient, to the last bit.

  Raises:
    AssertionError: names an entry that differs.
  """
  again = trial.grad(trial.key, trial.meta_params, trial.trained_on)
  different = _difference(again, (trial.gradient, trial.metrics))
  _require(
    different is None,
    'the same key should give the same meta-gradient, to the last bit; found'
    f' others at {different}. What is random should depend on nothing but the'
    ' key',
  )


@_in_double
def check_other_key(trial: Trial, *, adapts_at_random: bool = False) -> None:
  """Whether another key changes what is random, and nothing else.

  Args:
    trial: of the method.
    adapts_at_random: whether something is.

  Raises:
    AssertionError: says which of both it is.
  """
  other = jax.random.fold_in(trial.key, 1)
  again = trial.grad(other, trial.meta_params, trial.trained_on)
  different = _difference(again, (trial.gradient, trial.metrics))
  if adapts_at_random:
    _require(
      different is not None,
      'another key should give another meta-gradient, as the method adapts at'
      ' random; found the same one. The key is not used',
    )
  else:
    _require(
      different is None,
      'another key should change nothing, as the method does not adapt at'
      f' random; found others at {different}. If it does,'
      ' adapts_at_random=True says so',
    )


@_in_double
def check_without_jit(trial: Trial) -> None:
  """Whether the meta-gradient is the same where it is not compiled.

  Raises:
    AssertionError: names the entry that differs most, and by how much.
  """
  _check_close(
    'without jit the meta-gradient should be the same',
    trial.learner.grad(trial.key, trial.meta_params, trial.trained_on),
    (trial.gradient, trial.metrics),
    rtol=1e-11,
    atol=1e-13,
  )


@_in_double
def check_microbatches(trial: Trial, chunk_size: int = 2) -> None:
  """Whether the meta-gradient is the same computed a few tasks at a time.

  Args:
    trial: of the method.
    chunk_size: tasks at a time.

  Raises:
    AssertionError: names the entry that differs most, and by how much.
  """
  grad: MetaGradient = jax.jit(microbatch(trial.learner.grad, chunk_size))
  _check_close(
    f'{chunk_size} tasks at a time the meta-gradient should be the same (it'
    ' should be the mean over tasks, each with a key of its own; see'
    ' metajax.base.map_tasks)',
    grad(trial.key, trial.meta_params, trial.trained_on),
    (trial.gradient, trial.metrics),
    rtol=1e-12,
    atol=1e-13,
  )


@_in_double
def check_one_trace(trial: Trial) -> None:
  """Whether new tasks and new meta-parameters need no second compilation.

  Raises:
    AssertionError: names the function that is traced again.
  """

  def run(meta_params: PyTree, turn: int) -> list[int]:
    trained_on = jax.tree.map(
      lambda leaf: jnp.roll(leaf, turn, axis=0), trial.trained_on
    )
    task = trial.task(turn)
    trial.grad(trial.key, meta_params, trained_on)
    adapted, _ = trial.adapt(trial.key, meta_params, task.support)
    trial.predict(adapted, task.query.inputs)
    return [each.traces for each in (trial.grad, trial.adapt, trial.predict)]

  moved = optax.apply_updates(
    trial.meta_params,
    jax.tree.map(lambda leaf: -0.01 * leaf, trial.gradient),
  )
  before, after = run(trial.meta_params, 0), run(moved, 1)
  for name, one, other in zip(
    ('grad', 'adapt', 'predict'), before, after, strict=True
  ):
    _require(
      one == other,
      f'{name} should be traced once; new tasks and meta-parameters of the same'
      f' shapes had it traced {1 + other - one} times. Types or structures of'
      ' meta-parameters, or of what is adapted, are not always the same',
    )


class Slopes(NamedTuple):
  """Of the mean query loss, along the same random directions."""

  by_gradient: jax.Array
  by_differences: jax.Array


@_in_double
def slopes(
  learner: MetaLearner,
  meta_params: PyTree,
  tasks: Task,
  *,
  key: jax.Array | None = None,
  number: int = 4,
) -> Slopes:
  r"""Slopes of the loss that `grad` reports, by its gradient and without it.

  .. math::
    d^T \nabla L(\phi) \qquad \text{and} \qquad
    \frac{L(\phi + h d) - L(\phi - h d)}{2 h}

  Args:
    learner: any.
    meta_params: in double precision; what is no floating-point number in them
      is held fixed.
    tasks: leaves `[tasks, examples, ...]`.
    key: of the meta-gradient.
    number: of directions.

  Returns:
    Both, `[number]`.

  Example:
    >>> import metajax, numpy as np
    >>> learner = metajax.protonet(small_network(), metajax.cross_entropy, 3)
    >>> trial = make_trial(learner)
    >>> along = slopes(learner, trial.meta_params, trial.tasks)
    >>> np.allclose(along.by_gradient, along.by_differences)
    True
  """
  leaves, structure = jax.tree.flatten(meta_params)
  numbers = [_is_number(leaf) for leaf in leaves]

  def only_numbers(tree: PyTree) -> list[jax.Array]:
    pairs = zip(jax.tree.leaves(tree), numbers, strict=True)
    return [leaf for leaf, is_number in pairs if is_number]

  flat, unravel = ravel_pytree(only_numbers(meta_params))

  def rebuilt(flat: jax.Array) -> PyTree:
    moved = iter(unravel(flat))
    return jax.tree.unflatten(
      structure,
      [
        next(moved) if is_number else leaf
        for leaf, is_number in zip(leaves, numbers, strict=True)
      ],
    )

  key = jax.random.key(2) if key is None else key
  directions = jax.random.normal(
    jax.random.key(3), (number, len(flat)), flat.dtype
  )

  @jax.jit
  def both(flat: jax.Array) -> Slopes:
    gradient, _ = learner.grad(key, rebuilt(flat), tasks)
    moves = _STEP * jnp.concatenate([directions, -directions])
    losses = jax.lax.map(
      lambda flat: learner.grad(key, rebuilt(flat), tasks)[1]['loss'],
      flat[None] + moves,
    )
    ahead, behind = jnp.split(losses, 2)
    return Slopes(
      directions @ ravel_pytree(only_numbers(gradient))[0],
      (ahead - behind) / (2 * _STEP),
    )

  return both(flat)


@_in_double
def check_differences(trial: Trial) -> None:
  """Whether the meta-gradient is the derivative of the loss that is reported.

  Raises:
    AssertionError: has both slopes along a random direction.
  """
  along = slopes(
    trial.learner, trial.meta_params, trial.trained_on, key=trial.key
  )
  for found, expected in zip(*along, strict=True):
    _require(
      bool(abs(found - expected) <= 1e-9 + 1e-5 * abs(expected)),
      'the meta-gradient is not the derivative of the loss that is reported:'
      f' along a random direction it says {found:.8g}, and central differences'
      f' say {expected:.8g}. If it is an approximation, or of a loss with more'
      ' terms, exact=False says so',
    )


# Of the adaptation.


@_in_double
def check_trajectory(
  trial: Trial,
  *,
  num_steps: int | None = None,
  weights: Callable[[PyTree], PyTree] | None = None,
) -> None:
  """Whether the trajectory runs from before adaptation to what is adapted.

  Args:
    trial: of the method.
    num_steps: that the adaptation takes; any number by default.
    weights: from meta-parameters, and from what is adapted, to the weights;
      where it is given, adaptation starts at those of the meta-parameters.

  Raises:
    AssertionError: says where it does not.
  """
  task = trial.task(0)
  adapted, adaptation = trial.adapt(trial.key, trial.meta_params, task.support)
  trajectory = adaptation.trajectory
  _require(
    _same_structure(trajectory, adapted),
    'the trajectory should have the structure of what is adapted,'
    f' {jax.tree.structure(adapted)}; it is {jax.tree.structure(trajectory)}',
  )
  lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(trajectory)}
  _require(
    len(lengths) == 1 and () not in lengths,
    'all leaves of the trajectory should have one entry for before adaptation'
    f' and one for every step; found leading axes {sorted(lengths)}',
  )
  ((length,),) = lengths
  different = _difference(_entry(trajectory, -1), adapted)
  _require(
    different is None,
    'the last entry of the trajectory should be what is adapted; found another'
    f' at {different}',
  )
  if num_steps is not None:
    _require(
      (length, adaptation.losses.shape) == (num_steps + 1, (num_steps,)),
      f'{num_steps} steps should make a trajectory of {num_steps + 1} entries'
      f' and losses of shape ({num_steps},); found {length} entries and'
      f' {adaptation.losses.shape}',
    )
  if weights is not None:
    different = _difference(
      weights(_entry(trajectory, 0)), weights(trial.meta_params)
    )
    _require(
      different is None,
      'adaptation should start at the weights of the meta-parameters; found'
      f' others at {different}',
    )
  before, after = (
    trial.predict(_entry(trajectory, index), task.query.inputs)
    for index in (0, -1)
  )
  moved = _largest_difference(after, before)
  _require(
    moved > _TINY,
    f'adaptation should change predictions; the largest change is {moved:.1e}',
  )


@_in_double
def check_before_adaptation(trial: Trial) -> None:
  """Whether labels are not known before adaptation.

  Predictions of the first entry of the trajectory must be the same whatever the
  support targets are: of classes another order, of numbers larger ones.

  Raises:
    AssertionError: has the largest change of a prediction.
  """
  task = trial.task(0)
  renamed = task.support._replace(
    targets=jax.tree.map(_renamed, task.support.targets)
  )
  before = []
  for support in (task.support, renamed):
    _, adaptation = trial.adapt(trial.key, trial.meta_params, support)
    first = _entry(adaptation.trajectory, 0)
    before.append(trial.predict(first, task.query.inputs))
  change = _largest_difference(*before)
  scale = max(
    (float(np.abs(leaf).max()) for leaf in jax.tree.leaves(before)), default=0
  )
  _require(
    change <= 1e-12 * max(scale, 1e-3),
    'before adaptation predictions should not depend on the support targets;'
    f' other targets changed them by {change:.1e}. Labels leak into the first'
    ' entry of the trajectory',
  )


def _renamed(targets: jax.Array) -> jax.Array:
  if _is_number(targets):
    return targets + 1
  others = (targets + 1) % (jnp.max(targets) + 1)
  return jnp.where(targets == PADDING, targets, others.astype(targets.dtype))


# What checks are made of.


def _require(holds: bool, message: str) -> None:
  # An `assert` would be left out under `python -O`.
  if not holds:
    raise AssertionError(message)


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path) or 'the only leaf'


def _same_structure(one: PyTree, other: PyTree) -> bool:
  return len({jax.tree.structure(tree) for tree in (one, other)}) == 1


def _entry(tree: PyTree, index: int) -> PyTree:
  return jax.tree.map(lambda leaf: leaf[index], tree)


def _shapes(tree: PyTree) -> dict[str, str]:
  return {
    _name(path): f'an array of shape {jnp.shape(leaf)}'
    for path, leaf in jax.tree.leaves_with_path(tree)
  }


def _difference(found: PyTree, expected: PyTree) -> str | None:
  """The first leaf that is not the same to the bit."""
  leaves = jax.tree.leaves_with_path(found), jax.tree.leaves(expected)
  for (path, one), other in zip(*leaves, strict=True):
    if not np.array_equal(one, other):
      return _name(path)
  return None


def _largest_difference(one: PyTree, other: PyTree) -> float:
  leaves = jax.tree.leaves(one), jax.tree.leaves(other)
  return max(
    (float(np.abs(a - b).max()) for a, b in zip(*leaves, strict=True)),
    default=0.0,
  )


def _check_close(
  what: str, found: PyTree, expected: PyTree, *, rtol: float, atol: float
) -> None:
  leaves = jax.tree.leaves_with_path(found), jax.tree.leaves(expected)
  worst, place = 0.0, ''
  for (path, one), other in zip(*leaves, strict=True):
    allowed = atol + rtol * np.abs(other)
    excess = np.max(np.abs(one - other) / allowed, initial=0.0)
    if not excess <= worst:  # nor where it is no number
      worst, place = float(excess), _name(path)
  _require(
    worst <= 1,
    f'{what}; at {place} it differs by {worst:.1e} times what rounding explains'
    f' ({rtol:.0e} of it and {atol:.0e})',
  )
