"""Environments: what an agent acts in, as two pure functions.

The interface is that of gymnax: `reset(key, parameters)` and `step(key, state,
action, parameters)`, with `action_space` and `observation_space`. Whatever has
these can be acted in; what differs from task to task is in the parameters, or
in what a reset draws.
"""

import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import PyTree
from metajax.equality import by_value

__all__ = ['Actions', 'Environment', 'as_environment', 'check_parameters']

_METHODS = ('reset', 'step', 'action_space')
_NO_BOUND = 1e30


class Actions(NamedTuple):
  """What may be done: one of some choices, or numbers between bounds."""

  kind: Literal['discrete', 'continuous']
  size: int  # choices, or numbers
  low: np.ndarray | None = None  # [size], where there are bounds
  high: np.ndarray | None = None


class Environment(NamedTuple):
  """An environment that has been looked at, and found to be one."""

  name: str
  reset: Callable[[jax.Array, PyTree], tuple[jax.Array, PyTree]]
  # (observation, state, reward, ended); it does not start anew by itself, or
  # if it does, nobody looks.
  step: Callable[
    [jax.Array, PyTree, jax.Array, PyTree],
    tuple[jax.Array, PyTree, jax.Array, jax.Array],
  ]
  actions: Actions
  parameters: PyTree  # as they are by default
  observation: jax.ShapeDtypeStruct


@by_value
def as_environment(environment: Any, parameters: PyTree = None) -> Environment:
  """Looks at an environment with gymnax's interface.

  Args:
    environment: with `reset`, `step` and `action_space`, of which `step`
      returns five or six values: observation, state, reward, whether it has
      ended (and whether it was cut off), and anything else.
    parameters: in place of `environment.default_params`.

  Returns:
    The environment, of which actions with bounds are to be between -1 and 1,
    and are stretched to the bounds and cut off there.

  Raises:
    ValueError: if it has another interface, or cannot be traced by JAX, such as
      one that computes with NumPy or in another process, or remembers in its
      attributes; the error says which.

  Example:
    >>> from metajax.control.navigation import Navigation
    >>> as_environment(Navigation()).actions.kind
    'continuous'
  """
  name = str(getattr(environment, 'name', type(environment).__name__))
  for method in _METHODS:
    if not callable(getattr(environment, method, None)):
      raise ValueError(
        f'{name} has no {method}(...); an environment has {", ".join(_METHODS)}'
        ' as those of gymnax do'
      )
  if parameters is None:
    parameters = getattr(environment, 'default_params', ())
  actions = _actions(name, environment, parameters)
  reset, step = environment.reset, environment.step

  def stepped(
    key: jax.Array, state: PyTree, action: jax.Array, parameters: PyTree
  ) -> tuple[jax.Array, PyTree, jax.Array, jax.Array]:
    found = step(key, state, _stretched(action, actions), parameters)
    if not isinstance(found, tuple) or len(found) not in (5, 6):
      raise ValueError(
        f'{name}: step must return five or six values (observation, state,'
        ' reward, ended, [cut off,] anything else)'
      )
    observation, state, reward, *ended, _ = found
    if jnp.iscomplexobj(reward):
      raise ValueError(f'{name}: a reward must be one real number')
    truths = [jnp.asarray(each, bool) for each in ended]
    if any(each.shape for each in truths):
      raise ValueError(f'{name}: whether it has ended must be one truth value')
    over = jnp.any(jnp.stack(truths))
    return observation, state, jnp.asarray(reward, float), over

  made = Environment(
    name,
    reset,
    stepped,
    actions,
    parameters,
    _observed(name, reset, parameters),
  )
  check_parameters(made, parameters)
  before = dict(getattr(environment, '__dict__', {}))
  check_parameters(made, parameters)  # a second time: no cache is filled now
  _refuse_memory(name, before, getattr(environment, '__dict__', {}))
  return made


def _observed(
  name: str, reset: Callable[..., Any], parameters: PyTree
) -> jax.ShapeDtypeStruct:
  """The shape of an observation, which is one array of numbers."""
  found = _traced(name, 'reset', reset, jax.random.key(0), parameters)
  if not isinstance(found, tuple) or len(found) != 2:
    raise ValueError(f'{name}: reset must return (observation, state)')
  observation = found[0]
  if not isinstance(observation, jax.ShapeDtypeStruct):
    raise ValueError(
      f'{name}: an observation must be one array, got'
      f' {type(observation).__name__}; flatten it in a class of your own'
    )
  return observation


