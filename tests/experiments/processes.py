"""Starts the experiments as a user does, as processes of their own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
# Seconds until a process is given up; many times what it takes.
PATIENCE = 600

# The smallest of everything.
TINY = (
  '--eval_tasks=8', '--validation_tasks=4', '--tasks_per_step=2',
  '--log_every=1',
)  # fmt: skip
TINY_IMAGES = (*TINY, '--width=4', '--ways=2')


class Ended(NamedTuple):
  """What is left of a process."""

  code: int  # minus the signal, if one killed it
  stdout: str
  stderr: str


class Run:
  """A process that runs an experiment."""

  def __init__(
    self, pid: int, outputs: list[Path], ask: Callable[..., Any]
  ) -> None:
    self._pid = pid
    self._outputs = outputs
    self._ask = ask

  def kill(self, number: int = signal.SIGKILL) -> None:
    """Sends a signal."""
    os.kill(self._pid, number)

  def wait(self) -> Ended:
    """Waits for the end."""
    code = self._ask(pid=self._pid, wait=True)
    return Ended(code, *(path.read_text() for path in self._outputs))

  def printed(self) -> str:
    """What it has printed so far."""
    path = self._outputs[0]
    return path.read_text() if path.exists() else ''

  def complained(self) -> str:
    """What it has written to stderr so far."""
    path = self._outputs[1]
    return path.read_text() if path.exists() else ''

  def until(self, holds: Callable[[], Any]) -> Any:
    """Waits until something holds, for as long as the process lives."""
    deadline = time.monotonic() + PATIENCE
    while not (value := holds()):
      code = self._ask(pid=self._pid, wait=False)
      assert code is None, self.wait()
      assert time.monotonic() < deadline
      time.sleep(0.003)
    return value


class Launcher:
  """Starts experiments quickly."""

  def __init__(self, server: subprocess.Popen, logs: Path) -> None:
    self._server = server
    self._logs = logs
    self._started = 0

  def start(
    self,
    name: str,
    *arguments: str,
    cwd: Path | None = None,
    devices: int = 1,
    clock_jump: int = 0,
    without: str = '',
    for_tpus: bool = False,
  ) -> Run:
    """Starts `python -m experiments.<name> <arguments>`.

    Args:
      name: of the experiment.
      arguments: its flags.
      cwd: where.
      devices: how many it sees.
      clock_jump: seconds by which its clock jumps while it runs.
      without: a package that it does not find, installed or not.
      for_tpus: whether it compiles for them. Their compiler ends a process over
        a flag that it does not know, such as those of the tests.
    """
    self._started += 1
    flags = '' if for_tpus else os.environ['XLA_FLAGS']
    outputs = [
      self._logs / f'{self._started}.{stream}' for stream in ('out', 'err')
    ]
    pid = self._ask(
      module=f'experiments.{name}',
      arguments=[str(argument) for argument in arguments],
      cwd=str(cwd or self._logs),
      outputs=[str(path) for path in outputs],
      clock_jump=clock_jump,
      without=without,
      environment={
        'XLA_FLAGS': f'{flags} --xla_force_host_platform_device_count={devices}'
      },
    )
    return Run(pid, outputs, self._ask)

  def run(self, name: str, *arguments: str, **options: Any) -> Ended:
    """Runs an experiment to its end, whatever that is."""
    return self.start(name, *arguments, **options).wait()

  def start_together(
    self, name: str, *arguments: str, own: Sequence[Sequence[str]] = ((), ())
  ) -> list[Run]:
    """Starts processes of one run; `own` are further flags of each."""
    with socket.socket() as free:
      free.bind(('localhost', 0))
      port = free.getsockname()[1]
    return [
      self.start(
        name, *arguments, f'--distributed=localhost:{port}',
        f'--num_processes={len(own)}', f'--process_id={number}', *flags,
      )
      for number, flags in enumerate(own)
    ]  # fmt: skip

  def succeed(self, name: str, *arguments: str) -> dict[str, Any]:
    """Runs an experiment that has to succeed; returns its result."""
    ended = self.run(name, *arguments)
    assert ended.code == 0, ended
    assert ended.stderr == ''
    return result(arguments)

  def _ask(self, **request: Any) -> Any:
    assert self._server.stdin
    assert self._server.stdout
    self._server.stdin.write(json.dumps(request) + '\n')
    self._server.stdin.flush()
    return json.loads(self._server.stdout.readline())


@contextlib.contextmanager
def serve(logs: Path) -> Iterator[Launcher]:
  """A launcher, for the length of a block; outputs go to files in `logs`."""
  server = subprocess.Popen(
    [sys.executable, Path(__file__).with_name('fork_server.py')],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {'PYTHONPATH': str(REPOSITORY), 'JAX_PLATFORMS': 'cpu'},
  )
  with server:
    yield Launcher(server, logs)
    assert server.stdin
    server.stdin.close()


def result(arguments: tuple[str, ...]) -> dict[str, Any]:
  """The `result.json` that a command line left behind."""
  (workdir,) = (
    each.removeprefix('--workdir=')
    for each in arguments
    if each.startswith('--workdir=')
  )
  return json.loads((Path(workdir) / 'result.json').read_text())
