"""Evaluation: the tasks that a key stands for, judged by one program."""

import dataclasses
import gc
import os
import weakref
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.base import Learner
from metajax.learned import training_learner
from metajax.models import BatchNorm, from_linen, mlp
from metajax.normalisation import population
from metajax.runs.evaluation import (
  _PROGRAMS,
  _program,
  example_outputs,
  example_task,
)
from metajax.tasks import HostEpisodes, episodes, sinusoid

MODEL = mlp([4], 1)
LOSS = metajax.mean_squared_error
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


def test_progress_is_told_as_tasks_are_done_and_changes_nothing(
  seven, evaluate
):
  told = []
  again = evaluate(
    num_tasks=7, chunk_size=3, progress=lambda *counts: told.append(counts)
  )
  assert told == [(3, 7), (6, 7), (7, 7)]
  for name, values in seven.values.items():
    np.testing.assert_array_equal(again.values[name], values)


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


def test_outputs_of_some_tasks_are_those_that_were_judged(seven, params):
  targets, outputs = example_outputs(
    LEARNER, params, TEST_SAMPLE, key=KEY, indices=[5, 0, 5], chunk_size=2
  )
  assert outputs.shape == (3, 2, 5, 1)
  assert isinstance(outputs, np.ndarray)  # on the host
  np.testing.assert_array_equal(outputs[0], outputs[2])
  errors = np.square(outputs - targets[:, None]).mean((2, 3))
  np.testing.assert_allclose(
    errors[:2], seven.values['mse'][np.array([5, 0])], rtol=1e-5
  )
  for place, index in enumerate((5, 0)):
    np.testing.assert_array_equal(
      targets[place], example_task(TEST_SAMPLE, KEY, index).query.targets
    )
  with pytest.raises(ValueError, match='indices are none'):
    example_outputs(LEARNER, params, TEST_SAMPLE, key=KEY, indices=[])


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


IMAGES = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
LABELS = np.arange(12) % 3


def made_anew(sampler) -> tuple:
  """All that an evaluation takes, of which nothing was made before."""
  return (
    metajax.maml(mlp([4], 2), metajax.cross_entropy, 0.05, 1),
    metajax.with_metrics(metajax.cross_entropy, metajax.metric.MACRO_F1),
    sampler(IMAGES.copy(), LABELS.copy(), 2, 1, 3),
  )


@pytest.fixture
def compilations():
  """How long compilers took, each time that they ran."""
  seconds = []

  def note(event, duration, **_):
    if event.endswith('backend_compile_duration'):
      seconds.append(duration)

  jax.monitoring.register_event_duration_secs_listener(note)
  yield seconds
  jax.monitoring.unregister_event_duration_listener(note)


def resident_bytes() -> int:
  pages = Path('/proc/self/statm').read_text().split()[1]
  return int(pages) * os.sysconf('SC_PAGE_SIZE')


@pytest.mark.in_ci
@pytest.mark.parametrize('sampler', [episodes, HostEpisodes])
def test_what_is_made_anew_is_not_compiled_anew(compilations, sampler):
  params = mlp([4], 2).init(KEY, jnp.zeros((1, 8)))
  for number in range(60):
    learner, objective, sample = made_anew(sampler)
    metajax.evaluate(
      learner, objective, params, sample, key=KEY, num_tasks=2, chunk_size=2
    )
    example_task(sample, KEY)
    if number == 0:
      assert compilations
      compilations.clear()
    if number == 9:
      before = resident_bytes()
  assert not compilations
  assert resident_bytes() - before < 10 * 2**20


def test_programs_of_what_is_equal_to_none_are_not_kept_for_ever(params):
  _program.cache_clear()
  learners = weakref.WeakSet()
  for _ in range(_PROGRAMS + 2):
    # It is a function of its own each time, so there is nothing to share.
    learner = metajax.maml(MODEL, lambda *pair: LOSS(*pair), 0.05, 1)
    _program(Learner(*learner[:3]), LOSS, 'transductive', 'every_step', None)
    learners.add(learner.adapt)
    del learner
  gc.collect()
  assert len(learners) <= _PROGRAMS


def test_what_can_change_in_place_is_refused(params):
  @dataclasses.dataclass
  class Scaled:
    scale: float

    def __call__(self, outputs, targets):
      return self.scale * LOSS(outputs, targets)[0]

  with pytest.raises(TypeError, match='Scaled can be changed in place'):
    metajax.evaluate(
      LEARNER, Scaled(2.0), params, TEST_SAMPLE, key=KEY, num_tasks=2
    )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'num_tasks': 1}, 'num_tasks must be 2 or more, got 1'),
    (
      {'num_tasks': 2, 'judged': 'last'},
      "judged must be 'every_step' or 'last_step', got 'last'",
    ),
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


