"""A whole benchmark: it measures, prints as it goes, and keeps the record."""

import importlib.util
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import rich.console

from experiments.benchmark.speed.base import Implementation, Precision, Workload
from experiments.benchmark.speed.measure import (
  Point,
  curve,
  machine,
  matmul_peak,
  measure,
  reference,
)
from experiments.benchmark.speed.methods import MethodStep, measure_methods
from experiments.benchmark.speed.record import Record
from experiments.benchmark.speed.tables import methods_table, show_timings
from experiments.benchmark.speed.workloads import (
  CURVE_PEERS,
  CURVES,
  MEMORY_CURVE,
  METAJAX,
  OMNIGLOT,
  PLAIN,
  TRANSFORMER,
)
from experiments.runner import tables

__all__ = ['ALL_CURVES', 'installed', 'time_methods', 'time_workloads']

ALL_CURVES = (*CURVES, 'memory')
_SECONDS = 0.5  # about as long as one implementation computes in one round
_CURVE_LIMIT = 240.0  # seconds that a point of a curve may take
_WIDTH = 112  # columns


def installed(
  implementations: Sequence[Implementation],
) -> tuple[list[Implementation], dict[str, str]]:
  """Finds those that can run here, and the packages that the others lack."""
  missing = {
    each.name: package
    for each in implementations
    for package in reversed(each.needs)
    if not importlib.util.find_spec(package)
  }
  able = [each for each in implementations if each.name not in missing]
  return able, missing


def time_workloads(
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
      timings = measure(
        workload,
        [each for each in able if workload.network in each.networks],
        known,
        record.peak,
        rounds,
        seconds,
        _progress(status, say),
      )
      show_timings(timings, record.peak, console)
      record.timings += timings
      record.write()
    for name in curves:
      for point in _points(name, able, precision, _progress(status, say)):
        record.points.append(point)
        record.write()
  say(str(record.path))


def _points(
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


def time_methods(
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


def _progress(status: Any, say: Any) -> Any:
  """What goes on is overwritten; what went wrong stays."""

  def report(text: str) -> None:
    if 'left out' in text or 'the curve' in text:
      say(text)
    else:
      status.update(text)

  return report
