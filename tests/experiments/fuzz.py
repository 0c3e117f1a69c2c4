"""Throws damaged and odd input at the doors of the experiments.

  python tests/experiments/fuzz.py --seconds=300

Every input is answered in a process of its own, by what `python -m
experiments.images ...` does with it up to the first compiled program: flags,
settings, recipe, and all data read, divided and checked. Right are two answers:
to accept what the input says (where the data is known, it is looked at), or one
line on stderr and exit code 2. The exit code is 1 if there was any other; each
can be seen again by its kind and number, `--again=npz:17`.
"""

import argparse
import collections
import itertools
import json
import os
import re
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import fuzz_inputs
import fuzz_texts
import jax
import numpy as np
from fuzz_inputs import Input

sys.path.append(str(Path(__file__).resolve().parents[1]))
import quick_compilation

KINDS = {**fuzz_inputs.KINDS, **fuzz_texts.KINDS}
# What is answered quickly comes more often.
TURN = [*KINDS, *3 * ['flags', 'pictures', 'flags'], 'table']
PATIENCE = 120  # seconds for one answer
MEMORY = 12 * 2**30  # bytes that one answer may ask for

# What is met in an answer that no user should see.
NOT_FOR_USERS = re.compile(
  r'^(Traceback|\w+Error:)|RESOURCE_EXHAUSTED|\x1b|site-packages|\.py:\d+',
  re.MULTILINE,
)


class Answer(NamedTuple):
  """What came of an input."""

  kind: str  # 'accepted', 'refused', or what is wrong with it
  text: str  # the line


def answer(given: Input, folder: Path) -> Answer:
  """Answers an input in a new process."""
  out, err = folder / 'stdout', folder / 'stderr'
  pid = os.fork()
  if pid == 0:
    _become(out, err)
    code = 70
    try:
      code = given.door([given.binary, *given.arguments])
    except BaseException:
      traceback.print_exc()
    finally:
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(code)
  code = _wait(pid)
  text = err.read_bytes().decode(errors='backslashreplace')
  lines = [
    line for line in text.splitlines() if not line.startswith('warning: ')
  ]
  if code is None:
    return Answer('no answer in time', text)
  if code not in (0, 2):
    return Answer(f'exit code {code}', text)
  if NOT_FOR_USERS.search(text):
    return Answer('not for users', text)
  if code == 0:
    kind = 'accepted' if not lines else 'accepted, with a complaint'
    return Answer(kind, text)
  if len(lines) != 1:
    return Answer(f'{len(lines)} lines', text)
  if given.kept:
    return Answer('refused, though nothing is wrong', text)
  return Answer('refused', text)


def _become(out: Path, err: Path) -> None:
  os.setsid()
  for number, path in enumerate((Path(os.devnull), out, err)):
    opened = os.open(path, os.O_RDWR | os.O_CREAT)
    os.dup2(opened, number)
  resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
  warnings.resetwarnings()


def _wait(pid: int) -> int | None:
  """The exit code; None if there was none in time."""
  ended = os.pidfd_open(pid)
  in_time, _, _ = select.select([ended], [], [], PATIENCE)
  os.close(ended)
  if not in_time:
    os.kill(pid, signal.SIGKILL)
  _, status = os.waitpid(pid, 0)
  return os.waitstatus_to_exitcode(status) if in_time else None


def make(kind: str, number: int, folder: Path) -> Input:
  """Input `number` of a kind: the same on every machine."""
  seed = [number, *kind.encode()]
  return KINDS[kind](np.random.default_rng(seed), folder)


def once(kind: str, number: int) -> tuple[str, int, Answer]:
  """Makes an input and answers it."""
  with tempfile.TemporaryDirectory() as folder:
    given = make(kind, number, Path(folder))
    return kind, number, answer(given, Path(folder))


def turns(seconds: float, share: int, shares: int) -> Iterator[tuple[str, int]]:
  """Inputs in turn, a share of them, for so long."""
  end = time.monotonic() + seconds
  numbers = {kind: itertools.count(share, shares) for kind in KINDS}
  for kind in itertools.cycle(TURN):
    if time.monotonic() >= end:
      return
    yield kind, next(numbers[kind])


