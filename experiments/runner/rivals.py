"""What a method on tables has to beat: global models, and models of a task.

All see what the method sees: rows of training tasks, those and validation tasks
to choose how far to trust a task, and the support set. Queries are for
measuring alone. Trees are those of scikit-learn (`pip install -e
'.[baselines]'`), and are left out without it, which a warning says.
"""

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

__all__ = ['Given', 'Rows', 'TaskOf', 'rivals']

# How many support examples a prior counts as much as, of which one is chosen;
# and by how much a ridge on the columns of a task is held back.
_COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 1e9)
_RIDGE = 10.0


class Rows(NamedTuple):
  """Rows of many tasks."""

  features: np.ndarray  # [rows, features]
  targets: np.ndarray  # [rows], numbers, or classes 0 and 1


class TaskOf(NamedTuple):
  """A task on the host."""

  support: Rows
  query: Rows


class Given(NamedTuple):
  """What rivals learn from."""

  train: Rows
  tuning: list[TaskOf]  # of training, for what is not fitted to these
  validation: list[TaskOf]
  classes: bool
  known: int | None  # the column that is a prediction by itself
  known_name: str
  known_scale: tuple[float, float]  # slope and shift to the unit of targets


# Scores of the queries of tasks, `[tasks, queries]`: predictions, or log-odds
# of class 1; nan for tasks that are left out.
Rival = Callable[[Sequence[TaskOf]], np.ndarray]
Model = Callable[[np.ndarray], np.ndarray]

# Tasks that models of a task are tested on, at most: each is fitted anew.
_FITTED = 200


def rivals(given: Given) -> dict[str, Rival]:
  """All of them, by name; those that are of trees where these are installed."""
  found: dict[str, Rival] = {}
  centre = float(given.train.targets.mean())
  if given.classes:
    centre = float(_log_odds(np.array(centre)))
  models: dict[str, Model] = {
    'mean of training': lambda rows: np.full(len(rows), centre)
  }
  if given.known is not None:
    slope, shift = given.known_scale
    models[given.known_name] = lambda rows: slope * rows[:, given.known] + shift
  unfitted = tuple(models)
  models['global linear'] = _linear(given.train, given.classes)
  trees = importlib.util.find_spec('sklearn') is not None
  if not trees:
    warnings.warn(
      'rivals are without boosted trees, as scikit-learn is not installed; pip'
      " install -e '.[baselines]'",
      stacklevel=2,
    )
  else:
    models['global boosted trees'] = _trees(given.train, given.classes)
  for name, model in models.items():
    found[name] = partial(_asked, model)
    # Errors of a model are too small on the rows that it was fitted to.
    more = given.tuning if name in unfitted else []
    found[f'{name} + own shift'] = _shifted(
      model, [*more, *given.validation], given.classes
    )
  found['linear of the task'] = _fitted(_linear, given.classes)
  if trees:
    found['boosted trees of the task'] = _fitted(_trees, given.classes)
  return found


def _asked(model: Model, tasks: Sequence[TaskOf]) -> np.ndarray:
  """All queries at once, as a call costs more than a row."""
  rows = np.concatenate([task.query.features for task in tasks])
  return model(rows).reshape(len(tasks), -1)


def _known(model: Model, tasks: Sequence[TaskOf]) -> np.ndarray:
  """The same of support sets."""
  rows = np.concatenate([task.support.features for task in tasks])
  return model(rows).reshape(len(tasks), -1)


def _fitted(fit: Callable[[Rows, bool], Model], classes: bool) -> Rival:
  """A model of each of the first tasks, from its support set alone."""

  def scores(tasks: Sequence[TaskOf]) -> np.ndarray:
    found = np.full((len(tasks), len(tasks[0].query.targets)), np.nan)
    for number, task in enumerate(tasks[:_FITTED]):
      found[number] = fit(task.support, classes)(task.query.features)
    return found

  return scores


def _log_odds(shares: np.ndarray) -> np.ndarray:
  shares = np.clip(shares, 1e-4, 1 - 1e-4)
  odds: np.ndarray = np.log(shares / (1 - shares))
  return odds


