"""A bilevel problem as a learner: equal gradients, and all that learners do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax import bilevel
from metajax.tasks import sinusoid


def inner(weights, decays, batch):
  error = jnp.mean((batch.inputs @ weights - batch.targets) ** 2)
  return error + jnp.sum(jnp.exp(decays) * weights**2)


def outer(weights, decays, batch):
  return jnp.mean((batch.inputs @ weights - batch.targets) ** 2)


RIDGE = bilevel.Problem(
  init=lambda key, inputs: jnp.full((1, 1), -1.0),
  start=lambda key, decays, inputs: jnp.ones((1, 1)),
  inner=inner,
  predict=lambda weights, decays, inputs: inputs @ weights,
)

RATE = optax.sgd(0.05)


def learner(solve, **options):
  return bilevel.bilevel_learner(
    RIDGE, metajax.mean_squared_error, RATE, 40, solve, **options
  )


@pytest.mark.in_ci
@pytest.mark.parametrize('solve', bilevel.SOLVES)
def test_its_gradient_is_the_mean_of_those_of_its_tasks(solve, float64):
  tasks = metajax.sample_tasks(sinusoid(5, 6), jax.random.key(0), 3)
  tasks = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tasks)
  decays = jnp.full((1, 1), -1.0)
  slope, metrics = jax.jit(learner(solve).grad)(
    jax.random.key(1), decays, tasks
  )
  alone = bilevel.hypergradient(inner, outer, optax.sgd(0.05), 40, solve)
  found = [
    jax.jit(alone)(decays, jnp.ones((1, 1)), task.support, task.query)
    for task in [
      jax.tree.map(lambda leaf, at=place: leaf[at], tasks) for place in range(3)
    ]
  ]
  np.testing.assert_allclose(
    slope, np.mean([each for each, _ in found], axis=0), rtol=1e-8
  )
  for name, of in [
    ('loss', 'value'),
    ('inner_gradient_norm', 'residual'),
    ('solver_residual', 'solver_residual'),
  ]:
    np.testing.assert_allclose(
      metrics[name],
      np.mean([getattr(info, of) for _, info in found]),
      rtol=1e-8,
      atol=1e-12,
    )


@pytest.mark.in_ci
@pytest.mark.parametrize('solve', ['unrolled', 'implicit'])
def test_it_is_trained_and_tested_as_every_learner_is(solve):
  made = learner(solve)
  assert made == learner(solve)
  train = metajax.make_train_step(
    made, optax.adam(0.05), sinusoid(5, 5), tasks_per_step=4, chunk_size=2
  )
  state, metrics = train.run(train.init(jax.random.key(0)), 5)
  assert metrics['skipped'] == 0
  assert not np.allclose(state.meta_params, -1.0)
  result = metajax.evaluate(
    made, metajax.mean_squared_error, state.meta_params, sinusoid(5, 5),
    key=jax.random.key(1), num_tasks=8,
  )  # fmt: skip
  assert result.mean['mse'].shape == (41,)  # before, and after each step
  assert np.isfinite(result.mean['mse']).all()


@pytest.mark.in_ci
def test_buffers_of_a_network_stay_and_a_start_may_be_learned(float64):
  def with_count(key, hyper, inputs):
    return {'weights': hyper['start'], 'count': jnp.arange(2)}

  problem = bilevel.Problem(
    init=lambda key, inputs: {
      'decays': jnp.zeros((1, 1)),
      'start': jnp.ones((1, 1)),
    },
    start=with_count,
    inner=lambda params, hyper, batch: inner(
      params['weights'], hyper['decays'], batch
    ),
    predict=lambda params, hyper, inputs: inputs @ params['weights'],
  )
  task = metajax.sample_tasks(sinusoid(5, 5), jax.random.key(0), 1)
  task = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), task)
  for solve, moves in {'unrolled': True, 'implicit': False}.items():
    made = bilevel.bilevel_learner(
      problem, metajax.mean_squared_error, optax.sgd(0.05), 3, solve
    )
    hyper = made.init(jax.random.key(0), task.support.inputs[0])
    hyper = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), hyper)
    slope, _ = made.grad(jax.random.key(1), hyper, task)
    # To a minimum it makes no difference where the search for it starts.
    assert bool(slope['start'] != 0) == moves
    assert slope['decays'] != 0
