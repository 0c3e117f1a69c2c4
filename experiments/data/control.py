"""Environments: from settings to distributions of tasks of episodes."""

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp

from experiments.runner.errors import UsageError, suggestion
from experiments.runner.settings import (
  Base,
  Finite,
  OneOf,
  Share,
  Text,
  Whole,
  setting,
  settings,
)
from metajax.algorithms.recipe import Recipe
from metajax.base import PyTree, SampleTask
from metajax.control.advantages import Baseline
from metajax.control.bandits import BernoulliBandit
from metajax.control.environments import (
  Environment,
  as_environment,
  check_parameters,
)
from metajax.control.navigation import Navigation, draw_goal, towards_goal
from metajax.control.rollouts import Act, episode_tasks
from metajax.control.surrogates import SURROGATES
from metajax.equality import by_value

__all__ = ['WORLDS', 'ControlData', 'Loaded', 'World', 'load']

_NONE: Mapping[str, Act] = MappingProxyType({})
_ARMS, _PULLS = 5, 10  # of a bandit, by default


class FromZero(Finite):
  """A number from 0 to 1."""

  allowed = 'a number from 0 to 1'

  def holds(self, number: float) -> bool:
    """Whether a finite number is allowed."""
    return 0 <= number <= 1


@settings
class ControlData(Base):
  """What is acted in, and how its returns become gradients."""

  environment: str = setting(
    'navigation', Text(),
    'what is acted in: a name, or MODULE:NAME of an environment with the'
    ' interface of gymnax, an object or what makes one',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  episode_steps: int | None = setting(
    None, Whole(), 'the most steps of an episode [default: the environment]',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  arms: int | None = setting(
    None, Whole(2), 'of a bandit [default: 5]',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  trial_episodes: int | None = setting(
    None, Whole(), 'episodes of a trial, for a method with a memory, which is'
    ' kept from one to the next [default: 1]',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  surrogate: str | None = setting(
    None, OneOf(list(SURROGATES)),
    'the loss of a rollout, inner and outer [default: dice; '
    'likelihood_ratio with --outer=ppo or trpo]',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  outer: str = setting(
    'adam', OneOf(['adam', 'ppo', 'trpo']),
    'the outer step: a gradient for the optimiser of the method; several'
    ' updates of a clipped loss on the same episodes (PPO; with'
    ' likelihood_ratio inside it is ProMP); or a step within a trust region',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  causality: float | None = setting(
    None, FromZero(),
    'of dice: discount of how far one choice bears on the derivative of later'
    ' ones; below 1 it has less variance and a bias [default: 0.9; 1, which is'
    ' exact, where --surrogate is given]',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  value: Baseline = setting(
    'linear', OneOf(get_args(Baseline)),
    'the baseline of advantages: linear in features of observations and time,'
    ' the mean return from each step on, or none',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  discount: float = setting(
    0.99, Share(), 'of rewards to come, where it learns from them',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  trace: float = setting(
    1.0, FromZero(),
    'lambda of generalised advantage estimation: 1 for whole returns, 0 for'
    ' one step',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip


class World(NamedTuple):
  """A row of the table: an environment, and what its tasks differ in."""

  make: Callable[[], Any]  # an environment with gymnax's interface
  steps: int  # of an episode
  # key -> parameters; None: they are the default ones, and tasks differ in
  # what a reset draws.
  draw: Callable[[jax.Array], PyTree] | None = None
  # What is known without learning, by name.
  known: Mapping[str, Act] = _NONE
  # What observations show on a picture, such as places; None: rewards.
  places: tuple[str, str] | None = None


class Loaded(NamedTuple):
  """An environment that has been looked at, and its tasks."""

  environment: Environment
  steps: int
  train: SampleTask
  test: SampleTask
  known: Mapping[str, Act]
  protocol: dict[str, Any]
  places: tuple[str, str] | None


def _nothing(
  observation: jax.Array, noise: jax.Array, parameters: PyTree
) -> jax.Array:
  """The action of one who does not move."""
  del observation, parameters
  return jnp.zeros_like(noise)


def _of_gymnax(name: str) -> Callable[[], Any]:
  """Makes an environment of gymnax, where that is installed."""

  def make() -> Any:
    try:
      gymnax = importlib.import_module('gymnax')
    except ImportError as error:
      raise UsageError(
        'environment',
        f'{name} is of gymnax, which is not installed; pip install'
        " 'metajax[control]'",
      ) from error
    return gymnax.make(name)[0]

  return make


def _draw_cart(key: jax.Array) -> PyTree:
  """Poles from short to long, and motors from weak to strong."""
  usual = _of_gymnax('CartPole-v1')().default_params
  length_key, force_key = jax.random.split(key)
  length = jax.random.uniform(length_key, minval=0.25, maxval=1.5)
  return usual.replace(
    length=length,
    polemass_length=usual.masspole * length,
    force_mag=jax.random.uniform(force_key, minval=4.0, maxval=16.0),
  )


class _Rooms:
  """FourRooms of gymnax, with a goal that is drawn and not observed."""

  def __init__(self) -> None:
    self._rooms = _of_gymnax('FourRooms-misc')()
    usual = self._rooms.default_params
    self.name = self._rooms.name
    self.default_params = usual.replace(resample_goal_pos=True)
    self.action_space = self._rooms.action_space

  def reset(self, key: jax.Array, parameters: PyTree) -> Any:
    """The first place; the goal is in the state alone."""
    seen, state = self._rooms.reset(key, parameters)
    return seen[:2], state

  def step(self, *arguments: Any) -> Any:
    """The next place, and what comes with it."""
    seen, *others = self._rooms.step(*arguments)
    return (seen[:2], *others)


WORLDS: dict[str, World] = {
  'navigation': World(
    Navigation, 100, draw_goal,
    {'nothing': _nothing, 'oracle': towards_goal}, ('x', 'y'),
  ),
  'rooms': World(_Rooms, 50),
  'maze': World(_of_gymnax('MetaMaze-misc'), 50),
  'cartpole': World(_of_gymnax('CartPole-v1'), 100, _draw_cart),
}  # fmt: skip


@by_value
def _always(parameters: Any) -> Callable[[jax.Array], PyTree]:
  return lambda key: jax.tree.map(jnp.asarray, parameters)


def load(given: Any, recipe: Recipe) -> Loaded:
  """Makes the environment that settings name, and its tasks.

  Raises:
    UsageError: if there is none of that name, or it is none.
  """
  world = _world(given)
  try:
    environment = as_environment(world.make())
  except ValueError as error:
    raise UsageError('environment', str(error)) from error
  steps = given.episode_steps or world.steps
  if world.draw is not None:
    _check_draw(environment, world.draw)
  draw = world.draw or _always(environment.parameters)
  one_start = world.draw is None
  return Loaded(
    environment,
    steps,
    episode_tasks(
      draw,
      recipe.train_shots or recipe.shots,
      recipe.train_queries or recipe.queries,
      one_start=one_start,
    ),
    episode_tasks(draw, recipe.shots, recipe.queries, one_start=one_start),
    world.known,
    {
      'episode_steps': steps,
      'tasks_differ_in': 'what a reset draws' if one_start else 'parameters',
      **(
        {'arms': given.arms or _ARMS} if given.environment == 'bandit' else {}
      ),
    },
    world.places,
  )


def _check_draw(
  environment: Environment, draw: Callable[[jax.Array], PyTree]
) -> None:
  """Refuses parameters of tasks that cannot be drawn, or acted with."""
  try:
    parameters = jax.eval_shape(draw, jax.random.key(0))
  except Exception as error:
    reason = ' '.join(str(error).split())[:160]
    raise UsageError(
      'environment',
      f'{environment.name}: draw_parameters cannot be traced by JAX'
      f' ({type(error).__name__}: {reason}); write it in jax.numpy, as key ->'
      ' parameters',
    ) from error
  try:
    check_parameters(environment, parameters)
  except ValueError as error:
    raise UsageError(
      'environment', f'with what draw_parameters returns, {error}'
    ) from error


def _world(given: Any) -> World:
  name = given.environment
  if name == 'bandit':
    return _bandit(given.arms or _ARMS, given.episode_steps or _PULLS)
  if given.arms is not None:
    raise UsageError(
      'arms', f'is of a bandit; give --environment=bandit, not {name}'
    )
  if ':' in name:
    return _own(name)
  if name == 'car':
    raise UsageError(
      'environment',
      'car is python -m experiments.car, or experiments.car.run from Python,'
      ' since its tasks are transitions and not episodes',
    )
  if name not in WORLDS:
    names = [*WORLDS, 'bandit', 'car']
    hint = suggestion(name, names)
    module, dot, own = name.rpartition('.')
    if dot and not hint:
      hint = f'; one of your own has a colon before its name: {module}:{own}'
    raise UsageError(
      'environment',
      f'there is no {name!r}; there are {", ".join(names)}, MODULE:NAME{hint}',
    )
  return WORLDS[name]


def _bandit(arms: int, pulls: int) -> World:
  """Arms of unknown chances; an episode is all pulls of one bandit."""
  bandit = BernoulliBandit(arms, pulls)
  return World(lambda: bandit, pulls, bandit.sample)


def _own(name: str) -> World:
  """An environment of the user's.

  It may say what tasks differ in by a method `draw_parameters(key)`, and how
  long an episode is by `max_steps_in_episode` of its parameters.
  """
  module, _, path = name.partition(':')
  try:
    found: Any = importlib.import_module(module)
    for part in path.split('.'):
      found = getattr(found, part)
  except (Exception, SystemExit) as error:
    raise UsageError(
      'environment',
      f'{name} cannot be imported ({type(error).__name__}: {error}); name it'
      ' as MODULE:NAME, of a module that Python finds',
    ) from error
  try:
    made = found() if callable(found) else found
  except (Exception, SystemExit) as error:
    raise UsageError(
      'environment',
      f'{name} cannot be made ({type(error).__name__}: {error}); it is to be'
      ' an environment, or what makes one without arguments',
    ) from error
  usual = getattr(made, 'default_params', None)
  given = getattr(usual, 'max_steps_in_episode', 100)
  try:
    steps = Whole().check(int(given))
  except (TypeError, ValueError, OverflowError) as error:
    raise UsageError(
      'environment',
      f'{name} has max_steps_in_episode={given!r}, which must be'
      f' {Whole().allowed}',
    ) from error
  draw = getattr(made, 'draw_parameters', None)
  if draw is not None and not callable(draw):
    raise UsageError(
      'environment', f'{name}: draw_parameters must be a function of a key'
    )
  return World(lambda: made, steps, draw)
