"""Rows of a comparison of methods: what each reached, and in which time."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.runner import runs, tables
from experiments.runner.common import Common
from experiments.runner.errors import UsageError
from experiments.runner.report import metric_of
from experiments.runner.runs import FailedError
from experiments.runner.transformers import uses_features
from metajax.algorithms.recipe import Recipe
from metajax.metric import Metric
from metajax.runs.writers import VALIDATION, read_json_lines

__all__ = [
  'Compared',
  'curve_of',
  'pilot_dispatch',
  'pilot_of',
  'row_of',
  'seconds_per_step_of',
  'table',
]


class Compared(NamedTuple):
  """One method of the comparison; accuracies and intervals are shares."""

  method: str
  ways: int | None
  shots: int
  evaluation: str | None
  metric: Metric
  value: float
  ci95: float
  before: float
  train_seconds: float
  steps: int
  seconds_per_step: float | None
  parameters: int

  def record(self) -> dict[str, Any]:
    """The row as `compare.json` has it: named by what was measured."""
    fields = self._asdict()
    metric = fields.pop('metric').name
    return fields | {
      metric: fields.pop('value'),
      f'{metric}_before': fields.pop('before'),
    }


def pilot_of(workdir: Path, method: str) -> Path:
  """The workdir of the short run that measures how long a step takes."""
  return workdir / 'pilots' / method


def pilot_dispatch(recipe: Recipe, of_run: Common) -> int:
  """Steps of a pilot in one call: enough of them for its time to be theirs."""
  if getattr(of_run, 'model_dir', None) and not uses_features(of_run):
    return 1  # steps of a transformer are long
  return min(recipe.log_every, 10) if recipe.log_every < 100 else 1000


def seconds_per_step_of(outcome: Mapping[str, Any]) -> float | None:
  """Reads it as a run measured it; None with one step left, or none at all."""
  rate = outcome['tasks_per_second']
  return float(outcome['config']['tasks_per_step'] / rate) if rate else None


def row_of(method: str, outcome: Mapping[str, Any], pilot: Path) -> Compared:
  """Reads a row from what a run has found.

  Args:
    method: how the row is called.
    outcome: what the run has found.
    pilot: the workdir of the short run before it.

  Raises:
    FailedError: if it came to no number.
  """
  protocol, test = outcome['protocol'], outcome['test']
  metric = metric_of(outcome)
  if test[metric.name] is None:
    raise FailedError(f'its {metric.name} at test is not finite')
  seconds, steps = seconds_per_step_of(outcome), outcome['steps']
  if seconds is None and steps and runs.is_done(pilot):
    seconds = seconds_per_step_of(runs.read(pilot))
  return Compared(
    method=method,
    ways=protocol.get('ways'),
    shots=protocol['shots'],
    evaluation=protocol.get('evaluation'),
    metric=metric,
    value=test[metric.name],
    ci95=_number(test['ci95']),
    before=_number(test[f'{metric.name}_before']),
    # A run that was stopped has measured what it did after that alone.
    train_seconds=steps * seconds if seconds else outcome['training_seconds'],
    steps=steps,
    seconds_per_step=seconds,
    parameters=outcome['parameters'],
  )


def _number(value: float | None) -> float:
  """What JSON has as null is no number."""
  return math.nan if value is None else value


def curve_of(workdir: Path, row: Compared) -> list[tuple[float, float]]:
  """Seconds of training, as those of the row, and the validation then.

  Raises:
    UsageError: if the file that has it is damaged.
  """
  path, name = workdir / 'metrics.jsonl', VALIDATION + row.metric.name
  if not path.exists() or row.seconds_per_step is None:
    return []
  try:
    return [
      (record['step'] * row.seconds_per_step, float(record[name]))
      for record in read_json_lines(path)
      if name in record
    ]
  except (ValueError, TypeError, OSError) as error:
    raise UsageError('workdir', f'{path} is damaged ({error})') from error


def _sorted(rows: Sequence[Compared]) -> list[Compared]:
  """The best first."""
  return sorted(rows, key=lambda row: row.metric.sort_key(row.value))


def _cells(row: Compared, reference: float | None) -> list[str]:
  step, added = '', ''
  if row.seconds_per_step:
    step = tables.three_digits(1e3 * row.seconds_per_step)
    if reference:
      added = f'{row.seconds_per_step / reference:.2f}'
  return [
    row.method,
    row.evaluation or '',
    row.metric.format_interval(row.value, row.ci95),
    row.metric.format(row.before),
    f'{row.train_seconds:.0f}',
    f'{row.steps:,}',
    step,
    added,
    f'{row.parameters:,}',
  ]


def table(rows: Sequence[Compared]) -> list[list[str]]:
  """The header, and a line for every row."""
  label = rows[0].metric.heading if rows else ''
  reference = {row.method: row.seconds_per_step for row in rows}.get('maml')
  return [
    [
      'method', 'evaluation', label, 'before', 'training, s', 'steps',
      'ms a step', 'of MAML', 'parameters',
    ],
    *(_cells(row, reference) for row in _sorted(rows)),
  ]  # fmt: skip
