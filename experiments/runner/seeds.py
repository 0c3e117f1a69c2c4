"""Several seeds of one experiment, trained as one program.

They lie along the leading axis of the state (`metajax.runs.members`). Each is
the run that it would be alone; they are validated and tested on the same tasks,
and what is reported is their mean, with its interval over tasks and over seeds.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runner.common import Common
from experiments.runner.errors import UsageError
from experiments.runner.intervals import of_few
from experiments.runner.judging import judged
from experiments.runner.over_tasks import by_task, half_interval, tasks_drawn
from experiments.runner.problem import Judge, OfSeeds, Problem
from metajax.base import PyTree, SampleTask
from metajax.devices.streaming import HostSampler
from metajax.runs.evaluation import Evaluation
from metajax.runs.training import TrainState

__all__ = [
  'OverSeeds',
  'check_problem',
  'check_settings',
  'gave_up',
  'initial_keys',
  'judged_seeds',
  'members_of',
  'metrics_of',
  'of_member',
  'over_seeds',
  'step_of',
  'validation_of',
  'with_seeds',
]


def check_settings(settings: Common) -> None:
  """Refuses settings that have no meaning for several seeds.

  Raises:
    UsageError: if there is one.
  """
  if settings.seeds == 1:
    return
  for name, reason in (
    ('distributed', 'are of one process'),
    ('mesh', 'are divided over all devices by themselves'),
    ('shard', 'are divided over all devices by themselves'),
    ('dry_run', 'have no dry run, but one seed has'),
    ('test_only', 'are trained; --load_seed tests one of them'),
  ):
    if getattr(settings, name) != getattr(Common, name):
      raise UsageError('seeds', f'several {reason}; leave --{name} out')


def check_problem(problem: Problem) -> None:
  """Refuses what several seeds have no meaning for.

  Raises:
    UsageError: if the method is not trained, or if tasks are drawn on the host
      or tested in ways of their own.
  """
  if problem.settings.seeds == 1:
    return
  if problem.recipe.steps == 0:
    name = problem.settings.algorithm
    raise UsageError('seeds', f'{name} needs no training; leave the flag out')
  if isinstance(problem.train, HostSampler):
    raise UsageError(
      'seeds',
      'several draw their tasks on the device, and these data stay in the'
      ' memory of the host; --images_on=device would put them there',
    )
  if problem.more is not None:
    raise UsageError(
      'seeds',
      'several are tested on their test tasks, and on nothing else; leave the'
      f' flag out, or give {problem.without_more}',
    )


def members_of(settings: Common) -> int | None:
  """The axis of members in the state of a run; None where it has none."""
  return settings.seeds if settings.seeds > 1 else None


def initial_keys(settings: Common) -> jax.Array:
  """The key of a run, or a key of each of its seeds."""
  if settings.seeds == 1:
    return jax.random.key(settings.seed)
  return jax.vmap(jax.random.key)(jnp.array(settings.all_seeds))


def step_of(state: TrainState) -> int:
  """The step that a run is at; that of the seeds that go on."""
  return int(np.max(np.asarray(state.step)))


def gave_up(settings: Common, state: TrainState, limit: int) -> dict[int, int]:
  """The seeds that have skipped too many steps in a row, and where they stay.

  Args:
    settings: of the run.
    state: of the run.
    limit: so many are too many.
  """
  in_a_row = np.ravel(state.skipped_in_a_row)
  steps = np.ravel(state.step)
  return {
    seed: int(steps[index])
    for index, seed in enumerate(settings.all_seeds)
    if in_a_row[index] >= limit
  }


def of_member(tree: PyTree, member: int) -> PyTree:
  """What one member has of arrays `[members, ...]`, in the host's memory."""
  return jax.tree.map(lambda leaf: np.asarray(leaf)[member], tree)


def metrics_of(
  settings: Common, means: Mapping[str, jax.Array], lost: Mapping[int, int]
) -> dict[str, float]:
  """What a dispatch has measured: of a run, or the mean over its seeds and all.

  Args:
    settings: of the run.
    means: of `TrainStep.run`.
    lost: seeds that have given up, which are left out, but where all have.
  """
  if settings.seeds == 1:
    return {name: float(value) for name, value in means.items()}
  kept = {
    f'seed_{seed}/': index
    for index, seed in enumerate(settings.all_seeds)
    if seed not in lost or len(lost) == settings.seeds
  }
  values = {name: np.asarray(value) for name, value in means.items()}
  # The loss of steps that were applied is finite; without any there is none.
  losses = values.get('loss', np.zeros(settings.seeds))
  applied = [each for each in kept.values() if np.isfinite(losses[each])]
  metrics = dict[str, float]()
  for name, value in values.items():
    total = (
      np.sum(value)
      if name == 'skipped'
      else np.mean(value[applied or list(kept.values())])
    )
    metrics[name] = float(total)
  for prefix, index in kept.items():
    metrics |= {
      prefix + name: float(value[index]) for name, value in values.items()
    }
  return metrics


