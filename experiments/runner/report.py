"""What an experiment says at its end: a table, and `result.json`."""

import importlib.metadata
import math
import platform
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import rich.console
import rich.table

from experiments.runner.judging import tasks_that_differ
from experiments.runner.over_tasks import said_of
from experiments.runner.problem import Problem, Trained
from experiments.runner.tables import plain, say
from experiments.runner.tables import show as show_table
from metajax.base import PyTree
from metajax.metric import ACCURACY, MEAN_SQUARED_ERROR, Metric
from metajax.runs.evaluation import Evaluation

__all__ = ['describe', 'metric_of', 'result', 'show', 'versions']


_OUT_OF_SCOPE = {
  'auroc': 'out of scope: area under curve',
  'accuracy': 'accuracy with rejection',
  'accuracy_of_accepting_all': 'accuracy without it',
}


def result(
  problem: Problem,
  settings: dict[str, Any],
  trained: Trained,
  meta_params: PyTree,
  evaluation: Evaluation,
  baseline: dict[str, float],
  besides: Mapping[str, Evaluation] = MappingProxyType({}),
) -> dict[str, Any]:
  """Collects what `result.json` holds; shares are in [0, 1].

  Where tasks are drawn again, `test` has `tasks`, how many of them differ.
  """
  metric = problem.metric.name
  tests = {name: _tested(each, metric) for name, each in besides.items()}
  test, differ = _tested(evaluation, metric), tasks_that_differ(problem)
  protocol = problem.protocol
  if differ is not None:
    test = {'tasks': differ, **test}
    protocol = {**protocol, 'test_tasks_that_differ': differ}
  return {
    'algorithm': settings['algorithm'],
    'dataset': protocol['dataset'],
    'protocol': protocol,
    # What a metric measures by, a file cannot say.
    'metric': problem.metric._replace(measure=None)._asdict(),
    'steps': trained.step,
    'skipped_steps': trained.skipped,
    'test': test,
    **({'besides': tests} if tests else {}),
    'baseline': baseline,
    'tasks_per_second': trained.tasks_per_second,
    'seconds_to_first_step': trained.seconds_to_first_step,
    'training_seconds': trained.training_seconds,
    'parameters': sum(leaf.size for leaf in jax.tree.leaves(meta_params)),
    'config': settings,
    'devices': [device.device_kind for device in _devices(problem)],
    'versions': versions(),
  }


def _tested(evaluation: Evaluation, metric: str) -> dict[str, Any]:
  """What a test has found, the headline by inner step."""
  mean = [float(value) for value in evaluation.mean[metric]]
  ci95 = [float(value) for value in evaluation.ci95[metric]]
  at_every_step = evaluation.judged == 'every_step'
  return {
    # Where only the last step is judged, nobody knows.
    f'{metric}_before': mean[0] if at_every_step else None,
    metric: mean[-1],
    'ci95': ci95[-1],
    f'{metric}_by_step': mean,
    'ci95_by_step': ci95,
    'metrics': {
      name: {
        'mean': float(evaluation.mean[name][-1]),
        'ci95': float(evaluation.ci95[name][-1]),
      }
      for name in evaluation.mean
    },
  }


def metric_of(outcome: Mapping[str, Any]) -> Metric:
  """The headline of what `result.json` holds; older ones do not name it."""
  if 'metric' in outcome:
    return Metric(**outcome['metric'])
  known = (ACCURACY, MEAN_SQUARED_ERROR)
  return next(each for each in known if each.name in outcome['test'])


def _devices(problem: Problem) -> list[jax.Device]:
  """Lists what trains and tests: their number decides how results round."""
  if problem.mesh is None:
    return [jax.devices()[0]]
  return list(problem.mesh.devices.flat)


def versions() -> dict[str, str]:
  """Says those of Python, of the backend, and of what computes."""
  packages = ('metajax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint')
  found = {
    'python': platform.python_version(),
    'backend': jax.default_backend(),
  }
  for package in packages:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = 'not installed'
  return found


