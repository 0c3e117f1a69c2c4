"""What has to hold of compiled steps, and the table that shows them."""

from collections.abc import Callable, Iterator, Sequence

from experiments.benchmark.scaling.steps import Scaling
from experiments.runner import tables

__all__ = ['NAMES', 'TOLERANCE', 'cells', 'judge', 'table', 'verdict']

# By how much arithmetic per chip may differ from that of the smallest slice.
TOLERANCE = 0.02


def judge(rows: Sequence[Scaling]) -> list[str]:
  """What does not hold, one line each.

  Args:
    rows: of any workloads and topologies.

  Returns:
    Nothing, if all is as it should be.
  """
  return [
    f'{row.workload}, {row.topology}, {row.tasks} tasks: {complaint}'
    for row in rows
    for complaint in (*_arithmetic(row, rows), *_exchange(row))
  ]


def _arithmetic(row: Scaling, rows: Sequence[Scaling]) -> Iterator[str]:
  """Compares with the smallest slice of the same chips and tasks a chip."""
  smallest = min(
    (each for each in rows if _group(each) == _group(row)),
    key=lambda each: each.chips,
  )
  for name, flops, expected in (
    ('written', row.flops_per_chip, smallest.flops_per_chip),
    (
      'compiled',
      row.compiled_flops_per_chip or 0,
      smallest.compiled_flops_per_chip or 0,
    ),
  ):
    if abs(flops - expected) > TOLERANCE * expected:
      yield (
        f'{flops:.6g} FLOP per chip as {name}, and {expected:.6g} on'
        f' {smallest.topology}'
      )


def _group(row: Scaling) -> tuple[str, str, int]:
  generation, _, _ = row.topology.partition(':')
  return row.workload, generation, row.tasks // row.chips


def _exchange(row: Scaling) -> Iterator[str]:
  expected = row.parameter_bytes + row.metrics_bytes if row.chips > 1 else 0
  if row.all_reduce_bytes != expected:
    yield (
      f'{row.all_reduce_bytes:,} bytes are reduced over all chips, and the'
      f' parameters and {len(row.metrics)} metrics are {expected:,}'
    )
  if row.other_collectives:
    yield f'there is {", ".join(row.other_collectives)} besides all-reduce'
  if row.collectives_inside_loops:
    yield f'{row.collectives_inside_loops} collectives are inside of a loop'


NAMES = 2  # columns that are no figures
_COLUMNS: dict[str, Callable[[Scaling], str]] = {
  'workload': lambda row: row.workload,
  'topology': lambda row: row.topology,
  'chips': lambda row: f'{row.chips}',
  'tasks': lambda row: f'{row.tasks:,}',
  'GFLOP per chip, written': lambda row: f'{row.flops_per_chip / 1e9:,.4f}',
  'compiled, loops once': lambda row: (
    '?'
    if row.compiled_flops_per_chip is None
    else f'{row.compiled_flops_per_chip / 1e9:,.4f}'
  ),
  'all-reduce, bytes': lambda row: f'{row.all_reduce_bytes:,}',
  'parameters, bytes': lambda row: f'{row.parameter_bytes:,}',
  'collectives in loops': lambda row: f'{row.collectives_inside_loops}',
  'memory per chip, MiB': lambda row: (
    f'{row.memory_bytes_per_chip / 2**20:,.1f}'
  ),
  'compiled in, s': lambda row: f'{row.compile_seconds:.0f}',
}


def cells(rows: Sequence[Scaling]) -> list[list[str]]:
  """Header and lines of a table."""
  lines = [[cell(row) for cell in _COLUMNS.values()] for row in rows]
  return [list(_COLUMNS), *lines]


def table(rows: Sequence[Scaling]) -> str:
  """The rows in Markdown."""
  return tables.markdown(cells(rows), NAMES)


def verdict(rows: Sequence[Scaling]) -> str:
  """What is said where everything holds."""
  names = sorted({name for row in rows for name in row.metrics})
  size = max(row.metrics_bytes for row in rows)
  return (
    f'holds: FLOP per chip differ by no more than {TOLERANCE:.0%} between'
    f' slices; one step reduces the parameters and {len(names)} metrics'
    f' ({", ".join(names)}: {size} bytes) over all chips, and that for twice'
    ' the tasks too; nothing is exchanged inside of a loop'
  )
