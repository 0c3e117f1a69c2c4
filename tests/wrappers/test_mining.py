"""Hard tasks: of each group the one with the highest loss, and no other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.base import Batch, ByStep, Model, Task
from metajax.tasks import sinusoid
from metajax.wrappers.mining import candidates, hardest

KEY = jax.random.key(0)
SCALE = Model(
  init=lambda key, inputs: jnp.ones(inputs.shape[1:]),
  apply=lambda params, inputs: inputs * params[None],
)
LEARNER = metajax.maml(SCALE, metajax.mean_squared_error, 0.1, 1)


def groups_of_tasks() -> Task:
  """Two groups of three; in the first, task 2 is the hardest, then task 0."""
  targets = np.float32([[1, 2, 9], [7, 1, 3]])[..., None, None]
  inputs = np.ones((2, 3, 4, 1), np.float32)
  batch = Batch(inputs, targets * inputs)
  return Task(batch, batch)


def test_the_hardest_of_every_group_is_learned_from():
  params, groups = np.ones(1, np.float32), groups_of_tasks()
  mined = hardest(LEARNER, metajax.mean_squared_error)
  chosen = jax.tree.map(lambda leaf: leaf[[0, 1], [2, 0]], groups)
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.jit(mined.grad)(KEY, params, groups),
    jax.jit(LEARNER.grad)(KEY, params, chosen),
  )


def test_a_loss_that_is_not_finite_is_never_the_highest():
  groups = groups_of_tasks()
  broken = groups.query.targets.copy()
  broken[0, 1] = np.nan
  groups = groups._replace(query=groups.query._replace(targets=broken))
  mined = hardest(LEARNER, metajax.mean_squared_error)
  gradient, _ = jax.jit(mined.grad)(KEY, np.ones(1, np.float32), groups)
  assert np.isfinite(gradient).all()


@pytest.mark.in_ci
def test_it_trains_in_chunks_of_any_size_and_alike():
  params = []
  for chunk_size in (1, 4):
    train = metajax.make_train_step(
      hardest(LEARNER, metajax.mean_squared_error),
      optax.sgd(0.01),
      candidates(sinusoid(4, 5), 3),
      tasks_per_step=4,
      chunk_size=chunk_size,
    )
    state, metrics = train.run(train.init(KEY), 3)
    assert np.isfinite(metrics['loss'])
    params.append(state.meta_params)
  np.testing.assert_allclose(*params, rtol=1e-6)


@pytest.mark.in_ci
def test_what_is_mined_is_harder_than_what_is_drawn():
  sample = candidates(sinusoid(4, 5), 8)
  groups = jax.jit(lambda: jax.vmap(sample)(jax.random.split(KEY, 50)))()
  first = jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], groups)
  mined = hardest(LEARNER, metajax.mean_squared_error)
  params = np.ones(1, np.float32)
  _, hard = jax.jit(mined.grad)(KEY, params, groups)
  _, drawn = jax.jit(LEARNER.grad)(KEY, params, first)
  assert hard['loss'] > 1.5 * drawn['loss']


def test_a_group_of_one_is_refused():
  with pytest.raises(ValueError, match=r'2 or more.*got 1'):
    candidates(sinusoid(4, 5), 1)


def test_a_group_is_of_the_step_that_training_is_at():
  def sample(key, step):
    del key
    return Task(*2 * [Batch(jnp.ones((2, 1)), jnp.full((2, 1), step * 1.0))])

  for group in (
    candidates(ByStep(sample), 3).at(7)(KEY),
    candidates(ByStep(sample).at(7), 3)(KEY),
  ):
    np.testing.assert_array_equal(group.query.targets, np.full((3, 2, 1), 7.0))