def _shares(odds: np.ndarray) -> np.ndarray:
  shares: np.ndarray = 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
  return shares


def _loss(scores: np.ndarray, targets: np.ndarray, classes: bool) -> float:
  if classes:
    signs = np.where(targets > 0, -scores, scores)
    return float(np.mean(np.logaddexp(0, signs)))
  return float(np.mean(np.square(scores - targets)))


def _shifted(model: Model, tuning: list[TaskOf], classes: bool) -> Rival:
  """A model whose errors on the support set move it, but not all the way.

  How far is what is best on the queries of tasks that are not for the test.
  """

  def shift(scores: np.ndarray, targets: np.ndarray, count: float) -> float:
    if not classes:
      return float((targets - scores).sum() / (len(scores) + count))
    # The mode of the posterior, by Newton's method; a variance of a quarter is
    # that of an example of even odds.
    moved = 0.0
    for _ in range(20):
      shares = _shares(scores + moved)
      slope = (targets - shares).sum() - moved * count / 4
      moved += slope / ((shares * (1 - shares)).sum() + count / 4)
      moved = float(np.clip(moved, -10, 10))
    return moved

  losses = np.zeros(len(_COUNTS))
  known, asked = (
    _known(model, tuning),
    _asked(model, tuning),
  )
  for number, task in enumerate(tuning):
    for place, count in enumerate(_COUNTS):
      moved = shift(known[number], task.support.targets, count)
      losses[place] += _loss(asked[number] + moved, task.query.targets, classes)
  best = _COUNTS[int(np.argmin(losses))]

  def scores(tasks: Sequence[TaskOf]) -> np.ndarray:
    known = _known(model, tasks)
    moved = [
      shift(own, task.support.targets, best)
      for own, task in zip(known, tasks, strict=True)
    ]
    found: np.ndarray = _asked(model, tasks) + np.array(moved)[:, None]
    return found

  return scores


def _linear(rows: Rows, classes: bool) -> Model:
  """Ridge or logistic regression, by Newton's method, which both need."""
  features = np.pad(
    rows.features.astype(float), ((0, 0), (0, 1)), constant_values=1
  )
  # The constant is free, but for what a logistic regression needs to end.
  held = np.full(features.shape[1], _RIDGE if not classes else 1.0)
  held[-1] = 1e-2
  weights = np.zeros(features.shape[1])
  for _ in range(25 if classes else 1):
    scores = features @ weights
    fitted = _shares(scores) if classes else scores
    curvature = fitted * (1 - fitted) if classes else np.ones(len(scores))
    slope = features.T @ (rows.targets - fitted) - held * weights
    system = (features * curvature[:, None]).T @ features + np.diag(held)
    step = np.linalg.solve(system, slope)
    weights = weights + step * min(1.0, 5 / (np.abs(step).max() + 1e-9))

  def predict(inputs: np.ndarray) -> np.ndarray:
    found: np.ndarray = inputs @ weights[:-1] + weights[-1]
    return found

  return predict


def _trees(rows: Rows, classes: bool) -> Model:
  """Gradient-boosted trees; leaves of a tenth of few rows."""
  from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
  )
  from threadpoolctl import threadpool_limits

  few = len(rows.targets) < 1000
  kind: Any = (
    HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
  )
  model = kind(
    max_iter=30 if few else 100,
    learning_rate=0.1,
    max_leaf_nodes=4 if few else 15,
    min_samples_leaf=max(2, len(rows.targets) // 10) if few else 20,
    random_state=0,
    early_stopping=False,
  )
  # Threads of few rows wait for each other, for longer than one works.
  with threadpool_limits(1 if few else None):
    model.fit(rows.features, rows.targets)

  def predict(inputs: np.ndarray) -> np.ndarray:
    with threadpool_limits(1):
      if classes:
        return _log_odds(model.predict_proba(inputs)[:, 1])
      found: np.ndarray = model.predict(inputs)
      return found

  return predict
