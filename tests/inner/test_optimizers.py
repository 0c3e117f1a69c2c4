"""Optimisers at a stationary point, and where they are those of optax."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.inner._finite_slopes import with_finite_slopes
from metajax.inner.descend import descend
from metajax.tasks import sinusoid

MINIMUM = np.array([1.0, -2.0])
ALONG = np.array([1.0, 2.0])
ELSEWHERE = MINIMUM + np.array([0.3, -0.1])


def end(start, optimizer, num_steps=2, **options):
  """A number that depends on where steps down a parabola end."""

  def loss(params, step):
    del step
    return jnp.sum((params - jnp.asarray(MINIMUM)) ** 2)

  last, _ = descend(loss, start, optimizer, num_steps, **options)
  return jnp.sum(last * jnp.asarray(ALONG))


CLIPPING = {
  'global_norm': optax.clip_by_global_norm(1.0),
  'block_rms': optax.clip_by_block_rms(1.0),
  'adaptive': optax.adaptive_grad_clip(1.0),
  'trust_ratio': optax.scale_by_trust_ratio(),
  'ours': metajax.clip_by_global_norm(1.0),
}


@pytest.mark.in_ci
@pytest.mark.parametrize('checkpoint', ['none', 'nested'])
@pytest.mark.parametrize('name', CLIPPING)
def test_at_the_minimum_nothing_is_clipped(float64, name, checkpoint):
  optimizer = optax.chain(CLIPPING[name], optax.sgd(0.1))
  slope = jax.jit(
    jax.grad(partial(end, optimizer=optimizer, checkpoint=checkpoint))
  )
  # It is that of plain descent, whose step is a factor of 1 - 2 * 0.1.
  np.testing.assert_allclose(slope(MINIMUM), 0.8**2 * ALONG, rtol=1e-12)


@pytest.mark.in_ci
@pytest.mark.parametrize('ours', [False, True])
def test_in_a_loop_of_ones_own_clipping_has_a_derivative(float64, ours):
  clip = (metajax if ours else optax).clip_by_global_norm(2.0)

  def clipped(gradient):
    return clip.update(gradient, clip.init(gradient))[0]

  zero, short, long = np.zeros(2), np.array([0.6, 0.8]), np.array([6.0, 8.0])
  np.testing.assert_array_equal(clipped(short), short)
  np.testing.assert_allclose(clipped(long), long / 5, rtol=1e-14)
  along = long / 10
  np.testing.assert_allclose(
    jax.jacobian(clipped)(long),
    (np.eye(2) - np.outer(along, along)) / 5,
    atol=1e-14,
  )
  at_zero = jax.jacobian(clipped)(zero)
  if ours:
    np.testing.assert_array_equal(at_zero, np.eye(2))
  else:
    assert np.isnan(at_zero).all()


OPTIMIZERS = {
  'lamb': optax.lamb(0.1),
  'lars': optax.lars(0.1),
  'adafactor': optax.adafactor(0.1),
  'adam': optax.adam(0.1),
  'adamw': optax.adamw(0.1),
  'rmsprop': optax.rmsprop(0.1),
  'novograd': optax.novograd(0.1),
  'update_norm': optax.normalize_by_update_norm(),
  'ours': metajax.adam(0.1),
}


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_every_derivative_is_finite_and_elsewhere_what_it_was(float64, name):
  value_and_slopes = jax.jit(
    jax.value_and_grad(partial(end, optimizer=OPTIMIZERS[name]))
  )
  assert np.isfinite(value_and_slopes(MINIMUM)[1]).all()
  _, slopes = value_and_slopes(ELSEWHERE)
  size = 1e-6
  for index, direction in enumerate(np.eye(2)):
    ahead, behind = (
      value_and_slopes(ELSEWHERE + change * direction)[0]
      for change in (size, -size)
    )
    np.testing.assert_allclose(
      slopes[index], (ahead - behind) / (2 * size), rtol=1e-4, atol=1e-6
    )


@pytest.mark.in_ci
@pytest.mark.parametrize('options', [{}, {'b1': 0.5, 'eps_root': 1e-4}])
def test_adam_is_that_of_optax_where_a_gradient_is_not_0(float64, options):
  theirs, ours = optax.adam(0.1, **options), metajax.adam(0.1, **options)
  for start in (ELSEWHERE, MINIMUM):
    np.testing.assert_array_equal(end(start, ours, 4), end(start, theirs, 4))
  np.testing.assert_allclose(
    jax.grad(end)(ELSEWHERE, ours, 4),
    jax.grad(end)(ELSEWHERE, theirs, 4),
    rtol=1e-12,
  )


@pytest.mark.in_ci
def test_adam_holds_still_at_a_minimum_for_any_number_of_steps(float64):
  start = jnp.asarray(MINIMUM)
  slope = jax.grad(end)(start, metajax.adam(0.1), 20)
  np.testing.assert_allclose(slope, ALONG, rtol=1e-6)


@pytest.mark.in_ci
def test_the_rate_of_adam_may_be_learned_and_scheduled(float64):
  def last(rate):
    return end(ELSEWHERE, metajax.adam(lambda count: rate / (1 + count)))

  difference = (last(0.1 + 1e-6) - last(0.1 - 1e-6)) / 2e-6
  np.testing.assert_allclose(jax.grad(last)(0.1), difference, rtol=1e-6)


@pytest.mark.in_ci
def test_what_computes_is_not_changed_and_loops_are_left_alone(float64):
  def function(x, y):
    roots = jax.lax.fori_loop(0, 2, lambda _, x: jnp.sqrt(x), x)
    picked = jax.lax.cond(y > 1, jnp.log, jnp.sqrt, y)
    return {'out': jax.jit(jnp.divide)(x**0.5, y), 'more': (roots, picked)}

  args = (jnp.array([2.0, 3.0]), jnp.array(5.0))
  finite = with_finite_slopes(function)
  jax.tree.map(np.testing.assert_array_equal, finite(*args), function(*args))
  for own, theirs in zip(
    jax.tree.leaves(jax.jacobian(finite, (0, 1))(*args)),
    jax.tree.leaves(jax.jacobian(function, (0, 1))(*args)),
    strict=True,
  ):
    np.testing.assert_allclose(own, theirs, rtol=1e-14)
  at_zero = jax.grad(lambda y: finite(args[0], y)['more'][1])(0.0)
  assert float(at_zero) == 0


def clipped(clip, optimizer, rate):
  return optax.chain(clip(1.0), optimizer(rate))


@pytest.mark.in_ci
@pytest.mark.parametrize(
  'inner_optimizer',
  [
    partial(clipped, optax.clip_by_global_norm, optax.sgd),
    metajax.adam,
    optax.adam,
  ],
  ids=['clipped', 'adam', 'adam of optax'],
)
def test_no_step_is_skipped_where_a_unit_is_dead(inner_optimizer):
  model = metajax.models.mlp([4], 1)

  def with_dead_units(key, inputs):
    params = model.init(key, inputs)
    params['Dense_0']['bias'] = jnp.array([0.0, -99.0, -99.0, 1.0])
    return params

  learner = metajax.maml(
    model._replace(init=with_dead_units),
    metajax.mean_squared_error,
    0.01,
    2,
    inner_optimizer=inner_optimizer,
  )
  train = metajax.make_train_step(
    learner, optax.adam(1e-3), sinusoid(3, 3), tasks_per_step=2
  )
  _, metrics = train.run(train.init(jax.random.key(0)), 3)
  assert int(metrics['skipped']) == 0
