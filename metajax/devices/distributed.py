"""Several processes that train as one.

JAX's own runtime connects them; here are its start with errors that name what
did not answer, and two ways to exchange small facts. Both are collective: every
process has to call them, in the same order.
"""

import json
import re
import socket
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

__all__ = [
  'ClusterError',
  'agree',
  'collect',
  'gather',
  'initialize',
  'is_lost_connection',
  'is_primary',
]

_EXCHANGE = re.compile(
  r'\bGloo\b|\bNCCL\b|UNAVAILABLE|DEADLINE_EXCEEDED|coordination service'
)


class ClusterError(RuntimeError):
  """The processes did not come together; says who is missing and where."""


def initialize(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  timeout: int = 300,
  heartbeat: int = 30,
) -> None:
  """Connects this process with the others; comes before any use of JAX.

  Args:
    coordinator: `host:port` of process 0. Without it, JAX finds out from a TPU
      pod, Slurm, GKE or Open MPI.
    num_processes: how many there are; goes with `coordinator`.
    process_id: which one this is, from 0; goes with `coordinator`.
    timeout: seconds to wait for the others. (Where others never come, JAX's
      runtime itself ends process 0 after that time, and says so.)
    heartbeat: seconds of silence after which a process counts as dead, and the
      others end.

  Raises:
    ClusterError: if no cluster is found, or if somebody does not answer in
      time.
    ValueError: if the arguments contradict one another.
  """
  if coordinator is None:
    if num_processes is not None or process_id is not None:
      raise ValueError('num_processes and process_id go with a coordinator')
    _connect(timeout, heartbeat)
    return
  host, port = _address(coordinator)
  if num_processes is None or process_id is None:
    raise ValueError('a coordinator goes with num_processes and process_id')
  if not 0 <= process_id < num_processes:
    raise ValueError(
      f'process_id must be from 0 to {num_processes - 1}, got {process_id}'
    )
  begun = time.monotonic()
  if process_id:
    _await_answer(host, port, timeout)
  left = max(1, int(timeout - (time.monotonic() - begun)))
  _connect(
    left,
    heartbeat,
    coordinator_address=coordinator,
    num_processes=num_processes,
    process_id=process_id,
  )


def _address(coordinator: str) -> tuple[str, int]:
  host, _, port = coordinator.rpartition(':')
  if not host or not port.isdigit() or not 0 < int(port) < 2**16:
    raise ValueError(
      f'a coordinator is host:port with a port from 1 to 65535, got'
      f' {coordinator!r}'
    )
  return host.strip('[]'), int(port)


def _await_answer(host: str, port: int, timeout: float) -> None:
  """Waits until somebody listens; JAX's own client would abort the process."""
  deadline = time.monotonic() + timeout
  while True:
    try:
      with socket.create_connection((host, port), timeout=min(timeout, 5)):
        return
    except OSError as error:
      if time.monotonic() >= deadline:
        raise ClusterError(
          f'the coordinator {host}:{port} did not answer within {timeout} s'
          f' ({error}); check that process 0 runs there and that the port is'
          ' open'
        ) from error
    time.sleep(0.2)


def _connect(timeout: int, heartbeat: int, **cluster: Any) -> None:
  # On a CPU independent programs would run side by side, and their messages to
  # other processes would be taken for one another.
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  try:
    jax.distributed.initialize(
      initialization_timeout=timeout,
      heartbeat_timeout_seconds=heartbeat,
      **cluster,
    )
  except ValueError as error:
    raise ClusterError(
      f'no cluster found ({error}); name the coordinator, the number of'
      ' processes and which one this is'
    ) from error
  except RuntimeError as error:
    where = cluster.get('coordinator_address', 'the cluster')
    raise ClusterError(
      f'the processes did not all come to {where} within {timeout} s: {error}'
    ) from error


def is_lost_connection(error: Exception) -> bool:
  """Says whether a failure is that of an exchange with another process.

  JAX has no type of its own for it: the libraries that carry the messages are
  known by what they write.
  """
  return jax.process_count() > 1 and bool(_EXCHANGE.search(str(error)))


def is_primary() -> bool:
  """Says whether this process is the one that writes and prints."""
  return jax.process_index() == 0


def collect(value: Any) -> list[Any]:
  """The value of every process, on every process.

  Args:
    value: whatever JSON can hold.

  Returns:
    One value per process, in their order.

  Example:
    >>> collect({'seed': 0})
    [{'seed': 0}]
  """
  if jax.process_count() == 1:
    return [value]
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  lengths = np.asarray(
    multihost_utils.process_allgather(np.int32(len(text)))
  ).ravel()
  padded = np.zeros(lengths.max(), np.uint8)
  padded[: len(text)] = text
  texts = np.asarray(multihost_utils.process_allgather(padded))
  return [
    json.loads(row[:length].tobytes())
    for row, length in zip(texts, lengths, strict=True)
  ]


def agree(value: Any) -> Any:
  """The value of process 0, on every process; JSON as in `collect`."""
  return collect(value if is_primary() else None)[0]


def gather(leaf: Any) -> Any:
  """The whole of an array that may lie in pieces on several processes.

  Whatever else is returned as it is. Every process has to call it.
  """
  if not isinstance(leaf, jax.Array) or jax.process_count() == 1:
    return leaf
  if leaf.is_fully_addressable or leaf.is_fully_replicated:
    return leaf
  return multihost_utils.process_allgather(leaf, tiled=True)
