"""Compares methods: trained for the same time, tested on the same tasks.

  python -m experiments.compare --dataset=omniglot --data_dir=DIR --methods=all
      --ways=5 --shots=1 --minutes_each=5

runs `experiments.images` (or `experiments.sinusoid`, for --dataset=sinusoid)
once for every method, with its published recipe, but for the outer rate: as the
published number of steps is out of reach, it falls to zero by a cosine, from
the `short_outer_lr` of the recipe where there is one. A short pilot measures
how many steps a method takes in the time that it has, and the run takes those,
so that the rate ends with it. The workdir receives a directory for every
method, `compare.json`, `compare.png` and `compare.md`; the same command goes on
with the methods that are left, after whatever stopped it.
"""

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments.data import images as image_data
from experiments.runner import options, runs, tables
from experiments.runner.options import FLAGS, UsageError
from experiments.runner.runs import FailedError
from experiments.runner.workdir import wait_until_free, write_json
from metajax.algorithms.recipes import ANNEALED, Recipe
from metajax.algorithms.table import ALGORITHMS
from metajax.metric import ACCURACY, MEAN_SQUARED_ERROR
from metajax.runs.writers import VALIDATION, read_json_lines

# What is passed on to every run, if it is set, and to those on images.
_FORWARDED = ('shots', 'seed', 'eval_tasks', 'validation_tasks', 'cache_dir')
_FORWARDED_IMAGES = ('dataset', 'ways', 'width', 'images_on', *image_data.OWN)
# Dispatches of a pilot after the first one, which compiles.
_PILOT_DISPATCHES = 8
_VALIDATIONS = 10  # in a run
_NAMES = 2  # columns of the table that are no figures
# What runs are judged by, as result files name it.
_METRICS = {each.name: each for each in (MEAN_SQUARED_ERROR, ACCURACY)}
_WRITTEN = ('compare.json', 'compare.md', 'compare.png')


def define_flags() -> None:
  """Defines the flags of this binary."""
  image_data.define_flags(others=['sinusoid'])
  flags.DEFINE_list('methods', ['all'], 'rows of the table, or all')
  options.define_positive(
    'minutes_each', 5.0, 'of training, without compilation and validation'
  )
  options.define_count('ways', 5, 'classes per test task', at_least=2)
  options.define_count('shots', 1, 'support examples per class')
  options.define_count(
    'queries', None, 'query examples per class at test; to what shares batch'
    ' statistics over them, their number matters, and methods by gradient are'
    ' published with [default: as many as --shots]',
  )  # fmt: skip
  options.define_count(
    'train_ways', None, 'classes per training task of methods that have more of'
    ' them than at test [default: the recipe]', at_least=2,
  )  # fmt: skip
  options.define_count('width', 64, 'channels of every convolution')
  options.define_count('seed', 0, 'of everything random', at_least=0)
  options.define_count('eval_tasks', 1000, 'test tasks', at_least=2)
  options.define_count('validation_tasks', 100, 'validation tasks', at_least=2)
  flags.DEFINE_string(
    'cache_dir', None, "compiled programs [default: the user's cache directory]"
  )
  flags.DEFINE_string('workdir', 'runs/compare', 'where the results go')


class Row(NamedTuple):
  """One method of the comparison; accuracies and intervals are shares."""

  method: str
  ways: int | None
  shots: int
  evaluation: str | None
  metric: str
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
    metric = fields.pop('metric')
    return fields | {
      metric: fields.pop('value'),
      f'{metric}_before': fields.pop('before'),
    }


def main() -> int:
  """Runs what is left, then shows all; exit code 1 if a method failed."""
  if FLAGS.dataset == 'sinusoid':  # runs on images check these themselves
    image_data.check_flags(allowed=frozenset())
  methods, workdir = _methods(), Path(FLAGS.workdir)
  runs.claim(workdir, free=('methods', 'download', 'images_on'))
  runs.leave_on_sigterm()
  rows, failed = list[Row](), dict[str, str]()
  for number, method in enumerate(methods, 1):
    print(f'{method} ({number} of {len(methods)})', flush=True)
    with runs.noted(failed, method):
      rows.append(_row(method, _outcome(method, workdir), workdir))
    _write(workdir, rows, failed)
  if rows:
    tables.show(table(rows), _NAMES, _title(rows[0]))
  print(f'{workdir}: {", ".join(_WRITTEN if rows else _WRITTEN[:1])}')
  return 1 if failed else 0


