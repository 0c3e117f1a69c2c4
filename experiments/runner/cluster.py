"""A run on many devices and processes, as its settings say."""

import hashlib
import json
import math
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from experiments.runner.common import MOST_CPU_DEVICES, Machine
from experiments.runner.data_digest import DIGEST
from experiments.runner.errors import UsageError

if TYPE_CHECKING:
  from jax.sharding import Mesh, PartitionSpec

  from metajax.base import PyTree
  from metajax.devices.mesh import Rule

__all__ = [
  'SHARD_AT_LEAST',
  'check_agreement',
  'check_processes',
  'check_rules',
  'check_shares',
  'connect',
  'devices_are_chosen',
  'divide_cpu',
  'end_with_the_others',
  'leave_with_the_others',
  'make_mesh',
  'make_rule',
  'parse_mesh',
  'single_thread',
]


# Smaller arrays are not worth an exchange.
SHARD_AT_LEAST = 2**16
# What is each process's own business.
_OWN = frozenset({'process_id'})
# JAX looks for silence from time to time.
_GRACE_SECONDS = 15
# For the others to end as well, when this process has failed.
_PARTING_SECONDS = 10
_MESH = re.compile(r'(\w+):(\d+)(?:,(\w+):(\d+))*')


def leave_with_the_others(run: Callable[[], int]) -> int:
  """Returns the exit code of `run`, which may call `connect`.

  JAX has the processes wait for one another at their end, for minutes; one that
  has failed, while the others go on, waits for a moment and leaves.
  """
  try:
    code = run()
  except Exception:
    if not _is_connected():
      raise
    traceback.print_exc()
    code = 1
  if code and _is_connected():
    _leave(code)
  return code


def _is_connected() -> bool:
  jax = sys.modules.get('jax')
  return jax is not None and jax.distributed.is_initialized()


def _leave(code: int) -> NoReturn:
  import jax

  sys.stdout.flush()
  sys.stderr.flush()
  end = threading.Timer(_PARTING_SECONDS, os._exit, [code])
  end.daemon = True
  end.start()
  jax.distributed.shutdown()  # comes back when all have called it
  os._exit(code)


def check_processes(settings: Machine) -> None:
  """Refuses settings of several processes where this one has joined none."""
  if settings.is_distributed:
    if not _is_connected():
      raise UsageError(
        'distributed',
        'the processes are joined by the binary, or before this by'
        ' metajax.devices.distributed.initialize',
      )
    return
  for name in ('num_processes', 'process_id'):
    if getattr(settings, name) is not None:
      raise UsageError(name, 'goes with --distributed=host:port')


def connect(settings: Machine) -> None:
  """Joins the other processes; comes before any use of JAX."""
  if not settings.is_distributed:
    check_processes(settings)
    return
  from metajax.devices import distributed

  coordinator = settings.distributed

  try:
    distributed.initialize(
      None if coordinator == 'auto' else coordinator,
      settings.num_processes,
      settings.process_id,
      timeout=settings.distributed_timeout,
      heartbeat=settings.heartbeat_seconds,
    )
  except (ValueError, distributed.ClusterError) as error:
    raise UsageError('distributed', str(error)) from error
  if not distributed.is_primary():  # one process speaks for all
    sys.stdout = open(os.devnull, 'w')  # noqa: SIM115


def divide_cpu(
  settings: Machine, tasks_per_step: int, setting: str = 'tasks_per_step'
) -> None:
  """Has JAX take every core for a device, as far as they divide the tasks.

  The products of one task are too small to keep two cores busy, two tasks are
  not (docs/performance.md). It comes before any use of a device. Where the user
  has said how many there are, these have to divide the tasks; where a mesh or
  other processes say what they are for, it does nothing. Several seeds, which
  need not wait for one another, are divided in place of tasks; `setting` says
  of what the number is.
  """
  import jax

  if settings.is_distributed or settings.mesh:
    return
  if devices_are_chosen():
    if jax.devices()[0].platform == 'cpu':
      check_shares(tasks_per_step, jax.device_count(), setting=setting)
    return
  most = min(_cores(), MOST_CPU_DEVICES)
  jax.config.update(
    'jax_num_cpu_devices', _largest_divisor(tasks_per_step, most)
  )


def devices_are_chosen() -> bool:
  """Whether the user has said how many devices a CPU is."""
  import jax

  return (
    jax.config.jax_num_cpu_devices > 0  # type: ignore[attr-defined]
    or 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', '')
  )


def _largest_divisor(number: int, most: int) -> int:
  return max(each for each in range(1, most + 1) if number % each == 0)


def single_thread(settings: Machine) -> None:
  """Has XLA's CPU backend take one operation after the other, unless told.

  Operations of small networks take a few microseconds, which is less than it
  takes to hand them from thread to thread (docs/performance.md). It comes
  before any use of a device. NPROC, how many threads there are, stays where the
  user has set it; processes and meshes have as many as they would.
  """
  if not (settings.is_distributed or settings.mesh):
    os.environ.setdefault('NPROC', '1')


