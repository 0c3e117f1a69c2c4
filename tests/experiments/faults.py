"""Does to a run what machines do to runs, and checks that nothing is lost.

  python tests/experiments/faults.py --kills=30 --seed=0

starts one run again and again. It is killed with SIGKILL at random moments and
inside of saves, its newest checkpoint is truncated or has a bit flipped, its
disk fills up, it is asked to stop twice, and its clock jumps back by an hour.
Each time it has to go on from the newest checkpoint that was on disk and good;
in the end all that it leaves behind has to equal what an undisturbed run left.

A full disk is a small tmpfs, for which one has to be root.
"""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from processes import TINY, Launcher, Run, result, serve

from experiments.recipes import regression
from experiments.recipes.kinds import published
from experiments.runner.interrupts import PREEMPTED
from metajax.algorithms.table import ALGORITHMS
from metajax.models import mlp
from metajax.objectives import mean_squared_error
from metajax.runs._checkpoint_directory import RunDirectory
from metajax.runs.checkpoint import Checkpointer
from metajax.runs.training import TrainState, make_train_step
from metajax.runs.writers import read_json_lines
from metajax.tasks import sinusoid

EVERY = 5  # steps between checkpoints
DISK_BYTES = 16 * 2**20
HOUR = 3600


def final_state(workdir: Path) -> TrainState:
  """The newest checkpoint of a run on sinusoids."""
  row, recipe = ALGORITHMS['maml'], published(regression, 'maml')
  model = mlp([recipe.width] * recipe.depth, 1)
  train_step = make_train_step(
    row.make(model, mean_squared_error, recipe),
    row.optimizer(recipe),
    sinusoid(10, 10),
    tasks_per_step=2,
  )
  template = jax.eval_shape(train_step.init, jax.random.key(0))
  restored = Checkpointer(workdir / 'checkpoints').restore(template)
  assert not restored.rejected
  return restored.state._replace(key=jax.random.key_data(restored.state.key))


def assert_same_run(
  workdir: Path, undisturbed: Path, steps: int, same_clock: bool = True
) -> None:
  """All that a run leaves behind equals what another one left."""
  a, b = final_state(workdir), final_state(undisturbed)
  assert a.step == b.step == steps
  jax.tree.map(np.testing.assert_array_equal, a, b)
  a, b = (
    result((f'--workdir={directory}',)) for directory in (workdir, undisturbed)
  )
  assert a['test'] == b['test']
  assert a['steps'] == b['steps'] == steps
  # With one step a line, the records do not depend on where a run stopped.
  a, b = ([
    {name: value for name, value in record.items() if name != 'time'}
    for record in read_json_lines(directory / 'metrics.jsonl')
  ] for directory in (workdir, undisturbed))  # fmt: skip
  assert a == b
  for line in (workdir / 'metrics.jsonl').read_text().splitlines():
    json.loads(line)
  times = [
    record['time'] for record in read_json_lines(workdir / 'metrics.jsonl')
  ]
  assert times == sorted(times) or not same_clock


def last_step(workdir: Path) -> int:
  """The step of the last whole line of the metrics."""
  path = workdir / 'metrics.jsonl'
  lines = path.read_bytes().split(b'\n')[:-1] if path.exists() else []
  return json.loads(lines[-1])['step'] if lines else 0


def printed_step(run: Run) -> int:
  """The step that a run has come to itself."""
  steps = re.findall(r'^step (\d+)/', run.printed(), re.MULTILINE)
  return int(steps[-1]) if steps else 0


def being_saved(workdir: Path) -> bool:
  """Whether a save is under way, or was when the run was killed."""
  return any(workdir.glob('checkpoints/*.orbax-checkpoint-tmp*'))


def largest_files(workdir: Path, step: int) -> list[Path]:
  """That of a checkpoint; a step that was being saved anew has several."""
  directory = RunDirectory(workdir / 'checkpoints')
  return [
    max(
      directory.path_of(copy).rglob('*'), key=lambda path: path.stat().st_size
    )
    for copy in directory.saved()
    if copy.step == step
  ]


