"""Flags of a run on many devices and processes, and what they stand for."""

import math
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from absl import flags

from experiments.runner import options
from experiments.runner.options import FLAGS, UsageError, define_count

if TYPE_CHECKING:
  from jax.sharding import Mesh, PartitionSpec

  from metajax.base import PyTree
  from metajax.devices.mesh import Rule

flags.disclaim_key_flags()  # they belong to the binary that asks for them

# Smaller arrays are not worth an exchange.
SHARD_AT_LEAST = 2**16
# What is each process's own business.
_OWN = frozenset({'process_id'})
# JAX looks for silence from time to time.
_GRACE_SECONDS = 15
# For the others to end as well, when this process has failed.
_PARTING_SECONDS = 10
# Every device holds the data set.
_MOST_CPU_DEVICES = 8
_MESH = re.compile(r'(\w+):(\d+)(?:,(\w+):(\d+))*')


def define_flags() -> None:
  """Defines the flags of devices and processes."""
  flags.DEFINE_string(
    'mesh', None,
    'devices along each axis, such as task:8 or task:4,model:2; tasks are'
    ' divided over task, networks (see --shard) over model [default: all'
    ' devices on task; a CPU is then as many devices as it has cores, up to'
    f' {_MOST_CPU_DEVICES}, and as divide the tasks, or as many as the'
    ' environment variable JAX_NUM_CPU_DEVICES says]',
  )  # fmt: skip
  flags.DEFINE_multi_string(
    'shard', [],
    'how parameters and the state of the optimiser are divided: an axis of'
    ' --mesh, which divides the largest dimension of every large array (model:'
    ' the network itself; task: between steps only, as ZeRO), or'
    ' PATTERN=AXIS,AXIS,... with - for a dimension that stays whole, for arrays'
    ' whose path matches; may be repeated, the first match decides',
  )  # fmt: skip
  flags.DEFINE_string(
    'distributed', 'off',
    'how processes find each other: off, for a single one; auto, on a TPU pod,'
    ' Slurm, GKE or Open MPI; or the host:port of process 0, with'
    ' --num_processes and --process_id. A distributed run goes on by itself'
    ' from what its workdir holds',
  )  # fmt: skip
  define_count('num_processes', None, 'processes, with --distributed=host:port')
  define_count(
    'process_id', None, 'which of them this one is, from 0', at_least=0
  )
  define_count(
    'distributed_timeout', 300, 'seconds to wait for the other processes'
  )
  define_count(
    'heartbeat_seconds', 30,
    'seconds of silence after which a process counts as dead, and all end',
  )  # fmt: skip


def run(main: Callable[[], int]) -> int:
  """As `options.run`, for a main that may call `connect`.

  JAX has the processes wait for one another at their end, for minutes; one that
  has failed, while the others go on, waits for a moment and leaves.
  """
  try:
    code = options.run(main)
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


def is_distributed() -> bool:
  """Whether there are other processes."""
  return 'distributed' in FLAGS and FLAGS.distributed != 'off'


def connect() -> None:
  """Joins the other processes; comes before any use of JAX."""
  if not is_distributed():
    for name in ('num_processes', 'process_id'):
      if name in FLAGS and FLAGS[name].value is not None:
        raise UsageError(name, 'goes with --distributed=host:port')
    return
  from metajax.devices import distributed

  coordinator = None if FLAGS.distributed == 'auto' else FLAGS.distributed
  try:
    distributed.initialize(
      coordinator,
      FLAGS.num_processes,
      FLAGS.process_id,
      timeout=FLAGS.distributed_timeout,
      heartbeat=FLAGS.heartbeat_seconds,
    )
  except (ValueError, distributed.ClusterError) as error:
    raise UsageError('distributed', str(error)) from error
  if not distributed.is_primary():  # one process speaks for all
    sys.stdout = open(os.devnull, 'w')  # noqa: SIM115


