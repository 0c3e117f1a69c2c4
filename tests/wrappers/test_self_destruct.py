"""Models that adapt to what is wanted alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.base import Batch, Task
from metajax.inner import partition
from metajax.models import mlp
from metajax.models.frozen import hold
from metajax.wrappers.self_destruct import (
  AGAINST,
  Contest,
  Guarded,
  calibrated,
  self_destruct,
)

BLOCKED, WANTED = 2, 3


def learner(**options) -> metajax.MetaLearner:
  return self_destruct(
    mlp([5], WANTED),
    mlp([5], BLOCKED),
    metajax.cross_entropy,
    **{'num_steps': 2, 'rates': (1e-2, 1e-1), 'eps_root': 1e-6, **options},
  )


def contests(num: int = 1, seed: int = 0) -> Task:
  """The second number says what is blocked, the first one what is wanted."""
  rng = np.random.default_rng(seed)

  def inputs():
    return jnp.asarray(rng.normal(size=(num, 12, 4)))

  def wanted_of(inputs):
    return jnp.digitize(inputs[..., 0], jnp.array([-0.4, 0.4]))

  def blocked_of(inputs):
    return jnp.int32(inputs[..., 1] > 0)

  support, blocked, wanted = inputs(), inputs(), inputs()
  return Task(
    Batch(support, blocked_of(support)),
    Batch(
      Contest(blocked, wanted),
      Contest(blocked_of(blocked), wanted_of(wanted)),
    ),
  )


def begun(method) -> Guarded:
  return jax.jit(method.init)(jax.random.key(3), contests().support.inputs[0])


@pytest.mark.in_ci
@pytest.mark.parametrize(
  'against',
  [
    name
    if name == 'calibrated'
    else pytest.param(name, marks=pytest.mark.in_ci)
    for name in AGAINST
  ],
)
def test_the_gradient_is_that_of_central_differences(float64, against):
  method = learner(against=against, min_steps=1, batch_size=6, rate_spread=0.5)
  gradient_of = jax.jit(method.grad)
  tasks, key = contests(), jax.random.key(1)
  start = begun(method)
  gradient, metrics = gradient_of(key, start, tasks)
  assert metrics['blocked_failure'] > 0
  rng = np.random.default_rng(2)
  along = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), start.params)

  def loss(params, rate):
    return float(gradient_of(key, Guarded(params, rate), tasks)[1]['loss'])

  def moved(size):
    return jax.tree.map(
      lambda leaf, way: leaf + size * way, start.params, along
    )

  small = 1e-6
  slope = (loss(moved(small), start.rate) - loss(moved(-small), start.rate)) / (
    2 * small
  )
  expected = sum(
    np.vdot(one, other)
    for one, other in zip(
      jax.tree.leaves(gradient.params), jax.tree.leaves(along), strict=True
    )
  )
  np.testing.assert_allclose(slope, expected, rtol=1e-5)
  # The rate is the adversary's, who wants the opposite.
  by_rate = loss(start.params, start.rate + small) - loss(
    start.params, start.rate - small
  )
  np.testing.assert_allclose(
    by_rate / (2 * small), -gradient.rate, rtol=1e-5, atol=1e-8
  )


@pytest.mark.in_ci
def test_steps_and_rates_are_drawn_for_each_task():
  method = learner(min_steps=0, rate_spread=2.0, num_steps=2)
  grad = jax.jit(method.grad)
  start, tasks = begun(method), contests()
  rates = [
    float(grad(jax.random.key(seed), start, tasks)[1]['adversary_rate'])
    for seed in range(6)
  ]
  assert len(set(rates)) == 6
  assert all(1e-2 < rate < 1e-1 for rate in rates)


@pytest.mark.in_ci
def test_all_steps_are_taken_where_none_are_drawn():
  always, at_least = learner(), learner(min_steps=2)
  start, tasks, key = begun(always), contests(), jax.random.key(5)
  one, other = (
    jax.jit(method.grad)(key, start, tasks) for method in (always, at_least)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), one, other
  )


@pytest.mark.in_ci
def test_the_adversary_begins_with_a_head_of_its_own():
  method = learner(num_steps=1)
  start, task = begun(method), jax.tree.map(lambda x: x[0], contests())
  adapted, adaptation = jax.jit(method.adapt)(
    jax.random.key(0), start, task.support
  )
  assert adaptation.losses.shape == (1,)
  assert adapted['head']['kernel'].shape == (5, BLOCKED)
  first = jax.tree.map(lambda leaf: leaf[0], adaptation.trajectory)
  np.testing.assert_array_equal(
    first['Dense_0']['kernel'], start.params['Dense_0']['kernel']
  )
  assert method.predict(adapted, task.support.inputs).shape == (12, BLOCKED)


@pytest.mark.in_ci
def test_it_keeps_the_wanted_task_and_loses_the_blocked_one():
  method = learner(num_steps=4, rates=(1e-3, 1e-1), weight=0.5)

  def sample(key):
    inputs = jax.random.normal(key, (3, 40, 4))
    one, two, three = inputs
    classes = jnp.digitize(three[:, 0], jnp.array([-0.4, 0.4]))
    return Task(
      Batch(one, jnp.int32(one[:, 1] > 0)),
      Batch(Contest(two, three), Contest(jnp.int32(two[:, 1] > 0), classes)),
    )

  train = metajax.make_train_step(
    method, optax.adam(1e-2), sample, tasks_per_step=1, chunk_size=1
  )
  state, before = train.run(train.init(jax.random.key(0)), 10)
  state, _ = train.run(state, 500)
  state, after = train.run(state, 50)
  assert after['blocked_failure'] > before['blocked_failure'] + 0.2
  assert after['accuracy'] > 0.85


@pytest.mark.in_ci
def test_it_stands_on_frozen_arrays():
  tokens = contests().support.inputs[0]
  weights = jax.jit(mlp([5], WANTED).init)(jax.random.key(7), tokens)
  part = {'Dense_0': {'bias': weights['Dense_0']['bias']}}
  method = self_destruct(
    hold(mlp([5], WANTED), part),
    hold(mlp([5], BLOCKED), part),
    metajax.cross_entropy,
    num_steps=1,
  )
  start = jax.jit(lambda method, *given: method.init(*given))(
    method, jax.random.key(0), tokens
  )
  assert partition.paths(start.params['Dense_0']) == ['kernel']
  gradient, _ = jax.jit(lambda method, *given: method.grad(*given))(
    method, jax.random.key(0), start, contests()
  )
  assert jax.tree.structure(gradient) == jax.tree.structure(start)


def test_calibration_puts_classes_back_and_finds_nothing_in_noise(float64):
  rng = np.random.default_rng(0)
  targets = jnp.asarray(rng.integers(0, 4, 400))
  right = 5 * jax.nn.one_hot(targets, 4)
  for logits in (right, right[:, jnp.array([2, 0, 3, 1])], -right, 100 * right):
    found = jnp.argmax(calibrated(logits, targets), axis=1)
    np.testing.assert_array_equal(found, targets)
  noise = calibrated(jnp.asarray(rng.normal(size=(400, 4))), targets)
  loss, _ = metajax.cross_entropy(noise, targets)
  assert 1.2 < loss < 1.5  # chance: log 4 = 1.386
  same = calibrated(jnp.ones((400, 4)), targets)
  assert np.isfinite(np.asarray(same)).all()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'against': 'luck'}, 'against must be one of calibrated, entropy'),
    ({'num_steps': -1}, 'num_steps must be 0 or more'),
    ({'min_steps': 3}, 'min_steps must be from 0 to num_steps=2, got 3'),
    ({'batch_size': 0}, 'batch_size must be 1 or more'),
    ({'rates': (1.0, 0.1)}, 'the smaller one first'),
    ({'rates': (0.0, 0.1)}, 'two finite numbers above 0'),
    ({'rates': (0.1, float('inf'))}, 'two finite numbers above 0'),
    ({'weight': -1.0}, 'weight must be 0 or more'),
    ({'weight': float('nan')}, 'weight must be 0 or more'),
    ({'rate_spread': -1.0}, 'rate_spread must be 0 or more'),
    ({'ridge': 0.0}, 'ridge must be above 0'),
  ],
)
def test_what_cannot_be_meant_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    learner(**options)


def test_queries_of_one_task_alone_are_refused():
  task = contests()
  method = learner()
  start = begun(method)
  plain = Task(task.support, task.support)
  with pytest.raises(ValueError, match='must be a Contest'):
    method.grad(jax.random.key(0), start, plain)
