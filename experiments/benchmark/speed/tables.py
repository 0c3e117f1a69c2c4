"""The tables that the benchmark prints."""

from collections.abc import Sequence

import rich.console
import rich.table

from experiments.benchmark.speed.measure import Timing, is_wrong
from experiments.benchmark.speed.methods import MethodRow
from experiments.runner import tables

__all__ = ['methods_table', 'show_timings']


def show_timings(
  rows: Sequence[Timing], peak: float, console: rich.console.Console
) -> None:
  """Prints what was measured of one workload."""
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
