"""Compiles a step for accelerators that are not here, and says what it needs.

No chip is asked for: the compiler of TPUs is a Python package, `libtpu`
(`pip install -e '.[tpu]'`), which compiles for any topology that it knows.
"""

import contextlib
import importlib.util
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import rich.console
import rich.table
from jax.experimental import topologies
from jax.sharding import Mesh

from experiments.runner.cache import without_compilation_cache
from experiments.runner.cluster import check_shares
from experiments.runner.errors import UsageError
from experiments.runner.gpus import (
  COMPILER_OPTIONS,
  devices_of_gpus,
  is_gpus,
)
from experiments.runner.progress import shown
from metajax.devices.collectives import Collective, collectives
from metajax.devices.mesh import TASK, make_mesh
from metajax.runs.training import TrainStep

__all__ = [
  'CHIPS',
  'EXAMPLES',
  'UTILISATION',
  'Chip',
  'DoesNotFitError',
  'Report',
  'bytes_needed',
  'compile_for_chips',
  'devices_of',
  'dry_run',
  'show',
]


class Chip(NamedTuple):
  """The data sheet of an accelerator."""

  memory: int  # bytes that a program may have
  flops: float  # per second, of products of bfloat16 matrices
  interconnect: float  # bytes per second to its neighbours, one way


# Google Cloud's documentation of the TPU versions, NVIDIA's data sheet. A
# program may have a little less than the memory of a chip, by the compiler's
# own account.
_GIB = 2**30
CHIPS = {
  'TPU v4': Chip(32 * _GIB, 275e12, 150e9),
  'TPU v5 lite': Chip(16 * _GIB, 197e12, 200e9),
  'TPU v5': Chip(95 * _GIB, 459e12, 300e9),
  'TPU v6 lite': Chip(32 * _GIB, 918e12, 400e9),
  'NVIDIA H100 80GB HBM3': Chip(80 * 10**9, 989e12, 450e9),
}
# Small matrices keep the units of an accelerator busy for part of the time.
UTILISATION = 0.3
EXAMPLES = ('v4:2x2x2', 'v5e:4x4', 'v5e:16x16', 'v5p:4x4x4', 'v6e:16x16')
# What a program needs and what there is, in the words of the compiler.
_OUT_OF_MEMORY = re.compile(
  r'Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm'
  r'|\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)'
)
# Of a v4, half a chip counts as a device unless one asks for whole ones.
_WHOLE_CHIPS = {'v4': 'megacore'}
_GENERATIONS = sorted({each.partition(':')[0] for each in EXAMPLES})
_SHAPE = re.compile(r'[1-9]\d*(x[1-9]\d*){1,2}')
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


class Report(NamedTuple):
  """What one step needs of every chip."""

  topology: str
  chip: str
  chips: int
  mesh: dict[str, int]
  chunk_size: int
  hbm_bytes_per_chip: int
  hbm_limit_bytes: int
  flops_per_chip: int
  collectives: list[dict[str, Any]]
  compile_seconds: float
  fits: bool
  estimated_step_seconds: float | None
  assumption: str


def devices_of(topology: str) -> Sequence[jax.Device]:
  """The devices of a topology, without having them.

  Raises:
    UsageError: if there is no such topology, or no compiler for it.
  """
  if topology == 'cuda':
    with contextlib.suppress(RuntimeError):
      return jax.devices('cuda')
    raise UsageError('dry_run', 'cuda needs a machine with such a GPU')
  if topology == 'cpu':
    return jax.devices('cpu')[:1]
  if is_gpus(topology):
    return devices_of_gpus(topology)
  generation, _, shape = topology.partition(':')
  if not shape:  # the compiler would choose one
    raise _unknown(topology, 'it has no shape')
  if generation not in _GENERATIONS or not _SHAPE.fullmatch(shape):
    raise _unknown(
      topology,
      f'it is not {", ".join(_GENERATIONS)} with a shape such as 2x2 or 2x2x2',
    )
  if importlib.util.find_spec('libtpu') is None:
    raise UsageError(
      'dry_run',
      f'{topology} needs the compiler of TPUs, which is not installed: pip'
      ' install libtpu',
    )
  # Without this the package asks the cloud about the machine, for minutes.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  # It lets one process at a time use the chips of a machine; here are none.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  options = {}
  if generation in _WHOLE_CHIPS:
    options['chip_config_name'] = _WHOLE_CHIPS[generation]
  try:
    with _quiet():
      return topologies.get_topology_desc(topology, 'tpu', **options).devices
  except (RuntimeError, ValueError) as error:
    raise _unknown(topology, ' '.join(str(error).split())) from error


