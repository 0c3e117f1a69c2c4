"""Searches settings: which rates, which method, for the data that there are.

  python -m experiments.sweep --experiment=images --trials=40
      --search='inner_lr=log:0.01:1,outer_lr=log:1e-4:1e-2'

tries settings of `experiments.images` (or of `text`, `sinusoid`), whose flags
it has, too; `algorithm=maml|meta_sgd` tries methods. A trial is trained on all
but one of --folds parts of the training classes, and judged on that part, for
each of them; classes of validation and of test are never seen. Trials that
differ in rates are one program. optuna proposes what to try, and prunes what is
worse than the median of others at a rung.

The workdir receives the study (`study.db`), `sweep.json`, `report.html`,
`importance.png`, `parallel.png` and `best.flags`, the best settings, for the
command that is printed. The same command goes on after whatever stopped it. It
needs optuna: pip install -e '.[sweep]'. See docs/guides/sweep.md.
"""

import functools
import importlib.util
import itertools
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments import images, sinusoid, text
from experiments.figures import sweeps
from experiments.reports import of_sweep
from experiments.runner import cluster, flags, runs, search
from experiments.runner.cache import use_compilation_cache
from experiments.runner.common import Common
from experiments.runner.errors import UsageError, printable
from experiments.runner.paths import Place
from experiments.runner.settings import (
  OneOf,
  Text,
  Whole,
  said,
  setting,
  settings,
)
from experiments.runner.workdir import Workdir
from metajax.devices.streaming import HostSampler
from metajax.metric import Metric

__all__ = ['EXPERIMENTS', 'run', 'settings_of']

EXPERIMENTS: dict[str, ModuleType] = {
  'images': images, 'sinusoid': sinusoid, 'text': text
}  # fmt: skip

# What an experiment has, and a sweep has no use for: not in its --help, and
# refused.
_UNUSED = (
  'seeds', 'load', 'load_seed', 'load_share', 'other_data', 'test_only',
  'resume', 'dry_run', 'profile', 'mesh', 'shard', 'distributed', 'fold',
  'num_processes', 'process_id', 'stall_seconds', 'teacher', 'out_of_scope',
  'track', 'track_uri',
  'test_checkpoint', 'checkpoint_every', 'log_every',
)  # fmt: skip


@functools.cache
def settings_of(name: str) -> type[Common]:
  """The settings of a sweep over those of an experiment, by its name."""
  base = EXPERIMENTS[name].Settings

  @settings
  class Settings(base):  # type: ignore[misc, valid-type]
    """What is searched, and how; the rest is the same for all trials."""

    experiment: str = setting(
      name, OneOf(list(EXPERIMENTS)), 'whose settings are searched',
      of='tasks', resume=False,
    )  # fmt: skip
    search: str = setting(
      '', Text(), 'NAME=log:LOW:HIGH, NAME=LOW:HIGH or NAME=A|B|C, with commas'
      ' between them: settings of the method and of training, and what --set'
      ' assigns',
      of='training', resume=False,
    )  # fmt: skip
    trials: int = setting(
      40, Whole(), 'how many in all; more of them go on with the study',
      of='machine', resume=True,
    )  # fmt: skip
    folds: int = setting(
      3, Whole(2), 'parts of the training classes that a trial is judged on in'
      ' turn; strokes and waves, of which there is no end, have one',
      of='training', resume=False,
    )  # fmt: skip
    rungs: int = setting(
      4, Whole(), 'how often trials are judged, and the worse ones pruned',
      of='training', resume=False,
    )  # fmt: skip
    at_once: int = setting(
      8, Whole(), 'trials that are proposed together, and trained as one'
      ' program where they differ in rates alone',
      of='machine', resume=True,
    )  # fmt: skip
    workers: int = setting(
      1, Whole(), 'processes that try in parallel', of='machine', resume=True
    )
    workdir: str = setting(
      f'runs/sweep-{name}', Place(), 'where the results go',
      of='machine', resume=True,
    )  # fmt: skip

  made: type[Common] = Settings
  return made


def given_of(settings: Any) -> Common:
  """The settings of the experiment itself."""
  cls = EXPERIMENTS[settings.experiment].Settings
  own: Common = cls(
    **{name: getattr(settings, name) for name in said(cls) if name != 'workdir'}
  )
  return own


def run(settings: Any) -> int:
  """Tries what is left to try, then reports; returns the exit code."""
  searched = _checked(settings)
  metric = _metric_of(settings)
  from experiments.runner import study

  workdir = Path(settings.workdir)
  runs.claim(workdir, settings, 'study')
  taken = Workdir(workdir, resume=False)
  taken.take()
  try:
    with study.quietly(), runs.leave_on_sigterm():
      experiment = EXPERIMENTS[settings.experiment].EXPERIMENT
      opened = study.Study(
        settings, experiment, given_of(settings), searched, metric
      )
      opened.take_up()
      if settings.workers == 1:
        opened.work()
      else:
        _work_together(settings)
      found = study.report(opened)
  finally:
    taken.release()
  if not found.best:
    print('no trial came to its end; search elsewhere, or try more of them')
    return 1
  title = f'{settings.experiment}, {len(found.best)} trials to the end'
  if found.importance:
    sweeps.importance(workdir / 'importance.png', found.importance, title)
  logarithmic = {each.name: each.log for each in searched}
  sweeps.parallel(
    workdir / 'parallel.png', found.best, logarithmic, metric, title
  )
  best = shlex.quote(f'--flagfile={workdir / "best.flags"}')
  # In a directory of its own: that of the usual settings may be taken.
  into = shlex.quote(f'--workdir={workdir / "best"}')
  best = printable(f'python -m experiments.{settings.experiment} {best} {into}')
  of_sweep.write(
    workdir, settings, title=title, trials=found.best,
    importance=found.importance, logarithmic=logarithmic, metric=metric,
    best=best, folds=found.folds,
  )  # fmt: skip
  files = [each.name for each in workdir.iterdir() if each.name[0] != '.']
  print(printable(f'{workdir}: {", ".join(sorted(files))}'))
  print(best)
  return 0


