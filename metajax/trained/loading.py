"""Loads what was trained: a run of an experiment, or an exported directory."""

import importlib
import json
from pathlib import Path
from typing import Any

from metajax.trained import portable
from metajax.trained.portable import MANIFEST, LearnerError, TrainedLearner

__all__ = ['LEARNER', 'load']

LEARNER = 'learner.json'  # in the workdir of a run


def load(path: str | Path, **options: Any) -> TrainedLearner:
  """Loads a learner with all that its run knew.

  The method, its network, what it has learned, how inputs are read, which
  statistics it normalises by, and the temperature of its probabilities.

  Args:
    path: of an exported directory, which needs nothing else; or the workdir of
      a run, for which the experiments have to be importable, as in a checkout.
    **options: of a run: `normalisation`, one of `'support'`, `'population'` and
      `'transductive'` (where all inputs of a call share their statistics), in
      place of that by which one query gets the same answer as among others; and
      `model_dir`, where the pretrained transformer is now that it stands on.

  Returns:
    What adapts to examples and predicts.

  Raises:
    LearnerError: if there is none, if the run is not finished or of an older
      format, or if its files are damaged.

  Example::

    learner = metajax.load('runs/x')
    adapted = learner.adapt({'cat': cats, 'dog': dogs})
    adapted.predict(images).labels
  """
  path = Path(path).expanduser()
  try:
    is_exported = (path / MANIFEST).exists()
  except OSError as error:
    raise LearnerError(f'{path}: {error.strerror}') from error
  if is_exported:
    if options:
      raise LearnerError(
        f'{path} is exported, and has no {", ".join(options)} to choose; export'
        ' the run again with it'
      )
    return portable.load(path)
  name = _experiment(path)
  try:
    module = importlib.import_module(name)
  except ImportError as error:
    raise LearnerError(
      f'{path} is a run of {name}, which cannot be imported ({error}); name the'
      ' checkout, which has the experiments, in PYTHONPATH, or export the run'
      ' there by experiments.export and load that'
    ) from error
  experiment = getattr(module, 'EXPERIMENT', None)
  if experiment is None or experiment.network is None:
    raise LearnerError(
      f'{path / LEARNER} is damaged: {name} keeps no learners for use'
    )
  learner: TrainedLearner = experiment.load(path, **options)
  return learner


def _experiment(path: Path) -> str:
  """The module of the experiment that a run is of."""
  file = path / LEARNER
  if not file.is_file():
    if not path.is_dir():
      raise LearnerError(f'{path}: there is no such directory')
    within = [*path.glob(f'*/{LEARNER}'), *path.glob(f'*/*/{LEARNER}')]
    if within and not (path / 'result.json').is_file():
      raise LearnerError(
        f'{path} is no run, but holds some; give one of them, such as'
        f' {min(within).parent}'
      )
    if not (path / 'config.json').is_file():
      raise LearnerError(f'{path} holds neither a run nor an exported learner')
    if (path / 'study.db').is_file():
      raise LearnerError(
        f'{path} is a search of settings, which keeps no learner; train the'
        ' best by the command that it ends with, and give the run'
      )
    if not (path / 'result.json').is_file():
      raise LearnerError(
        f'{path} is no run that has come to its end; if one was stopped there,'
        ' go on with it by --resume'
      )
    if reason := _why_not_kept(path / 'result.json'):
      raise LearnerError(f'{path} keeps no learner for use: {reason}')
    if not _may_go_on(path / 'config.json'):
      raise LearnerError(
        f'{path} is a run of an experiment that keeps no learner for use; what'
        ' it found is in its result.json'
      )
    raise LearnerError(
      f'{path} is a run of an experiment whose learners are not kept for use,'
      ' or of an older format; of that --resume, with the flags of the run,'
      ' tests it again and keeps one'
    )
  try:
    name = json.loads(file.read_text(encoding='utf-8'))['experiment']
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise LearnerError(f'{file} is damaged ({error})') from error
  if not (isinstance(name, str) and name.startswith('experiments.')):
    raise LearnerError(f'{file} is damaged: it names no experiment')
  return name


def _may_go_on(file: Path) -> bool:
  """Whether a run has --resume, as all that keep learners have."""
  try:
    given = json.loads(file.read_text(encoding='utf-8'))
  except (OSError, ValueError, RecursionError):
    return True  # what cannot be read says nothing
  return not isinstance(given, dict) or 'resume' in given


def _why_not_kept(file: Path) -> str | None:
  """What a result says of it, if it says something."""
  try:
    said = json.loads(file.read_text(encoding='utf-8'))['not_kept']
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return None
  return said if isinstance(said, str) else None
