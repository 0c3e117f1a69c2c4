"""Metrics as values: how they are written, and added to an objective."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.algorithms import nearest_class_mean
from metajax.base import Batch, Task, Weighted
from metajax.metric import (
  ACCURACY,
  EXPECTED_CALIBRATION_ERROR,
  LOSS,
  MACRO_F1,
  MEAN_ABSOLUTE_ERROR,
  MEAN_SQUARED_ERROR,
  NEGATIVE_LOG_LIKELIHOOD,
  Metric,
  with_metrics,
)
from metajax.objectives import cross_entropy, mean_squared_error
from metajax.runs.evaluation import evaluate

ALL = (
  ACCURACY, MACRO_F1, EXPECTED_CALIBRATION_ERROR, NEGATIVE_LOG_LIKELIHOOD,
)  # fmt: skip


def top_2(outputs, targets):
  """What a user may write."""
  best = jax.lax.top_k(outputs, 2)[1]
  return jnp.mean(
    jnp.any(best == targets[:, None], axis=-1), dtype=outputs.dtype
  )


TOP_2 = Metric('top_2', higher_is_better=True, unit='%', measure=top_2)


def batch(seed=0, examples=20, classes=4):
  generator = np.random.default_rng(seed)
  return (
    generator.normal(size=(examples, classes)).astype(np.float32),
    generator.integers(0, classes, examples),
  )


@pytest.mark.parametrize(
  ('metric', 'heading', 'axis', 'value', 'interval', 'mode'),
  [
    (ACCURACY, 'accuracy %', 'accuracy (%)', '98.1', '98.1 ± 0.4', 'max'),
    (MACRO_F1, 'macro f1 %', 'macro F1 (%)', '98.1', '98.1 ± 0.4', 'max'),
    (
      MEAN_SQUARED_ERROR, 'mse', 'mean squared error', '0.981',
      '0.981 ± 0.004', 'min',
    ),
    (
      NEGATIVE_LOG_LIKELIHOOD, 'nll nats', 'negative log-likelihood (nats)',
      '0.981', '0.981 ± 0.004', 'min',
    ),
    (LOSS, 'loss', 'loss', '0.981', '0.981 ± 0.004', 'min'),
    (TOP_2, 'top 2 %', 'top 2 (%)', '98.1', '98.1 ± 0.4', 'max'),
  ],
)  # fmt: skip
def test_a_metric_is_written_by_its_unit(
  metric, heading, axis, value, interval, mode
):
  assert (metric.heading, metric.axis, metric.mode) == (heading, axis, mode)
  assert metric.format(0.981) == metric.format(jnp.float32(0.981)) == value
  assert metric.format_interval(0.981, 0.004) == interval
  assert metric.format(math.nan) == 'nan'


def test_the_best_comes_first_and_nan_last():
  values = [0.5, math.nan, 0.9, 0.1]
  found = sorted(values, key=ACCURACY.sort_key)
  assert found[:3] == [0.9, 0.5, 0.1]
  assert math.isnan(found[3])
  assert sorted(values, key=LOSS.sort_key)[:3] == [0.1, 0.5, 0.9]
  assert ACCURACY.better(0.9, 0.5)
  assert not LOSS.better(0.9, 0.5)
  for metric in (ACCURACY, LOSS):
    assert metric.better(0.5, math.nan)
    assert not metric.better(math.nan, 0.5)
    assert not metric.better(0.5, 0.5)


def test_added_metrics_leave_the_loss_and_its_gradient_as_they_are():
  outputs, targets = batch()

  def both(objective):
    return jax.jit(jax.value_and_grad(objective, has_aux=True))(
      outputs, targets
    )

  (loss, metrics), gradient = both(cross_entropy)
  (loss_too, more), gradient_too = both(
    with_metrics(cross_entropy, *ALL, TOP_2)
  )
  np.testing.assert_array_equal(loss, loss_too)
  np.testing.assert_array_equal(gradient, gradient_too)
  assert more['accuracy'] == metrics['accuracy']
  assert set(more) == {'accuracy', 'macro_f1', 'ece', 'nll', 'top_2'}
  best = np.argsort(-outputs, axis=-1)[:, :2]
  expected = np.mean((best == targets[:, None]).any(-1))
  np.testing.assert_allclose(more['top_2'], expected, rtol=1e-6)


def test_objectives_that_are_made_alike_are_compiled_once():
  traced = []

  @partial(jax.jit, static_argnums=0)
  def judge(objective, outputs, targets):
    traced.append(objective)
    return objective(outputs, targets)

  for metrics in ((MACRO_F1, TOP_2), (MACRO_F1, TOP_2), (MACRO_F1,)):
    judge(with_metrics(cross_entropy, *metrics), *batch())
  first, other = traced
  assert first == with_metrics(cross_entropy, MACRO_F1, TOP_2) != other
  assert len({first, with_metrics(cross_entropy, MACRO_F1, TOP_2)}) == 1


def test_what_cannot_be_measured_is_refused():
  mine = Metric('top_2', higher_is_better=False)
  with pytest.raises(ValueError, match='two metrics are called top_2'):
    with_metrics(cross_entropy, TOP_2, mine)
  with pytest.raises(ValueError, match=r"'mse' has no measure.*accuracy, loss"):
    jax.eval_shape(with_metrics(cross_entropy, MEAN_SQUARED_ERROR), *batch())
  for name in ('accuracy', 'loss'):
    taken = TOP_2._replace(name=name)
    with pytest.raises(
      ValueError, match=f"'{name}' has a measure, but is what"
    ):
      jax.eval_shape(with_metrics(cross_entropy, taken), *batch())


def test_what_the_objective_measures_needs_no_measure():
  outputs = np.ones((3, 1), np.float32)
  objective = with_metrics(mean_squared_error, MEAN_SQUARED_ERROR, LOSS)
  loss, metrics = jax.jit(objective)(outputs, 0 * outputs)
  assert metrics == {'mse': loss}


def test_an_evaluation_reports_every_metric_after_every_step():
  centres = np.eye(3, dtype=np.float32)[np.arange(9) % 3]

  def sample(key):
    def draw(key):
      noise = jax.random.normal(key, (9, 3))
      return Batch(centres + 0.7 * noise, jnp.asarray(np.arange(9) % 3))

    support, query = jax.random.split(key)
    return Task(draw(support), draw(query))

  def tested(objective):
    return evaluate(
      nearest_class_mean(cross_entropy, 3), objective, (), sample,
      key=jax.random.key(0), num_tasks=6,
    )  # fmt: skip

  plain, more = tested(cross_entropy), tested(with_metrics(cross_entropy, *ALL))
  for name, values in plain.values.items():
    np.testing.assert_array_equal(values, more.values[name])
  assert set(more.mean) == {'loss', *(metric.name for metric in ALL)}
  for name in more.mean:
    assert more.mean[name].shape == plain.mean['loss'].shape
    assert np.isfinite(more.ci95[name]).all()
  np.testing.assert_allclose(more.values['nll'], more.values['loss'], rtol=1e-6)


def test_absolute_errors_are_of_one_shape_and_not_of_padding():
  outputs, targets = jnp.array([[1.0], [2.0]]), jnp.array([[0.0], [4.0]])
  assert float(MEAN_ABSOLUTE_ERROR.measure(outputs, targets)) == 1.5
  padded = Weighted(targets.at[1].set(jnp.nan), jnp.array([1.0, 0.0]))
  assert float(MEAN_ABSOLUTE_ERROR.measure(outputs, padded)) == 1.0
  with pytest.raises(ValueError, match=r'one shape; got \(2, 1\) and \(2,\)'):
    MEAN_ABSOLUTE_ERROR.measure(outputs, targets[:, 0])