def work(seconds: float, share: int, shares: int, pipe: int) -> None:
  """Answers a share of the inputs, and writes the answers into a pipe."""
  with os.fdopen(pipe, 'w') as answers:
    for turn in turns(seconds, share, shares):
      kind, number, found = once(*turn)
      answers.write(json.dumps([kind, number, found.kind, found.text]) + '\n')
      answers.flush()


def in_processes(seconds: float, processes: int) -> list[tuple]:
  """All answers, made side by side."""
  pipes, workers = [], []
  for share in range(processes):
    read, write = os.pipe()
    if (worker := os.fork()) == 0:
      os.close(read)
      try:
        work(seconds, share, processes, write)
      except BaseException:
        traceback.print_exc()
        os._exit(1)
      os._exit(0)
    os.close(write)
    pipes.append(read)
    workers.append(worker)

  def collect(pipe: int) -> list[tuple]:
    with os.fdopen(pipe) as lines:
      return [tuple(json.loads(line)) for line in lines]

  with ThreadPoolExecutor(processes) as pool:
    answers = [each for found in pool.map(collect, pipes) for each in found]
  statuses = [os.waitpid(worker, 0)[1] for worker in workers]
  if any(statuses):
    raise SystemExit('a worker of this script has failed, see above')
  return answers


def report(answers: list[tuple], show: Callable[[str], None]) -> int:
  """Counts answers by kind of input; returns how many are not right."""
  counts = collections.Counter((kind, right) for kind, _, right, _ in answers)
  show(f'{"input":>10} {"all":>7} {"accepted":>9} {"refused":>8} {"wrong":>6}')
  for kind in (*KINDS, 'all'):
    own = {
      right: sum(
        number
        for (of, was), number in counts.items()
        if was == right and kind in (of, 'all')
      )
      for right in {right for _, right in counts}
    }
    total = sum(own.values())
    accepted, refused = own.get('accepted', 0), own.get('refused', 0)
    wrong = total - accepted - refused
    show(f'{kind:>10} {total:7} {accepted:9} {refused:8} {wrong:6}')
  bad = [each for each in answers if each[2] not in ('accepted', 'refused')]
  for kind, number, what, text in bad[:40]:
    show(f'--again={kind}:{number}: {what}: {text[-300:]!r}')
  return len(bad)


def share_programs(folder: str) -> None:
  """Small programs, as of the drawing of a key, are compiled once for all."""
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def main() -> int:
  """Answers inputs until the time is over; exit code 1 if one was wrong."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--seconds', type=float, default=300)
  parser.add_argument('--processes', type=int, default=os.cpu_count())
  parser.add_argument('--kinds', help='inputs, with commas between them')
  parser.add_argument('--again', help='KIND:NUMBER, shows one answer')
  parser.add_argument(
    '--keep', type=Path, help='where --again leaves its input'
  )
  parser.add_argument('--lines', action='store_true', help='shows refusals')
  options = parser.parse_args()
  warnings.simplefilter('ignore', RuntimeWarning)  # of forks; JAX is idle yet
  os.environ['XLA_FLAGS'] = ' '.join(
    [os.environ.get('XLA_FLAGS', ''), *quick_compilation.FLAGS]
  )
  if options.again:
    kind, number = options.again.split(':')
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    given = make(kind, int(number), folder)
    print(given.binary, *map(repr, given.arguments), 'kept:', given.kept)
    print(*answer(given, folder), sep='\n')
    return 0
  if options.kinds:
    TURN[:] = options.kinds.split(',')
  with tempfile.TemporaryDirectory() as cache:
    share_programs(cache)
    answers = in_processes(options.seconds, options.processes)
  if options.lines:
    for kind, number, right, text in answers:
      if right == 'refused':
        print(f'{kind}:{number}: {text.strip()}')
  return 1 if report(answers, print) else 0


if __name__ == '__main__':
  sys.exit(main())
