"""La-MAML: the authors' gradient of the rates, and their order of steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.adaptation.learned_descent import LearnedDescent
from metajax.algorithms.la_maml import by_learned_rates
from metajax.testing import small_network, small_tasks

KEY = jax.random.key(0)
MODEL = small_network()
RATE = 0.2


@pytest.mark.in_ci
def test_the_gradient_of_rates_is_the_formula_of_the_authors(float64):
  """Minus the gradient of the queries, times the sum of those on the way."""
  learner = metajax.la_maml(MODEL, metajax.cross_entropy, RATE)
  task = jax.tree.map(
    lambda leaf: jnp.asarray(leaf[:1], jnp.float64)
    if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf[:1],
    small_tasks(),
  )  # fmt: skip
  support, query = jax.tree.map(lambda leaf: leaf[0], task)
  meta_params = learner.init(KEY, support.inputs)
  gradient, _ = learner.grad(KEY, meta_params, task)

  def loss(params, inputs, targets):
    return metajax.cross_entropy(MODEL.apply(params, inputs), targets)[0]

  params = meta_params.params
  total = jax.tree.map(jnp.zeros_like, params)
  for x, y in zip(*support, strict=True):
    slope = jax.grad(loss)(params, x[None], y[None])
    params = jax.tree.map(lambda p, g: p - RATE * g, params, slope)
    total = jax.tree.map(jnp.add, total, slope)
  outer = jax.grad(loss)(params, *query)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14),
    gradient,
    LearnedDescent(
      outer, jax.tree.map(lambda g, sum_: -g * sum_, outer, total)
    ),
  )


def test_rates_move_first_and_weights_by_the_new_ones():
  params = LearnedDescent(jnp.array([1.0, 1.0]), jnp.array([0.5, 0.1]))
  gradient = LearnedDescent(jnp.array([0.2, 0.2]), jnp.array([1.0, 1.0]))
  outer = by_learned_rates(0.2)
  updates, _ = outer.update(gradient, outer.init(params), params)
  np.testing.assert_allclose(updates.inner, [-0.2, -0.2])
  # The second rate is below 0 now, and moves nothing.
  np.testing.assert_allclose(updates.params, [-0.3 * 0.2, 0.0])


def test_what_is_not_learned_has_no_rate_and_stays():
  weights = {'count': jnp.int32(3), 'weight': jnp.array([1.0])}
  params = LearnedDescent(weights, {'count': None, 'weight': jnp.array([0.5])})
  slope = {'count': jnp.int32(0), 'weight': jnp.array([0.2])}
  gradient = LearnedDescent(slope, {'count': None, 'weight': jnp.array([0.0])})
  outer = by_learned_rates(0.2)
  updates, _ = outer.update(gradient, outer.init(params), params)
  moved = optax.apply_updates(params, updates)
  assert moved.params['count'] == 3
  np.testing.assert_allclose(moved.params['weight'], [0.9])


@pytest.mark.parametrize('rate', [0.0, -1.0])
def test_a_rate_that_is_none_is_refused(rate):
  with pytest.raises(ValueError, match='rate must be above 0'):
    by_learned_rates(rate)


@pytest.mark.in_ci
def test_what_is_adapted_is_where_the_next_stream_starts(float64):
  learner = metajax.la_maml(MODEL, metajax.cross_entropy, RATE)
  support = jax.tree.map(lambda leaf: leaf[0], small_tasks()).support
  start = learner.init(KEY, support.inputs)
  whole, _ = learner.adapt(KEY, start, support)
  halves = [jax.tree.map(lambda x: x[:3], support),
            jax.tree.map(lambda x: x[3:], support)]  # fmt: skip
  first, _ = learner.adapt(KEY, start, halves[0])
  both, _ = learner.adapt(KEY, first, halves[1])
  jax.tree.map(np.testing.assert_array_equal, whole, both)
