"""Estimators of unrolls against exact expectations, in double precision."""

import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax import learned
from metajax.base import Batch, Task
from metajax.learned import LearnedParams, Unroll, estimators
from metajax.learned.unrolls import whole_loss
from metajax.models import from_linen, mlp

HORIZON, SCALE, KEY = 4, 0.3, jax.random.key(0)


@pytest.fixture(autouse=True)
def double_precision():
  with jax.enable_x64(True):
    yield


def no_task(number: int) -> Task:
  batch = Batch(jnp.zeros((number, 1)), jnp.zeros((number, 1)))
  return Task(batch, batch)


def start(key, weights, task):
  del key, weights
  return jnp.array([1.0, -0.5]) + task.support.inputs[0]


def linear(key, weights, state, index, task):
  """The state is linear in the weights, so that the loss is quadratic."""
  del key, task
  pull = jnp.array([[0.9, 0.2], [-0.3, 0.8]])
  state = pull @ state + weights * jnp.array([1.0, 0.5])
  return state, jnp.sum((state - 0.1 * index) ** 2)


def descent(key, weights, state, index, task):
  """Gradient descent on a quadratic, with the rate as the weight."""
  del key, index, task
  state = state - weights * jnp.array([1.0, 0.4]) * state
  return state, jnp.sum(state**2)


def exact(unroll: Unroll, weights: jax.Array, moves: np.ndarray | None = None):
  """The loss with other weights in every step, and its whole derivative."""

  def loss(weights, moves):
    state = start(KEY, weights, jax.tree.map(lambda x: x[0], no_task(1)))
    total = 0.0
    for step in range(unroll.horizon):
      state, value = unroll.step(KEY, weights + moves[step], state, step, None)
      total += value / unroll.horizon
    return total

  moves = jnp.zeros(unroll.horizon) if moves is None else moves
  return jax.value_and_grad(loss)(weights, moves)