def flip_a_bit(workdir: Path, step: int) -> None:
  """Damages a checkpoint as a bad disk does."""
  for path in largest_files(workdir, step):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(workdir: Path, step: int) -> None:
  """Damages a checkpoint as a crash of the file system does."""
  for path in largest_files(workdir, step):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class Victim:
  """A run that is started again after whatever happens to it."""

  def __init__(
    self, launcher: Launcher, flags: Sequence[str], workdir: Path, seed: int
  ) -> None:
    self.workdir = workdir
    self.random = random.Random(seed)
    self.torn = 0  # saves that were under way when it was killed
    self._launcher = launcher
    self._flags = (*flags, f'--workdir={workdir}')

  def checkpoints(self) -> list[int]:
    """The steps on disk."""
    return Checkpointer(self.workdir / 'checkpoints').steps()

  def start(self, clock_jump: int = 0) -> Run:
    """Starts it; checks that it goes on from the newest good checkpoint."""
    begun = (self.workdir / 'config.json').exists()
    expected = self.checkpoints()
    resume = ('--resume',) if begun else ()
    run = self._launcher.start(
      'sinusoid', *self._flags, *resume, clock_jump=clock_jump
    )
    if expected:
      run.until(lambda: 'resumed from' in run.printed())
      resumed = re.search(r'resumed from step (\d+)', run.printed())
      assert resumed
      assert int(resumed[1]) == expected[-1], (expected, run.printed())
    return run

  def go_on(self, run: Run, longest: int = 20) -> None:
    """Lets it take a few steps, as many as chance will have it."""
    run.until(lambda: printed_step(run))
    until = printed_step(run) + self.random.randrange(1, longest)
    run.until(lambda: printed_step(run) >= until)

  def kill(self, run: Run) -> None:
    """SIGKILL; nothing that was on disk may be gone."""
    before = self.checkpoints()
    run.kill()
    assert run.wait().code == -signal.SIGKILL
    self.torn += being_saved(self.workdir)
    assert self.checkpoints()[-1:] >= before[-1:]


def kill_at_any_moment(victim: Victim) -> None:
  """SIGKILL after a few steps and a moment."""
  run = victim.start()
  victim.go_on(run)
  time.sleep(0.02 * victim.random.random())
  victim.kill(run)


def kill_inside_a_save(victim: Victim) -> None:
  """SIGKILL while a checkpoint is being written."""
  run = victim.start()
  victim.go_on(run)
  run.until(lambda: being_saved(victim.workdir))
  victim.kill(run)


def kill_before_anything(victim: Victim) -> None:
  """SIGKILL while the program starts."""
  run = victim.start()
  time.sleep(victim.random.random())
  victim.kill(run)


def damage(
  how: Callable[[Path, int], None],
) -> Callable[[Victim], None]:
  """Damages the newest checkpoint of a run that was killed."""

  def fault(victim: Victim) -> None:
    run = victim.start()
    run.until(lambda: len(victim.checkpoints()) > 1)
    victim.go_on(run)
    victim.kill(run)
    *_, good, newest = victim.checkpoints()
    copies = len(largest_files(victim.workdir, newest))
    how(victim.workdir, newest)
    run = victim._launcher.start('sinusoid', *victim._flags, '--resume')
    run.until(lambda: 'resumed from' in run.printed())
    *passed_over, resumed = run.printed().splitlines()[: copies + 1]
    for line in passed_over:
      assert line.startswith(f'passed over a bad checkpoint: step {newest}: ')
    assert resumed == f'resumed from step {good}'
    # Until the step is saved anew, every start has to walk past the bad one.
    run.until(lambda: printed_step(run) > newest + EVERY)
    victim.kill(run)

  return fault


def fill_the_disk(victim: Victim) -> None:
  """No room for the next checkpoint; the run ends and says so."""
  run = victim.start()
  victim.go_on(run)
  filler = victim.workdir.parent / 'filler'
  with filler.open('wb', buffering=0) as file, contextlib.suppress(OSError):
    while True:
      file.write(bytes(2**16))
  before = victim.checkpoints()
  ended = run.wait()
  filler.unlink()
  assert ended.code == 2, ended
  assert 'No space left on device' in ended.stderr, ended
  assert 'put that right, and --resume goes on' in ended.stderr, ended
  assert victim.checkpoints()[-1:] >= before[-1:]


