"""Each check of a method, of a `Trial`."""

from collections.abc import Callable, Collection
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.base import (
  MetaGradient,
  Metrics,
  PyTree,
  Task,
  Weighted,
  values_and_weights,
)
from metajax.devices.parallel import microbatch
from metajax.objectives import loss_and_metrics
from metajax.testing._comparing import (
  check_close,
  difference,
  largest_difference,
  path_name,
  require,
  same_structure,
  shapes,
)
from metajax.testing.trials import Trial, in_double, is_number

__all__ = [
  'check_before_adaptation',
  'check_finite',
  'check_metrics',
  'check_microbatches',
  'check_one_trace',
  'check_other_key',
  'check_same_key',
  'check_structure',
  'check_trajectory',
  'check_without_jit',
]

_STEP = 1e-5  # in double precision the error of a slope is of order 1e-10
_TINY = 1e-6  # what is smaller is nothing
_SIDE = 4  # of an image
_FEATURES = 5  # where the head has no size; not the number of classes

_Parameters = ParamSpec('_Parameters')
_Result = TypeVar('_Result')


# Of the meta-gradient.


@in_double
def check_structure(trial: Trial) -> None:
  """Whether the gradient has an entry for every meta-parameter, and no other.

  Raises:
    AssertionError: names what is missing, too much or of another shape.
  """
  expected, found = shapes(trial.meta_params), shapes(trial.gradient)
  for path in [*expected, *found]:
    one, other = (tree.get(path, 'nothing') for tree in (expected, found))
    require(
      one == other,
      'the gradient should have the structure of the meta-parameters, but at'
      f' {path} these have {one} and it has {other}',
    )
  require(
    same_structure(trial.meta_params, trial.gradient),
    'the gradient should have the structure of the meta-parameters,'
    f' {jax.tree.structure(trial.meta_params)}; it is'
    f' {jax.tree.structure(trial.gradient)}',
  )


@in_double
def check_finite(trial: Trial) -> None:
  """Whether the gradient is finite, and not zero all over.

  Raises:
    AssertionError: names the entries that are not finite.
  """
  leaves = jax.tree.leaves_with_path(trial.gradient)
  bad = [
    path_name(path) for path, leaf in leaves if not np.isfinite(leaf).all()
  ]
  require(
    not bad, f'the gradient should be finite; it is not at {", ".join(bad)}'
  )
  largest = max(
    (np.abs(leaf).max() for _, leaf in leaves if leaf.size), default=1
  )
  require(
    largest > _TINY,
    f'the gradient should not be zero; its largest entry is {largest:.1e}.'
    ' Something on the way from the meta-parameters to the loss of the queries'
    ' is held constant',
  )


@in_double
def check_metrics(trial: Trial, *, more: Collection[str] = ()) -> None:
  """Whether metrics are finite scalars: `loss`, and those of the objective.

  Args:
    trial: of the method.
    more: names of what the method reports beside them.

  Raises:
    AssertionError: names the metric.
  """

  def of_objective(task: Task) -> Metrics:
    adapted, _ = trial.learner.adapt(trial.key, trial.meta_params, task.support)
    outputs = trial.learner.predict(adapted, task.query.inputs)
    return loss_and_metrics(trial.objective, outputs, task.query.targets)[1]

  expected = {'loss', *jax.eval_shape(of_objective, trial.task(0)), *more}
  require(
    set(trial.metrics) == expected,
    f'metrics should be {sorted(expected)}; found {sorted(trial.metrics)}',
  )
  for name, value in trial.metrics.items():
    require(
      jnp.shape(value) == (),
      f'the metric {name} should be a scalar, the mean over tasks; it has the'
      f' shape {jnp.shape(value)}',
    )
    require(
      bool(np.isfinite(value)),
      f'the metric {name} should be finite; it is {value}',
    )
  accuracy = trial.metrics.get('accuracy', 0)
  require(
    bool(0 <= accuracy <= 1),
    f'accuracy should be from 0 to 1; it is {accuracy}',
  )


@in_double
def check_same_key(trial: Trial) -> None:
  """Whether the same key gives the same meta-gradient, to the last bit.

  Raises:
    AssertionError: names an entry that differs.
  """
  again = trial.grad(trial.key, trial.meta_params, trial.trained_on)
  different = difference(again, (trial.gradient, trial.metrics))
  require(
    different is None,
    'the same key should give the same meta-gradient, to the last bit; found'
    f' others at {different}. What is random should depend on nothing but the'
    ' key',
  )


