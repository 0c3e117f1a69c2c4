"""Evaluation: the tasks that a key stands for, judged by one program."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax.models import mlp
from metajax.runs.evaluation import example_task
from metajax.tasks import sinusoid

MODEL = mlp([4], 1)
LEARNER = metajax.maml(MODEL, metajax.mean_squared_error, 0.05, 1)
KEY = jax.random.key(0)


def assert_close(a, b):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), a, b
  )


@pytest.fixture(scope='module')
def params():
  return jax.jit(MODEL.init)(jax.random.key(3), jnp.zeros((1, 1)))


TEST_SAMPLE = sinusoid(3, 5)


@pytest.fixture(scope='module')
def evaluate(params):
  return partial(
    metajax.evaluate,
    LEARNER,
    metajax.mean_squared_error,
    params,
    TEST_SAMPLE,
    key=KEY,
  )


@pytest.fixture(scope='module')
def seven(evaluate) -> metajax.Evaluation:
  """Seven tasks, which chunks of three do not divide."""
  return evaluate(num_tasks=7, chunk_size=3)


def test_there_is_a_value_for_every_task_and_number_of_steps(seven):
  assert set(seven.values) == {'loss', 'mse'}
  assert seven.values['mse'].shape == (7, 2)
  assert seven.mean['mse'].shape == seven.ci95['mse'].shape == (2,)


def test_means_and_intervals_are_those_of_the_values(seven):
  values = np.asarray(seven.values['mse'])
  np.testing.assert_allclose(seven.mean['mse'], values.mean(0), rtol=1e-5)
  np.testing.assert_allclose(
    seven.ci95['mse'], 1.96 * values.std(0, ddof=1) / np.sqrt(7), rtol=1e-4
  )


def test_values_are_the_objective_before_and_after_adaptation(seven, params):
  adapt, predict = jax.jit(LEARNER.adapt), jax.jit(LEARNER.predict)
  for index in (0, 5):
    task = example_task(TEST_SAMPLE, KEY, index)
    adapted, _ = adapt(KEY, params, task.support)
    for step, state in enumerate((params, adapted)):
      error = predict(state, task.query.inputs) - task.query.targets
      np.testing.assert_allclose(
        seven.values['mse'][index, step], np.mean(error**2), rtol=1e-4
      )


def test_chunks_that_do_not_divide_the_tasks_change_no_value(seven, evaluate):
  one_by_one = evaluate(num_tasks=7, chunk_size=1)
  np.testing.assert_allclose(
    seven.values['mse'], one_by_one.values['mse'], rtol=1e-4
  )


def test_fewer_tasks_are_the_first_of_more(seven, evaluate):
  few = evaluate(num_tasks=4, chunk_size=3)
  np.testing.assert_array_equal(few.values['mse'], seven.values['mse'][:4])


def test_two_methods_meet_the_same_tasks(seven, evaluate, params):
  other = metajax.evaluate(
    metajax.anil(MODEL, metajax.mean_squared_error, 0.05, 1),
    metajax.mean_squared_error,
    params,
    TEST_SAMPLE,
    key=KEY,
    num_tasks=7,
    chunk_size=3,
  )
  before, after = (other.values['mse'] - seven.values['mse']).T
  np.testing.assert_allclose(before, np.zeros(7), atol=1e-4)
  assert np.abs(after).min() > 1e-3


def test_another_key_draws_other_tasks(seven, params):
  other = metajax.evaluate(
    LEARNER,
    metajax.mean_squared_error,
    params,
    TEST_SAMPLE,
    key=jax.random.key(1),
    num_tasks=7,
    chunk_size=3,
  )
  assert not np.isin(other.values['mse'], seven.values['mse']).any()


def test_any_number_of_tasks_and_any_parameters_need_one_program(params):
  traces = []

  def counting(outputs, targets):
    traces.append(1)
    return metajax.mean_squared_error(outputs, targets)

  learner = metajax.fomaml(MODEL, metajax.mean_squared_error, 0.05, 1)
  for num_tasks in (2, 4, 5):
    metajax.evaluate(
      learner,
      counting,
      jax.tree.map(lambda leaf, n=num_tasks: n * leaf, params),
      TEST_SAMPLE,
      key=jax.random.key(num_tasks),
      num_tasks=num_tasks,
      chunk_size=3,
    )
    if num_tasks == 2:
      first = len(traces)
  assert len(traces) == first > 0


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'num_tasks': 1}, 'num_tasks must be 2 or more, got 1'),
    ({'num_tasks': 2, 'chunk_size': 0}, 'chunk_size must be 1 or more, got 0'),
    (
      {'num_tasks': 2, 'normalisation': 'population'},
      "'transductive' or 'support', got 'population'",
    ),
  ],
)
def test_what_cannot_be_evaluated_is_refused(evaluate, options, message):
  with pytest.raises(ValueError, match=message):
    evaluate(**options)
