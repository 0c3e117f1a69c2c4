"""What every method must do, as checks of any meta-learner.

`check_method` runs all of them on a few small tasks; one that fails raises an
AssertionError which says what was expected and what was found. Each is a
function of its own, too, of a `Trial`. They compute in double precision,
whatever is set outside, so that rounding hides no mistake.
"""

from collections.abc import Callable, Collection

import jax

from metajax.base import MetaLearner, Objective, PyTree, Task
from metajax.objectives import cross_entropy
from metajax.testing._slopes import Slopes, check_differences, slopes
from metajax.testing.checks import (
  check_before_adaptation,
  check_finite,
  check_metrics,
  check_microbatches,
  check_one_trace,
  check_other_key,
  check_same_key,
  check_structure,
  check_trajectory,
  check_without_jit,
)
from metajax.testing.trials import (
  Compiled,
  Trial,
  make_trial,
  small_network,
  small_tasks,
)

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
  more_metrics: Collection[str] = (),
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
    more_metrics: names of what it reports beside `loss` and the metrics of the
      objective.
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
  check_metrics(trial, more=more_metrics)
  check_trajectory(trial, num_steps=num_steps, weights=weights)
  check_before_adaptation(trial)
  check_same_key(trial)
  check_other_key(trial, adapts_at_random=adapts_at_random)
  check_one_trace(trial)
  check_microbatches(trial)
  check_without_jit(trial)
  if exact:
    check_differences(trial)