def check_parameters(environment: Environment, parameters: PyTree) -> None:
  """Takes steps with some parameters, by shapes alone.

  Args:
    environment: to be looked at.
    parameters: arrays, or their shapes.

  Raises:
    ValueError: if it cannot be reset or stepped with them, or if what a step
      returns cannot be given to the next one.
  """
  name, actions = environment.name, environment.actions
  key, continuous = jax.random.key(0), actions.kind == 'continuous'
  action = jax.ShapeDtypeStruct(
    (actions.size,) if continuous else (),
    jnp.float32 if continuous else jnp.result_type(int),
  )
  before = _traced(name, 'reset', environment.reset, key, parameters)
  after = _traced(
    name, 'step', environment.step, key, before[1], action, parameters
  )
  structure: Any = jax.tree.structure(before[1])
  if jax.tree.structure(after[1]) != structure:
    raise ValueError(
      f'{name}: step must return a state like the one it is given'
    )
  if after[2].shape != ():
    raise ValueError(
      f'{name}: a reward must be one number, got shape {after[2].shape}'
    )

  def steps(parameters: PyTree, action: jax.Array) -> PyTree:
    def step(carry: PyTree, key: jax.Array) -> tuple[PyTree, None]:
      found = environment.step(key, carry[1], action, parameters)
      return found[:2], None

    first = environment.reset(key, parameters)
    return jax.lax.scan(step, first, jax.random.split(key))[0]

  try:
    jax.eval_shape(steps, parameters, action)
  except TypeError as error:
    raise ValueError(
      f'{name}: step must return an observation and a state of the shapes and'
      f' types of those before it; {_difference(before, after[:2])}'
    ) from error


def _difference(before: PyTree, after: PyTree) -> str:
  """The first leaf whose shape or type changes."""
  for one, other in zip(
    jax.tree.leaves(before), jax.tree.leaves(after), strict=False
  ):
    if (one.shape, one.dtype) != (other.shape, other.dtype):
      return (
        f'{one.dtype}{list(one.shape)} became {other.dtype}{list(other.shape)}'
      )
  return 'it changes'


def _refuse_memory(
  name: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
  """Refuses what remembers in itself: compiled steps would not see it."""
  for attribute, value in after.items():
    traced = any(
      isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)
    )
    if traced or before.get(attribute, value) is not value:
      raise ValueError(
        f'{name}: reset or step changes its attribute {attribute!r}, so it is'
        ' no pure JAX environment; keep all that it remembers in its state'
      )


def _traced(name: str, stage: str, function: Any, *arguments: Any) -> Any:
  """Shapes of results; what JAX cannot look through is refused in a line."""
  try:
    return jax.eval_shape(function, *arguments)
  except Exception as error:
    if isinstance(error, ValueError) and str(error).startswith(name):
      raise
    raise ValueError(
      f'{name}: {stage} cannot be traced by JAX, so it is no pure JAX'
      f' environment ({type(error).__name__}: {_short(error)}); write it in'
      ' jax.numpy, with all that it remembers in its state'
    ) from error


def _actions(name: str, environment: Any, parameters: PyTree) -> Actions:
  """The actions of a space of gymnax: `n` choices, or a box."""
  try:
    space = environment.action_space(parameters)
  except Exception as error:
    raise ValueError(
      f'{name}: action_space cannot be asked for ({type(error).__name__}:'
      f' {_short(error)})'
    ) from error
  if hasattr(space, 'n'):
    return Actions('discrete', _choices(name, space.n))
  if not all(hasattr(space, each) for each in ('low', 'high', 'shape')):
    raise ValueError(
      f'{name}: its action space must have n choices, or low, high and shape;'
      f' got {type(space).__name__}'
    )
  if len(space.shape) > 1:
    raise ValueError(
      f'{name}: actions must be a number or a vector, got shape {space.shape}'
    )
  size = int(np.prod(space.shape, dtype=int))
  if size < 1:
    raise ValueError(f'{name}: an action has one number or more, got none')
  try:
    low, high = (
      np.broadcast_to(np.asarray(bound, np.float32), (size,))
      for bound in (space.low, space.high)
    )
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{name}: bounds of actions must be numbers, one or {size} each'
    ) from error
  if not (low < high).all():  # NaN, too
    raise ValueError(
      f'{name}: the lower bounds of actions must be below the upper ones, got'
      f' {low.tolist()} and {high.tolist()}'
    )
  # Some write "no bound" as the largest number that there is.
  if not (np.abs(np.concatenate([low, high])) < _NO_BOUND).all():
    return Actions('continuous', size)
  return Actions('continuous', size, low, high)


def _choices(name: str, given: Any) -> int:
  try:
    number = operator.index(given)
  except TypeError:
    number = 0
  if number < 1:
    raise ValueError(
      f'{name}: the choices of its action space must be a number from 1, got'
      f' {given!r}'
    )
  return number


def _short(error: Exception) -> str:
  return ' '.join(str(error).split())[:160]


def _stretched(action: jax.Array, actions: Actions) -> jax.Array:
  """From -1 to 1 to the bounds, and cut off there."""
  if actions.low is None or actions.high is None:
    return action
  cut = jnp.clip(action, -1.0, 1.0)
  return actions.low + (cut + 1) / 2 * (actions.high - actions.low)