def _methods() -> list[str]:
  able = [name for name in ALGORITHMS if _recipe(name) is not None]
  if FLAGS.methods == ['all']:
    return able
  if not FLAGS.methods:
    raise UsageError('methods', 'names no method; give some, or all')
  for name in FLAGS.methods:
    if name not in able:
      raise UsageError(
        'methods',
        f'{name!r} is no method for {FLAGS.dataset}; they are'
        f' {", ".join(able)}, or all',
      )
  return list(dict.fromkeys(FLAGS.methods))


def _recipe(method: str) -> Recipe | None:
  row = ALGORITHMS[method]
  if FLAGS.dataset == 'sinusoid':
    return row.sinusoid
  return row.images(FLAGS.ways, FLAGS.shots) if row.images else None


def _outcome(method: str, workdir: Path) -> dict[str, Any]:
  """What a method reached: read, if it is done already, or else run."""
  run = workdir / method
  wait_until_free(run)
  if not runs.is_done(run):
    arguments = _arguments(method)
    recipe = _recipe(method)
    assert recipe is not None
    if recipe.steps:
      steps = _steps(method, recipe, workdir, arguments)
      arguments += [
        f'--steps={steps}',
        f'--checkpoint_every={max(1, -(-steps // _VALIDATIONS))}',
      ]
    runs.run(run, _module(), arguments, resume=True)
  return runs.read(run)


def _module() -> str:
  """The experiment that trains."""
  name = 'sinusoid' if FLAGS.dataset == 'sinusoid' else 'images'
  return f'experiments.{name}'


def _arguments(method: str) -> list[str]:
  """The flags of a run that do not depend on how long it is."""
  recipe = _recipe(method)
  assert recipe is not None
  regression = FLAGS.dataset == 'sinusoid'
  arguments = [f'--algorithm={method}']
  if recipe.steps and recipe.outer_schedule not in ANNEALED:
    # The published numbers of steps, at which rates are low, are out of reach.
    arguments.append('--outer_schedule=cosine')
  if recipe.short_outer_lr is not None:
    arguments.append(f'--outer_lr={recipe.short_outer_lr}')
  arguments += [
    f'--{name}={value}'
    for name in (*_FORWARDED, *(() if regression else _FORWARDED_IMAGES))
    if (value := FLAGS[name].value) is not None
  ]
  if regression:
    return arguments
  arguments.append(f'--queries={FLAGS.queries or FLAGS.shots}')
  on_tasks = ALGORITHMS[method].trains_on == 'tasks'
  if FLAGS.train_ways is not None and recipe.train_ways is not None:
    arguments.append(f'--train_ways={FLAGS.train_ways}')
  if on_tasks and recipe.steps and recipe.train_queries is None:
    # At test there may be other numbers of queries than the method trains on.
    arguments.append(f'--train_queries={recipe.queries}')
  return arguments


def _steps(
  method: str, recipe: Recipe, workdir: Path, arguments: Sequence[str]
) -> int:
  """How many steps fit the time, by a pilot; remembered, to go on with."""
  plan = workdir / 'plan.json'
  steps: dict[str, int] = json.loads(plan.read_text()) if plan.exists() else {}
  if method not in steps:
    pilot = _pilot(workdir, method)
    every = min(recipe.log_every, 10) if recipe.log_every < 100 else 1000
    length = 1 + _PILOT_DISPATCHES * every
    wait_until_free(pilot)
    # The rest of one that was stopped would be too short to measure.
    shutil.rmtree(pilot, ignore_errors=True)
    runs.run(
      pilot,
      _module(),
      [
        *arguments,
        f'--steps={length}',
        f'--log_every={every}',
        f'--checkpoint_every={length}',
        '--eval_tasks=2',
        '--validation_tasks=2',
      ],
      resume=False,
    )
    seconds = _seconds_per_step(runs.read(pilot))
    assert seconds is not None  # a whole pilot has measured it
    steps[method] = max(1, round(60 * FLAGS.minutes_each / seconds))
    write_json(plan, steps)
  return steps[method]