def _cores() -> int:
  """Counts those that this process may run on."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def check_agreement(settings: Machine, record: Mapping[str, Any]) -> None:
  """Refuses to start where hosts differ in flags or versions."""
  if not settings.is_distributed:
    return
  from experiments.runner.report import versions
  from metajax.devices.distributed import collect

  facts = {
    f'--{name}': value for name, value in record.items() if name not in _OWN
  }
  if DIGEST in record:
    text = json.dumps(record[DIGEST], sort_keys=True)
    facts['the digest of the data'] = hashlib.sha256(text.encode()).hexdigest()
    del facts[f'--{DIGEST}']
  everyone = collect([socket.gethostname(), facts | versions()])
  first_host, first = everyone[0]
  differing = [
    f'{name} is {first.get(name)!r} on process 0 ({first_host}) and'
    f' {other.get(name)!r} on process {index} ({host})'
    for index, (host, other) in enumerate(everyone)
    for name in sorted({*first, *other})
    if first.get(name) != other.get(name)
  ]
  if differing:
    raise UsageError(
      'distributed',
      f'processes disagree: {"; ".join(differing)}; start all with the same',
    )


def end_with_the_others(settings: Machine, error: Exception) -> NoReturn:
  """Ends this process after another one died.

  JAX's runtime notices the silence of the dead one, writes its number to stderr
  and ends every process. Were this one to leave before, it would be the one
  that is reported dead.
  """
  from metajax.tasks.errors import reason

  print(
    f'an exchange with the other processes failed ({reason(error)[:200]});'
    f' within {settings.heartbeat_seconds} s (--heartbeat_seconds) JAX names'
    ' the process that is gone, below; the same command for all goes on from'
    ' the last checkpoint',
    file=sys.stderr,
    flush=True,
  )
  time.sleep(settings.heartbeat_seconds + _GRACE_SECONDS)
  os._exit(1)


def make_mesh(
  settings: Machine, tasks_per_step: int, setting: str = 'tasks_per_step'
) -> 'Mesh | None':
  """The mesh that the settings describe; None for a single device.

  Args:
    settings: of the run.
    tasks_per_step: what the devices divide.
    setting: of what that is the number; of others than tasks as many devices
      as divide it are taken of any kind.
  """
  import jax

  from metajax.devices import mesh

  devices = jax.devices()
  if settings.mesh is None:
    on_cpu = devices[0].platform == 'cpu' and not settings.is_distributed
    if on_cpu or setting != 'tasks_per_step':
      devices = devices[: _largest_divisor(tasks_per_step, len(devices))]
    if len(devices) == 1:
      return None
    axes = {mesh.TASK: len(devices)}
  else:
    axes = parse_mesh(settings.mesh)
  try:
    made = mesh.make_mesh(axes, devices)
  except ValueError as error:
    remedy, wanted = '', math.prod(axes.values())
    if devices[0].platform == 'cpu':
      remedy = (
        f'; a CPU is {wanted} devices with the environment variable'
        f' XLA_FLAGS=--xla_force_host_platform_device_count={wanted}'
      )
    raise UsageError('mesh', f'{error}{remedy}') from error
  check_shares(tasks_per_step, axes.get(mesh.TASK, 0), settings.mesh)
  return made


def check_shares(
  tasks_per_step: int,
  shares: int,
  mesh: str | None = None,
  setting: str = 'tasks_per_step',
) -> None:
  """Refuses tasks that the axis of tasks does not divide."""
  if not shares:
    raise UsageError('mesh', f'{mesh} has no axis task')
  if tasks_per_step % shares:
    raise UsageError(
      setting,
      f'{tasks_per_step} cannot be divided over the {shares} devices of the'
      f' axis task; take a multiple of {shares}, or another --mesh',
    )


def parse_mesh(text: str) -> dict[str, int]:
  """Reads `task:4,model:2`."""
  parts = [part.partition(':') for part in text.split(',')]
  names = [name for name, _, _ in parts]
  if (
    not _MESH.fullmatch(text)
    or len(set(names)) < len(names)
    or any(int(size) < 1 for _, _, size in parts)
  ):
    raise UsageError(
      'mesh',
      f'is {text!r}, but must be axes with the number of devices along each,'
      ' such as task:8 or task:4,model:2',
    )
  return {name: int(size) for name, _, size in parts}


def make_rule(mesh: 'Mesh | None', shard: Sequence[str]) -> 'Rule':
  """How parameters are divided, by --shard."""
  from metajax.devices.mesh import by_path, largest_dimension

  if mesh is None:
    raise UsageError('shard', 'needs more than one device')
  if len(shard) == 1 and '=' not in shard[0]:
    return largest_dimension(mesh, shard[0], SHARD_AT_LEAST)
  return by_path(mesh, [_parse_rule(text) for text in shard])


def check_rules(
  mesh: 'Mesh', shard: Sequence[str], parameters: 'PyTree'
) -> None:
  """Refuses a --shard that has no effect on the parameters."""
  import jax

  shapes = {
    jax.tree_util.keystr(path): leaf.shape
    for path, leaf in jax.tree.leaves_with_path(parameters)
  }
  largest = max(shapes, key=lambda path: math.prod(shapes[path]))
  for text in shard:
    pattern, equals, _ = text.rpartition('=')
    if equals:
      if not any(re.search(pattern, path) for path in shapes):
        raise UsageError(
          'shard',
          f'{pattern!r} is found in no path of the parameters; they are'
          f' {", ".join(shapes)}',
        )
      continue
    rule = make_rule(mesh, shard)
    if not any(any(rule(path, shape)) for path, shape in shapes.items()):
      raise UsageError(
        'shard',
        f'{text} divides arrays of {SHARD_AT_LEAST:,} numbers and more, and'
        f' there is none that can be (the largest is {largest},'
        f' {list(shapes[largest])}); name arrays as PATTERN=AXIS,AXIS,..., or'
        ' leave the flag out',
      )


def _parse_rule(text: str) -> 'tuple[str, PartitionSpec]':
  from jax.sharding import PartitionSpec

  pattern, equals, axes = text.rpartition('=')
  if not equals or not pattern or not axes:
    raise ValueError(
      f'{text!r} must be PATTERN=AXIS,AXIS,..., or the only one and an axis'
    )
  names = [None if axis in ('-', '') else axis for axis in axes.split(',')]
  return pattern, PartitionSpec(*names)
