"""Hyper-gradients, against closed forms, formulas and central differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.bilevel import SOLVES, hypergradient

SIZE = 5
NUMBERS = np.random.default_rng(0)


def data(examples):
  inputs = NUMBERS.normal(size=(examples, SIZE))
  targets = inputs @ np.arange(1.0, SIZE + 1) + NUMBERS.normal(size=examples)
  return inputs, targets, targets > 0


TRAINING, VALIDATION = data(20), data(30)
DECAYS = np.linspace(-2.0, 0.5, SIZE)
START = np.zeros(SIZE)


def squared(weights, batch):
  return jnp.mean((batch[0] @ weights - batch[1]) ** 2)


def logistic(weights, batch):
  signs = jnp.where(batch[2], 1.0, -1.0)
  return jnp.mean(jax.nn.softplus(-signs * (batch[0] @ weights)))


def decayed(error, weights, decays, batch):
  return error(weights, batch) + jnp.sum(jnp.exp(decays) * weights**2)


def judged(error, weights, decays, batch):
  del decays
  return error(weights, batch)


def slope_of(error, solve, num_steps=1500, rate=0.1, **options):
  by_decays = hypergradient(
    partial(decayed, error), partial(judged, error), optax.sgd(rate),
    num_steps, solve, **options,
  )  # fmt: skip
  return jax.jit(by_decays)(DECAYS, START, TRAINING, VALIDATION)


def ridge(decays):
  inputs, targets, _ = TRAINING
  gram = inputs.T @ inputs / len(inputs) + jnp.diag(jnp.exp(decays))
  return jnp.linalg.solve(gram, inputs.T @ targets / len(inputs))


def by_formula(error, weights, decays):
  """Minus v, the inverse Hessian and the mixed derivatives, as matrices."""
  inner = partial(decayed, error)
  hessian = jax.hessian(inner)(weights, decays, TRAINING)
  mixed = jax.jacobian(jax.grad(inner), 1)(weights, decays, TRAINING)
  outer = jax.grad(error)(weights, VALIDATION)
  return hessian, mixed, outer


EXACT = {
  'unrolled': {},
  'implicit': {'solver_tolerance': 1e-14},
  'truncated': {'last_steps': 1000},
  'neumann': {'terms': 1500, 'step_size': 0.1},
}


@pytest.mark.parametrize('solve', EXACT)
def test_all_ways_have_the_derivative_of_ridge_in_closed_form(solve, float64):
  slope, info = slope_of(squared, solve, **EXACT[solve])
  expected = jax.grad(lambda decays: squared(ridge(decays), VALIDATION))(DECAYS)
  np.testing.assert_allclose(slope, expected, rtol=1e-8)
  np.testing.assert_allclose(info.params, ridge(DECAYS), rtol=1e-8)
  assert info.converged
  assert info.residual < 1e-8
  assert info.solver_residual < 1e-8


@pytest.mark.in_ci
@pytest.mark.parametrize('solve', EXACT)
def test_all_ways_have_the_implicit_derivative_of_logistic_regression(
  solve, float64
):
  options = EXACT[solve] | ({'terms': 6000} if solve == 'neumann' else {})
  options |= {'last_steps': 2500} if solve == 'truncated' else {}
  slope, info = slope_of(logistic, solve, 3000, 0.5, **options)
  hessian, mixed, outer = by_formula(logistic, info.params, DECAYS)
  expected = -mixed.T @ jnp.linalg.solve(hessian, outer)
  np.testing.assert_allclose(slope, expected, rtol=1e-8)
  assert info.converged


@pytest.mark.in_ci
@pytest.mark.parametrize('num_steps', [3, 40])
def test_an_unrolled_gradient_is_that_of_so_many_steps(num_steps, float64):
  slope, info = slope_of(logistic, 'unrolled', num_steps)

  @jax.jit
  def value(decays):
    weights, _ = metajax.descend(
      lambda weights, step: decayed(logistic, weights, decays, TRAINING),
      jnp.asarray(START), optax.sgd(0.1), num_steps,
    )  # fmt: skip
    return logistic(weights, VALIDATION)

  for place in range(SIZE):
    ahead, behind = (
      value(DECAYS + sign * 1e-5 * np.eye(SIZE)[place]) for sign in (1, -1)
    )
    np.testing.assert_allclose(slope[place], (ahead - behind) / 2e-5, rtol=1e-6)
  assert not info.converged
  np.testing.assert_allclose(info.value, value(DECAYS), rtol=1e-12)


@pytest.mark.in_ci
@pytest.mark.parametrize('last_steps', [1, 4])
def test_truncated_is_the_sum_over_its_last_steps(last_steps, float64):
  rate, num_steps = 0.1, 12
  inner = partial(decayed, logistic)
  slope, info = slope_of(
    logistic, 'truncated', num_steps, rate, last_steps=last_steps
  )
  way = [jnp.asarray(START)]
  for _ in range(num_steps):
    gradient = jax.grad(inner)(way[-1], DECAYS, TRAINING)
    way.append(way[-1] - rate * gradient)
  back = jax.grad(logistic)(way[-1], VALIDATION)
  expected = jnp.zeros(SIZE)
  for weights in reversed(way[-1 - last_steps : -1]):
    hessian, mixed, _ = by_formula(logistic, weights, DECAYS)
    expected -= rate * back @ mixed
    back -= rate * hessian @ back
  np.testing.assert_allclose(slope, expected, rtol=1e-10)
  np.testing.assert_allclose(info.params, way[-1], rtol=1e-10)
  assert info.losses.shape == (num_steps,)
  if last_steps == 1:
    alone, _ = slope_of(logistic, 'one_step', num_steps, rate)
    np.testing.assert_allclose(alone, expected, rtol=1e-10)


@pytest.mark.in_ci
@pytest.mark.parametrize('terms', [0, 1, 7])
def test_neumann_is_its_partial_sum_and_says_what_it_missed(terms, float64):
  slope, info = slope_of(squared, 'neumann', terms=terms, step_size=0.05)
  hessian, mixed, outer = by_formula(squared, info.params, DECAYS)
  shrinking = np.eye(SIZE) - 0.05 * hessian
  inverse = 0.05 * sum(
    np.linalg.matrix_power(shrinking, k) for k in range(terms + 1)
  )
  np.testing.assert_allclose(slope, -mixed.T @ inverse @ outer, rtol=1e-8)
  missed = np.linalg.norm(outer - hessian @ inverse @ outer)
  np.testing.assert_allclose(
    info.solver_residual, missed / np.linalg.norm(outer), rtol=1e-8
  )


@pytest.mark.in_ci
def test_at_a_minimum_truncated_is_the_neumann_series_of_its_steps(float64):
  truncated, _ = slope_of(squared, 'truncated', last_steps=6)
  neumann, _ = slope_of(squared, 'neumann', terms=5, step_size=0.1)
  np.testing.assert_allclose(truncated, neumann, rtol=1e-8)


@pytest.mark.in_ci
def test_what_has_not_converged_is_marked_and_implicit_then_is_wrong(float64):
  far, info = slope_of(squared, 'implicit', 3, solver_tolerance=1e-14)
  assert not info.converged
  unrolled, _ = slope_of(squared, 'unrolled', 3)
  assert np.linalg.norm(far - unrolled) > 0.1 * np.linalg.norm(unrolled)
  assert info.residual > 1e-3


@pytest.mark.in_ci
def test_hyperparameters_that_validation_sees_itself_have_both_slopes(float64):
  def outer(weights, decays, batch):
    return squared(weights, batch) + jnp.sum(jnp.sin(decays))

  both = hypergradient(
    partial(decayed, squared), outer, optax.sgd(0.1), 1500, 'implicit',
    solver_tolerance=1e-14,
  )  # fmt: skip
  slope, _ = both(DECAYS, START, TRAINING, VALIDATION)  # without jit
  through, _ = slope_of(squared, 'implicit', solver_tolerance=1e-14)
  np.testing.assert_allclose(slope, through + np.cos(DECAYS), rtol=1e-10)


@pytest.mark.in_ci
@pytest.mark.parametrize('solve', metajax.bilevel.SOLVES)
def test_memory_of_all_but_unrolled_is_flat_in_inner_steps(solve):
  wide = jnp.ones(2000)

  def inner(weights, decays, batch):
    return jnp.sum(jnp.exp(decays) * weights**2 + jnp.cos(weights - batch))

  def outer(weights, decays, batch):
    return jnp.sum(weights * batch)

  def temporaries(num_steps):
    options = {'last_steps': 5} if solve == 'truncated' else {}
    by_decays = hypergradient(
      inner, outer, optax.sgd(0.01), num_steps, solve, **options
    )

    def gradient_alone(*arguments):
      return by_decays(*arguments)[0]

    compiled = jax.jit(gradient_alone).lower(*[wide] * 4).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  few, many = temporaries(10), temporaries(1000)
  if solve == 'unrolled':
    assert many > 10 * few
  else:
    assert many < 1.5 * few + 8000  # but for the losses, a number a step


def test_it_is_traced_once(traced_once):
  def inner(weights, decay, batch):
    return (weights - batch) ** 2 + decay * weights**2

  @jax.jit
  @traced_once
  def step(decay, batch):
    by_decay = hypergradient(
      inner, lambda w, decay, batch: w * batch, optax.sgd(0.1), 5
    )
    return by_decay(decay, 0.0, batch, batch)

  first, second = step(0.1, 1.0), step(0.2, 2.0)
  assert first[0] != second[0]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'solve': 'newton'}, 'solve must be one of unrolled, truncated'),
    ({'terms': 3}, 'terms is an option of neumann, and solve is'),
    ({'depth': 3}, 'depth is no option, and solve is'),
    ({'solve': 'truncated', 'last_steps': 0}, 'last_steps must be a whole'),
    (
      {'solve': 'truncated', 'last_steps': 100},
      'last_steps must be at most the number of inner steps, 5, got 100',
    ),
    (
      {'solve': 'truncated', 'last_steps': 2.5},
      'last_steps must be a whole number from 1, got 2.5',
    ),
    ({'solve': 'neumann', 'terms': -1}, 'terms must be a whole number from 0'),
    ({'solve': 'neumann', 'step_size': 0.0}, 'step_size must be above 0'),
    ({'solve': 'implicit', 'damping': -1.0}, 'damping must be 0 or more'),
    (
      {'solve': 'implicit', 'damping': float('inf')},
      'damping must be 0 or more',
    ),
    (
      {'solve': 'neumann', 'step_size': float('inf')},
      'step_size must be above 0',
    ),
    ({'solve': 'implicit', 'max_iterations': 0}, 'max_iterations must be 1'),
    ({'tolerance': 0.0}, 'tolerance must be above 0'),
  ],
)
def test_misuse_is_refused_before_anything_is_computed(options, message):
  with pytest.raises(ValueError, match=message):
    hypergradient(squared, squared, optax.sgd(0.1), 5, **options)


@pytest.mark.parametrize('solve', SOLVES)
def test_what_diverged_has_no_slope_that_looks_like_one(solve):
  """Conjugate gradients find 0 where nothing is a number."""
  slope, info = hypergradient(
    lambda w, target, data: jnp.sum((w - target) ** 2),
    lambda w, target, data: jnp.sum(w**2),
    optax.sgd(5.0), 200, solve,
  )(jnp.float32(1.0), jnp.float32(0.5), None, None)  # fmt: skip
  assert not jnp.isfinite(info.value)
  assert not info.converged
  assert jnp.isnan(slope)


@pytest.mark.parametrize('solve', SOLVES)
@pytest.mark.parametrize(
  ('hyperparams', 'start', 'message'),
  [
    (1, 0.0, 'hyperparams must have floating-point numbers, got int32'),
    ({}, 0.0, 'hyperparams must have floating-point numbers, got no numbers'),
    # It would stay where it is, and count as solved.
    (1.0, 0, 'start must have floating-point numbers, got int32'),
  ],
)
def test_whole_numbers_are_not_taken_for_constants(
  solve, hyperparams, start, message
):
  gradient = hypergradient(
    lambda w, target, data: jnp.sum((w - 2.0) ** 2),
    lambda w, target, data: jnp.sum(w**2) * 1.0,
    optax.sgd(0.1), 5, solve,
  )  # fmt: skip
  with pytest.raises(ValueError, match=message):
    gradient(hyperparams, start, None, None)


@pytest.mark.parametrize('solve', SOLVES)
@pytest.mark.parametrize('name', ['inner', 'outer'])
@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda loss: jnp.stack([loss] * 3), r'an array of shape \(3,\); take its'),
    (lambda loss: (loss, {}), 'got a tuple'),
    (lambda loss: jnp.sign(loss).astype(int), 'a number of type int32'),
    (lambda loss: None, 'got a NoneType'),
  ],
)
def test_a_loss_that_is_no_number_is_named(solve, name, make, message):
  def loss(w, target, data):
    return jnp.sum((w - target) ** 2)

  def wrong(*given):
    return make(loss(*given))

  losses = {'inner': loss, 'outer': loss, name: wrong}
  gradient = hypergradient(
    losses['inner'], losses['outer'], optax.sgd(0.1), 5, solve
  )
  with pytest.raises(ValueError, match=f'{name} must return .*{message}'):
    gradient(1.0, 0.0, None, None)
