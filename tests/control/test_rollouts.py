"""Rollouts: what happens has no derivative, how probable it was has one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax.control import (
  Episodes,
  Navigation,
  advantages,
  as_environment,
  categorical,
  episode_tasks,
  gaussian,
  policy_for,
  rollout_model,
  surrogate_objective,
)
from metajax.control.advantages import fitted_values, returns
from metajax.control.navigation import draw_goal, towards_goal
from metajax.control.rollouts import play
from metajax.control.surrogates import SURROGATES
from metajax.models import mlp

WORLD = as_environment(Navigation())
POLICY = policy_for(WORLD.actions, mlp([8], 2))
MODEL = rollout_model(POLICY, WORLD, 12)
TASK = episode_tasks(draw_goal, 5, 5)(jax.random.key(0))
EPISODES = TASK.support.inputs


def params():
  return MODEL.init(jax.random.key(1), EPISODES)


def test_a_trajectory_has_axes_of_episodes_and_steps():
  played = jax.jit(MODEL.apply)(params(), EPISODES)
  assert played.observations.shape == (5, 12, 2)
  assert played.actions.shape == (5, 12, 2)
  for each in (played.rewards, played.active, played.log_probabilities):
    assert each.shape == (5, 12)
  np.testing.assert_array_equal(played.behaviour, played.log_probabilities)


def test_nothing_that_happens_has_a_derivative():
  @jax.jit
  def slope(params):
    def happened(params):
      played = MODEL.apply(params, EPISODES)
      return sum(map(jnp.sum, played[:5]))  # all but probabilities

    return jax.grad(happened)(params)

  assert all(not np.any(leaf) for leaf in jax.tree.leaves(slope(params())))


def test_how_probable_it_was_has_one():
  slope = jax.jit(
    jax.grad(lambda p: jnp.sum(MODEL.apply(p, EPISODES).log_probabilities))
  )(params())
  assert all(np.any(leaf) for leaf in jax.tree.leaves(slope))


def test_a_trajectory_is_judged_and_not_played_again():
  played = jax.jit(MODEL.apply)(params(), EPISODES)
  again = jax.jit(MODEL.apply)(params(), played)
  np.testing.assert_allclose(
    again.log_probabilities, played.log_probabilities, rtol=1e-5, atol=1e-5
  )
  other = jax.tree.map(lambda leaf: 1.5 * leaf, params())
  judged = jax.jit(MODEL.apply)(other, played)
  np.testing.assert_array_equal(judged.actions, played.actions)
  np.testing.assert_array_equal(judged.behaviour, played.behaviour)
  assert not np.allclose(judged.log_probabilities, played.log_probabilities)


class Breaks(Navigation):
  """It ends after three steps, and what is seen then is no number."""

  def reset(self, key, parameters):
    return jnp.zeros(2), jnp.zeros(())

  def step(self, key, state, action, parameters):
    ended = state >= 2
    seen = jnp.where(ended, jnp.nan, 0.1 * state) * jnp.ones(2)
    return seen, state + 1, action[0], ended, {}


def test_what_is_seen_after_the_end_does_not_count():
  world = as_environment(Breaks())
  model = rollout_model(policy_for(world.actions, mlp([4], 2)), world, 6)
  objective = surrogate_objective('dice', advantages('linear'))
  start = model.init(jax.random.key(0), EPISODES)
  played = jax.jit(model.apply)(start, EPISODES)
  assert played.active.sum(axis=1).tolist() == [3] * 5
  slope = jax.jit(
    jax.grad(lambda params: objective(model.apply(params, EPISODES), ())[0])
  )(start)
  for leaf in jax.tree.leaves((played, slope)):
    assert np.isfinite(leaf).all()


def test_an_inner_step_plays_episodes_of_its_own():
  first, second = (
    jax.jit(MODEL.apply)(params(), EPISODES, jax.random.key(seed)).actions
    for seed in (0, 1)
  )
  assert not np.any(first == second)


def test_the_episodes_of_a_task_have_its_goal_and_keys_of_their_own():
  goals = np.concatenate([each.inputs.parameters for each in TASK])
  np.testing.assert_array_equal(goals, np.broadcast_to(goals[0], goals.shape))
  keys = np.concatenate([each.inputs.keys for each in TASK])
  assert len({tuple(key) for key in keys}) == 10
  one = episode_tasks(draw_goal, 5, 5, one_start=True)(jax.random.key(0))
  starts = np.concatenate([each.inputs.starts for each in one])
  assert len({tuple(start) for start in starts}) == 1


def test_who_knows_the_goal_is_there_and_the_episode_over():
  _, _, rewards, active = play(
    WORLD, towards_goal, EPISODES, lambda key: jnp.zeros((12, 2))
  )
  goal = np.asarray(EPISODES.parameters[0])
  needed = int(np.ceil(np.abs(goal).max() / 0.1))
  assert active.sum(axis=1).tolist() == [needed] * 5
  assert not np.any(rewards[:, needed:])
  # By hand: every step comes closer by a tenth along each axis.
  place, total = np.zeros(2), 0.0
  for _ in range(needed):
    place += np.clip(goal - place, -0.1, 0.1)
    total -= np.linalg.norm(place - goal)
  np.testing.assert_allclose(rewards.sum(axis=1), total, atol=1e-5)


def test_the_likelihoods_and_divergences_of_gaussians_are_those_of_scipy():
  stats = pytest.importorskip('scipy.stats')
  of = POLICY.distribution(params(), jnp.array([[0.3, -0.2]]))
  action = jnp.array([[0.5, 1.0]])
  wanted = stats.norm.logpdf(action, of.mean, np.exp(of.log_deviation)).sum()
  found = POLICY.log_probability(of, action)
  np.testing.assert_allclose(found, [wanted], rtol=1e-5)
  other = of._replace(mean=of.mean + 1, log_deviation=of.log_deviation + 0.5)
  draws = POLICY.draw(
    jax.tree.map(lambda leaf: jnp.tile(leaf, (20_000, 1)), of),
    jax.random.normal(jax.random.key(2), (20_000, 2)),
  )
  sampled = jnp.mean(
    POLICY.log_probability(of, draws) - POLICY.log_probability(other, draws)
  )
  found = POLICY.divergence(of, other)
  np.testing.assert_allclose(found, [sampled], rtol=0.05)
  np.testing.assert_allclose(POLICY.divergence(of, of), [0.0], atol=1e-6)


def test_choices_are_drawn_as_often_as_they_are_probable():
  policy = categorical(mlp([], 3), 3)
  logits = jnp.log(jnp.array([0.7, 0.2, 0.1]))
  noise = policy.noise(jax.random.key(0), 20_000)
  drawn = policy.draw(jnp.tile(logits, (20_000, 1)), noise)
  shares = np.bincount(np.asarray(drawn), minlength=3) / 20_000
  np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=0.01)
  found = policy.divergence(logits, jnp.log(jnp.ones(3) / 3))
  wanted = np.sum(np.exp(logits) * (np.asarray(logits) + np.log(3)))
  assert float(found) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize('surrogate', sorted(SURROGATES))
def test_the_value_of_an_objective_is_the_reward(surrogate):
  """Evolution strategies, and who reads a log, know the value alone."""
  objective = surrogate_objective(surrogate, advantages('linear'))
  played = MODEL.apply(params(), EPISODES)
  loss, metrics = objective(played, ())
  assert float(loss) == pytest.approx(-float(jnp.mean(played.rewards)), 1e-5)
  assert float(loss) == pytest.approx(-float(metrics['return']) / 12, 1e-5)


def test_a_policy_of_other_actions_is_refused():
  discrete = categorical(mlp([8], 2), 2)
  with pytest.raises(ValueError, match='discrete actions, but navigation has'):
    rollout_model(discrete, WORLD, 10)
  with pytest.raises(ValueError, match='steps must be 1 or more'):
    rollout_model(POLICY, WORLD, 0)
  with pytest.raises(ValueError, match='one episode or more'):
    episode_tasks(draw_goal, 0, 1)


@pytest.mark.parametrize('policy', [gaussian, categorical])
@pytest.mark.parametrize(('outputs', 'size'), [(1, 2), (3, 2), (2, 3)])
def test_outputs_are_as_many_as_a_policy_has(policy, outputs, size):
  """One output would stand for all numbers of an action, without a word."""
  made = policy(mlp([4], outputs), size)
  seen = jnp.zeros((5, 2))
  with pytest.raises(ValueError, match=rf'size {size} needs .* \(5, {outputs}'):
    made.distribution(made.init(jax.random.key(0), seen), seen)


def test_a_policy_of_another_size_is_refused():
  with pytest.raises(ValueError, match='size 1, but actions of navigation'):
    rollout_model(gaussian(mlp([4], 1), 1), WORLD, 3)
  with pytest.raises(ValueError, match='must be 1 or more, got 0'):
    gaussian(mlp([4], 2), 0)


def test_returns_are_discounted_sums_of_what_comes():
  rewards = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
  found = returns(jnp.asarray(rewards), 0.9)
  wanted = [
    [sum(0.9 ** (k - t) * row[k] for k in range(t, 5)) for t in range(5)]
    for row in rewards
  ]
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_the_linear_value_is_a_ridge_regression():
  random = np.random.default_rng(0)
  seen = random.normal(size=(4, 6, 2)).astype(np.float32)
  targets = (seen @ [1.0, -2.0] + 0.5 * seen[..., 0] ** 2 + 3).astype(
    np.float32
  )
  found = fitted_values(*map(jnp.asarray, (seen, targets, np.ones((4, 6)))))
  np.testing.assert_allclose(found, targets, atol=0.02)


@pytest.mark.parametrize(
  'seen',
  [
    np.ones((20, 100, 1)),
    1e3 * np.ones((20, 100, 1)),
    np.tile(np.arange(100)[None, :, None] / 100, (20, 1, 1)),
    np.random.default_rng(0).normal(size=(20, 100, 1))[..., [0, 0]],
  ],
  ids=['constant', 'large', 'the time', 'twice the same'],
)
def test_observations_that_say_the_same_leave_the_values_as_they_are(seen):
  """Such as those of a bandit: the matrix of the regression is singular."""
  drift = np.linspace(-1, 1, 100)[None]
  targets = 5 + drift + np.random.default_rng(1).normal(size=(20, 100))
  active = np.ones((20, 100), np.float32)
  found = fitted_values(
    jnp.asarray(seen, jnp.float32), jnp.asarray(targets, jnp.float32), active
  )
  time = np.broadcast_to(np.arange(100)[:, None] / 100, (20, 100, 1))
  seen = np.clip(seen, -10, 10)
  features = np.concatenate(
    [seen, seen**2, time, time**2, time**3, np.ones_like(time)], -1
  ).reshape(2000, -1)
  weights = np.linalg.lstsq(features, targets.ravel())[0]
  np.testing.assert_allclose(
    found.ravel(), features @ weights, rtol=0, atol=2e-2
  )


def test_with_a_trace_of_zero_advantages_are_errors_of_single_steps():
  played = jax.jit(MODEL.apply)(params(), EPISODES)
  values = fitted_values(
    played.observations, returns(played.rewards, 0.9), played.active
  )
  found = advantages('linear', 0.9, 0.0, normalised=False)(played, None)
  later = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
  wanted = played.rewards + 0.9 * later - values
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_padding_with_a_weight_of_zero_changes_no_advantage():
  played = jax.jit(MODEL.apply)(params(), EPISODES)
  more = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:2]]), played)
  weights = jnp.array([1.0] * 5 + [0.0] * 2)
  for value in ('linear', 'time', 'none'):
    estimate = advantages(value)
    np.testing.assert_allclose(
      estimate(more, weights)[:5], estimate(played, None), atol=2e-3
    )


@pytest.mark.parametrize(
  ('wrong', 'text'),
  [(('cubic',), 'linear, time, none'), (('time', 1.5), 'from 0 to 1')],
)
def test_advantages_without_a_meaning_are_refused(wrong, text):
  with pytest.raises(ValueError, match=text):
    advantages(*wrong)


class _Broken(Navigation):
  """Gives no number as a reward from the third step on."""

  name = 'broken'

  def step(self, key, state, action, goal):
    place, _, reward, ended, info = super().step(key, state[:2], action, goal)
    count = state[2] + 1
    reward = jnp.where(count > 2, jnp.nan, reward)
    return place, jnp.append(place, count), reward, ended, info

  def reset(self, key, goal):
    place, _ = super().reset(key, goal)
    return place, jnp.zeros(3)


@pytest.mark.in_ci
def test_rewards_that_are_no_numbers_move_no_parameter():
  import optax

  world = as_environment(_Broken())
  learner = metajax.maml(
    rollout_model(policy_for(world.actions, mlp([4], 2)), world, 5),
    surrogate_objective('dice', advantages('time')),
    0.1,
    1,
  )
  train = metajax.make_train_step(
    learner, optax.adam(1e-3), episode_tasks(draw_goal, 2, 2), tasks_per_step=2
  )
  state = train.init(jax.random.key(0))
  before = jax.tree.map(np.array, state.meta_params)
  with pytest.warns(match='2 of 2 steps were skipped'):
    state, _ = train.run(state, 2)
  jax.tree.map(np.testing.assert_array_equal, before, state.meta_params)


def test_an_axis_of_episodes_is_all_that_inputs_need():
  """One may make them by hand."""
  goals = jnp.array([[0.1, 0.0], [0.0, 0.2]])
  keys = jax.random.key_data(jax.random.split(jax.random.key(0), 2))
  played = MODEL.apply(params(), Episodes(keys, keys, goals))
  first = played.observations[:, 1] - goals
  np.testing.assert_allclose(
    played.rewards[:, 0], -np.linalg.norm(first, axis=-1), rtol=1e-5
  )
