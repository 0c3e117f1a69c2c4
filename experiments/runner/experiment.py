"""An experiment: settings, recipe, problem; from the shell and from Python."""

import contextlib
import json
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import STARTED
from experiments.runner import (
  cluster,
  flags,
  loop,
  report,
  seeds,
  tables,
  tracking,
)
from experiments.runner.cache import use_compilation_cache
from experiments.runner.common import Common
from experiments.runner.differences import naming_differences
from experiments.runner.errors import UsageError
from experiments.runner.gpus import prepare
from experiments.runner.interrupts import Interrupted
from experiments.runner.learners import restore
from experiments.runner.problem import Problem
from experiments.runner.reading import Network
from experiments.runner.training import DivergenceError
from metajax.algorithms.recipe import Recipe
from metajax.base import Objective
from metajax.objectives import cross_entropy
from metajax.tasks.errors import reason
from metajax.trained import TrainedLearner
from metajax.trained.loading import LEARNER

__all__ = ['Experiment', 'Outcome']

Outcome = dict[str, Any]

# What JAX says where something has more bytes, or numbers, than there can be.
_TOO_LARGE = re.compile('RESOURCE_EXHAUSTED|[Oo]ut of memory|out of bounds for')


class Experiment(NamedTuple):
  """What is particular to an experiment, and the ways to run it.

  `run` may be called from anywhere, any number of times; it changes nothing of
  the process that it runs in. `main` is the binary, to which the process
  belongs: it joins others, divides the cores and keeps compiled programs.
  """

  settings: type[Common]
  recipe: Callable[[Any], Recipe]  # from the settings, and checked against them
  problem: Callable[[Any, Recipe], Problem]
  # Whether operations are too small to be handed from thread to thread.
  small_operations: bool = False
  # The network without the data, of settings, recipe and `Reading.network`;
  # None: learners of runs are not kept for use.
  network: Callable[[Any, Recipe, Mapping[str, Any]], Network] | None = None
  objective: Objective = cross_entropy

  def run(self, settings: Common) -> Outcome:
    """Trains, tests and reports.

    Args:
      settings: of this experiment. With a `workdir` everything that the binary
        writes is there; without one nothing is left on the disk but decoded
        data, in the cache directory, and a run that is stopped is gone.

    Returns:
      What `result.json` holds, or what a dry run found.

    Raises:
      UsageError: if something is wrong with the settings or the data.
      DivergenceError: if meta-gradients are not finite for too long.
      Interrupted: if a signal stopped it; all is saved in the workdir.

    Programs stay compiled, for the next call; `jax.clear_caches()` frees them.
    """
    if not isinstance(settings, self.settings):
      raise TypeError(
        f'{self.settings.__module__}.run wants its own Settings, got'
        f' {type(settings).__module__}.{type(settings).__name__}'
      )
    if settings.resume and settings.workdir is None:
      raise UsageError('resume', 'needs --workdir, the directory of the run')
    seeds.check_settings(settings)
    tracking.check(settings)
    recipe = self.recipe(settings)
    prepare(settings.dry_run)
    cluster.check_processes(settings)
    with _within_memory(recipe):
      problem = self._problem(settings, recipe)
      if settings.workdir is not None:
        return loop.train_and_test(problem, Path(settings.workdir))
      with tempfile.TemporaryDirectory(prefix='metajax-') as folder:
        return loop.train_and_test(problem, Path(folder) / problem.name)

  def _problem(self, settings: Common, recipe: Recipe) -> Problem:
    """The problem; where there is none, says what a loaded run had."""
    if not settings.test_only:
      return self.problem(settings, recipe)
    with naming_differences(settings, recipe):
      return self.problem(settings, recipe)

  def load(
    self,
    workdir: str | Path,
    normalisation: str | None = None,
    model_dir: str | Path | None = None,
  ) -> TrainedLearner:
    """What a run has learned, for use (`metajax.load`)."""
    return restore(self, Path(workdir), normalisation, model_dir)

  def main(self) -> int:
    """The binary: flags in, files and a table out; returns the exit code."""
    return cluster.leave_with_the_others(
      lambda: flags.main(self.settings, self.start)
    )

  def start(self, settings: Common) -> int:
    """Runs in a process of its own; returns the exit code."""
    seeds.check_settings(settings)
    tracking.check(settings)
    recipe = self.recipe(settings)
    with _within_memory(recipe):
      return self._start(settings, recipe)

  def _start(self, settings: Common, recipe: Recipe) -> int:
    prepare(settings.dry_run)
    cluster.connect(settings)
    if settings.seeds > 1:  # which keep a thread busy on every device
      cluster.divide_cpu(settings, settings.seeds, 'seeds')
    else:
      if self.small_operations:
        cluster.single_thread(settings)
      if settings.dry_run is None:
        cluster.divide_cpu(settings, recipe.tasks_per_step)
    # Features of texts are computed with the problem.
    use_compilation_cache(settings.cache_dir)
    problem = self._problem(settings, recipe)
    workdir = Path(settings.workdir or Path('runs') / problem.name)
    named = problem.settings.replace(workdir=str(workdir))
    problem = problem._replace(settings=named)
    try:
      outcome = loop.train_and_test(problem, workdir, started=STARTED)
    except Interrupted as stop:
      # All is saved; whoever insists shall have the exit code that says so.
      signal.signal(signal.SIGTERM, signal.SIG_IGN)
      print(stop, flush=True)
      return stop.exit_code
    except DivergenceError as stop:
      print(stop, file=sys.stderr, flush=True)
      return 1
    if settings.dry_run is not None:
      return 0 if outcome['fits'] else 1
    if outcome:  # one process speaks for all
      report.show(problem, outcome)
      files = [each.name for each in workdir.iterdir() if each.name[0] != '.']
      tables.say(f'{workdir}: {", ".join(sorted(files))}')
      if LEARNER in files:
        tables.say(
          f'next: open {workdir / "report.html"}; try it: python -m'
          f' experiments.predict --run={workdir} --support=... --queries=...;'
          f' serve it: python -m experiments.export --run={workdir}'
          ' --output=DIR'
        )
    return 0

  def start_with(self, text: str) -> int:
    """Runs with settings that are written as JSON; returns the exit code."""
    return cluster.leave_with_the_others(
      lambda: flags.one_line(
        self.settings, lambda: self.start(self.settings(**json.loads(text)))
      )
    )


@contextlib.contextmanager
def _within_memory(recipe: Recipe) -> Iterator[None]:
  """What does not fit into memory is one line, which says what to lower."""
  try:
    yield
  except (MemoryError, OverflowError, jax.errors.JaxRuntimeError) as error:
    if not (isinstance(error, MemoryError) or _TOO_LARGE.search(str(error))):
      raise
    queries = recipe.queries
    largest = max(
      ('ways', recipe.ways), ('shots', recipe.shots), ('queries', queries),
      ('tasks_per_step', recipe.tasks_per_step), key=lambda pair: pair[1],
    )  # fmt: skip
    raise UsageError(
      largest[0],
      f'is {largest[1]}, and tasks of {recipe.ways} ways, {recipe.shots} shots'
      f' and {queries} queries do not fit into memory ({reason(error)}); lower'
      ' --ways, --shots, --queries, --tasks_per_step, --chunk_size or --width',
    ) from error
