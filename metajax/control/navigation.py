r"""Two-dimensional navigation: a point that has to find its goal.

.. math:: x_{t+1} = x_t + \mathrm{clip}(a_t, \pm 0.1), \qquad
  r_t = -\lVert x_{t+1} - g \rVert, \qquad g \sim U([-0.5, 0.5]^2)

The goal is never observed: it is what tasks differ in, and has to be found from
rewards. An episode is of 100 steps, and ends before where both coordinates are
within 0.01 of the goal. It is the environment of Finn et al. The one called
PointRobot in gymnax is another: goals lie on a half circle of radius 1, a goal
is drawn anew for every episode and not for a task, rewards are sparse by
default and are of the place before the step, and observations have the last
action, the last reward and the time beside the place.

References:
  Finn, Abbeel, Levine (2017), Model-agnostic meta-learning for fast adaptation
  of deep networks, https://arxiv.org/abs/1703.03400
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ['FARTHEST', 'Navigation', 'draw_goal', 'towards_goal']

FARTHEST = 0.5  # of a goal from the start, along each axis
_STRIDE = 0.1  # the most that an action moves along each axis
_REACHED = 0.01


class _Box(NamedTuple):
  low: np.ndarray
  high: np.ndarray
  shape: tuple[int, ...]


class Navigation:
  """The environment; its parameters are the goal, `[2]`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> world, goal = Navigation(), jnp.array([0.3, 0.4])
    >>> place, state = world.reset(jax.random.key(0), goal)
    >>> step = world.step(jax.random.key(1), state, jnp.zeros(2), goal)
    >>> round(float(step[2]), 3)
    -0.5
  """

  name = 'navigation'
  default_params = np.zeros(2, np.float32)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Navigation)

  def __hash__(self) -> int:
    return hash(Navigation)

  def action_space(self, parameters: Any = None) -> _Box:
    """The most that an action moves."""
    del parameters  # the same everywhere
    high = np.full(2, _STRIDE, np.float32)
    return _Box(-high, high, (2,))

  def reset(
    self, key: jax.Array, parameters: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """The start, in the middle."""
    del key, parameters  # it is the same for all
    start = jnp.zeros(2)
    return start, start

  def step(
    self, key: jax.Array, state: jax.Array, action: jax.Array, goal: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
    """Moves the point."""
    del key  # nothing is drawn
    place = state + jnp.clip(action, -_STRIDE, _STRIDE)
    gap = place - goal
    ended = jnp.all(jnp.abs(gap) < _REACHED)
    return place, place, -jnp.sqrt(jnp.sum(gap**2)), ended, {}


def draw_goal(key: jax.Array) -> jax.Array:
  """Draws a goal, the parameters of a task, `[2]`."""
  return jax.random.uniform(key, (2,), minval=-FARTHEST, maxval=FARTHEST)


def towards_goal(
  observation: jax.Array, noise: jax.Array, goal: jax.Array
) -> jax.Array:
  """The action of one who knows the goal, between -1 and 1."""
  del noise  # nothing is tried
  return jnp.clip((goal - observation) / _STRIDE, -1.0, 1.0)
