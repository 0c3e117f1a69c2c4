"""The study of a sweep: what was tried, what is tried next, what was best."""

import contextlib
import fcntl
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import (
  BaseDistribution,
  CategoricalDistribution,
  FloatDistribution,
  IntDistribution,
)
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments.runner import tables
from experiments.runner.common import Common
from experiments.runner.errors import UsageError, printable
from experiments.runner.experiment import Experiment
from experiments.runner.flagfile import flagfile
from experiments.runner.search import Searched
from experiments.runner.trials import Group, grouped, run_group
from experiments.runner.workdir import open_file, write_json, write_text
from metajax.metric import Metric

__all__ = ['Found', 'Study', 'quietly', 'report']

_NAME = 'sweep'
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_REFUSED = 'refused'  # why a trial could not be made, among what it is told
_FOLDS = 'by_fold'


@contextlib.contextmanager
def quietly() -> Iterator[None]:
  """Keeps the log of optuna off the terminal: its failures are exceptions."""
  before = optuna.logging.get_verbosity()
  optuna.logging.set_verbosity(optuna.logging.ERROR)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
    try:
      yield
    finally:
      optuna.logging.set_verbosity(before)


class Study:
  """Trials of a sweep, in a file that outlives processes that work on it."""

  def __init__(
    self,
    settings: Any,
    experiment: Experiment,
    given: Common,
    searched: Sequence[Searched],
    metric: Metric,
  ) -> None:
    self.settings = settings
    self.experiment = experiment
    self.given = given
    self.searched = searched
    self.workdir = Path(settings.workdir)
    self.metric = metric
    try:
      self.study = optuna.create_study(
        storage=f'sqlite:///{(self.workdir / "study.db").absolute()}',
        study_name=_NAME,
        load_if_exists=True,
        direction='maximize' if metric.higher_is_better else 'minimize',
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
      )
      tried = len(self.study.get_trials(deepcopy=False))
    except Exception as error:  # of whatever the file holds
      raise UsageError(
        'workdir', f'{self.workdir / "study.db"} cannot be read ({error})'
      ) from error

    # Who goes on must not propose the same once more, nor two at once.
    own = [settings.seed, tried, os.getpid() if settings.workers > 1 else 0]
    seed = int(np.random.SeedSequence(own).generate_state(1)[0])
    self.study.sampler = optuna.samplers.TPESampler(
      seed=seed, constant_liar=True
    )

  def take_up(self) -> None:
    """Tries again what was being tried when the processes were stopped."""
    for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
      self.study.enqueue_trial(trial.params)
      self.study.tell(trial.number, state=TrialState.FAIL)

  def work(self) -> None:
    """Tries until there are as many trials as are wanted."""
    while trials := self._ask():
      values = [each.params for each in trials]
      for group in grouped(self.experiment, self.given, values):
        self._try([trials[index] for index in group.members], group)

  def ended(self) -> list[FrozenTrial]:
    """Trials that have come to an end."""
    return [
      each
      for each in self.study.get_trials()
      if each.state in _ENDED or _REFUSED in each.user_attrs
    ]

  def _ask(self) -> list[Trial]:
    """Takes some of the trials that are left."""
    lock = open_file(self.workdir / '.asking', os.O_RDWR | os.O_CREAT)
    try:
      fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes one at a time
      running = self.study.get_trials(states=(TrialState.RUNNING,))
      left = self.settings.trials - len(self.ended()) - len(running)
      share = -(-left // self.settings.workers)
      return [
        self.study.ask(
          {each.name: _distribution(each) for each in self.searched}
        )
        for _ in range(min(share, self.settings.at_once))
      ]
    finally:
      os.close(lock)

  def _folds(self, group: Group) -> list[str | None]:
    settings: Any = group.settings
    if not hasattr(settings, 'fold'):
      return [None]
    if settings.dataset == 'strokes':
      return ['1/2']  # other ones of training, whichever it is
    number = self.settings.folds
    return [f'{part}/{number}' for part in range(1, number + 1)]

  def _try(self, trials: Sequence[Trial], group: Group) -> None:
    going = dict(enumerate(trials))
    try:
      rungs = self.settings.rungs
      steps = run_group(self.experiment, group, self._folds(group), rungs)
      scores = next(steps)
      while True:
        for index, trial in list(going.items()):
          value = float(scores.mean[index])
          trial.set_user_attr(_FOLDS, scores.by_fold[:, index].tolist())
          if math.isfinite(value):
            trial.report(value, scores.rung)
          if scores.rung + 1 == rungs and math.isfinite(value):
            self.study.tell(trial, value)
          elif not math.isfinite(value) or trial.should_prune():
            self.study.tell(trial, state=TrialState.PRUNED)
          else:
            continue
          del going[index]
          self._say(trial, value, scores.rung)
        if not going:
          return
        scores = steps.send([x for x in range(len(trials)) if x not in going])
    except UsageError as error:
      for trial in going.values():
        trial.set_user_attr(_REFUSED, str(error))
        self.study.tell(trial, state=TrialState.FAIL)
        print(printable(f'trial {trial.number}: {error}'), flush=True)

  def _say(self, trial: Trial, value: float, rung: int) -> None:
    how = '' if rung + 1 == self.settings.rungs else f', pruned at rung {rung}'
    found = self.metric.format(value) if math.isfinite(value) else 'not finite'
    print(
      printable(
        f'trial {trial.number}: {self.metric.heading} {found}{how};'
        f' {_described(trial.params)}'
      ),
      flush=True,
    )


def _distribution(searched: Searched) -> BaseDistribution:
  if searched.choices:
    return CategoricalDistribution(searched.choices)
  low, high = searched.low, searched.high
  assert low is not None  # a range has both ends
  assert high is not None
  if searched.is_continuous:
    return FloatDistribution(low, high, log=searched.log)
  return IntDistribution(int(low), int(high), log=searched.log)


def _described(values: dict[str, Any]) -> str:
  return ', '.join(f'{name} {_shown(x)}' for name, x in values.items())


def _shown(value: Any) -> str:
  return f'{value:.3g}' if isinstance(value, float) else str(value)


class Found(NamedTuple):
  """What a study has found: the best first, and what matters."""

  best: list[tuple[dict[str, Any], float]]  # settings, and what they reached
  importance: dict[str, float]
  folds: int  # that trials are judged on; one, where there are no classes


def report(study: Study) -> Found:
  """Writes and prints what was found."""
  metric, workdir = study.metric, study.workdir
  ended = study.ended()
  whole = [each for each in ended if each.state == TrialState.COMPLETE]
  whole.sort(key=lambda each: metric.sort_key(_value(each)))
  importance = _importance(study, whole)
  write_json(
    workdir / 'sweep.json',
    {
      'metric': metric._replace(measure=None)._asdict(),
      'importance': importance,
      'trials': [_record(each) for each in study.study.get_trials()],
    },
  )
  pruned = sum(each.state == TrialState.PRUNED for each in ended)
  print(f'{len(whole)} trials to the end, {pruned} pruned')
  folds = 1
  if whole:
    header = ['trial', metric.heading, *(each.name for each in study.searched)]
    rows = [
      [
        str(each.number),
        metric.format(_value(each)),
        *(_shown(each.params[one.name]) for one in study.searched),
      ]
      for each in whole[:10]
    ]
    folds = len(whole[0].user_attrs[_FOLDS])
    title = f'the best of {len(ended)} trials'
    title += f', means over {folds} folds' if folds > 1 else ''
    tables.show([header, *rows], 1, title)
    flags = flagfile(study.given, whole[0].params)
    write_text(workdir / 'best.flags', flags)
  best = [(each.params, _value(each)) for each in whole]
  return Found(best, importance, folds)


def _value(trial: FrozenTrial) -> float:
  return math.nan if trial.value is None else float(trial.value)


def _record(trial: FrozenTrial) -> dict[str, Any]:
  return {
    'number': trial.number,
    'state': trial.state.name.lower(),
    'value': trial.value,
    'by_rung': [
      value for _, value in sorted(trial.intermediate_values.items())
    ],
    'by_fold': trial.user_attrs.get(_FOLDS),
    'refused': trial.user_attrs.get(_REFUSED),
    'settings': trial.params,
  }


def _importance(study: Study, whole: Sequence[FrozenTrial]) -> dict[str, float]:
  """Of each setting, the share of what differs; none of very few trials."""
  if len(whole) < 4 or len({_value(each) for each in whole}) < 2:
    return {}
  try:
    found = optuna.importance.get_param_importances(study.study)
  except (ValueError, RuntimeError):  # of settings that did not differ
    return {}
  return {name: float(share) for name, share in found.items()}
