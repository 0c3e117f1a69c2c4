"""Reptile: its displacement, its persistent Adam, its minibatches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_draws import at, in_double, sinusoids

import metajax
from metajax.algorithms.reptile import LABELS, minibatches
from metajax.base import Batch, map_tasks
from metajax.models import mlp
from metajax.tasks import sinusoid

MODEL = mlp([4], 1)
SAMPLE = sinusoid(4, 3)
KEY = jax.random.key(0)

cut = jax.jit(minibatches, static_argnums=(2, 3))


def drawn(learner):
  """Meta-parameters at their start, in double precision."""
  return in_double(jax.jit(learner.init)(KEY, np.zeros((4, 1))))


def assert_close(a, b, rtol=1e-12, atol=1e-14):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), a, b
  )


def counts(state) -> list[int]:
  """Adam's numbers of steps."""
  return [
    int(leaf)
    for leaf in jax.tree.leaves(state)
    if jnp.issubdtype(leaf.dtype, jnp.integer)
  ]


def test_one_step_of_sgd_displaces_by_the_support_gradient(float64):
  rate, tasks = 0.05, sinusoids(3, 4, 3)
  learner = metajax.reptile(
    MODEL, metajax.mean_squared_error, rate, 1, inner_optimizer=optax.sgd
  )
  params = drawn(learner)
  gradient, _ = jax.jit(learner.grad)(KEY, params, tasks)

  @jax.jit
  def support_gradient(params):
    def loss(params):
      outputs = jax.vmap(MODEL.apply, in_axes=(None, 0))(
        params, tasks.support.inputs
      )
      return jnp.mean((outputs - tasks.support.targets) ** 2)

    return jax.grad(loss)(params)

  expected = support_gradient(params.params)
  assert_close(
    gradient.params, jax.tree.map(lambda g: rate * np.asarray(g), expected)
  )


def test_a_train_step_keeps_the_mean_of_the_final_adam_states(float64):
  outer_rate, steps = 0.3, 2
  learner = metajax.reptile(MODEL, metajax.mean_squared_error, 0.01, steps)
  optimizer = metajax.outer_optimizer(optax.sgd(outer_rate), LABELS)

  @jax.jit
  def train_step(key, params, state, tasks):
    gradient, _ = learner.grad(key, params, tasks)
    updates, state = optimizer.update(gradient, state, params)
    ends = map_tasks(
      lambda key, task: learner.adapt(key, params, task.support)[0], key, tasks
    )
    mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), ends)
    return optax.apply_updates(params, updates), state, mean

  params = drawn(learner)
  state, tasks = jax.jit(optimizer.init)(params), sinusoids(9, 4, 3)
  for n in range(1, 4):
    before = params
    params, state, mean = jax.tree.map(
      np.asarray,
      train_step(KEY, params, state, at(tasks, slice(3 * n - 3, 3 * n))),
    )
    assert_close(
      params.params,
      jax.tree.map(
        lambda old, end: old + outer_rate * (end - old),
        before.params,
        mean.params,
      ),
    )
    assert counts(params.optimizer_state) == [n * steps]
    assert_close(params.optimizer_state, mean.optimizer_state)
  moments = [
    leaf
    for leaf in jax.tree.leaves(params.optimizer_state)
    if leaf.ndim and np.abs(leaf).max() > 0
  ]
  assert moments  # the state did more than count


# Numbers of tasks and chunks at which a mean of equal counts is, to rounding,
# a little less than the count.
@pytest.mark.parametrize(
  ('num_tasks', 'chunk_size', 'steps'),
  [
    (41, 41, 1),
    pytest.param(10, 1, 3, marks=pytest.mark.long),
    pytest.param(5, 2, 3, marks=pytest.mark.long),
  ],
)
def test_the_count_of_steps_is_exact_for_every_number_of_tasks(
  num_tasks, chunk_size, steps
):
  learner = metajax.reptile(MODEL, metajax.mean_squared_error, 1e-3, steps)
  train = metajax.make_train_step(
    learner,
    metajax.outer_optimizer(optax.sgd(0.1), LABELS),
    SAMPLE,
    tasks_per_step=num_tasks,
    chunk_size=chunk_size,
  )
  state, _ = train.run(train.init(KEY), 50)
  assert counts(state.meta_params.optimizer_state) == [50 * steps]


def test_the_inner_optimizer_goes_on_where_the_last_step_left_it(float64):
  task = at(sinusoids(1, 4, 3), 0)
  adam = optax.adam(0.01, b1=0.0)
  learner = metajax.reptile(MODEL, metajax.mean_squared_error, 0.01, 2)
  start = drawn(learner)
  adapt = jax.jit(learner.adapt)
  middle, _ = adapt(KEY, start, task.support)
  end, _ = adapt(KEY, middle, task.support)

  @jax.jit
  def by_hand(params):
    def loss(params):
      outputs = MODEL.apply(params, task.support.inputs)
      return jnp.mean((outputs - task.support.targets) ** 2)

    state = adam.init(params)
    for _ in range(4):
      updates, state = adam.update(jax.grad(loss)(params), state)
      params = optax.apply_updates(params, updates)
    return params

  assert_close(end.params, by_hand(start.params), rtol=1e-10)


def numbered(examples: int) -> Batch:
  return Batch(np.arange(examples), 10 * np.arange(examples))


def test_minibatches_pass_over_every_example_once_before_any_twice():
  batches = cut(KEY, numbered(6), 9, 2)
  np.testing.assert_array_equal(batches.targets, 10 * batches.inputs)
  passes = np.asarray(batches.inputs).reshape(3, 6)
  np.testing.assert_array_equal(np.sort(passes), np.tile(np.arange(6), (3, 1)))
  assert len(np.unique(passes, axis=0)) == 3  # each in its own order


def test_minibatches_that_do_not_divide_the_set_go_on_in_the_next_pass():
  drawn = np.asarray(cut(KEY, numbered(5), 3, 3).inputs).reshape(-1)
  np.testing.assert_array_equal(np.sort(drawn[:5]), np.arange(5))
  assert len(np.unique(drawn[5:])) == 4


def test_minibatches_may_be_larger_than_the_set():
  drawn = np.asarray(cut(KEY, numbered(5), 3, 7).inputs)
  assert drawn.shape == (3, 7)
  counted = np.bincount(drawn.reshape(-1))
  assert counted.min() == 4
  assert counted.max() == 5


@pytest.mark.parametrize('size', [None, 5, 10])
def test_the_whole_set_needs_no_order(size):
  drawn = cut(KEY, numbered(5), 2, size).inputs
  np.testing.assert_array_equal(drawn, np.tile(np.arange(5), (2, 1)))


def test_minibatches_depend_on_the_key():
  drawn = [
    np.asarray(cut(jax.random.key(i), numbered(20), 2, 5).inputs)
    for i in (0, 0, 1)
  ]
  np.testing.assert_array_equal(drawn[0], drawn[1])
  assert (drawn[0] != drawn[2]).any()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'inner_lr': 0.0}, 'inner_lr must be above 0, got 0.0'),
    ({'num_steps': -1}, 'num_steps must be 0 or more, got -1'),
    ({'inner_batch': 0}, 'inner_batch must be 1 or more, got 0'),
  ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    metajax.reptile(MODEL, metajax.mean_squared_error, **options)
