"""How fast a server answers, and what happens where it cannot.

  python -m experiments.benchmark.serving --model=DIR --seconds=30 --users=8

starts `experiments.serve` for an exported learner on this machine, and asks it

1. one request at a time: adaptations to one example of each class, predictions
   by an adapter, and both in one request;
2. `--users` of them at a time, each asking again as soon as it is answered;
3. twice as many requests a second as were answered then, as they come, whether
   answered or not: what is too much has to be refused with 429, and nothing may
   be lost.

It prints requests a second, the time that half of the requests and 99 of 100
stay below, how many ran as one program, and the memory of the server along the
way. The server has the first core to itself with `--one_core`, and whoever asks
has the others. Examples are drawn with `--seed`.
"""

import http.client
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmark.made_up import examples
from experiments.reports import of_measurement
from experiments.runner import flags, tables
from experiments.runner.errors import UsageError, check_given
from experiments.runner.paths import Place
from experiments.runner.settings import (
  Base,
  Positive,
  Whole,
  YesNo,
  setting,
  settings,
)
from experiments.runner.workdir import make_directory
from metajax.trained.portable import MANIFEST

__all__ = ['Settings', 'run']

_PATIENCE = 900  # seconds for compiling
_ASKING = 96  # threads of the third part, more than the server lets wait
_WAITING = 64
_ADAPTERS = 300  # few, so that they are all there soon


@settings
class Settings(Base):
  """Which learner, and how it is asked."""

  model: str | None = setting(
    None, Place(), 'directory that experiments.export wrote',
    of='data', resume=False,
  )  # fmt: skip
  seconds: float = setting(
    30.0, Positive(), 'of the second part; the others take a third of it, and a'
    ' minute at most',
    of='machine', resume=False,
  )  # fmt: skip
  users: int = setting(
    8, Whole(), 'that ask at a time', of='machine', resume=False
  )
  queries: int = setting(
    5, Whole(), 'of a prediction', of='machine', resume=False
  )
  one_core: bool = setting(
    False, YesNo(), 'whether the server has one core', of='machine',
    resume=False,
  )  # fmt: skip
  seed: int = setting(0, Whole(0), 'of examples', of='machine', resume=False)
  workdir: str = setting(
    'runs/serving', Place(), 'where report.html goes',
    of='machine', resume=True,
  )  # fmt: skip


class _Asked(NamedTuple):
  """Requests of one part."""

  name: str
  seconds: float
  times: list[float]  # ms of those that were answered 200
  statuses: Counter[str]

  def row(self) -> list[str]:
    """A line of the table."""
    half, most = np.percentile(self.times or [np.nan], [50, 99])
    refused = self.statuses['429']
    rest = sum(self.statuses.values()) - len(self.times) - refused
    return [
      self.name, f'{len(self.times) / self.seconds:.1f}', f'{half:.2f}',
      f'{most:.2f}', str(len(self.times)), str(refused), str(rest),
    ]  # fmt: skip


def run(settings: Settings) -> int:
  """Starts, asks, prints; returns the exit code, 1 if something was lost."""
  check_given(settings, 'model')
  try:
    text = (Path(settings.model or '') / MANIFEST).read_text()
    manifest = json.loads(text)
  except (OSError, ValueError) as error:
    raise UsageError('model', f'holds no exported learner ({error})') from error
  workdir = Path(settings.workdir)
  make_directory(workdir)
  cores = sorted(os.sched_getaffinity(0))
  own = cores[:1] if settings.one_core else cores
  command = [
    sys.executable, '-m', 'experiments.serve', f'--model={settings.model}',
    '--port=0', '--shots=1', f'--max_waiting={_WAITING}',
    f'--adapters={_ADAPTERS}',
  ]  # fmt: skip
  os.sched_setaffinity(0, own)  # which a process takes from its parent
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    try:
      os.sched_setaffinity(0, cores[len(own) % len(cores) :])
      port = _started(server)
      code = _ask_all(settings, manifest, port, workdir)
    finally:
      server.terminate()
      server.communicate()
      os.sched_setaffinity(0, cores)
  print(f'the server ended with exit code {server.returncode}')
  return code or server.returncode


def _started(server: subprocess.Popen[str]) -> int:
  """The port of a server that is ready."""
  assert server.stdout is not None
  first = server.stdout.readline()
  port = re.search(r':(\d+)\n', first)
  if port is None:
    raise UsageError('model', 'is not served; see above')
  timer = threading.Timer(_PATIENCE, server.kill)
  timer.start()
  print(server.stdout.readline().strip() or 'not ready', flush=True)
  timer.cancel()
  return int(port[1])


def _ask_all(
  settings: Settings, manifest: Any, port: int, workdir: Path
) -> int:
  support, queries = examples(manifest, settings.queries, settings.seed)
  short = min(settings.seconds / 3, 60)
  asks = _Asks(port, support, queries)
  parts = [
    _at_a_time(f'one: {name}', port, [asks.of(name)], 1, short / 3)
    for name in ('adapt', 'predict', 'both')
  ]
  memory = list[float]()

  def remember() -> None:
    memory.append(_metric(port, 'process_resident_memory_bytes') / 2**20)

  remember()
  mixed = _at_a_time(
    f'{settings.users} users', port, asks.all(), settings.users,
    settings.seconds, remember,
  )  # fmt: skip
  rate = 2 * len(mixed.times) / mixed.seconds
  parts += [mixed, _as_they_come(port, asks.all(), rate, short)]
  remember()
  header = ['', 'a second', 'p50 ms', 'p99 ms', 'answered', 'refused', 'lost']
  cells = [header, *(part.row() for part in parts)]
  tables.show(cells)
  mebibytes = ', '.join(f'{each:.1f}' for each in memory)
  tasks, programs = (
    sum(_metric(port, f'metajax_batch_tasks_{each}', kind)
        for kind in ('adapt', 'predict'))
    for each in ('sum', 'count')
  )  # fmt: skip
  notes = [
    f'MiB of the server, before, along and after: {mebibytes}',
    f'{tasks / programs:.2f} tasks a program',
  ]
  print('\n'.join(notes))
  of_measurement.write(
    workdir, settings,
    title=f'Serving {manifest["method"]}',
    lead='A server is asked one request at a time, then by users who ask again'
    ' when they are answered, then twice as often as it has answered them.',
    cells=cells, notes=notes, caption='Requests, and those that were lost',
  )  # fmt: skip
  lost = [part.statuses - Counter({'200': 10**9, '429': 10**9})
          for part in parts]  # fmt: skip
  if any(lost):
    print(f'lost: {sum(lost, Counter())}', file=sys.stderr)
  return int(any(lost))


