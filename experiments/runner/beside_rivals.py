"""A method on tables beside its rivals: on the same queries, task by task.

Values are means of a task first, and intervals those over tasks that differ
(`over_tasks`), as those of the headline are.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runner.over_tasks import (
  by_task,
  count_of_tasks,
  half_interval,
  keys_of,
  number_of_tasks,
  tasks_drawn,
)
from experiments.runner.problem import (
  TEST_SEED,
  VALIDATION_SEED,
  Judge,
  Problem,
)
from experiments.runner.progress import shown
from experiments.runner.rivals import Given, Rows, TaskOf, rivals
from metajax.base import PyTree, SampleTask, as_argument
from metajax.metric import (
  AREA_UNDER_CURVE,
  EXPECTED_CALIBRATION_ERROR,
  MEAN_ABSOLUTE_ERROR,
  MEAN_SQUARED_ERROR,
  PAIRS_IN_ORDER,
  Metric,
  pairs_in_order,
)
from metajax.runs.evaluation import example_outputs

__all__ = ['LOG_LOSS', 'Known', 'beside_rivals']

LOG_LOSS = Metric('loss', False, unit='nats', label='log loss')
_OF_CLASSES = (AREA_UNDER_CURVE, LOG_LOSS, EXPECTED_CALIBRATION_ERROR)
_OF_NUMBERS = (MEAN_ABSOLUTE_ERROR, MEAN_SQUARED_ERROR, PAIRS_IN_ORDER)
_VALIDATION, _TUNING = 100, 200  # tasks by which rivals choose
_BINS = 15


class Known(NamedTuple):
  """What is known of a table beside its tasks."""

  train: Rows
  tuning: SampleTask | None  # tasks of training, drawn as those of the test
  classes: bool
  column: int | None  # a prediction by itself
  column_name: str
  column_scale: tuple[float, float]
  unit: float  # of the targets, a deviation of which is 1

  def of_column(self, features: np.ndarray) -> np.ndarray:
    """What the column predicts, `[...]` of `[..., features]`; else 0."""
    slope, shift = self.column_scale
    if self.column is None:
      return np.zeros(features.shape[:-1], features.dtype)
    predicted: np.ndarray = slope * features[..., self.column] + shift
    return predicted.astype(features.dtype)


def beside_rivals(
  problem: Problem, judge: Judge, meta_params: PyTree, known: Known
) -> dict[str, Any]:
  """The entries `rivals` and `tables` of `result.json`.

  Returns:
    Of rivals `tasks`, how many differ; and `rows`, the method first: its
    `name`, and of each metric `mean` and `ci95`, and of rivals `difference`, by
    how much the method has more, with `difference_ci95`, over the same tasks.
    Of `calibration`, the error over the queries of all tasks, there is no
    interval.
  """
  number = problem.settings.eval_tasks
  keys = keys_of(TEST_SEED, number)
  with shown('drawing tasks for rivals'):
    _, outputs = example_outputs(
      judge.learner,
      judge.prepare(meta_params),
      problem.test,
      key=jax.random.key(TEST_SEED),
      indices=range(number),
      normalisation=judge.normalisation,
    )
    tasks = _tasks(problem.test, keys, known)
    chosen = _tasks(
      problem.validation,
      keys_of(
        VALIDATION_SEED, min(_VALIDATION, problem.settings.validation_tasks)
      ),
      known,
    )
    tuning = list[TaskOf]()
    if known.tuning is not None:
      tuning = _tasks(known.tuning, keys_of(VALIDATION_SEED, _TUNING), known)
  own = _scores(outputs[:, -1], known.classes)
  asked = np.stack([task.query.features for task in tasks])
  scores = {problem.settings.algorithm: own + known.of_column(asked)}
  given = Given(
    known.train, tuning, chosen, known.classes, known.column,
    known.column_name, known.column_scale,
  )  # fmt: skip
  with shown('testing rivals') as progress:
    found = rivals(given)
    for done, (name, rival) in enumerate(found.items()):
      progress(done, len(found))
      scores[name] = rival(tasks)
    progress(len(found), len(found))
  drawn = tasks_drawn(problem.which_task, problem.test, TEST_SEED, number)
  targets = np.stack([task.query.targets for task in tasks])
  rows = _rows(scores, targets, drawn, known)
  if known.classes:
    for row in rows:
      row['calibration'] = _calibration(scores[row['name']], targets)
  differ = number if drawn is None else number_of_tasks(drawn)
  beside = {
    'tasks': differ,
    'draws': number,
    'metrics': [
      each._replace(measure=None)._asdict() for each in _metrics(known)
    ],
    'rows': rows,
  }
  title = f'the same queries, of {count_of_tasks(differ)}{_unit(known)}'
  return {'rivals': beside, 'tables': {title: _table(beside)}}


def _metrics(known: Known) -> tuple[Metric, ...]:
  return _OF_CLASSES if known.classes else _OF_NUMBERS


def _unit(known: Known) -> str:
  """What a title says of errors that those of the headline are not."""
  if known.classes or known.unit == 1:
    return ''
  return f', in the unit of the target: {known.unit:.4g} are one deviation'


def _tasks(sample: SampleTask, keys: jax.Array, known: Known) -> list[TaskOf]:
  """Tasks with whole targets, and not what a column leaves of them."""
  draw = jax.jit(jax.vmap(lambda sample, key: sample(key), (None, 0)))
  drawn = jax.tree.map(np.asarray, draw(as_argument(sample), keys))
  found = []
  for number in range(len(keys)):
    task = jax.tree.map(lambda leaf, number=number: leaf[number], drawn)
    whole = (
      each.targets.reshape(-1) + known.of_column(each.inputs) for each in task
    )
    found.append(
      TaskOf(
        *(
          Rows(each.inputs, targets)
          for each, targets in zip(task, whole, strict=True)
        )
      )
    )
  return found


def _scores(outputs: np.ndarray, classes: bool) -> np.ndarray:
  """`[tasks, queries]`: log-odds of class 1, or what is predicted."""
  if classes:
    return outputs[..., 1] - outputs[..., 0]
  return outputs[..., 0]


def _measured(
  scores: np.ndarray, targets: np.ndarray, known: Known
) -> dict[str, np.ndarray]:
  """Every metric of every draw."""
  if not known.classes:
    errors = known.unit * (scores - targets)
    ranked = jax.vmap(pairs_in_order)(jnp.asarray(scores), jnp.asarray(targets))
    return {
      'mae': np.abs(errors).mean(axis=1),
      'mse': np.square(errors).mean(axis=1),
      'pairs_in_order': np.asarray(ranked),
    }
  logits = jnp.stack([jnp.zeros(scores.shape), jnp.asarray(scores)], axis=-1)
  classes = jnp.asarray(targets, jnp.int32)

  def of(metric: Metric) -> np.ndarray:
    assert metric.measure is not None
    return np.asarray(jax.vmap(metric.measure)(logits, classes))

  signs = np.where(targets > 0, -scores, scores)
  with np.errstate(invalid='ignore'):  # what is no number stays none
    losses = np.logaddexp(0, signs)
  return {
    'auc': of(AREA_UNDER_CURVE),
    'loss': losses.mean(axis=1),
    'ece': of(EXPECTED_CALIBRATION_ERROR),
  }


def _rows(
  scores: Mapping[str, np.ndarray],
  targets: np.ndarray,
  drawn: np.ndarray | None,
  known: Known,
) -> list[dict[str, Any]]:
  """A row of every model, the method first, over tasks that differ.

  Left out are draws of which a metric says nothing whatever is predicted, such
  as queries of one class, and of a rival those that it was not asked about.
  """
  method, *_ = scores
  any_scores = np.zeros(targets.shape, np.float32)
  says = {
    name: np.isfinite(values)
    for name, values in _measured(any_scores, targets, known).items()
  }
  measured = {
    name: _measured(each, targets, known) for name, each in scores.items()
  }
  rows = []
  for name, each in scores.items():
    asked = np.ones(len(each), bool)
    if name != method:
      asked = ~np.isnan(each).all(axis=1)
    row: dict[str, Any] = {'name': name}
    for metric in (one.name for one in _metrics(known)):
      taken = says[metric] & asked
      own = measured[name][metric][taken]
      of = None if drawn is None else drawn[taken]
      mean, half = _over_tasks(own, of)
      row[metric] = {'mean': mean, 'ci95': half}
      if name != method:
        mean, half = _over_tasks(measured[method][metric][taken] - own, of)
        row[metric] |= {'difference': mean, 'difference_ci95': half}
    rows.append(row)
  return rows


def _over_tasks(
  values: np.ndarray, drawn: np.ndarray | None
) -> tuple[float, float | None]:
  """The mean over tasks that differ; no number where one of them is none."""
  if not (len(values) and np.isfinite(values).all()):
    return float('nan'), None
  means = by_task(values, drawn)
  half = float(half_interval(means, drawn))
  return float(means.mean()), half if np.isfinite(half) else None


def _calibration(scores: np.ndarray, targets: np.ndarray) -> float:
  """The gap of shares and frequencies of class 1, over all queries at once."""
  asked = ~np.isnan(scores).all(axis=1)
  if not asked.any() or np.isnan(scores[asked]).any():
    return float('nan')
  odds, targets = (
    np.clip(scores[asked], -50, 50).ravel(),
    targets[asked].ravel(),
  )
  shares = 1 / (1 + np.exp(-odds))
  bins = np.clip((shares * _BINS).astype(int), 0, _BINS - 1)
  gaps = np.bincount(bins, shares - targets, _BINS)
  return float(np.abs(gaps).sum() / len(shares))


def _table(found: Mapping[str, Any]) -> list[list[str]]:
  """The header, and a line for the method and each rival."""
  metrics = [Metric(**each) for each in found['metrics']]
  table = [['', *(each.heading for each in metrics)]]
  first = metrics[0]
  table[0].append(f'{first.heading} of method less')
  pooled = 'calibration' in found['rows'][0]
  if pooled:
    table[0].append('ece of all %')
  for row in found['rows']:
    cells = [row['name']]
    for metric in metrics:
      own = row[metric.name]
      cells.append(_cell(metric, own['mean'], own['ci95']))
    own = row[first.name]
    cells.append(_difference(first, own) if 'difference' in own else '')
    if pooled:
      cells.append(f'{100 * row["calibration"]:.1f}')
    table.append(cells)
  return table


def _cell(metric: Metric, mean: float, half: float | None) -> str:
  if half is None:
    return metric.format(mean)
  return metric.format_interval(mean, half)


def _difference(metric: Metric, own: Mapping[str, Any]) -> str:
  """With a digit more than the values, as differences are small."""
  halves = own['difference'], own['difference_ci95']
  return ' \N{PLUS-MINUS SIGN} '.join(
    f'{metric.scale * value:.{metric.digits + 1}f}'
    for value in halves
    if value is not None
  )
