"""Tests trained runs from few examples and from many.

  python -m experiments.by_shots --shots=1,2,5,10
      --runs=runs/compare/maml,runs/compare/transfer,runs/compare/multi_task

shows from how many examples per class of a new task learning to learn beats
learning many tasks at once, and learning a new task from old weights: runs that
were trained for the same time (`experiments.compare`) are tested on the same
tasks, again for every number of examples. Nothing is trained. The workdir
receives `by_shots.json`, `by_shots.md` and `by_shots.png`; the same command
goes on where it was stopped.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments.runner import options, runs, tables
from experiments.runner.options import FLAGS, UsageError
from experiments.runner.workdir import wait_until_free, write_json
from metajax.metric import ACCURACY

# What a test takes over from the run, where it was set.
_KEPT = (
  'algorithm', 'dataset', 'data_dir', 'data_file', 'split_dir', 'split_seed',
  'image_size', 'skip_unreadable', 'rotate', 'rotate_test', 'within_groups',
  'ways', 'width', 'precision', 'evaluation', 'inner_lr', 'inner_steps',
  'inner_batch', 'eval_inner_steps',
  'outer_schedule',  # which the optimiser in a checkpoint has a state for
)  # fmt: skip
# What all runs must agree on, for their tasks to be the same.
_SHARED = (
  'dataset', 'ways', 'split_seed', 'rotate_test', 'within_groups',
)  # fmt: skip


class Row(NamedTuple):
  """One run from one number of examples; the first two are shares."""

  run: str
  shots: int
  accuracy: float
  ci95: float


def define_flags() -> None:
  """Defines the flags of this binary."""
  flags.DEFINE_list('runs', [], 'workdirs of trained runs')
  flags.DEFINE_list('shots', ['1', '2', '5', '10'], 'examples per class')
  options.define_count(
    'queries', 5, 'query examples per class; what shares batch statistics over'
    ' them gains from more',
  )  # fmt: skip
  options.define_count('eval_tasks', 200, 'test tasks', at_least=2)
  flags.DEFINE_string(
    'cache_dir', None, "compiled programs [default: the user's cache directory]"
  )
  flags.DEFINE_string('workdir', 'runs/by_shots', 'where the results go')


def main() -> int:
  """Tests what is left, then shows all; exit code 1 if a test failed."""
  shots, configs = _shots(), _configs()
  workdir = Path(FLAGS.workdir)
  runs.claim(workdir, free=('runs', 'shots'))
  runs.leave_on_sigterm()
  rows, failed = list[Row](), dict[str, str]()
  for name, (run, config) in configs.items():
    for examples in shots:
      label = f'{name}, {examples} examples per class'
      print(label, flush=True)
      with runs.noted(failed, label):
        outcome = _outcome(workdir, run, config, examples)
        rows.append(_row(name, examples, outcome))
      _write(workdir, rows, failed, config)
  tables.show(table(rows))
  print(f'{workdir}: by_shots.json, by_shots.md, by_shots.png')
  return 1 if failed else 0


def _shots() -> list[int]:
  try:
    shots = sorted({int(text) for text in FLAGS.shots})
  except ValueError:
    shots = []
  if not shots or shots[0] < 1:
    raise UsageError(
      'shots', f'{",".join(FLAGS.shots)!r} must be whole numbers from 1, with'
      ' commas between them'
    )  # fmt: skip
  return shots


def _configs() -> dict[str, tuple[Path, dict[str, Any]]]:
  """The workdirs and settings of the runs, by their names."""
  if not FLAGS.runs:
    raise UsageError('runs', 'names no run; give workdirs of trained ones')
  configs = dict[str, tuple[Path, dict[str, Any]]]()
  for path in map(Path, FLAGS.runs):
    if path.name in configs:
      raise UsageError('runs', f'two are called {path.name}; rename one')
    configs[path.name] = path, _config(path)
  (first, (_, reference)), *others = configs.items()
  for name, (_, config) in others:
    for setting in _SHARED:
      if config[setting] != reference[setting]:
        raise UsageError(
          'runs', f'{first} and {name} have other tasks: --{setting} is'
          f' {reference[setting]!r} and {config[setting]!r}'
        )  # fmt: skip
  return configs


def _config(path: Path) -> dict[str, Any]:
  try:
    config: dict[str, Any] = json.loads((path / 'config.json').read_text())
    if not runs.is_done(path):
      raise UsageError(
        'runs', f'{path} has not come to its end; go on with it first'
      )
  except (OSError, ValueError) as error:
    raise UsageError(
      'runs', f'{path} is no workdir of a run: {error}'
    ) from error
  if 'dataset' not in config:
    raise UsageError('runs', f'{path} is no run of experiments.images')
  return config


def _outcome(
  workdir: Path, run: Path, config: Mapping[str, Any], shots: int
) -> dict[str, Any]:
  """What a test found: read, if it is done already, or else made."""
  test = workdir / run.name / f'{shots}_shots'
  wait_until_free(test)
  if not runs.is_done(test):
    arguments = [
      f'--{name}={config[name]}'
      for name in _KEPT
      if config.get(name) is not None
    ]
    arguments += [
      f'--shots={shots}',
      f'--queries={FLAGS.queries}',
      f'--eval_tasks={FLAGS.eval_tasks}',
    ]
    if FLAGS.cache_dir:
      arguments.append(f'--cache_dir={FLAGS.cache_dir}')
    if (run / 'checkpoints').exists():  # what needs no training has none
      arguments += [f'--load={run}', '--test_only']
    runs.run(test, 'experiments.images', arguments, resume=True)
  return runs.read(test)


def _row(name: str, shots: int, outcome: Mapping[str, Any]) -> Row:
  test = outcome['test']
  return Row(name, shots, test['accuracy'], test['ci95'])


def _write(
  workdir: Path,
  rows: Sequence[Row],
  failed: Mapping[str, str],
  config: Mapping[str, Any],
) -> None:
  records = [row._asdict() for row in rows]
  write_json(
    workdir / 'by_shots.json',
    {
      'dataset': config['dataset'],
      'ways': config['ways'],
      'queries_per_class': FLAGS.queries,
      'test_tasks': FLAGS.eval_tasks,
      'rows': records,
      'failed': failed,
    },
  )
  (workdir / 'by_shots.md').write_text(tables.markdown(table(rows)))
  if not rows:
    return
  from experiments.figures.charts import by_shots

  by_shots(
    workdir / 'by_shots.png',
    {
      name: [(row.shots, row.accuracy, row.ci95) for row in of_run]
      for name, of_run in _by_run(rows).items()
    },
    ACCURACY,
    f'{config["dataset"]}, {config["ways"]}-way, {FLAGS.queries} queries per'
    f' class, {FLAGS.eval_tasks} test tasks',
  )


def _by_run(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Rows of each run, the run first that is best from the fewest examples."""
  grouped = dict[str, list[Row]]()
  for row in rows:
    grouped.setdefault(row.run, []).append(row)
  return dict(sorted(grouped.items(), key=lambda item: -item[1][0].accuracy))


def table(rows: Sequence[Row]) -> list[list[str]]:
  """The header, and a line for every run."""
  shots = sorted({row.shots for row in rows})
  table = [['run', *(f'{examples}-shot %' for examples in shots)]]
  for name, of_run in _by_run(rows).items():
    cells = {row.shots: _cell(row) for row in of_run}
    table.append([name, *(cells.get(examples, '') for examples in shots)])
  return table


def _cell(row: Row) -> str:
  return ACCURACY.format_interval(row.accuracy, row.ci95)


if __name__ == '__main__':
  define_flags()
  sys.exit(options.run(main))
