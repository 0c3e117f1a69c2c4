"""What a page shows and `result.json` does not have, of a run that has ended.

It is kept in `report.json`, so that the page can be written again without the
data and without a device.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.data.samplers import Classes
from experiments.figures.finished import of_task, outputs_of, seeds_of
from experiments.reports import of_run
from experiments.reports.again import given
from experiments.reports.examples import Show, names_in
from experiments.runner.loop import Finished
from experiments.runner.workdir import write_json
from metajax.base import values_and_weights
from metajax.equality import Frozen
from metajax.metric import Metric
from metajax.trained import reliability
from metajax.trained.calibration import BINS

__all__ = ['calibration', 'confusion', 'gather', 'report']

# Tasks whose queries are counted; those of large networks cost more.
_TASKS, _TASKS_OF_LARGE = 200, 40
_MISTAKEN, _PAIRS = 8, 10  # classes and pairs that are shown
_NONE = 'none of the task'  # what fills up tasks of fewer classes


def report(
  run: Finished,
  show: Show,
  besides: Show | None = None,
  names: Classes | None = None,
  are_classes: bool = False,
) -> None:
  """Writes `report.json` and `report.html` into the workdir of a run.

  Args:
    run: that has ended.
    show: makes plain data of a test task.
    besides: the same of tasks of other kinds that were tested; it takes their
      `sample` by name.
    names: of classes, where they have some.
    are_classes: whether outputs are logits of classes.
  """
  found = gather(run, show, besides, names, are_classes)
  write_json(run.workdir / of_run.DATA, found)
  of_run.write(run.workdir)


def gather(
  run: Finished,
  show: Show,
  besides: Any = None,
  names: Classes | None = None,
  are_classes: bool = False,
) -> dict[str, Any]:
  """What `report.json` holds; see `report`."""
  assert run.evaluation is not None  # of a run that was tested
  problem, metric = run.problem, run.problem.metric
  by_step = np.asarray(run.evaluation.values[metric.name], float)
  values = by_step[:, -1]
  chosen = _chosen(values, metric)
  large = isinstance(run.judge.learner, Frozen)
  number = min(len(values), _TASKS_OF_LARGE if large else _TASKS)
  indices = [*range(number if are_classes else 0), *chosen.values()]
  targets, outputs = outputs_of(run, problem.test, indices)
  tasks = [
    show(run, index, of_task(outputs, place))
    | {
      'which': which,
      'number': index,
      'value': float(values[index]),
      'before': float(by_step[index, 0]) if by_step.shape[1] > 1 else None,
    }
    for place, (which, index) in enumerate(
      chosen.items(), len(indices) - len(chosen)
    )
  ]
  found = {
    'version': 1,
    **given(problem.settings),
    'values': [round(value, 6) for value in values.tolist()],
    'tasks': tasks,
  }
  if (differ := run.outcome['test'].get('tasks')) is not None:
    found['tasks_that_differ'] = differ
  if seeds := seeds_of(run):  # all of this is of the first
    found['seed'] = seeds[0]
  if besides is not None:
    found['besides'] = {
      name: besides(
        run,
        0,
        of_task(outputs_of(run, each.test, [0])[1], 0),
        sample=each.test,
      )
      | {'which': name, 'number': 0, 'value': None, 'before': None}
      for name, each in problem.besides.items()
    }
  if are_classes:
    labels, weights = values_and_weights(targets)
    labels = np.asarray(labels)[:number]
    asked = np.ones(labels.shape, bool)
    if weights is not None:
      asked = np.asarray(weights)[:number] > 0
    last = outputs[:number, -1]
    found['calibration'] = calibration(last[asked], labels[asked], number)
    if names is not None:
      known = [names_in(names, index) for index in range(number)]
      found['confusion'] = confusion(last.argmax(-1), labels, asked, known)
  return found


def _chosen(values: np.ndarray, metric: Metric) -> dict[str, int]:
  """The numbers of the tasks that are shown.

  Of equals it is the first, but for task 0, which is shown anyway.
  """
  keys = [metric.sort_key(value) for value in values.tolist()]
  worst, best = (
    next((i for i, key in enumerate(keys) if i and key == end), 0)
    for end in (max(keys), min(keys))
  )
  return {'first': 0, 'worst': worst, 'best': best}


def calibration(
  logits: np.ndarray, labels: np.ndarray, tasks: int
) -> dict[str, Any]:
  """How often predictions are right, by how sure they are.

  Args:
    logits: `[queries, classes]` of several tasks.
    labels: `[queries]`, their classes.
    tasks: how many these are of.
  """
  finite = np.isfinite(logits).all(-1)
  logits, labels = logits[finite], labels[finite]
  found: dict[str, Any] = {
    'tasks': tasks,
    'queries': len(labels),
    'not_finite': int((~finite).sum()),
    'bins': [],
    'expected_calibration_error': None,
  }
  if not len(labels):
    return found
  diagram = reliability(logits, labels)
  found['bins'] = [
    {
      'low': place / BINS,
      'high': (place + 1) / BINS,
      'confidence': confidence,
      'accuracy': accuracy,
      'queries': round(share * len(labels)),
    }
    for place, (share, confidence, accuracy) in enumerate(
      zip(diagram.share, diagram.confidence, diagram.accuracy, strict=True)
    )
    if share
  ]
  return found | {'expected_calibration_error': diagram.error}


def confusion(
  predicted: np.ndarray,
  labels: np.ndarray,
  asked: np.ndarray,
  names: Sequence[Mapping[int, str]],
) -> dict[str, Any]:
  """Which classes are taken for which, over several tasks.

  Args:
    predicted: `[tasks, queries]` classes.
    labels: `[tasks, queries]`, those that are right.
    asked: `[tasks, queries]`, whether a query counts.
    names: of the classes of each task.

  Returns:
    The pairs that are mistaken most often, with the number of queries of the
    one class in tasks that have the other; and a matrix of the classes that
    most mistakes are about.
  """
  taken, chances = dict[tuple[str, str], int](), dict[tuple[str, str], int]()
  for task, known in enumerate(names):
    for query in np.flatnonzero(asked[task]):
      true = known[int(labels[task, query])]
      for other in {*known.values(), _NONE}:
        chances[true, other] = chances.get((true, other), 0) + 1
      pair = true, known.get(int(predicted[task, query]), _NONE)
      taken[pair] = taken.get(pair, 0) + 1
  wrong = {pair: number for pair, number in taken.items() if len({*pair}) > 1}
  pairs = sorted(wrong, key=lambda p: (-wrong[p], -wrong[p] / chances[p], p))
  about = dict[str, int]()
  for pair, number in wrong.items():
    for name in pair:
      about[name] = about.get(name, 0) + number
  shown = sorted(about, key=lambda name: (-about[name], name))[:_MISTAKEN]
  return {
    'tasks': len(names),
    'queries': int(asked.sum()),
    'wrong': sum(wrong.values()),
    'pairs': [[*pair, wrong[pair], chances[pair]] for pair in pairs[:_PAIRS]],
    'classes': shown,
    'taken': [[taken.get((a, b), 0) for b in shown] for a in shown],
    'chances': [[chances.get((a, b), 0) for b in shown] for a in shown],
  }