def _unknown(topology: str, reason: str) -> UsageError:
  return UsageError(
    'dry_run',
    f'{topology!r} is no topology that the compiler knows ({reason}); it'
    f' knows {", ".join(EXAMPLES)}, and others like them, h100:8, or cpu and'
    ' cuda for what this machine has',
  )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Drops what C++ writes to stderr: complaints that this is no TPU."""
  sys.stderr.flush()
  kept = os.dup(2)
  try:
    with open(os.devnull, 'w') as nowhere:
      os.dup2(nowhere.fileno(), 2)
      yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)


def dry_run(
  make: Callable[[Mesh, int], TrainStep],
  topology: str,
  axes: Mapping[str, int] | None,
  tasks_per_step: int,
  chunk_size: int | str,
) -> Report:
  """Compiles one step for a topology.

  Args:
    make: builds the train step for a mesh and a chunk size.
    topology: such as `v5e:16x16`.
    axes: of the mesh; all devices on the axis of tasks by default.
    tasks_per_step: over all devices.
    chunk_size: tasks that a device vectorises; `'auto'` halves their number
      until the step fits.

  Returns:
    The report.
  """
  devices = devices_of(topology)
  try:
    mesh = make_mesh(axes or {TASK: len(devices)}, devices)
  except ValueError as error:
    raise UsageError('mesh', str(error)) from error
  check_shares(tasks_per_step, mesh.shape.get(TASK, 0))
  size = tasks_per_step // mesh.shape[TASK]
  with shown(f'compiling a step for {topology}', at_once=True):
    if chunk_size != 'auto':
      size = int(chunk_size)
      return _report(make(mesh, size), topology, mesh, size)
    while True:
      report = _report(make(mesh, size), topology, mesh, size)
      if report.fits or size == 1:
        return report
      size = -(-size // 2)


class DoesNotFitError(Exception):
  """A program needs more memory than a chip has; both in bytes."""

  def __init__(self, needed: int, limit: int):
    self.needed, self.limit = needed, limit
    super().__init__(f'{needed:,} bytes are needed, and there are {limit:,}')


def compile_for_chips(
  lowered: jax.stages.Lowered, for_gpus: bool = False
) -> tuple[jax.stages.Compiled, str]:
  """Compiles a program for devices that need not be here.

  Args:
    lowered: what is to be compiled.
    for_gpus: whether it is for GPUs that are not here.

  Returns:
    The program, and its text as the compiler writes it. (`as_text` would have
    JAX read the program first, which it cannot where the compiler has moved
    work to the sparse cores of a v5p or v6e; jaxlib 0.10.2 and libtpu 0.0.52:
    'async-update instruction should have 1 operands'.)

  Raises:
    DoesNotFitError: if a chip has less memory than it needs.
  """
  # A program for devices that are not here cannot be read back.
  with tempfile.TemporaryDirectory() as folder, without_compilation_cache():
    options: dict[str, Any] = {
      'xla_dump_to': folder,
      'xla_dump_hlo_as_text': True,
    }
    try:
      program = lowered.compile(
        compiler_options=options | (COMPILER_OPTIONS if for_gpus else {})
      )
    except jax.errors.JaxRuntimeError as error:
      if not (found := _OUT_OF_MEMORY.search(str(error))):
        raise
      numbers = [each for each in found.groups() if each is not None]
      needed, limit = (
        int(float(number) * _UNITS[unit])
        for number, unit in (numbers[:2], numbers[2:])
      )
      raise DoesNotFitError(needed, limit) from error
    (written,) = Path(folder).glob('*[._]after_optimizations.txt')
    return program, written.read_text()


def bytes_needed(program: jax.stages.Compiled) -> int:
  """Arguments, results that do not replace them, temporaries and code."""
  memory: Any = program.memory_analysis()
  return int(
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.generated_code_size_in_bytes
  )


def _report(
  train_step: TrainStep, topology: str, mesh: Mesh, chunk_size: int
) -> Report:
  chip, kind = _chip(mesh)
  flops = _flops(train_step, mesh)
  lowered = train_step.lower()
  begun = time.perf_counter()
  sent = list[Collective]()
  try:
    program, text = compile_for_chips(lowered, is_gpus(topology))
    used, sent = bytes_needed(program), collectives(text)
  except DoesNotFitError as error:
    used, chip = error.needed, chip._replace(memory=error.limit)
  seconds = time.perf_counter() - begun
  return Report(
    topology=topology,
    chip=kind,
    chips=mesh.size,
    mesh=dict(mesh.shape),
    chunk_size=chunk_size,
    hbm_bytes_per_chip=used,
    hbm_limit_bytes=chip.memory,
    flops_per_chip=flops,
    collectives=[each._asdict() for each in sent],
    compile_seconds=seconds,
    fits=used <= chip.memory,
    estimated_step_seconds=_estimate(chip, flops, sent),
    assumption=_describe_assumption(chip),
  )


def _chip(mesh: Mesh) -> tuple[Chip, str]:
  device = mesh.devices.flat[0]
  kind = device.device_kind
  if kind in CHIPS:
    return CHIPS[kind], kind
  # What is here can be asked.
  if device.platform == 'cpu':
    pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return Chip(pages, 0.0, 0.0), kind
  statistics = device.memory_stats() or {}
  return Chip(statistics.get('bytes_limit', 0), 0.0, 0.0), kind


def _flops(train_step: TrainStep, mesh: Mesh) -> int:
  """Counts what one device does with its share of the tasks.

  Other axes than that of tasks divide the arithmetic of a task.
  """
  return train_step.cost().flops // (mesh.size // mesh.shape[TASK])


def _estimate(
  chip: Chip, flops: float, sent: Sequence[Collective]
) -> float | None:
  if not chip.flops:
    return None
  transfer = sum(each.bytes for each in sent if not each.inside_loop)
  # In a ring everything passes a link twice, once each for sum and copy.
  return flops / (UTILISATION * chip.flops) + 2 * transfer / chip.interconnect


def _describe_assumption(chip: Chip) -> str:
  if not chip.flops:
    return 'no estimate: the speed of this device is not known here'
  return (
    f'matrix products at {UTILISATION:.0%} of the {chip.flops / 1e12:.0f}'
    ' TFLOP/s of the chip, then collectives outside of loops at'
    f' {chip.interconnect / 1e9:.0f} GB/s, twice around; memory traffic,'
    ' latency and collectives inside of loops are left out'
  )


def show(report: Report) -> None:
  """Prints a report."""
  mesh = ', '.join(f'{name}:{size}' for name, size in report.mesh.items())
  table = rich.table.Table(
    title=f'one step on {report.topology}: {report.chips} x {report.chip},'
    f' mesh {mesh}'
  )
  table.add_column('per chip')
  table.add_column('', justify='right')
  gib = 2**30
  for name, value in (
    ('tasks vectorised together', f'{report.chunk_size}'),
    (
      'memory',
      f'{report.hbm_bytes_per_chip / gib:.3f} of'
      f' {report.hbm_limit_bytes / gib:.2f} GiB',
    ),
    ('arithmetic', f'{report.flops_per_chip / 1e9:,.4g} GFLOP'),
    *_counted(report.collectives),
    ('compiled in', f'{report.compile_seconds:.1f} s'),
    ('estimated step', _milliseconds(report.estimated_step_seconds)),
    ('fits', 'yes' if report.fits else 'NO'),
  ):
    table.add_row(name, value)
  console = rich.console.Console()
  console.print(table)
  console.print(f'estimate: {report.assumption}', markup=False, highlight=False)


def _counted(sent: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
  """Collectives of one kind and place, added up."""
  totals: dict[str, tuple[int, int]] = {}
  for each in sent:
    where = 'in every turn of a loop' if each['inside_loop'] else 'once a step'
    name = f'{each["op"]}, {where}'
    number, size = totals.get(name, (0, 0))
    totals[name] = number + 1, size + each['bytes']
  return [
    (f'{number} x {name}', f'{size:,} bytes')
    for name, (number, size) in sorted(totals.items())
  ]


def _milliseconds(seconds: float | None) -> str:
  return 'unknown' if seconds is None else f'{1e3 * seconds:.3g} ms'