class _Connection:
  """One that is kept, and made again where it has ended."""

  def __init__(self, port: int) -> None:
    self._port = port
    self._open: http.client.HTTPConnection | None = None

  def post(self, route: str, body: Any) -> tuple[int, bytes]:
    """The status and the answer of a request."""
    if not isinstance(body, bytes):
      body = _bytes(body)
    if self._open is None:
      self._open = http.client.HTTPConnection(
        '127.0.0.1', self._port, timeout=60
      )
    try:
      self._open.request('POST', route, body,
                         {'content-type': 'application/json'})  # fmt: skip
      answer = self._open.getresponse()
      return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
      self.close()
      raise

  def close(self) -> None:
    """Ends it."""
    if self._open is not None:
      self._open.close()
      self._open = None


class _Asks:
  """Requests, by what they ask for.

  Args:
    port: of the server.
    support: examples.
    queries: the same.
  """

  def __init__(self, port: int, support: Any, queries: Any) -> None:
    self._port = port
    self._support = {'support': support}
    self._queries = {'queries': queries}

  def of(self, name: str) -> tuple[str, bytes]:
    """The route and the body; predictions have an adapter of their own."""
    if name == 'adapt':
      return '/adapt', _bytes(self._support)
    if name == 'both':
      return '/predict', _bytes(self._support | self._queries)
    connection = _Connection(self._port)
    status, answer = connection.post('/adapt', self._support)
    connection.close()
    if status != 200:
      raise UsageError(
        'model', f'/adapt answers {status}: {answer.decode(errors="replace")}'
      )
    adapter = {'adapter': json.loads(answer)['adapter']}
    return '/predict', _bytes(adapter | self._queries)

  def all(self) -> list[tuple[str, bytes]]:
    """One of each."""
    return [self.of(name) for name in ('adapt', 'predict', 'both')]


def _bytes(value: Any) -> bytes:
  return json.dumps(value).encode()


def _at_a_time(
  name: str,
  port: int,
  bodies: Sequence[tuple[str, bytes]],
  users: int,
  seconds: float,
  along: Callable[[], Any] = lambda: None,
) -> _Asked:
  """Users who ask again when they are answered."""
  end = time.perf_counter() + seconds
  order = itertools.count()

  def wait() -> bool:
    return time.perf_counter() < end

  return _asked(name, port, bodies, users, order, wait, seconds, along)


def _as_they_come(
  port: int, bodies: Sequence[tuple[str, bytes]], rate: float, seconds: float
) -> _Asked:
  """So many requests a second, whether others are answered or not."""
  number = int(rate * seconds)
  begin = time.perf_counter()
  arrivals = iter(begin + np.arange(number) / rate)
  lock = threading.Lock()

  def wait() -> bool:
    with lock:
      arrival = next(arrivals, None)
    if arrival is None:
      return False
    time.sleep(max(0, arrival - time.perf_counter()))
    return True

  name = f'{rate:.0f} a second'
  return _asked(name, port, bodies, _ASKING, itertools.count(), wait, seconds)


def _asked(
  name: str,
  port: int,
  bodies: Sequence[tuple[str, bytes]],
  threads: int,
  order: Any,
  wait: Callable[[], bool],
  seconds: float,
  along: Callable[[], Any] = lambda: None,
) -> _Asked:
  times, statuses = list[float](), Counter[str]()
  lock = threading.Lock()

  def ask() -> None:
    connection = _Connection(port)
    while wait():
      route, body = bodies[next(order) % len(bodies)]
      started = time.perf_counter()
      try:
        status = str(connection.post(route, body)[0])
      except (OSError, http.client.HTTPException) as error:
        status = type(error).__name__
      took = 1000 * (time.perf_counter() - started)
      with lock:
        statuses[status] += 1
        if status == '200':
          times.append(took)
    connection.close()

  asking = [threading.Thread(target=ask) for _ in range(threads)]
  started = time.perf_counter()
  for thread in asking:
    thread.start()
  for part in range(1, 4):  # a third of it is for becoming warm
    pause = started + seconds * part / 3 - time.perf_counter()
    time.sleep(max(0, pause - 0.2))
    along()
  for thread in asking:
    thread.join()
  return _Asked(name, time.perf_counter() - started, times, statuses)


def _metric(port: int, name: str, program: str = '') -> float:
  connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
  connection.request('GET', '/metrics')
  text = connection.getresponse().read().decode()
  connection.close()
  label = f'{{program="{program}"}}' if program else ''
  found = re.search(rf'^{re.escape(name + label)} (\S+)$', text, re.MULTILINE)
  return float(found[1]) if found else 0.0


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
