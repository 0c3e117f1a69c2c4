"""Trials: a memory that is kept over episodes, and judged as it was played."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.control import bandits
from metajax.control.bandits import BernoulliBandit
from metajax.control.environments import as_environment
from metajax.control.navigation import Navigation
from metajax.control.rollouts import episode_tasks
from metajax.control.trials import num_scores, trial_model
from metajax.models.sequences import decoder, gru

ARMS, PULLS, EPISODES = 3, 2, 3
STEPS = PULLS * EPISODES
BANDIT = BernoulliBandit(ARMS, PULLS)
WORLD = as_environment(BANDIT)
MODELS = {
  'gru': trial_model(gru(num_scores(WORLD), width=8), WORLD, STEPS),
  'decoder': trial_model(decoder(num_scores(WORLD), width=8), WORLD, STEPS),
}
every_model = pytest.mark.parametrize('model', MODELS.values(), ids=MODELS)


def played(model, trials=4):
  task = episode_tasks(BANDIT.sample, 1, trials)(jax.random.key(0))
  params = model.init(jax.random.key(1), task.query.inputs)
  params = jax.tree.map(
    lambda leaf: leaf + 0.5 * jax.random.normal(jax.random.key(2), leaf.shape),
    params,
  )
  return params, task.query.inputs, model.apply(params, task.query.inputs)


@every_model
def test_trials_are_judged_as_they_were_played(model):
  params, _, trials = played(model)
  again = model.apply(params, trials)
  for name in ('behaviour', 'log_probabilities'):
    np.testing.assert_allclose(
      again.log_probabilities, getattr(trials, name), atol=2e-5
    )
  np.testing.assert_allclose(
    again.distribution.values, trials.distribution.values, atol=2e-5
  )


def test_what_is_read_is_all_that_was_seen():
  _, _, trials = played(MODELS['gru'])
  read = np.asarray(trials.observations)
  actions = np.eye(ARMS)[np.asarray(trials.actions)]
  np.testing.assert_array_equal(read[:, 0, 1:-1], 0)  # nothing was done yet
  np.testing.assert_array_equal(read[:, 1:, 1 : 1 + ARMS], actions[:, :-1])
  rewards = np.asarray(trials.rewards)[:, :-1]
  np.testing.assert_array_equal(read[:, 1:, -2], rewards)
  np.testing.assert_array_equal(
    read[:, 1:, 1 + ARMS : -2], actions[:, :-1] * rewards[..., None]
  )
  begins = [1, 0] * EPISODES
  np.testing.assert_array_equal(read[..., -1], [begins] * len(read))


@every_model
def test_memory_is_kept_over_episodes_and_knows_nothing_of_what_comes(model):
  """A reward in the first episode bears on the others, a later one on none."""
  params, _, trials = played(model)
  base = trials.distribution.logits
  other = trials._replace(observations=trials.observations.at[:, 1, -2].add(1))
  change = jnp.abs(model.apply(params, other).distribution.logits - base)
  assert change[:, 0].max() < 2e-5
  assert (change[:, PULLS:].max((0, 2)) > 1e-3).all()
  last = trials._replace(observations=trials.observations.at[:, -1, -2].add(1))
  change = jnp.abs(model.apply(params, last).distribution.logits - base)
  assert change[:, :-1].max() < 2e-5


@every_model
def test_memory_is_empty_at_the_start_of_a_trial(model):
  params, inputs, trials = played(model)
  alone = jax.tree.map(lambda leaf: leaf[2:3], inputs)
  np.testing.assert_array_equal(
    model.apply(params, alone).actions[0], trials.actions[2]
  )
  first = trials.distribution.logits[:, 0]
  np.testing.assert_allclose(first, jnp.tile(first[:1], (4, 1)), atol=1e-6)


def test_rewards_are_those_of_whoever_plays_the_same_bandit():
  """So that a memory and a known policy are compared with the same luck."""
  bandit = BernoulliBandit(ARMS, STEPS)
  world = as_environment(bandit)
  model = trial_model(gru(num_scores(world), width=4), world, STEPS)
  _, inputs, trials = played(model)

  def repeat(key, chances, actions):
    def policy(_, counts):
      return actions[jnp.sum(counts.successes + counts.failures)]

    return bandits.play(policy, key, chances, STEPS)[1]

  rewards = jax.vmap(repeat)(
    jax.random.wrap_key_data(inputs.keys), inputs.parameters, trials.actions
  )
  np.testing.assert_array_equal(rewards, trials.rewards)


def test_an_episode_is_cut_off_after_its_steps():
  bandit = BernoulliBandit(ARMS, 100)
  world = as_environment(bandit)
  model = trial_model(gru(num_scores(world), width=4), world, 6, 3)
  _, _, trials = played(model)
  np.testing.assert_array_equal(
    trials.observations[0, :, -1], [1, 0, 0, 1, 0, 0]
  )


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (
      lambda: trial_model(gru(4), WORLD, 7, 2),
      'a trial of 7 steps is not a whole number of episodes of 2; take a mult',
    ),
    (lambda: trial_model(gru(4), WORLD, 0), 'must be 1 or more, got 0'),
    (
      lambda: num_scores(as_environment(Navigation())),
      'navigation has continuous actions; take an environment with discrete',
    ),
    (
      lambda: trial_model(gru(3), WORLD, 2).init(jax.random.key(0), ()),
      'needs a memory of 4 outputs .* got 3',
    ),
  ],
)
def test_what_cannot_be_played_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
