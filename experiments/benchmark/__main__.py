"""How fast metajax is, beside the same computation in other ways.

  python -m experiments.benchmark --suite=quick

measures one outer step of second-order MAML: `sinusoid` (MLP 40-40, 25 tasks),
`conv4_max_pool` and `conv4_stride` (5-way 1-shot, 15 queries, 5 inner steps),
`omniglot` (the recipe of the main job, sampling included), and `transformer`
(20 inner steps of Adam). The implementations are metajax as its users get it,
plain JAX written by hand (`jit(grad(mean(vmap)))`, `lax.conv`), and as peers
the libraries higher and TorchOpt, `torch.func`, and a PyTorch loop over tasks
(`pip install -e '.[benchmark]'`). The quick suite takes about ten minutes on
two CPU cores, the full one, with its scaling curves, more than an hour.

Every implementation has a process of its own, starts from the same weights and
the same tasks, and must have the same first loss, or there is no table. They
take turns, so that whatever else the machine does hits all of them; figures are
medians over `--rounds` turns. Each meta-gradient is checked in float64 against
central differences of its own loss. The workdir receives `benchmark.json` and
PNG pictures; it is written after every workload and every point of a curve.

  python -m experiments.benchmark --methods=all

times an outer step of every method of the table instead, by its recipe for
Omniglot, in turns with that of MAML (about fifteen minutes).
See docs/performance.md.
"""

import errno
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import rich.console
import rich.table
from absl import flags

from experiments.benchmark.speed import draw
from experiments.benchmark.speed.base import Implementation, Precision, Workload
from experiments.benchmark.speed.measure import (
  DisagreementError,
  Point,
  Row,
  curve,
  is_wrong,
  machine,
  matmul_peak,
  measure,
  reference,
)
from experiments.benchmark.speed.methods import (
  MethodRow,
  MethodStep,
  measure_methods,
  trained_methods,
)
from experiments.benchmark.speed.processes import WorkerError
from experiments.benchmark.speed.workloads import (
  CURVE_PEERS,
  CURVES,
  MEMORY_CURVE,
  METAJAX,
  NAMES,
  OMNIGLOT,
  PEERS,
  PLAIN,
  SUITES,
  TRANSFORMER,
)
from experiments.runner import options, tables
from experiments.runner.options import FLAGS, UsageError
from experiments.runner.workdir import write_json

RECORD = 'benchmark.json'
_SECONDS = 0.5  # about as long as one implementation computes in one round
_CURVE_LIMIT = 240.0  # seconds that a point of a curve may take
_WIDTH = 112
_CURVE_NAMES = (*CURVES, 'memory')


class Record:
  """What was measured so far, in the workdir."""

  def __init__(self, path: Path) -> None:
    self.path = path
    self.machine: dict[str, Any] = {}
    self.peak = 0.0
    self.rows: list[Row] = []
    self.points: list[Point] = []
    self.methods: list[MethodRow] = []

  def write(self) -> None:
    """Writes the record, and draws it."""
    write_json(
      self.path,
      {
        'machine': self.machine,
        'matmul_peak_flops': self.peak,
        'rows': [row._asdict() for row in self.rows],
        'curves': [point._asdict() for point in self.points],
        'methods': [row._asdict() for row in self.methods],
      },
    )
    folder = self.path.parent
    if self.rows:
      draw.speeds(folder / 'speed.png', self.rows)
      draw.memory(folder / 'memory.png', self.rows)
    if self.methods:
      draw.methods(folder / 'methods.png', self.methods)
    for workload, axis in {(each.workload, each.axis) for each in self.points}:
      draw.curve(
        folder / f'{workload}_by_{axis}.png',
        [p for p in self.points if (p.workload, p.axis) == (workload, axis)],
      )


def installed(
  implementations: Sequence[Implementation],
) -> tuple[list[Implementation], dict[str, str]]:
  """Those that can run here, and the packages that the others lack."""
  missing = {
    each.name: package
    for each in implementations
    for package in reversed(each.needs)
    if not importlib.util.find_spec(package)
  }
  able = [each for each in implementations if each.name not in missing]
  return able, missing