def show(problem: Problem, outcome: dict[str, Any]) -> None:
  """Prints the result with the protocol under it."""
  metric, test = problem.metric, outcome['test']
  table = rich.table.Table(
    title=plain(
      f'{outcome["algorithm"]} on {outcome["dataset"]}, held-out tasks'
    )
  )
  table.add_column('inner steps', justify='right')
  table.add_column(metric.heading, justify='right')
  several = 'seeds' in outcome
  over = '95% over tasks' if several else '95% interval'
  if 'tasks' in test:
    n = test['tasks']
    over = f'95% over {n:,} tasks' if n > 1 else 'no interval of 1 task'
  table.add_column(over, justify='right')
  if several:
    table.add_column('95% over seeds', justify='right')
  means = test[f'{metric.name}_by_step']
  # A mean that is no number is None in the record, too.
  by_step = len(means) > 1 or test[f'{metric.name}_before'] is not None
  for step, intervals in enumerate(
    zip(means, *_intervals_by_step(test), strict=True)
  ):
    if _is_shown(step, len(means)):
      table.add_row(
        _name_of(step, by_step),
        *_cells(metric, *intervals),
      )
  table.add_section()
  for name, found in outcome.get('besides', {}).items():
    halves = found['ci95'], found.get('ci95_over_seeds')
    table.add_row(
      name.replace('_', ' '), *_cells(metric, found[metric.name], *halves)
    )
  table.add_section()
  for each in outcome.get('seeds', ()):
    if 'gave_up_at_step' in each:
      cells = ['gave up', f'at step {each["gave_up_at_step"]}']
    else:
      cells = _cells(metric, each[metric.name], each['ci95'])
    table.add_row(f'seed {each["seed"]}', *cells)
  table.add_section()
  for name, value in outcome['baseline'].items():
    if value is not None and not name.endswith('ci95'):
      of = name.removesuffix(f'_{metric.name}')
      half = outcome['baseline'].get(f'{of}_ci95')
      table.add_row(f'{of} baseline', *_cells(metric, value, half))
  if apart := outcome.get('out_of_scope'):
    table.add_section()
    for name, label in _OUT_OF_SCOPE.items():
      mean, half = (metric.format(apart[name][x]) for x in ('mean', 'ci95'))
      table.add_row(label, mean, f'\N{PLUS-MINUS SIGN} {half}')
  console = rich.console.Console()
  console.print(table)
  for title, lines in outcome.get('tables', {}).items():
    show_table(lines, title=title)
  if 'tasks' in test:
    say(said_of(test['tasks'], outcome['protocol']['test_tasks']))
  say(describe(outcome['protocol']))


def _intervals_by_step(test: Mapping[str, Any]) -> list[list[float | None]]:
  """Halves of intervals over tasks, and over seeds where there are several."""
  over_tasks = test['ci95_by_step']
  if 'ci95_over_seeds_by_step' not in test:
    return [over_tasks]
  return [
    over_tasks,
    test['ci95_over_seeds_by_step'] or [None] * len(over_tasks),
  ]


def _cells(
  metric: Metric, mean: float | None, *halves: float | None
) -> list[str]:
  """A mean and halves of its intervals, as the table has them."""
  return [
    metric.format(math.nan if mean is None else mean),
    *(
      '' if half is None else f'\N{PLUS-MINUS SIGN} {metric.format(half)}'
      for half in halves
    ),
  ]


def _name_of(step: int, at_every_step: bool) -> str:
  if not at_every_step:
    return 'after'
  return 'before' if step == 0 else str(step)


def _is_shown(step: int, length: int) -> bool:
  """All of a short list; of a long one the first ten and every tenth."""
  return length <= 21 or step <= 10 or step % 10 == 0 or step == length - 1


def describe(protocol: dict[str, Any]) -> str:
  """The protocol in one line."""
  return '; '.join(
    f'{name.replace("_", " ")} {value}' for name, value in protocol.items()
  )