class OverSeeds(NamedTuple):
  """A test of several seeds on the same tasks."""

  mean: Evaluation  # of each task the mean over seeds; intervals over tasks
  each: Mapping[int, Evaluation]  # by seed
  # Halves of 95% intervals over seeds, each [steps + 1]; none of one seed.
  ci95: Mapping[str, np.ndarray]


def judged_seeds(
  problem: Problem,
  judge: Judge,
  meta_params: PyTree,
  sample: SampleTask,
  seed: int,
  num_tasks: int,
  lost: Mapping[int, int],
) -> OverSeeds:
  """Judges the meta-parameters of all seeds that have not given up.

  Args:
    problem: whose method and objective it is.
    judge: of the problem.
    meta_params: leaves `[members, ...]`.
    sample: draws the tasks.
    seed: of these tasks.
    num_tasks: how many.
    lost: seeds that have given up.
  """
  host = jax.tree.map(np.asarray, meta_params)
  each = {
    of_run: judged(
      problem, judge, of_member(host, index), sample, seed, num_tasks
    )
    for index, of_run in enumerate(problem.settings.all_seeds)
    if of_run not in lost
  }
  drawn = tasks_drawn(problem.which_task, sample, seed, num_tasks)
  return over_seeds(each, drawn)


def validation_of(problem: Problem, found: OverSeeds) -> dict[str, float]:
  """The metrics of a validation: means over seeds, intervals, and all seeds."""
  metric = problem.metric.name
  metrics = {
    name: float(values[-1]) for name, values in found.mean.mean.items()
  }
  half = float(found.mean.ci95[metric][-1])
  if np.isfinite(half) or not np.isfinite(metrics[metric]):
    metrics[f'{metric}_ci95'] = half  # of a single task there is none
  if found.ci95:
    metrics[f'{metric}_ci95_over_seeds'] = float(found.ci95[metric][-1])
  for seed, evaluation in found.each.items():
    metrics |= {
      f'seed_{seed}/{name}': float(values[-1])
      for name, values in evaluation.mean.items()
    }
  return metrics


def over_seeds(
  each: Mapping[int, Evaluation], drawn: np.ndarray | None = None
) -> OverSeeds:
  """The mean of tests on the same tasks, and its intervals.

  Args:
    each: by seed.
    drawn: which task each draw is of, see `over_tasks.tasks_drawn`.
  """
  first = next(iter(each.values()))
  stacked = {
    name: np.stack(
      [by_task(np.asarray(one.values[name]), drawn) for one in each.values()]
    )
    for name in first.values
  }
  values = {name: jnp.asarray(all_.mean(0)) for name, all_ in stacked.items()}
  mean = Evaluation(
    mean={name: jnp.mean(value, axis=0) for name, value in values.items()},
    ci95={
      name: jnp.asarray(half_interval(np.asarray(value), drawn))
      for name, value in values.items()
    },
    values=values,
    normalisation=first.normalisation,
    judged=first.judged,
  )
  if len(each) < 2:
    return OverSeeds(mean, each, {})
  halves = {name: of_few(all_.mean(axis=1)) for name, all_ in stacked.items()}
  return OverSeeds(mean, each, halves)


def with_seeds(
  outcome: Mapping[str, Any],
  problem: Problem,
  test: OverSeeds,
  besides: Mapping[str, OverSeeds],
  of_seeds: OfSeeds,
) -> dict[str, Any]:
  """A result with what each seed has found, and intervals over seeds.

  Args:
    outcome: of `report.result`, for the means over seeds.
    problem: what was trained.
    test: of all seeds.
    besides: what else was tested.
    of_seeds: what training left.
  """
  metric = problem.metric.name
  with_intervals = {**outcome, 'test': _widened(outcome['test'], test, metric)}
  if besides:
    with_intervals['besides'] = {
      name: _widened(outcome['besides'][name], found, metric)
      for name, found in besides.items()
    }
  seeds = []
  for index, seed in enumerate(problem.settings.all_seeds):
    skipped, lost = of_seeds.skipped[index], of_seeds.lost
    entry: dict[str, Any] = {'seed': seed, 'skipped_steps': skipped}
    if seed in lost:
      entry |= {metric: None, 'ci95': None, 'gave_up_at_step': lost[seed]}
    else:
      found = test.each[seed]
      entry |= {
        metric: float(found.mean[metric][-1]),
        'ci95': float(found.ci95[metric][-1]),
        f'{metric}_by_step': [float(x) for x in found.mean[metric]],
      }
    seeds.append(entry)
  return with_intervals | {'seeds': seeds}


def _widened(
  entry: Mapping[str, Any], test: OverSeeds, metric: str
) -> dict[str, Any]:
  """What a test has found, with intervals over seeds; null of one alone."""
  by_step = [float(half) for half in test.ci95.get(metric, ())]
  return {
    **entry,
    'ci95_over_seeds': by_step[-1] if by_step else None,
    'ci95_over_seeds_by_step': by_step or None,
    'metrics': {
      name: {
        **found,
        'ci95_over_seeds': float(test.ci95[name][-1]) if by_step else None,
      }
      for name, found in entry['metrics'].items()
    },
  }
