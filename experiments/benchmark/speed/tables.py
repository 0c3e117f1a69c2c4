"""The tables that the benchmark prints."""

from collections.abc import Sequence

import rich.console
import rich.table

from experiments.benchmark.speed.measure import Timing, is_wrong
from experiments.benchmark.speed.methods import MethodRow
from experiments.runner import tables

__all__ = [
  'methods_table',
  'show_timings',
  'timings_table',
  'workload_title',
]


def show_timings(
  rows: Sequence[Timing], peak: float, console: rich.console.Console
) -> None:
  """Prints what was measured of one workload."""
  if not rows:
    return
  header, *lines = timings_table(rows)
  table = rich.table.Table(title=workload_title(rows[0], peak))
  table.add_column(header[0])
  for heading in header[1:]:
    table.add_column(heading, justify='right')
  for cells in lines:
    table.add_row(*cells)
  console.print(table)


def workload_title(row: Timing, peak: float) -> str:
  """What a workload computes, and how fast the machine is at best."""
  return (
    f'{row.workload}: {row.tasks} tasks a step, {row.inner_steps} inner,'
    f' {row.flops_per_step / 1e9:.3g} GFLOP a step, peak'
    f' {peak / 1e9:.0f} GFLOP/s'
  )


def timings_table(rows: Sequence[Timing]) -> list[list[str]]:
  """The header, and a line for every implementation of one workload."""
  return [
    [
      'implementation', 'tasks/s', 'metajax is', 'roofline', 'process MiB',
      'compiled MiB', 'start s', 'warm s', 'gradient error',
    ],
    *(
      [
        f'{row.implementation} {row.variant and f"({row.variant})"}',
        f'{row.tasks_per_second:,.4g}',
        f'{1 / row.ratio_to_metajax:.3g} x',
        f'{row.roofline_fraction:.3f}',
        f'{row.peak_process_bytes / 2**20:,.0f}',
        _mebibytes(row.compiled_temp_bytes),
        f'{row.seconds_to_first_step:.1f}',
        f'{row.seconds_to_first_step_warm:.1f}',
        f'{row.gradient_error:.0e}' + (' WRONG' if is_wrong(row) else ''),
      ]
      for row in rows
    ),
  ]  # fmt: skip


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