def by_parts(monkeypatch, unroll, weights, length, moves, corrected):
  """The mean over the parts of an unroll, with perturbations that are given."""
  given = iter(moves)
  monkeypatch.setattr(estimators, '_normal', lambda *arguments: next(given))
  grad = learned.persistent(unroll, length, scale=SCALE, corrected=corrected)
  task = jax.tree.map(lambda leaf: leaf[0], no_task(1))
  unrolls = learned.begin(unroll, weights, task, 1, length, pairs=True)
  total = 0.0
  for _ in range(unroll.horizon // length):
    gradient, _ = grad(KEY, LearnedParams(weights, unrolls), no_task(1))
    unrolls = jax.tree.map(jnp.subtract, unrolls, gradient.unrolls)
    total += gradient.weights * length / unroll.horizon
  return total


def expected(monkeypatch, unroll, weights, length, corrected=True, degree=5):
  """The mean over all perturbations, by quadrature that is exact here."""
  places, shares = np.polynomial.hermite_e.hermegauss(degree)
  parts = unroll.horizon // length
  moves = SCALE * np.array(list(itertools.product(places, repeat=parts)))
  products = itertools.product(shares / shares.sum(), repeat=parts)
  chances = np.prod(list(products), axis=1)
  estimate = jax.vmap(
    lambda moves: by_parts(
      monkeypatch, unroll, weights, length, moves, corrected
    )
  )
  return float(chances @ estimate(moves)), moves, chances


@pytest.mark.parametrize(
  'length', [2, *(pytest.param(x, marks=pytest.mark.in_ci) for x in (1, 4))]
)
def test_the_mean_of_pes_is_the_gradient_of_whole_unrolls(monkeypatch, length):
  unroll, weights = Unroll(start, linear, HORIZON), jnp.float64(0.2)
  found, _, _ = expected(monkeypatch, unroll, weights, length, degree=4)
  _, gradient = exact(unroll, weights)
  np.testing.assert_allclose(found, gradient, rtol=1e-12)
  # As is that of evolution strategies on whole unrolls, and of backpropagation.
  places, shares = np.polynomial.hermite_e.hermegauss(4)
  losses = [exact(unroll, weights + SCALE * place)[0] for place in places]
  whole = np.sum(shares / shares.sum() * losses * places) / SCALE
  np.testing.assert_allclose(whole, gradient, rtol=1e-12)
  params = LearnedParams(weights)
  by_backprop, _ = learned.unrolled(unroll)(KEY, params, no_task(1))
  np.testing.assert_allclose(by_backprop.weights, gradient, rtol=1e-12)


@pytest.mark.in_ci
def test_what_is_truncated_is_biased_and_by_as_much(monkeypatch):
  unroll, weights = Unroll(start, linear, HORIZON), jnp.float64(0.2)
  found, _, _ = expected(monkeypatch, unroll, weights, 1, False, degree=4)
  _, gradient = exact(unroll, weights)
  task = jax.tree.map(lambda leaf: leaf[0], no_task(1))
  unrolls = learned.begin(unroll, weights, task, 1, 1, pairs=False)
  by_parts, grad = [], learned.truncated(unroll, 1)
  for _ in range(HORIZON):
    part, _ = grad(KEY, LearnedParams(weights, unrolls), no_task(1))
    unrolls = jax.tree.map(jnp.subtract, unrolls, part.unrolls)
    by_parts.append(part.weights)
  np.testing.assert_allclose(found, np.mean(by_parts), rtol=1e-12)
  assert abs(found - gradient) > 0.2 * abs(gradient)


@pytest.mark.in_ci
def test_pes_has_the_gradient_of_the_smoothed_loss(monkeypatch):
  """Of descent, whose loss is a polynomial of degree 2 in each step's rate."""
  unroll, rate = Unroll(start, descent, 3), jnp.float64(0.3)
  found, moves, chances = expected(monkeypatch, unroll, rate, 1)
  smoothed = [exact(unroll, rate, jnp.asarray(each))[1] for each in moves]
  np.testing.assert_allclose(found, chances @ np.array(smoothed), rtol=1e-11)
  biased, _, _ = expected(monkeypatch, unroll, rate, 1, False)
  assert abs(biased - found) > 0.1 * abs(found)


@pytest.mark.in_ci
def test_pes_from_its_own_draws_has_that_mean():
  """Within four standard errors, where truncation is off by many."""
  unroll, weights = Unroll(start, linear, HORIZON), jnp.float64(0.2)
  number, length = 400, 1
  tasks = no_task(1)._replace(support=Batch(*2 * [jnp.zeros((number, 1, 1))]))
  tasks = tasks._replace(query=tasks.support)
  one = jax.tree.map(lambda leaf: leaf[0], tasks)
  _, gradient = exact(unroll, weights)

  @partial(jax.jit, static_argnums=1)
  def mean(key, corrected):
    grad = learned.persistent(unroll, length, scale=SCALE, corrected=corrected)
    unrolls = learned.begin(
      unroll, weights, one, number, length, pairs=True, stagger=False
    )
    total = 0.0
    for part_key in jax.random.split(key, HORIZON):
      part, _ = grad(part_key, LearnedParams(weights, unrolls), tasks)
      unrolls = jax.tree.map(jnp.subtract, unrolls, part.unrolls)
      total += part.weights / HORIZON
    return total

  for corrected, off in ((True, False), (False, True)):
    found = jnp.stack([mean(k, corrected) for k in jax.random.split(KEY, 25)])
    error = jnp.std(found, ddof=1) / 5
    assert (abs(jnp.mean(found) - gradient) > 4 * error) == off


@pytest.mark.in_ci
@pytest.mark.parametrize('kind', ['mlp', 'adam'])
def test_backprop_through_training_is_what_central_differences_say(kind):
  class Smooth(nn.Module):
    @nn.compact
    def __call__(self, inputs):
      return nn.Dense(2)(nn.tanh(nn.Dense(3)(inputs)))

  drawn = from_linen(Smooth())

  def init(key, inputs):
    params = drawn.init(key, inputs)
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)

  model = metajax.Model(init, drawn.apply)
  generator = np.random.default_rng(0)
  batch = Batch(jnp.array(generator.normal(size=(8, 4))), jnp.arange(8) % 2)
  unroll = learned.training_unroll(
    model, metajax.cross_entropy, kind, 6, batch_size=4
  )
  weights = learned.OPTIMIZERS[kind].init(jax.random.key(1))
  weights = jax.tree.map(
    lambda leaf: (
      jnp.float64(leaf) + 0.05 * generator.normal(size=jnp.shape(leaf))
    ),
    weights,
  )
  flat, unravel = jax.flatten_util.ravel_pytree(weights)

  @jax.jit
  def loss(flat):
    params = LearnedParams(unravel(flat))
    return whole_loss(unroll, KEY, params, Task(batch, batch))[0]

  gradient = jax.grad(loss)(flat)
  directions = generator.normal(size=(4, len(flat)))
  for direction in directions / np.linalg.norm(directions, axis=1)[:, None]:
    step = 1e-5
    ahead, behind = loss(flat + step * direction), loss(flat - step * direction)
    slope = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(gradient @ direction, slope, rtol=1e-6)


def _explodes(key, weights, state, index, task):
  """Goes to infinity where the task says so."""
  del key, index
  size = jnp.exp(1000 * task.query.inputs[0, 0])
  return state * size + weights, jnp.sum(state) * size