def divide_cpu(tasks_per_step: int) -> None:
  """Has JAX take every core for a device, as far as they divide the tasks.

  The products of one task are too small to keep two cores busy, two tasks are
  not (docs/performance.md). It comes before any use of a device; where the user
  has said how many there are, or what they are for, it does nothing.
  """
  import jax

  chosen = (
    jax.config.jax_num_cpu_devices > 0  # type: ignore[attr-defined]
    or 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', '')
  )
  if chosen or is_distributed() or ('mesh' in FLAGS and FLAGS.mesh):
    return
  most = min(_cores(), _MOST_CPU_DEVICES)
  jax.config.update(
    'jax_num_cpu_devices',
    max(each for each in range(1, most + 1) if tasks_per_step % each == 0),
  )


def single_thread() -> None:
  """Has XLA's CPU backend take one operation after the other, unless told.

  Operations of small networks take a few microseconds, which is less than it
  takes to hand them from thread to thread (docs/performance.md). It comes
  before any use of a device. NPROC, how many threads there are, stays where the
  user has set it; processes and meshes have as many as they would.
  """
  if not (is_distributed() or ('mesh' in FLAGS and FLAGS.mesh)):
    os.environ.setdefault('NPROC', '1')


def _cores() -> int:
  """Those that this process may run on."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def check_agreement(settings: Mapping[str, Any]) -> None:
  """Refuses to start where hosts differ in flags or versions."""
  if not is_distributed():
    return
  from experiments.runner.report import versions
  from metajax.devices.distributed import collect

  facts = {
    f'--{name}': value for name, value in settings.items() if name not in _OWN
  }
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


def end_with_the_others(error: Exception) -> NoReturn:
  """Ends this process after another one died.

  JAX's runtime notices the silence of the dead one, writes its number to stderr
  and ends every process. Were this one to leave before, it would be the one
  that is reported dead.
  """
  from metajax.tasks.errors import reason

  print(
    f'an exchange with the other processes failed ({reason(error)[:200]});'
    f' within {FLAGS.heartbeat_seconds} s (--heartbeat_seconds) JAX names the'
    ' process that is gone, below; the same command for all goes on from the'
    ' last checkpoint',
    file=sys.stderr,
    flush=True,
  )
  time.sleep(FLAGS.heartbeat_seconds + _GRACE_SECONDS)
  os._exit(1)


def make_mesh(tasks_per_step: int) -> 'Mesh | None':
  """The mesh that the flags describe; None for a single device."""
  import jax

  from metajax.devices import mesh

  if FLAGS.mesh is None:
    if jax.device_count() == 1:
      return None
    axes = {mesh.TASK: jax.device_count()}
  else:
    axes = parse_mesh(FLAGS.mesh)
  try:
    made = mesh.make_mesh(axes)
  except ValueError as error:
    raise UsageError('mesh', str(error)) from error
  check_shares(tasks_per_step, axes.get(mesh.TASK, 0))
  return made


def check_shares(tasks_per_step: int, shares: int) -> None:
  """Refuses tasks that the axis of tasks does not divide."""
  if not shares:
    raise UsageError('mesh', f'{FLAGS.mesh} has no axis task')
  if tasks_per_step % shares:
    raise UsageError(
      'tasks_per_step',
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


def make_rule(mesh: 'Mesh | None') -> 'Rule':
  """How parameters are divided, by --shard."""
  from metajax.devices.mesh import by_path, largest_dimension

  if mesh is None:
    raise UsageError('shard', 'needs more than one device')
  if len(FLAGS.shard) == 1 and '=' not in FLAGS.shard[0]:
    return largest_dimension(mesh, FLAGS.shard[0], SHARD_AT_LEAST)
  return by_path(mesh, [_parse_rule(text) for text in FLAGS.shard])


def check_rules(mesh: 'Mesh', parameters: 'PyTree') -> None:
  """Refuses a --shard that has no effect on the parameters."""
  import jax

  shapes = {
    jax.tree_util.keystr(path): leaf.shape
    for path, leaf in jax.tree.leaves_with_path(parameters)
  }
  largest = max(shapes, key=lambda path: math.prod(shapes[path]))
  for text in FLAGS.shard:
    pattern, equals, _ = text.rpartition('=')
    if equals:
      if not any(re.search(pattern, path) for path in shapes):
        raise UsageError(
          'shard',
          f'{pattern!r} is found in no path of the parameters; they are'
          f' {", ".join(shapes)}',
        )
      continue
    rule = make_rule(mesh)
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