def _pilot(workdir: Path, method: str) -> Path:
  return workdir / 'pilots' / method


def _seconds_per_step(outcome: Mapping[str, Any]) -> float | None:
  """As a run measured it; None if it had one step left, or none at all."""
  rate = outcome['tasks_per_second']
  return float(outcome['config']['tasks_per_step'] / rate) if rate else None


def _row(method: str, outcome: Mapping[str, Any], workdir: Path) -> Row:
  protocol, test = outcome['protocol'], outcome['test']
  metric = next(name for name in _METRICS if name in test)
  if test[metric] is None:
    raise FailedError(f'its {metric} at test is not finite')
  seconds, steps = _seconds_per_step(outcome), outcome['steps']
  pilot = _pilot(workdir, method)
  if seconds is None and steps and runs.is_done(pilot):
    seconds = _seconds_per_step(runs.read(pilot))
  return Row(
    method=method,
    ways=protocol.get('ways'),
    shots=protocol['shots'],
    evaluation=protocol.get('evaluation'),
    metric=metric,
    value=test[metric],
    ci95=_number(test['ci95']),
    before=_number(test[f'{metric}_before']),
    # A run that was stopped has measured what it did after that alone.
    train_seconds=steps * seconds if seconds else outcome['training_seconds'],
    steps=steps,
    seconds_per_step=seconds,
    parameters=outcome['parameters'],
  )


def _write(
  workdir: Path, rows: Sequence[Row], failed: Mapping[str, str]
) -> None:
  curves = {row.method: _curve(workdir / row.method, row) for row in rows}
  records = [row.record() | {'curve': curves[row.method]} for row in rows]
  write_json(workdir / 'compare.json', {'rows': records, 'failed': failed})
  if not rows:
    return
  (workdir / 'compare.md').write_text(tables.markdown(table(rows), _NAMES))
  from experiments.figures.charts import comparison

  comparison(
    workdir / 'compare.png',
    curves,
    {row.method: (row.train_seconds, row.value, row.ci95) for row in rows},
    _METRICS[rows[0].metric],
    _title(rows[0]),
  )


def _number(value: float | None) -> float:
  """What JSON has as null is no number."""
  return math.nan if value is None else value


def _curve(workdir: Path, row: Row) -> list[tuple[float, float]]:
  """Seconds of training, as those of the row, and the validation then."""
  path, name = workdir / 'metrics.jsonl', VALIDATION + row.metric
  if not path.exists() or row.seconds_per_step is None:
    return []
  return [
    (record['step'] * row.seconds_per_step, record[name])
    for record in read_json_lines(path)
    if name in record
  ]


def _title(row: Row) -> str:
  ways = f'{row.ways}-way ' if row.ways else ''
  return (
    f'{FLAGS.dataset}, {ways}{row.shots}-shot, {FLAGS.minutes_each:g} minutes'
    f' each, {FLAGS.eval_tasks} test tasks'
  )


def _sorted(rows: Sequence[Row]) -> list[Row]:
  """The best first."""
  return sorted(rows, key=lambda row: _METRICS[row.metric].sort_key(row.value))


def _cells(row: Row, reference: float | None) -> list[str]:
  metric = _METRICS[row.metric]
  step, added = '', ''
  if row.seconds_per_step:
    step = tables.three_digits(1e3 * row.seconds_per_step)
    if reference:
      added = f'{row.seconds_per_step / reference:.2f}'
  return [
    row.method,
    row.evaluation or '',
    metric.format_interval(row.value, row.ci95),
    metric.format(row.before),
    f'{row.train_seconds:.0f}',
    f'{row.steps:,}',
    step,
    added,
    f'{row.parameters:,}',
  ]


def table(rows: Sequence[Row]) -> list[list[str]]:
  """The header, and a line for every row."""
  metric = _METRICS[rows[0].metric] if rows else MEAN_SQUARED_ERROR
  reference = {row.method: row.seconds_per_step for row in rows}.get('maml')
  return [
    [
      'method', 'evaluation', metric.heading, 'before', 'training, s', 'steps',
      'ms a step', 'of MAML', 'parameters',
    ],
    *(_cells(row, reference) for row in _sorted(rows)),
  ]  # fmt: skip


if __name__ == '__main__':
  define_flags()
  sys.exit(options.run(main))
