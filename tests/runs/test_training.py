"""The outer loop: replay, resume, skipped steps."""

from contextlib import nullcontext
from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.base import Batch, Task, sample_tasks
from metajax.models import mlp
from metajax.runs.training import all_finite
from metajax.tasks import sinusoid

MODEL = mlp([4], 1)
LEARNER = metajax.maml(MODEL, metajax.mean_squared_error, 0.05, 1)
OPTIMIZER = optax.adam(1e-2)
TASKS_PER_STEP = 2
MAX_SKIPPED = 6
SINUSOID = sinusoid(3, 3)
KEY = jax.random.key(0)


def sample_with_gaps(probability: jax.Array, key: jax.Array) -> Task:
  """A sine wave, some of whose targets are missing with this probability."""
  task = SINUSOID(key)
  missing = jax.random.uniform(jax.random.fold_in(key, 0)) < probability
  targets = task.query.targets.at[0].set(
    jnp.where(missing, jnp.nan, task.query.targets[0])
  )
  return task._replace(query=task.query._replace(targets=targets))


def sampler(probability: float) -> jax.tree_util.Partial:
  return jax.tree_util.Partial(sample_with_gaps, jnp.float32(probability))


def make_train(probability: float = 0.0, **options) -> metajax.TrainStep:
  return metajax.make_train_step(
    LEARNER,
    OPTIMIZER,
    sampler(probability),
    tasks_per_step=TASKS_PER_STEP,
    max_skipped_in_a_row=MAX_SKIPPED,
    **options,
  )


train_with_gaps = cache(make_train)  # tests that share it compile it once


@pytest.fixture(scope='module')
def train() -> metajax.TrainStep:
  return make_train()


def on_the_host(tree):
  """A copy that no donation can touch."""

  def copy(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    return np.array(leaf)

  return jax.tree.map(copy, tree)


def on_the_device(state: metajax.TrainState) -> metajax.TrainState:
  state = jax.tree.map(jnp.asarray, state)
  return state._replace(key=jax.random.wrap_key_data(state.key))


def assert_identical(a, b):
  jax.tree.map(np.testing.assert_array_equal, on_the_host(a), on_the_host(b))


@jax.jit
def one_step(state: metajax.TrainState, sample):
  """The documented step, written down a second time."""
  sample_key, grad_key = jax.random.split(
    jax.random.fold_in(state.key, state.step)
  )
  tasks = sample_tasks(sample, sample_key, TASKS_PER_STEP)
  gradient, metrics = LEARNER.grad(grad_key, state.meta_params, tasks)
  updates, optimizer_state = OPTIMIZER.update(
    gradient, state.optimizer_state, state.meta_params
  )
  moved = state._replace(
    step=state.step + 1,
    meta_params=optax.apply_updates(state.meta_params, updates),
    optimizer_state=optimizer_state,
  )
  stayed = state._replace(step=state.step + 1)
  return moved, stayed, metrics, all_finite(gradient)


def by_hand(state: metajax.TrainState, probability: float, num_steps: int):
  """State after some steps, which of them were bad, and losses of the rest."""
  bad, losses = [], []
  for _ in range(num_steps):
    moved, stayed, metrics, finite = one_step(state, sampler(probability))
    state = moved if finite else stayed
    bad.append(not finite)
    if finite:
      losses.append(float(metrics['loss']))
  return state, bad, losses


def assert_close(a, b):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), a, b
  )


@pytest.mark.in_ci
def test_the_key_of_step_n_is_the_key_folded_with_n(train):
  expected, _, losses = by_hand(train.init(KEY), 0.0, 4)
  state, metrics = train.run(train.init(KEY), 4)
  assert_close(state.meta_params, expected.meta_params)
  np.testing.assert_allclose(metrics['loss'], np.mean(losses), rtol=1e-5)
  assert (int(state.step), int(metrics['skipped'])) == (4, 0)


def test_dividing_a_run_changes_no_bit(train):
  whole, _ = train.run(train.init(KEY), 10)
  halves, _ = train.run(train.run(train.init(KEY), 5)[0], 5)
  assert_identical(whole, halves)


def test_a_state_that_was_saved_and_loaded_ends_at_the_same_bits(train):
  whole, _ = train.run(train.init(KEY), 10)
  saved = on_the_host(train.run(train.init(KEY), 3)[0])
  resumed, _ = make_train().run(on_the_device(saved), 7)
  assert_identical(whole, resumed)


def test_runs_differ_by_key_and_only_by_key(train):
  first, again, other = (
    train.run(train.init(jax.random.key(seed)), 2)[0] for seed in (1, 1, 2)
  )
  assert_identical(first, again)
  kernels = [
    np.asarray(state.meta_params['head']['kernel']) for state in (first, other)
  ]
  assert (kernels[0] != kernels[1]).all()


def test_no_steps_change_nothing(train):
  state, metrics = train.run(train.init(KEY), 0)
  assert_identical(state, train.init(KEY))
  assert int(metrics['skipped']) == 0


def test_the_state_given_to_run_is_donated(train):
  state = train.init(KEY)
  train.run(state, 1)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.meta_params))