@pytest.mark.in_ci
def test_unrolls_that_diverge_are_dropped_and_counted():
  unroll, weights = Unroll(start, _explodes, 4), jnp.float64(0.2)
  bad = jnp.array([1.0, 0.0, 0.0]).reshape(3, 1, 1)
  tasks = jax.tree.map(lambda leaf: jnp.zeros((3, 1, 1)), no_task(1))
  tasks = tasks._replace(query=Batch(bad, bad))
  one = jax.tree.map(lambda leaf: leaf[0], tasks)
  for pairs, grad in (
    (True, learned.persistent(unroll, 2)),
    (False, learned.truncated(unroll, 2)),
  ):
    unrolls = learned.begin(unroll, weights, one, 3, 2, pairs=pairs)
    found, metrics = grad(KEY, LearnedParams(weights, unrolls), tasks)
    assert float(metrics['diverged']) == pytest.approx(1 / 3)
    leaves = jax.tree.leaves((found, metrics))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves)
    after = jax.tree.map(jnp.subtract, unrolls, found.unrolls)
    assert after.next_step[0] == 0
    assert (after.next_step[1:] + after.left[1:] >= 2).all()
    all_bad = tasks._replace(query=Batch(jnp.ones_like(bad), bad))
    _, metrics = grad(KEY, LearnedParams(weights, unrolls), all_bad)
    assert jnp.isnan(metrics['loss'])  # so training skips the step


def test_a_network_whose_unrolls_all_diverge_does_not_stop_the_others():
  """Else they would not be started again, and diverge in the next step too."""
  sample = metajax.tasks.sinusoid(4, 4)
  models = [
    metajax.Model(
      lambda key, inputs: jnp.ones(()),
      lambda weight, inputs, by=by: by * weight * inputs,
    )
    for by in (1.0, 1e30)
  ]
  learner = learned.learn_optimizer(
    models, metajax.mean_squared_error, 'adam', 4, estimator='pes', length=2,
    num_tasks=4, task=jax.eval_shape(sample, KEY),
  )  # fmt: skip
  params = learner.init(KEY, None)
  tasks = jax.vmap(sample)(jax.random.split(KEY, 4))
  gradient, metrics = jax.jit(learner.grad)(KEY, params, tasks)
  assert float(metrics['diverged']) == 0.5
  for leaf in jax.tree.leaves((gradient, metrics)):
    assert np.isfinite(leaf).all()


@pytest.mark.in_ci
@pytest.mark.parametrize('estimator', ['truncated', 'pes'])
def test_unrolls_go_on_in_training_and_it_resumes_exactly(estimator):
  sample = metajax.tasks.sinusoid(8, 8)
  learner = learned.learn_optimizer(
    mlp([4], 1), metajax.mean_squared_error, 'adam', 6, estimator=estimator,
    length=2, num_tasks=3, task=jax.eval_shape(sample, KEY), batch_size=4,
  )  # fmt: skip
  optimizer = metajax.outer_optimizer(optax.adam(1e-2), learned.LABELS)
  metajax.check(learner, metajax.mean_squared_error, sample, num_tasks=3)
  train = metajax.make_train_step(
    learner, optimizer, sample, tasks_per_step=3, chunk_size=3
  )
  state, metrics = train.run(train.init(KEY), 2)
  assert {'loss', 'diverged', 'skipped'} == set(metrics)
  assert state.meta_params.unrolls[0].next_step.tolist() == [4, 0, 2]
  again = jax.tree.map(jnp.copy, state)
  once, _ = train.run(state, 3)
  steps, _ = train.run(again, 1)
  steps, _ = train.run(steps, 2)
  jax.tree.map(
    np.testing.assert_array_equal, once.meta_params, steps.meta_params
  )
  with pytest.raises(ValueError, match='3 unrolls; give as many tasks a step'):
    metajax.check(learner, metajax.mean_squared_error, sample)


def test_what_cannot_be_is_refused():
  unroll = Unroll(start, linear, 10)
  for make in (learned.truncated, learned.persistent):
    with pytest.raises(ValueError, match='divide the horizon of 10 steps'):
      make(unroll, 3)
  with pytest.raises(ValueError, match='scale must be above 0, got -1'):
    learned.persistent(unroll, 5, scale=-1)
  with pytest.raises(ValueError, match='make them by'):
    learned.truncated(unroll, 5)(KEY, LearnedParams(1.0), no_task(1))
  bad = jax.tree.map(lambda leaf: leaf[0].astype(jnp.uint8), no_task(1))
  with pytest.raises(ValueError, match='support/inputs is uint8'):
    learned.begin(unroll, 1.0, bad, 1, 5, pairs=True)
  common = mlp([4], 1), metajax.mean_squared_error
  for wrong, message in (
    ({'optimizer': 'sgd'}, 'optimizer must be one of mlp, adam'),
    ({'horizon': 0}, 'horizon must be a whole number'),
    ({'estimator': 'reinforce'}, 'estimator must be one of unrolled'),
    ({'estimator': 'pes'}, 'give num_tasks'),
    ({'estimator': 'pes', 'length': 7}, 'divide the horizon'),
    ({'step_weights': [1.0]}, '100 numbers from 0'),
    ({'batch_size': 0}, 'batch_size must be a whole number'),
    ({'spread': -1.0}, 'spread must be 0 or more'),
  ):
    with pytest.raises(ValueError, match=message):
      learned.learn_optimizer(*common, **wrong)