def work(text: str, parent: str) -> int:
  """One of several processes: tries until all trials are done.

  Args:
    text: the settings, as JSON.
    parent: number of the process that has started this one.
  """
  _end_with(int(parent))
  values = json.loads(text)
  settings: Any = settings_of(values['experiment'])(**values)
  use_compilation_cache(settings.cache_dir)
  from experiments.runner import study

  experiment = EXPERIMENTS[settings.experiment].EXPERIMENT
  with study.quietly():
    study.Study(
      settings,
      experiment,
      given_of(settings),
      _checked(settings),
      _metric_of(settings),
    ).work()
  return 0


def _end_with(parent: int) -> None:
  """Ends this process soon after its parent, which may be killed.

  Its trials would be taken for those of nobody, and tried once more.
  """

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(1)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _metric_of(settings: Any) -> Metric:
  """What trials are judged by; refuses data that cannot be folded."""
  given: Any = given_of(settings)
  if hasattr(given, 'fold') and given.dataset != 'strokes':
    given = given.replace(fold=f'1/{settings.folds}')
  experiment = EXPERIMENTS[settings.experiment].EXPERIMENT
  problem = experiment.problem(given, experiment.recipe(given))
  if isinstance(problem.train, HostSampler):
    raise UsageError(
      'images_on', 'trials draw their tasks on the device; --images_on=device'
    )
  metric: Metric = problem.metric
  return metric


def _start(settings: Any) -> int:
  """Runs in a process of its own, which may have all cores."""
  _checked(settings)  # before anything of JAX is touched
  if settings.workers == 1 and not cluster.devices_are_chosen():
    cluster.divide_cpu(settings, settings.at_once)
  use_compilation_cache(settings.cache_dir)
  return run(settings)


def _work_together(settings: Any) -> None:
  """Starts the processes, and waits for their end."""
  threads = max(1, (os.cpu_count() or 1) // settings.workers)
  command = [
    sys.executable, '-c', _WORKER, json.dumps(settings.given()),
    str(os.getpid()),
  ]  # fmt: skip
  workers = [
    subprocess.Popen(command, env={'NPROC': str(threads), **os.environ})
    for _ in range(settings.workers)
  ]
  try:
    codes = [worker.wait() for worker in workers]
  finally:
    for worker in workers:
      worker.terminate()
  if failed := [code for code in codes if code]:
    raise UsageError(
      'workers',
      f'{len(failed)} of {settings.workers} ended badly, with exit code'
      f' {failed[0]}; the same command goes on',
    )


_WORKER = (
  'import sys; from experiments import sweep;'
  ' sys.exit(sweep.work(*sys.argv[1:]))'
)


def _checked(settings: Any) -> tuple[search.Searched, ...]:
  """Refuses what cannot be swept, before anything is written."""
  usual = type(settings)()
  if settings.experiment != usual.experiment:  # such as in a file of flags
    raise UsageError(
      'experiment', 'says which flags there are; give it on the command line',
      settings.experiment,
    )  # fmt: skip
  for name in _UNUSED:
    if getattr(settings, name, None) != getattr(usual, name, None):
      raise UsageError(name, 'has no meaning for a sweep; leave it out')
  if not settings.search.strip():
    raise UsageError(
      'search', 'says what is tried, such as inner_lr=log:0.01:1'
    )
  if importlib.util.find_spec('optuna') is None:
    raise UsageError(
      'search',
      "needs optuna, which is not installed; pip install -e '.[sweep]' does it",
    )
  given = given_of(settings)
  searched = search.parse(settings.search, type(given), given)
  experiment = EXPERIMENTS[settings.experiment].EXPERIMENT
  algorithms = next(
    (each.choices for each in searched if each.name == 'algorithm'),
    (given.algorithm,),
  )
  for algorithm in algorithms:
    first = {each.name: each.first for each in searched}
    trial = search.as_settings(given, first | {'algorithm': algorithm})
    recipe = experiment.recipe(trial)
    if recipe.steps == 0:
      raise UsageError('search', f'{algorithm} needs no training')
    if recipe.steps < settings.rungs:
      raise UsageError(
        'rungs', f'are {settings.rungs}, and there are {recipe.steps} steps'
      )
  return searched


def main() -> int:
  """The binary, whose flags are those of the experiment, too."""
  return flags.main(settings_of(_named(sys.argv[1:])), _start, hidden=_UNUSED)


def _named(arguments: Sequence[str]) -> str:
  """The experiment that arguments name, as one or as two of them."""
  name = 'images'
  for argument, after in itertools.pairwise([*arguments, '']):
    flag, equals, value = argument.lstrip('-').partition('=')
    value = value if equals else after
    if flag == 'experiment' and value in EXPERIMENTS:
      name = value
  return name


if __name__ == '__main__':
  sys.exit(main())
