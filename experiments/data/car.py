"""Driving: from settings to task distributions of cars, and what knows cars."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.data.regression import Data
from experiments.runner.errors import UsageError
from experiments.runner.problem import TEST_SEED, Problem
from experiments.runner.progress import shown
from experiments.runner.reading import columns, numbers
from experiments.runner.settings import (
  Base,
  Finite,
  Listed,
  Whole,
  setting,
  settings,
)
from metajax import Learner, evaluate, tasks
from metajax.algorithms.recipe import Recipe
from metajax.base import Adaptation, Batch, PyTree
from metajax.tasks.bicycle import Car
from metajax.tasks.car import CHANGE_SCALE, INPUT_MEAN, INPUT_SCALE
from metajax.tasks.car_identification import identify_car

__all__ = ['NOISE', 'CarData', 'baselines', 'cars', 'engineers', 'ranges_of']

NOISE = 0.02  # of what is measured, in units of targets
_INPUTS = 'speed_m_s', 'sideways_m_s', 'yaw_rate_rad_s', 'wheel_rad', 'throttle'
_TARGETS = 'speed_change_m_s', 'sideways_change_m_s', 'yaw_rate_change_rad_s'


class Range(Listed):
  """Two numbers above zero, the smaller one first."""

  allowed = 'two numbers above 0 with a comma between them, the smaller first'

  def check(self, value: Any) -> Any:
    """Returns the pair, or raises ValueError."""
    try:
      given = self.parse(value) if isinstance(value, str) else value
      pair = tuple(Finite().check(float(each)) for each in given)
    except (TypeError, ValueError):
      pair = ()
    if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
      raise ValueError(f'must be {self.allowed}')
    return pair


class Speed(Finite):
  """A speed that transitions are of, too."""

  allowed = 'a number from 6 to 18'

  def holds(self, number: float) -> bool:
    """Whether a finite number is allowed."""
    return 6 <= number <= 18


class Noise(Finite):
  """How much less than all is noise."""

  allowed = 'a number from 0 to 1'

  def holds(self, number: float) -> bool:
    """Whether a finite number is allowed."""
    return 0 <= number <= 1


def _range(name: str, what: str) -> Any:
  low, high = tasks.CarRanges._field_defaults[name]
  return setting(
    None, Range(), f'from where to where {what} is [default: {low:g},{high:g}]',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip


@settings
class CarData(Base):
  """What cars there are, and the track that they are driven on."""

  mass: tuple[float, float] | None = _range('mass', 'the mass of a car, in kg,')
  front_stiffness: tuple[float, float] | None = _range(
    'front_stiffness', 'the cornering stiffness of its front tyres, in N/rad,'
  )
  grip: tuple[float, float] | None = _range(
    'grip', 'the largest force of a tyre, as a share of its load,'
  )
  steering_ratio: tuple[float, float] | None = _range(
    'steering_ratio', 'the ratio of its steering'
  )
  noise: float = setting(
    NOISE, Noise(), 'deviation of the noise of a change, in units of targets',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip
  rides: int = setting(
    100, Whole(0), 'unseen cars that are driven along the track in the end; 0:'
    ' none', of='test', resume=True, forwarded=True,
  )  # fmt: skip
  track_speed: float = setting(
    11.0, Speed(), 'at which they are driven, in m/s',
    of='test', resume=True, forwarded=True,
  )  # fmt: skip
  horizon: int = setting(
    12, Whole(2), 'tenths of a second that the planner looks ahead',
    of='test', resume=True, forwarded=True,
  )  # fmt: skip


def ranges_of(settings: Any) -> tasks.CarRanges:
  """What cars are drawn from."""
  given = {
    name: pair
    for name in tasks.CarRanges._fields
    if (pair := getattr(settings, name, None)) is not None
  }
  return tasks.CarRanges(**given)


def cars(settings: Any, recipe: Recipe) -> Data:
  """Draws cars, and transitions of their drives.

  Raises:
    UsageError: if there are too few transitions for what cars are compared
      with.
  """
  ranges = ranges_of(settings)
  unknown = len(Car._fields)
  least = -(-unknown // len(CHANGE_SCALE))
  if recipe.shots < least:
    raise UsageError(
      'shots',
      f'is {recipe.shots}, but least squares needs {least} transitions, each'
      f' of {len(CHANGE_SCALE)} numbers, for the {unknown} properties of a car',
    )
  tested = tasks.car(recipe.shots, recipe.queries, ranges, settings.noise)
  return Data(
    tasks.car(
      recipe.train_shots or recipe.shots,
      recipe.train_queries or recipe.queries,
      ranges,
      settings.noise,
    ),
    tested,
    tested,
    {
      'targets': ['speed', 'speed across', 'yaw rate'],  # in this unit:
      'unit': ', '.join(f'{each:g}' for each in CHANGE_SCALE)
      + ' (m/s, m/s, rad/s in 0.1 s)',
      'noise': settings.noise,
    },
    numbers(_INPUTS, INPUT_MEAN, INPUT_SCALE),
    columns(_TARGETS, (0.0,) * len(_TARGETS), CHANGE_SCALE),
    num_targets=len(_TARGETS),
  )


def engineers(settings: Any) -> dict[str, Learner]:
  """What finds the properties of a car by its equations, by name."""
  ranges, noise = ranges_of(settings), settings.noise
  return {
    'identified': identify_car(ranges, noise),
    'least_squares': identify_car(ranges, noise, prior=False),
    'textbook_tyres': identify_car(ranges, noise, linear_tyres=True),
  }


def baselines(problem: Problem) -> dict[str, float]:
  """No change, the middle of all cars, and three kinds of least squares."""
  found = dict[str, float]()
  for name, learner in {'zero': _zero(), **engineers(problem.settings)}.items():
    with shown(f'testing {name.replace("_", " ")}') as progress:
      evaluation = evaluate(
        learner,
        problem.objective,
        (),
        problem.test,
        key=jax.random.key(TEST_SEED),
        num_tasks=problem.settings.eval_tasks,
        progress=progress,
      )
    mean, half = evaluation.mean['mse'], evaluation.ci95['mse']
    if name == 'identified':  # which begins there
      found |= {'middle_car_mse': float(mean[0])}
      found |= {'middle_car_ci95': float(half[0])}
    found |= {f'{name}_mse': float(mean[-1]), f'{name}_ci95': float(half[-1])}
  return found


def _zero() -> Learner:
  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[PyTree, Adaptation]:
    del key, meta_params
    nothing = jnp.zeros(support.targets.shape[-1])
    return nothing, Adaptation(jnp.zeros(0), jnp.stack([nothing, nothing]))

  return Learner(
    lambda key, inputs: (),
    adapt,
    lambda nothing, inputs: jnp.tile(nothing, (len(inputs), 1)),
  )