def run(
  workloads: Sequence[Workload],
  implementations: Sequence[Implementation],
  record: Record,
  rounds: int,
  precision: Precision = 'float32',
  seconds: float = _SECONDS,
  curves: Sequence[str] = (),
) -> None:
  """Measures, prints a table per workload, and writes the record."""
  console = rich.console.Console()
  # What is written to a file is not wrapped to eighty columns.
  console.width = max(console.width, _WIDTH)
  say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
  able, missing = installed(implementations)
  for name, package in missing.items():
    say(f'{name}: skipped, the package {package} is not installed')
  with console.status('') as status:
    for workload in workloads:
      status.update(f'{workload.name}: tasks and weights')
      known = reference(workload, precision)
      record.machine = known.machine
      # A peak is a peak: what disturbed one measurement of it may have spared
      # another.
      record.peak = max(record.peak, matmul_peak(precision))
      rows = measure(
        workload,
        [each for each in able if workload.network in each.networks],
        known,
        record.peak,
        rounds,
        seconds,
        _progress(status, say),
      )
      show(rows, record.peak, console)
      record.rows += rows
      record.write()
    for name in curves:
      for point in _curve(name, able, precision, _progress(status, say)):
        record.points.append(point)
        record.write()
  say(str(record.path))


def run_methods(
  steps: Sequence[MethodStep],
  record: Record,
  rounds: int,
  seconds: float = _SECONDS,
) -> None:
  """Times methods beside MAML, prints a table, and writes the record."""
  console = rich.console.Console()
  say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
  record.machine = machine()
  with console.status('') as status:
    for row in measure_methods(steps, rounds, seconds, _progress(status, say)):
      record.methods.append(row)
      record.write()
  tables.show(
    methods_table(record.methods),
    title='an outer step of every method, by its recipe',
  )
  say(str(record.path))


def methods_table(rows: Sequence[MethodRow]) -> list[list[str]]:
  """The header, and a line for every method, the fastest first."""
  return [
    ['method', 'tasks', 'ms', 'of MAML', 'compiled MiB', 'start s'],
    *(
      [
        row.method,
        str(row.tasks_per_step),
        tables.three_digits(1e3 * row.seconds_per_step),
        f'{row.ratio_to_maml:.2f}',
        _mebibytes(row.compiled_temp_bytes),
        f'{row.seconds_to_first_step:.1f}',
      ]
      for row in sorted(rows, key=lambda row: row.ratio_to_maml)
    ),
  ]


def _mebibytes(size: int | None) -> str:
  return '' if size is None else f'{size / 2**20:,.0f}'


def _progress(status: Any, say: Any) -> Any:
  """What goes on is overwritten; what went wrong stays."""

  def report(text: str) -> None:
    if 'left out' in text or 'the curve' in text:
      say(text)
    else:
      status.update(text)

  return report


def _curve(
  name: str, able: Sequence[Implementation], precision: Precision, say: Any
) -> Iterator[Point]:
  if name == 'memory':
    return curve(
      TRANSFORMER, 'inner_steps', MEMORY_CURVE,
      [each for each in able if TRANSFORMER.network in each.networks],
      precision, 0.0, _CURVE_LIMIT, say,
    )  # fmt: skip
  shown = (METAJAX.name, PLAIN.name, *CURVE_PEERS)
  return curve(
    OMNIGLOT, name, CURVES[name], [each for each in able if each.name in shown],
    precision, _SECONDS, _CURVE_LIMIT, say,
  )  # fmt: skip