def test_old_style_keys_stand_for_the_same_tasks(seven, evaluate):
  old = evaluate(key=jax.random.PRNGKey(0), num_tasks=7, chunk_size=3)
  jax.tree.map(np.testing.assert_array_equal, old.values, seven.values)
  with pytest.raises(ValueError, match=r'use jax.random.key\(seed\)'):
    evaluate(key=0, num_tasks=2)


@pytest.mark.in_ci
def test_targets_that_no_output_stands_for_are_refused():
  features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
  sample = episodes(features, np.arange(30) % 5, ways=5, shots=1, queries=1)
  learner = metajax.maml(mlp([], 3), metajax.cross_entropy, 0.1, 1)
  params = learner.init(KEY, features[:1])
  with pytest.raises(ValueError, match='5 ways, but the learner has 3 outputs'):
    metajax.evaluate(
      learner, metajax.cross_entropy, params, sample, key=KEY, num_tasks=2
    )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda result: result[0], 'adapt must return'),
    (
      lambda result: (result[0], result[1]._replace(trajectory=result[0])),
      'the trajectory of an Adaptation must be',
    ),
  ],
)
def test_an_adaptation_of_wrong_form_is_refused(params, change, message):
  def adapt(*arguments):
    return change(LEARNER.adapt(*arguments))

  with pytest.raises(ValueError, match=message):
    metajax.evaluate(
      LEARNER._replace(adapt=adapt), metajax.mean_squared_error, params,
      TEST_SAMPLE, key=KEY, num_tasks=2,
    )  # fmt: skip


@pytest.mark.in_ci
def test_the_result_says_what_queries_share():
  features = np.random.default_rng(0).normal(size=(12, 3))
  sample = episodes(features.astype(np.float32), np.arange(12) % 3, 3, 1, 1)
  model = from_linen(BatchNorm())
  params = {'scale': jnp.ones(3), 'bias': jnp.zeros(3)}
  statistics = {'mean': jnp.zeros(3), 'variance': jnp.ones(3)}

  def make(model):
    return metajax.fomaml(model, metajax.cross_entropy, 0.1, 0)

  def said(learner, meta_params, **options):
    return metajax.evaluate(
      learner, metajax.cross_entropy, meta_params, sample, key=KEY,
      num_tasks=2, **options,
    ).normalisation  # fmt: skip

  assert said(make(model), params) == 'transductive'
  assert said(make(model), params, normalisation='support') == 'support'
  held = population(make, model)
  assert said(held, (params, statistics)) == 'population'
  assert said(held, (params, statistics), normalisation='support') == (
    'population'
  )


@pytest.mark.in_ci
def test_targets_that_the_objective_understands_are_not_blamed(params):
  """One task that diverges is no reason to speak of its classes."""

  def from_one(outputs, targets):
    return metajax.cross_entropy(outputs, targets - 1)

  features = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
  good = episodes(features, np.arange(12) % 3, ways=3, shots=1, queries=1)

  def sample(key):
    return jax.tree.map(
      lambda leaf: leaf + 1 if leaf.dtype == jnp.int32 else leaf, good(key)
    )

  learner = metajax.maml(mlp([4], 3), from_one, 1e38, 3)
  result = metajax.evaluate(
    learner, from_one, learner.init(KEY, features[:1]), sample,
    key=KEY, num_tasks=2,
  )  # fmt: skip
  assert np.isnan(result.mean['loss']).any()


def test_what_diverges_is_judged_by_the_meta_parameters_that_are_given():
  """Not by those that it would begin with, of which it may have none."""
  learner = training_learner(
    mlp([4], 1), metajax.mean_squared_error,
    lambda rate, steps: optax.sgd(rate), 5,
  )  # fmt: skip
  result = metajax.evaluate(
    learner, metajax.mean_squared_error, jnp.float32(1e38), sinusoid(5, 5),
    key=KEY, num_tasks=2,
  )  # fmt: skip
  assert np.isnan(result.mean['loss'][-1])


def test_the_last_step_may_be_judged_alone(seven, evaluate):
  last = evaluate(num_tasks=7, judged='last_step')
  assert (seven.judged, last.judged) == ('every_step', 'last_step')
  for name, values in seven.values.items():
    found = np.asarray(last.values[name])
    assert found.shape == (7, 1)
    np.testing.assert_allclose(found[:, 0], values[:, -1], rtol=1e-6)
