"""Tracks a run in a store beside its workdir, and never loses it by that.

The workdir keeps what the run is called there (`tracking.json`), so a resume
goes on with the same one. The first of several processes tracks. What a store
refuses is a warning: all is in the workdir, and is written to the store at the
end if it can be reached then.
"""

import contextlib
import importlib.util
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import metajax
from experiments.runner.common import Tracked
from experiments.runner.errors import UsageError, printable
from experiments.runner.interrupts import Interrupted
from experiments.runner.problem import Problem
from experiments.runner.progress import shown
from experiments.runner.records import read_record
from experiments.runner.trackers import MLflow, Tracker, Wandb
from experiments.runner.workdir import write_json
from metajax.devices.distributed import is_primary
from metajax.runs.writers import read_json_lines
from metajax.trained import LearnerError, export
from metajax.trained.loading import LEARNER

__all__ = ['Tracking', 'check', 'tracked']

_RECORD = 'tracking.json'
_FILES = ('config.json', 'result.json', 'metrics.jsonl', 'report.html')
_SCHEME = re.compile(r'(sqlite|postgresql|mysql|mssql|https?)(\+\w+)?://.+')
_PACKAGES = {'mlflow': ('mlflow', 'sqlalchemy'), 'wandb': ('wandb',)}


def check(settings: Tracked) -> None:
  """Refuses what cannot be, before anything is read or trained.

  Raises:
    UsageError: if the package is missing, or the store has no address.
  """
  track, uri = settings.track, settings.track_uri
  if uri is not None and track != 'mlflow':
    raise UsageError('track_uri', 'goes with --track=mlflow')
  if track is None:
    return
  if any(importlib.util.find_spec(name) is None for name in _PACKAGES[track]):
    raise UsageError(
      'track', f"{track} is not installed; pip install -e '.[track]' does it"
    )
  if uri is not None and not _SCHEME.fullmatch(uri):
    raise UsageError(
      'track_uri',
      'must be the address of a database or a server, such as'
      ' sqlite:////home/me/mlflow.db or http://host:5000',
      uri,
    )


class Tracking:
  """The run in a store; after a failure it is tried again at the end alone.

  Args:
    problem: of the run.
    workdir: of the run.
    settings: what the store is to have of them, by name.
  """

  def __init__(
    self, problem: Problem, workdir: Path, settings: Mapping[str, Any]
  ) -> None:
    self._problem, self._workdir = problem, workdir
    self._settings = {
      name: value for name, value in settings.items() if value is not None
    }
    self._tracker: Tracker | None = None
    self._failed = False
    self._attempt('begin', self._begin)

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Records metrics in the store."""
    tracker = self._tracker
    if tracker is not None and not self._failed:
      self._attempt('take metrics', lambda: tracker.write(step, metrics))

  def close(self) -> None:
    """Does nothing: `end` does, when pictures are there, too."""

  def finish(self, outcome: Mapping[str, Any]) -> None:
    """Keeps what there is at the end of a run."""
    again, self._failed = self._failed, False
    if self._tracker is None:
      self._attempt('begin', self._begin)
    tracker = self._tracker
    if tracker is None:
      return
    if again:
      self._attempt('take metrics', lambda: self._catch_up(tracker))
    results = _results(outcome)
    self._attempt(
      'take results',
      lambda: tracker.write(outcome['steps'], results, anew=True),
    )
    files = [
      *sorted(self._workdir.glob('*.png')),
      *(self._workdir / name for name in _FILES),
    ]
    kept = [path for path in files if path.is_file()]
    self._attempt('take files', lambda: tracker.files(kept))
    if (self._workdir / LEARNER).exists():
      self._attempt('take the model', lambda: self._keep_model(tracker))

  def end(self, status: str) -> None:
    """Says how the run has ended: `FINISHED`, `FAILED` or `KILLED`."""
    tracker = self._tracker
    if tracker is not None:
      self._attempt('end', lambda: tracker.end(status))

  def _begin(self) -> None:
    record = self._workdir / _RECORD
    known = read_record(record, 'workdir') if record.exists() else {}
    given = self._problem.settings
    kind = given.track or ''
    group = f'metajax-{self._problem.protocol["dataset"]}'.replace(':', '-')
    name, identity = self._problem.name, known.get(kind)
    tracker: Tracker
    if kind == 'mlflow':
      folder = self._workdir.resolve().parent
      uri = given.track_uri or f'sqlite:///{folder / "mlflow.db"}'
      tracker = MLflow(uri, folder / 'mlflow', group, name, identity)
    else:
      tracker = Wandb(self._workdir, group, name, identity)
    # Before anything is written there, or a killed run would begin another.
    write_json(record, {**known, kind: tracker.identity})
    tracker.begin(self._settings)
    self._tracker = tracker

  def _catch_up(self, tracker: Tracker) -> None:
    for line in read_json_lines(self._workdir / 'metrics.jsonl'):
      step = line['step']
      tracker.write(
        step, {name: x for name, x in line.items() if name not in _NO_METRICS}
      )

  def _keep_model(self, tracker: Tracker) -> None:
    with (
      shown('exporting for the store'),
      tempfile.TemporaryDirectory(prefix='metajax-') as folder,
    ):
      learner = metajax.load(self._workdir)
      directory = Path(folder) / 'learner'
      try:
        manifest = export(learner, directory)
      except LearnerError as error:
        raise ValueError(f'it cannot be exported: {error}') from error
      name = re.sub(r'[/:]', '-', self._problem.name)
      tracker.model(directory, name, manifest['digest'])

  def _attempt(self, what: str, act: Callable[[], None]) -> None:
    """Does it, or warns, once a run for each of what fails."""
    try:
      act()
    except Exception as error:  # Whatever a store or a network makes of it.
      self._failed = True
      reason = printable(' '.join(str(error).split())[:300])
      warnings.warn(
        f'{self._problem.settings.track} could not {what}'
        f' ({type(error).__name__}: {reason}); the run goes on, and all is in'
        f' {self._workdir}',
        stacklevel=2,
      )


_NO_METRICS = ('step', 'time')


def _results(outcome: Mapping[str, Any]) -> dict[str, float]:
  """The figures of a result, as metrics of its last step."""
  test = outcome['test']
  found = {
    f'test/{name}': each['mean'] for name, each in test['metrics'].items()
  }
  found['test/ci95'] = test['ci95']
  found |= {
    f'baseline/{name}': each for name, each in outcome['baseline'].items()
  }
  calibration = outcome.get('calibration', {})
  for name in ('expected_calibration_error', 'temperature'):
    found[f'calibration/{name}'] = calibration.get(name)
  for name in ('tasks_per_second', 'training_seconds', 'parameters'):
    found[name] = outcome[name]
  return {
    name: float(value) for name, value in found.items() if value is not None
  }


@contextlib.contextmanager
def tracked(
  problem: Problem, workdir: Path, settings: Mapping[str, Any]
) -> Iterator[Tracking | None]:
  """Tracks what happens in a block, if the settings say so.

  Args:
    problem: of the run.
    workdir: of the run.
    settings: what the store is to have of them, by name.
  """
  if problem.settings.track is None or not is_primary():
    yield None
    return
  tracking, status = Tracking(problem, workdir, settings), 'FAILED'
  try:
    yield tracking
    status = 'FINISHED'
  except Interrupted:
    status = 'KILLED'
    raise
  finally:
    tracking.end(status)
