"""RL²: its gradient is that of the return of a trial, and its Adam persists."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.adaptation.outer_optimizers import outer_optimizer
from metajax.algorithms.rl2 import LABELS, clipped_loss, rl2, trial_advantages
from metajax.base import sample_tasks
from metajax.control.bandits import BernoulliBandit
from metajax.control.environments import as_environment
from metajax.control.rollouts import Trajectory, episode_tasks
from metajax.control.trials import Scores, num_scores, trial_model
from metajax.models.sequences import gru

ARMS, PULLS = 2, 2
BANDIT = BernoulliBandit(ARMS, PULLS)
WORLD = as_environment(BANDIT)
MODEL = trial_model(gru(num_scores(WORLD), width=4), WORLD, PULLS)
TASKS = episode_tasks(BANDIT.sample, 1, 1)
KEY = jax.random.key(0)


def reported(outputs, targets):
  total = jnp.mean(jnp.sum(outputs.rewards, axis=1))
  return -total, {'return': total}


def every_trial(chances):
  """All that may happen, and how probable rewards are, given the choices."""
  trials = []
  for actions in product(range(ARMS), repeat=PULLS):
    for rewards in product((0.0, 1.0), repeat=PULLS):
      read = np.zeros((PULLS, 1 + 2 * ARMS + 2))
      read[:, 0], read[0, -1] = 1, 1
      for step in range(1, PULLS):
        read[step, 1 + actions[step - 1]] = 1
        read[step, 1 + ARMS + actions[step - 1]] = rewards[step - 1]
        read[step, -2] = rewards[step - 1]
      share = np.prod([
        chances[arm] if won else 1 - chances[arm]
        for arm, won in zip(actions, rewards, strict=True)
      ])  # fmt: skip
      trials.append((read, actions, rewards, share))
  return [np.array(each) for each in zip(*trials, strict=True)]


def test_the_gradient_is_that_of_the_expected_return():
  """Enumerated, with whole returns and values that are wrong on purpose."""
  with jax.enable_x64():
    read, actions, rewards, share = map(
      jnp.asarray, every_trial(np.array([0.2, 0.9]))
    )
    params = jax.tree.map(
      lambda leaf: leaf.astype(float), MODEL.init(jax.random.key(0), ())
    )
    nothing = jnp.zeros(actions.shape)
    trials = Trajectory(read, actions, rewards, nothing + 1, *[nothing] * 2, ())

    def chance(params):
      log = MODEL.apply(params, trials).log_probabilities
      return share * jnp.exp(log.sum(1))

    exact = jax.grad(lambda params: jnp.vdot(chance(params), rewards.sum(1)))(
      params
    )
    now = MODEL.apply(params, trials)
    trials = now._replace(behaviour=now.log_probabilities)
    gained, _ = trial_advantages(trials, discount=1.0, trace=1.0)

    def of_trial(trial, gained):
      one = jax.tree.map(lambda leaf: leaf[None], (trial, gained))
      return jax.grad(
        partial(clipped_loss, clip=0.2, value_weight=0.0, entropy_weight=0.0)
      )(params, MODEL, *one, one[1])

    gradients = jax.vmap(of_trial)(trials, gained)
    weights = chance(params)
    assert abs(weights.sum() - 1) < 1e-12
    jax.tree.map(
      lambda exact, each: np.testing.assert_allclose(
        -PULLS * jnp.tensordot(weights, each, 1), exact, atol=1e-12
      ),
      exact,
      gradients,
    )


def test_advantages_go_over_the_whole_trial():
  generator = np.random.default_rng(0)
  rewards, values = generator.normal(size=(2, 3, 5))
  discount, trace = 0.9, 0.7
  horizon = sum(discount**step for step in range(5))
  expected = np.zeros_like(rewards)
  later = np.pad(values[:, 1:], ((0, 0), (0, 1)))
  errors = rewards + discount * later - values
  for start in range(5):
    for step in range(start, 5):
      expected[:, start] += (discount * trace) ** (step - start) * errors[
        :, step
      ]
  fields = dict.fromkeys(Trajectory._fields)
  trials = Trajectory(**fields | {
    'rewards': jnp.asarray(rewards),
    'distribution': Scores(
      jnp.zeros((3, 5, 2)), jnp.asarray(values) / horizon
    ),
  })  # fmt: skip
  found, goals = trial_advantages(trials, discount, trace)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  np.testing.assert_allclose(goals * horizon, expected + values, atol=1e-5)


@pytest.mark.in_ci
def test_its_optimiser_goes_on_from_step_to_step():
  learner = rl2(MODEL, reported, passes=3, minibatches=2)
  tasks = sample_tasks(TASKS, jax.random.key(0), 4)
  params = learner.init(jax.random.key(1), ())
  optimizer = outer_optimizer(optax.sgd(1.0), LABELS)
  state, before = optimizer.init(params), params
  for seed in range(2):
    gradient, metrics = learner.grad(jax.random.key(seed), params, tasks)
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
  counts = [
    int(leaf) for leaf in jax.tree.leaves(params.optimizer_state)
    if jnp.issubdtype(leaf.dtype, jnp.integer)
  ]  # fmt: skip
  assert counts == [2 * 3 * 2]
  assert 0 <= float(metrics['return']) <= PULLS
  moved = jax.tree.map(
    lambda old, new: float(jnp.abs(old - new).max()), before, params
  )
  assert min(jax.tree.leaves(moved.params)) > 0


def test_minibatches_that_do_not_divide_the_trials_are_refused():
  learner = rl2(MODEL, reported, minibatches=3)
  sample = episode_tasks(BANDIT.sample, 1, 2)
  tasks = jax.eval_shape(lambda key: sample_tasks(sample, key, 4), KEY)
  params = jax.eval_shape(learner.init, KEY, ())
  with pytest.raises(ValueError, match=r'minibatches is 3, .* 8 trials'):
    jax.eval_shape(learner.grad, KEY, params, tasks)


@pytest.mark.in_ci
def test_it_learns_to_play():
  """Two arms and six pulls: at random 3, by Thompson sampling 3.5."""
  bandit = BernoulliBandit(2, 6)
  world = as_environment(bandit)
  model = trial_model(gru(num_scores(world), width=16), world, 6)
  learner = rl2(model, reported, 1e-2, discount=0.9)
  sample = episode_tasks(bandit.sample, 1, 1)

  @jax.jit
  def step(params, key):
    tasks = sample_tasks(sample, key, 256)
    gradient, metrics = learner.grad(key, params, tasks)
    return jax.tree.map(jnp.subtract, params, gradient), metrics['return']

  params, found = learner.init(jax.random.key(0), ()), []
  for seed in range(150):
    params, mean = step(params, jax.random.key(seed))
    found.append(float(mean))
  assert abs(np.mean(found[:3]) - 3.0) < 0.2
  assert np.mean(found[-5:]) > 3.45


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'passes': 0}, 'passes must be 1 or more, got 0'),
    ({'discount': 1.5}, 'discount must be from 0 to 1, got 1.5'),
    ({'clip': 0.0}, 'clip must be above 0, got 0.0'),
    ({'entropy_weight': -1.0}, 'entropy_weight must be 0 or more, got -1.0'),
  ],
)
def test_what_cannot_be_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    rl2(MODEL, reported, **options)
