"""Environments: what is one, and what is refused."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.control import Navigation, as_environment

KEY = jax.random.key(0)


class Counter:
  """Counts up; each test breaks something of it."""

  name = 'counter'
  default_params = ()

  def action_space(self, parameters):
    return SimpleNamespace(n=3)

  def reset(self, key, parameters):
    return jnp.zeros(1), jnp.zeros(())

  def step(self, key, state, action, parameters):
    state = state + action
    return state[None], state, state, state > 5, {}


def test_actions_are_choices_or_numbers_between_bounds():
  assert as_environment(Counter()).actions[:2] == ('discrete', 3)
  actions = as_environment(Navigation()).actions
  assert actions[:2] == ('continuous', 2)
  np.testing.assert_allclose(actions.high, [0.1, 0.1])


def test_actions_are_stretched_to_the_bounds_and_cut_off_there():
  world = as_environment(Navigation())
  _, state = world.reset(jax.random.key(0), jnp.zeros(2))
  action = jnp.array([0.5, -7.0])
  place, *_ = world.step(jax.random.key(0), state, action, jnp.zeros(2))
  np.testing.assert_allclose(place, [0.05, -0.1], rtol=1e-6)


def test_numbers_without_a_bound_on_one_side_are_not_stretched():
  largest = np.finfo(np.float32).max

  class Pushed(Counter):
    def action_space(self, parameters):
      return SimpleNamespace(low=-largest, high=np.float32(1), shape=(1,))

    def step(self, key, state, action, parameters):
      state = state + action[0]
      return state[None], state, state, state > 5, {}

  world = as_environment(Pushed())
  assert world.actions == ('continuous', 1, None, None)
  seen, *_ = world.step(KEY, jnp.zeros(()), jnp.array([0.5]), ())
  assert float(seen[0]) == 0.5


def test_two_that_are_made_alike_are_equal():
  """So what is compiled for one serves the other."""
  first, second = (as_environment(Navigation()) for _ in range(2))
  assert first.step == second.step


def test_one_that_computes_in_numpy_is_refused_in_a_line():
  class InNumpy(Counter):
    def step(self, key, state, action, parameters):
      state = np.asarray(state) + np.asarray(action)
      return np.asarray(state)[None], state, state, state > 5, {}

  with pytest.raises(ValueError, match='counter: step cannot be traced') as no:
    as_environment(InNumpy())
  assert '\n' not in str(no.value)
  assert 'jax.numpy' in str(no.value)


def test_one_that_remembers_in_its_attributes_is_refused():
  class Branches(Counter):
    def step(self, key, state, action, parameters):
      if state > 2:  # asks for a value
        state = state + 1
      return super().step(key, state, action, parameters)

  with pytest.raises(ValueError, match='no pure JAX environment'):
    as_environment(Branches())


@pytest.mark.parametrize(
  ('changed', 'text'),
  [
    ({'reset': None}, 'has no reset'),
    ({'step': lambda *_: (1, 2)}, 'five or six values'),
    ({'reset': lambda *_: jnp.zeros(1)}, r'\(observation, state\)'),
    ({'reset': lambda *_: ({'a': 1}, 0)}, 'one array'),
    ({'action_space': lambda *_: SimpleNamespace()}, 'n choices, or low'),
    (
      {
        'step': lambda key, state, action, _: (
          jnp.zeros(1), state, jnp.zeros(2), False, {},
        )
      },
      'one number',
    ),
    (
      {
        'step': lambda key, state, action, _: (
          jnp.zeros(1), (state, 1), 0.0, False, {},
        )
      },
      'like the one',
    ),
  ],
)  # fmt: skip
def test_what_is_no_environment_is_refused(changed, text):
  broken = Counter()
  for name, value in changed.items():
    setattr(broken, name, value)
  with pytest.raises(ValueError, match=text):
    as_environment(broken)


@pytest.mark.in_ci
def test_point_robot_of_gymnax_is_another_world():
  """What the docs say of it: a goal of each episode, and more to observe."""
  gymnax = pytest.importorskip('gymnax')
  environment, parameters = gymnax.make('PointRobot-misc')
  world = as_environment(environment)
  assert world.observation.shape == (6,)
  assert not parameters.dense_reward
  goals = [
    world.reset(jax.random.key(seed), parameters)[1].goal for seed in (0, 1)
  ]
  np.testing.assert_allclose(np.linalg.norm(goals, axis=1), 1, rtol=1e-5)
  assert not np.allclose(*goals)


@pytest.mark.parametrize('remembers', ['a number', 'what is traced'])
def test_one_that_changes_itself_is_refused(remembers):
  class Remembers(Counter):
    number = 0

    def step(self, key, state, action, parameters):
      found = super().step(key, state, action, parameters)
      self.number = self.number + 1 if remembers == 'a number' else found[1]
      return found

  with pytest.raises(ValueError, match="changes its attribute 'number'"):
    as_environment(Remembers())


def test_one_that_fills_a_cache_is_none_that_remembers():
  class Cached(Counter):
    most = None

    def step(self, key, state, action, parameters):
      if self.most is None:
        self.most = 5
      return super().step(key, state, action, parameters)

  assert as_environment(Cached()).actions.size == 3


def changed(place, value):
  """A counter of whose steps one result is another."""

  class Changed(Counter):
    def step(self, *arguments):
      found = list(super().step(*arguments))
      found[place] = value
      return tuple(found)

  return Changed()


@pytest.mark.parametrize(
  ('place', 'value', 'text'),
  [
    (0, jnp.zeros(2), r'float32\[1\] became float32\[2\]'),
    (0, jnp.zeros(1, 'float16'), r'float32\[1\] became float16\[1\]'),
    (1, jnp.zeros(3), r'float32\[\] became float32\[3\]'),
    (2, 1j, 'one real number'),
    (3, jnp.zeros(2, bool), 'one truth value'),
  ],
)
def test_results_that_the_next_step_cannot_take_are_refused(place, value, text):
  with pytest.raises(ValueError, match=f'counter: .*{text}'):
    as_environment(changed(place, value))


@pytest.mark.parametrize(('place', 'value'), [(2, 1), (2, True), (3, False)])
def test_numbers_of_python_are_rewards_and_ends(place, value):
  assert as_environment(changed(place, value)).name == 'counter'


def box(low, high, shape=(2,)):
  return SimpleNamespace(low=low, high=high, shape=shape)


@pytest.mark.parametrize(
  ('space', 'text'),
  [
    (SimpleNamespace(n=0), 'a number from 1, got 0'),
    (SimpleNamespace(n=-3), 'a number from 1, got -3'),
    (SimpleNamespace(n='many'), "got 'many'"),
    (box(-1, 1, (0,)), 'one number or more'),
    (box(1, -1), 'below the upper ones'),
    (box(np.nan, np.nan), 'below the upper ones'),
    (box(np.zeros(3), np.ones(3)), 'one or 2 each'),
    (None, 'n choices, or low'),
  ],
)
def test_actions_that_cannot_be_are_refused(space, text):
  class Space(Counter):
    def action_space(self, parameters):
      return space

  with pytest.raises(ValueError, match=f'counter: .*{text}'):
    as_environment(Space())


def test_a_space_that_cannot_be_asked_for_is_refused():
  class Space(Counter):
    def action_space(self, parameters):
      raise RuntimeError('no\nspace')

  with pytest.raises(ValueError, match=r'counter: action_space .*no space'):
    as_environment(Space())