@in_double
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
  different = difference(again, (trial.gradient, trial.metrics))
  if adapts_at_random:
    require(
      different is not None,
      'another key should give another meta-gradient, as the method adapts at'
      ' random; found the same one. The key is not used',
    )
  else:
    require(
      different is None,
      'another key should change nothing, as the method does not adapt at'
      f' random; found others at {different}. If it does,'
      ' adapts_at_random=True says so',
    )


@in_double
def check_without_jit(trial: Trial) -> None:
  """Whether the meta-gradient is the same where it is not compiled.

  Raises:
    AssertionError: names the entry that differs most, and by how much.
  """
  check_close(
    'without jit the meta-gradient should be the same',
    trial.learner.grad(trial.key, trial.meta_params, trial.trained_on),
    (trial.gradient, trial.metrics),
    rtol=1e-11,
    atol=1e-13,
  )


@in_double
def check_microbatches(trial: Trial, chunk_size: int = 2) -> None:
  """Whether the meta-gradient is the same computed a few tasks at a time.

  Args:
    trial: of the method.
    chunk_size: tasks at a time.

  Raises:
    AssertionError: names the entry that differs most, and by how much.
  """
  grad: MetaGradient = jax.jit(microbatch(trial.learner.grad, chunk_size))
  check_close(
    f'{chunk_size} tasks at a time the meta-gradient should be the same (it'
    ' should be the mean over tasks, each with a key of its own; see'
    ' metajax.base.map_tasks)',
    grad(trial.key, trial.meta_params, trial.trained_on),
    (trial.gradient, trial.metrics),
    rtol=1e-12,
    atol=1e-13,
  )


@in_double
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
    require(
      one == other,
      f'{name} should be traced once; new tasks and meta-parameters of the same'
      f' shapes had it traced {1 + other - one} times. Types or structures of'
      ' meta-parameters, or of what is adapted, are not always the same',
    )


# Of the adaptation.


@in_double
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
  require(
    same_structure(trajectory, adapted),
    'the trajectory should have the structure of what is adapted,'
    f' {jax.tree.structure(adapted)}; it is {jax.tree.structure(trajectory)}',
  )
  lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(trajectory)}
  require(
    len(lengths) == 1 and () not in lengths,
    'all leaves of the trajectory should have one entry for before adaptation'
    f' and one for every step; found leading axes {sorted(lengths)}',
  )
  ((length,),) = lengths
  different = difference(adaptation.after(-1, adapted), adapted)
  require(
    different is None,
    'the last entry of the trajectory should be what is adapted; found another'
    f' at {different}',
  )
  if num_steps is not None:
    require(
      (length, adaptation.losses.shape) == (num_steps + 1, (num_steps,)),
      f'{num_steps} steps should make a trajectory of {num_steps + 1} entries'
      f' and losses of shape ({num_steps},); found {length} entries and'
      f' {adaptation.losses.shape}',
    )
  if weights is not None:
    different = difference(
      weights(adaptation.after(0, adapted)), weights(trial.meta_params)
    )
    require(
      different is None,
      'adaptation should start at the weights of the meta-parameters; found'
      f' others at {different}',
    )
  before, after = (
    trial.predict(adaptation.after(index, adapted), task.query.inputs)
    for index in (0, -1)
  )
  moved = largest_difference(after, before)
  require(
    moved > _TINY,
    f'adaptation should change predictions; the largest change is {moved:.1e}',
  )


@in_double
def check_before_adaptation(trial: Trial) -> None:
  """Whether labels are not known before adaptation.

  Predictions of the first entry of the trajectory must be the same whatever the
  support targets are: of classes another order, of numbers larger ones.

  Raises:
    AssertionError: has the largest change of a prediction.
  """
  task = trial.task(0)
  targets, weights = values_and_weights(task.support.targets)
  others = jax.tree.map(_renamed, targets)
  renamed = task.support._replace(
    targets=others if weights is None else Weighted(others, weights)
  )
  before = []
  for support in (task.support, renamed):
    adapted, adaptation = trial.adapt(trial.key, trial.meta_params, support)
    first = adaptation.after(0, adapted)
    before.append(trial.predict(first, task.query.inputs))
  change = largest_difference(*before)
  scale = max(
    (float(np.abs(leaf).max()) for leaf in jax.tree.leaves(before)), default=0
  )
  require(
    change <= 1e-12 * max(scale, 1e-3),
    'before adaptation predictions should not depend on the support targets;'
    f' other targets changed them by {change:.1e}. Labels leak into the first'
    ' entry of the trajectory',
  )


def _renamed(targets: jax.Array) -> jax.Array:
  if is_number(targets):
    return targets + 1
  others = (targets + 1) % (jnp.max(targets) + 1)
  return others.astype(targets.dtype)


# What checks are made of.