def test_chunks_of_tasks_lead_to_the_same_parameters(train):
  plain, _ = train.run(train.init(KEY), 3)
  chunked, _ = make_train(chunk_size=1).run(train.init(KEY), 3)
  assert_close(chunked.meta_params, plain.meta_params)


def test_a_step_whose_gradient_is_not_finite_is_left_out_and_counted():
  train = train_with_gaps(0.15)
  expected, bad, losses = by_hand(train.init(KEY), 0.15, 12)
  assert any(bad)
  assert not all(bad)
  message = f'^{sum(bad)} of 12 steps were skipped: there are targets that are'
  with pytest.warns(metajax.SkippedSteps, match=message):
    state, metrics = train.run(train.init(KEY), 12)
  assert int(state.step) == 12
  assert int(state.skipped) == int(metrics['skipped']) == sum(bad)
  assert_close(state.meta_params, expected.meta_params)
  assert_close(state.optimizer_state, expected.optimizer_state)
  # The mean is over the steps that were applied.
  np.testing.assert_allclose(metrics['loss'], np.mean(losses), rtol=1e-4)


def test_a_good_step_ends_a_row_of_bad_ones():
  train = train_with_gaps(0.15)
  state = train.init(KEY)
  _, bad, _ = by_hand(train.init(KEY), 0.15, 12)
  row, rows = 0, []
  for is_bad in bad:
    with pytest.warns(metajax.SkippedSteps) if is_bad else nullcontext():
      state, _ = train.run(state, 1)
    row = row + 1 if is_bad else 0
    rows.append(row)
    assert int(state.skipped_in_a_row) == row
  assert any(before and not after for before, after in pairwise(rows))


def test_tasks_may_depend_on_the_step():
  """The loss of step n is n squared, in one program, and after a resume."""

  def sample(offset, key, step):
    del key
    zero = jnp.zeros((2, 1))
    batch = Batch(zero, zero + step + offset)
    return Task(batch, batch)

  untouched = metajax.Model(
    lambda key, inputs: jnp.zeros(1), lambda params, inputs: inputs
  )
  train = metajax.make_train_step(
    metajax.maml(untouched, metajax.mean_squared_error, 0.1, 1),
    OPTIMIZER,
    metajax.ByStep(jax.tree_util.Partial(sample, jnp.float32(1))),
    tasks_per_step=2,
  )
  state, metrics = train.run(train.init(KEY), 3)
  np.testing.assert_allclose(metrics['loss'], np.mean([1, 4, 9]))
  state, metrics = train.run(state, 1)
  np.testing.assert_allclose(metrics['loss'], 16)
  tested = metajax.ByStep(jax.tree_util.Partial(sample, jnp.float32(1)))
  for given, expected in ((tested, 1), (tested.at(4), 25)):
    evaluation = metajax.evaluate(
      metajax.maml(untouched, metajax.mean_squared_error, 0.1, 1),
      metajax.mean_squared_error, state.meta_params, given,
      key=KEY, num_tasks=2,
    )  # fmt: skip
    np.testing.assert_allclose(evaluation.mean['loss'], expected)


def test_nothing_but_bad_steps_stops_early_and_touches_nothing():
  train = train_with_gaps(1.0)
  message = '^6 of 6 steps were skipped, and training stopped at step 6: '
  with pytest.warns(metajax.SkippedSteps, match=message):
    state, metrics = train.run(train.init(KEY), 100)
  untouched = train.init(KEY)
  assert int(state.step) == int(state.skipped) == MAX_SKIPPED
  assert int(state.skipped_in_a_row) == int(metrics['skipped']) == MAX_SKIPPED
  assert_identical(state.meta_params, untouched.meta_params)
  assert_identical(state.optimizer_state, untouched.optimizer_state)
  assert np.isnan(metrics['loss'])  # the mean of no steps


def test_a_run_that_gave_up_takes_no_further_step():
  train = train_with_gaps(1.0)
  with pytest.warns(metajax.SkippedSteps):
    state, _ = train.run(train.init(KEY), 100)
  message = 'no step was taken: 6 in a row had been skipped before'
  with pytest.warns(metajax.SkippedSteps, match=message):
    state, metrics = train.run(state, 5)
  assert (int(state.step), int(metrics['skipped'])) == (MAX_SKIPPED, 0)


@pytest.mark.parametrize(
  'tree',
  [{'a': np.ones(3)}, {'a': np.ones(3), 'count': np.int32(2)}, ()],
)
def test_all_finite_accepts_numbers(tree):
  assert all_finite(tree)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_all_finite_finds_one_bad_number(bad):
  assert not all_finite({'a': np.ones(3), 'b': np.array([[1.0, bad]])})


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'tasks_per_step': 0}, 'tasks_per_step must be 1 or more, got 0'),
    ({'tasks_per_step': 2, 'chunk_size': 0}, 'a number from 1'),
    (
      {'tasks_per_step': 2, 'max_skipped_in_a_row': 0},
      'max_skipped_in_a_row must be 1 or more, got 0',
    ),
  ],
)
def test_counts_that_are_not_positive_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    metajax.make_train_step(LEARNER, OPTIMIZER, SINUSOID, **options)