def show(
  rows: Sequence[Row], peak: float, console: rich.console.Console
) -> None:
  """Prints the rows of one workload."""
  if not rows:
    return
  first = rows[0]
  table = rich.table.Table(
    title=f'{first.workload}: {first.tasks} tasks a step, {first.inner_steps}'
    f' inner, {first.flops_per_step / 1e9:.3g} GFLOP a step, peak'
    f' {peak / 1e9:.0f} GFLOP/s'
  )
  table.add_column('implementation')
  for heading in (
    'tasks/s', 'metajax is', 'roofline', 'process MiB', 'compiled MiB',
    'start s', 'warm s', 'gradient error',
  ):  # fmt: skip
    table.add_column(heading, justify='right')
  for row in rows:
    table.add_row(
      f'{row.implementation} {row.variant and f"({row.variant})"}',
      f'{row.tasks_per_second:,.4g}',
      f'{1 / row.ratio_to_metajax:.3g} x',
      f'{row.roofline_fraction:.3f}',
      f'{row.peak_process_bytes / 2**20:,.0f}',
      _mebibytes(row.compiled_temp_bytes),
      f'{row.seconds_to_first_step:.1f}',
      f'{row.seconds_to_first_step_warm:.1f}',
      f'{row.gradient_error:.0e}' + (' WRONG' if is_wrong(row) else ''),
    )
  console.print(table)


def define_flags() -> None:
  """Defines the flags of the benchmark."""
  flags.DEFINE_enum('suite', 'quick', list(SUITES), 'what to measure')
  _define_names('workloads', None, NAMES, 'of the full suite, instead of one')
  _define_names(
    'methods', None, ['all', *trained_methods()],
    'whose outer steps to time beside that of MAML, instead of workloads',
  )  # fmt: skip
  _define_names('peers', 'all', [*PEERS, 'all', 'none'], 'what to compare with')
  _define_names(
    'curves', None, [*_CURVE_NAMES, 'none'],
    'what to vary [default: all with --suite=full, none else]',
  )  # fmt: skip
  flags.DEFINE_enum(
    'precision', 'float32', ['float32', 'bfloat16'], 'of the networks'
  )
  options.define_count(
    'rounds', 7, 'turns of an implementation; fewer of a slow one'
  )
  flags.DEFINE_string('workdir', 'runs/benchmark', f'where {RECORD} goes')


def _define_names(
  flag: str, default: str | None, allowed: Sequence[str], text: str
) -> None:
  flags.DEFINE_list(flag, default, f'{text}: {", ".join(allowed)}')
  flags.register_validator(
    flag,
    lambda names: names is None or (names and set(names) <= set(allowed)),
    f'must be one or more of {", ".join(allowed)}, with commas between',
  )


def _peers() -> list[Implementation]:
  if 'none' in FLAGS.peers:
    return []
  return [
    row for name, row in PEERS.items() if {'all', name} & set(FLAGS.peers)
  ]


def _methods() -> list[str]:
  return trained_methods() if 'all' in FLAGS.methods else FLAGS.methods


def _workloads() -> list[Workload]:
  if FLAGS.workloads is None:
    return list(SUITES[FLAGS.suite])
  return [row for row in SUITES['full'] if row.name in FLAGS.workloads]


def _curves() -> list[str]:
  if FLAGS.curves is None:
    full = FLAGS.suite == 'full' and FLAGS.workloads is None
    return list(_CURVE_NAMES) if full else []
  return [name for name in _CURVE_NAMES if name in FLAGS.curves]


def open_workdir(workdir: Path) -> Path:
  """Creates the workdir; returns the path of the record to write there."""
  record = workdir / RECORD
  if record.exists():
    raise UsageError(
      'workdir', f'{workdir} already holds a {RECORD}; name another directory'
    )
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    if not os.access(workdir, os.W_OK | os.X_OK):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
  except OSError as error:
    raise options.unwritable('workdir', workdir, error) from error
  return record


def main() -> int:
  """Runs the benchmark that the flags describe."""
  record = Record(open_workdir(Path(FLAGS.workdir)))
  try:
    if FLAGS.methods is not None:
      run_methods(list(map(MethodStep, _methods())), record, FLAGS.rounds)
      return 0
    run(
      _workloads(),
      [METAJAX, PLAIN, *_peers()],
      record,
      FLAGS.rounds,
      FLAGS.precision,
      curves=_curves(),
    )
  except (DisagreementError, WorkerError) as error:
    print(error, file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  define_flags()
  sys.exit(options.run(main))
