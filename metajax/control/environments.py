"""Environments: what an agent acts in, as two pure functions.

The interface is that of gymnax: `reset(key, parameters)` and `step(key, state,
action, parameters)`, with `action_space` and `observation_space`. Whatever has
these can be acted in; what differs from task to task is in the parameters, or
in what a reset draws.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import PyTree
from metajax.equality import by_value

__all__ = ['Actions', 'Environment', 'as_environment']

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
      one that computes with NumPy or in another process; the error says which.

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
    over = jnp.any(jnp.stack([jnp.asarray(each, bool) for each in ended]))
    return observation, state, jnp.asarray(reward, float), over

  made = Environment(
    name,
    reset,
    stepped,
    actions,
    parameters,
    _observed(name, reset, parameters),
  )
  _trace(made)
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


def _trace(environment: Environment) -> None:
  """Takes a step by shapes alone."""
  key, actions = jax.random.key(0), environment.actions
  continuous = actions.kind == 'continuous'
  action = jax.ShapeDtypeStruct(
    (actions.size,) if continuous else (), jnp.float32 if continuous else int
  )
  _, state = jax.eval_shape(environment.reset, key, environment.parameters)
  found = _traced(
    environment.name,
    'step',
    environment.step,
    key,
    state,
    action,
    environment.parameters,
  )
  before: Any = jax.tree.structure(state)
  if jax.tree.structure(found[1]) != before:
    raise ValueError(
      f'{environment.name}: step must return a state like the one it is given'
    )
  if found[2].shape != ():
    raise ValueError(
      f'{environment.name}: a reward must be one number, got shape'
      f' {found[2].shape}'
    )


def _traced(name: str, stage: str, function: Any, *arguments: Any) -> Any:
  """Shapes of results; what JAX cannot look through is refused in a line."""
  try:
    return jax.eval_shape(function, *arguments)
  except Exception as error:
    if isinstance(error, ValueError) and str(error).startswith(name):
      raise
    reason = ' '.join(str(error).split())[:160]
    raise ValueError(
      f'{name}: {stage} cannot be traced by JAX, so it is no pure JAX'
      f' environment ({type(error).__name__}: {reason}); write it in jax.numpy,'
      ' with all that it remembers in its state'
    ) from error


def _actions(name: str, environment: Any, parameters: PyTree) -> Actions:
  """The actions of a space of gymnax: `n` choices, or a box."""
  space = environment.action_space(parameters)
  if hasattr(space, 'n'):
    return Actions('discrete', int(space.n))
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
  low, high = (
    np.broadcast_to(np.asarray(bound, np.float32), (size,))
    for bound in (space.low, space.high)
  )
  # Some write "no bound" as the largest number that there is.
  if not (np.abs(np.concatenate([low, high])) < _NO_BOUND).all():
    return Actions('continuous', size)
  return Actions('continuous', size, low, high)


def _stretched(action: jax.Array, actions: Actions) -> jax.Array:
  """From -1 to 1 to the bounds, and cut off there."""
  if actions.low is None or actions.high is None:
    return action
  cut = jnp.clip(action, -1.0, 1.0)
  return actions.low + (cut + 1) / 2 * (actions.high - actions.low)