def ask_twice_to_stop(victim: Victim) -> None:
  """SIGTERM saves; a second one is obeyed at once."""
  run = victim.start()
  victim.go_on(run)
  run.kill(signal.SIGTERM)
  time.sleep(0.05 * victim.random.random())
  with contextlib.suppress(ProcessLookupError):
    run.kill(signal.SIGTERM)
  ended = run.wait()
  codes = PREEMPTED, 128 + signal.SIGTERM, -signal.SIGTERM
  assert ended.code in codes, ended
  if said := re.search(r'SIGTERM: saved step (\d+)', ended.stdout):
    assert victim.checkpoints()[-1] == int(said[1])


def let_the_clock_jump(victim: Victim) -> None:
  """The clock goes back by an hour while it runs."""
  run = victim.start(clock_jump=-HOUR)
  victim.go_on(run)
  time.sleep(0.1)
  victim.kill(run)


OTHERS = {
  'newest checkpoint truncated': damage(truncate),
  'bit of the newest checkpoint flipped': damage(flip_a_bit),
  'disk full': fill_the_disk,
  'SIGTERM twice': ask_twice_to_stop,
  'clock back by an hour': let_the_clock_jump,
}


class Outcome(NamedTuple):
  """What a trial did."""

  faults: list[str]
  torn_saves: int


def trial(
  launcher: Launcher, cache: str, folder: Path, kills: int, seed: int
) -> Outcome:
  """Disturbs a run, lets it end, and compares it with one left in peace.

  Args:
    launcher: starts runs.
    cache: flag of a compilation cache that may be damaged.
    folder: an empty one.
    kills: how often it is killed, beside all the other faults.
    seed: of the moments.
  """
  order = random.Random(seed)
  faults = [
    ('SIGKILL inside a save', kill_inside_a_save)
    if number % 3 == 1
    else ('SIGKILL', kill_at_any_moment)
    for number in range(kills)
  ]
  # The other faults come anywhere but first.
  for each in OTHERS.items():
    faults.insert(order.randrange(1, len(faults) + 1), each)
  steps = 60 * (len(faults) + 2)
  flags = (*TINY, f'--checkpoint_every={EVERY}', f'--steps={steps}', cache)
  launcher.succeed('sinusoid', *flags, f'--workdir={folder / "peace"}')
  done = []
  with small_disk(folder / 'disk') as limited:
    victim = Victim(launcher, flags, folder / 'disk' / 'run', seed)
    for name, fault in [('SIGKILL at start', kill_before_anything), *faults]:
      if name == 'disk full' and not limited:
        print('not root: no small disk to fill', flush=True)
        continue
      print(f'{name}, from step {last_step(victim.workdir)}', flush=True)
      fault(victim)
      done.append(name)
    ended = victim.start().wait()
    assert ended.code == 0, ended
    assert ended.stderr == ''
    assert not being_saved(victim.workdir)
    assert_same_run(victim.workdir, folder / 'peace', steps, same_clock=False)
  return Outcome(done, victim.torn)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
  """A file system of a few megabytes; whether there is one."""
  folder.mkdir()
  mounted = subprocess.run(
    ['mount', '-t', 'tmpfs', '-o', f'size={DISK_BYTES}', 'none', folder],
    capture_output=True,
  ).returncode
  try:
    yield not mounted
  finally:
    if not mounted:
      subprocess.run(['umount', '-l', folder], check=True)


def main() -> None:
  """Runs a trial by flags."""
  import argparse

  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--kills', type=int, default=30)
  parser.add_argument('--seed', type=int, default=0)
  arguments = parser.parse_args()
  begun = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / 'logs').mkdir()
    with serve(Path(folder) / 'logs') as launcher:
      outcome = trial(
        launcher,
        f'--cache_dir={folder}/cache',
        Path(folder),
        arguments.kills,
        arguments.seed,
      )
  print(
    f'{len(outcome.faults)} faults, {outcome.torn_saves} of them inside of'
    f' saves, in {time.monotonic() - begun:.0f} s; nothing was lost, and the'
    ' end is that of a run in peace'
  )


if __name__ == '__main__':
  sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
  os.environ.setdefault('XLA_FLAGS', '')
  main()
