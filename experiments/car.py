"""Driving: unseen cars, each known from 16 transitions, predicted and driven.

  python -m experiments.car

meta-trains on cars that differ in mass, tyres and steering, adapts to 1000 new
ones from 16 transitions each (state, action, next state), and prints how well
the next states of other drives are predicted, beside least squares on the
equations of the car. Then it drives 100 cars along a track by what the model
says of each, before and after adaptation, and prints how far from the middle of
the track they were. See docs/guides/driving.md.

The workdir receives `result.json`, `metrics.jsonl`, `tensorboard/`,
`checkpoints/`, a page about all of it, `report.html`, and pictures:
`learning_curve.png`, `mse_by_inner_step.png`, `test_task.png` (predicted
against true changes), `trajectories.png`, `track.png` and `track.gif` (rides
before and after adaptation).
"""

import sys
from functools import partial
from typing import Any

from experiments.data.car import CarData, baselines, cars
from experiments.data.car_rides import Rides, in_closed_loop, ride
from experiments.figures.car import draw_car
from experiments.recipes import regression as kind
from experiments.recipes.car import driving
from experiments.recipes.kinds import methods, published
from experiments.recipes.overrides import with_settings
from experiments.reports.examples import points
from experiments.reports.gathered import report
from experiments.runner.common import Common, algorithm, worded
from experiments.runner.experiment import Experiment
from experiments.runner.networks import network_again
from experiments.runner.problem import Judge, Problem
from experiments.runner.regression import regression
from experiments.runner.settings import settings
from metajax.algorithms.recipe import Recipe
from metajax.base import PyTree
from metajax.objectives import mean_squared_error

__all__ = ['EXPERIMENT', 'Settings', 'make_problem', 'make_recipe', 'run']


@settings
class Settings(Common, CarData):
  """The shared settings, and those of cars and of their track."""

  algorithm: str = algorithm('r2d2', lambda: sorted(methods(kind)))
  shots: int | None = worded('shots', 'transitions that a car is known from')
  queries: int | None = worded(
    'queries', 'transitions of a test car that are predicted'
  )
  train_shots: int | None = worded(
    'train_shots', 'transitions that a car is known from in training'
  )
  train_queries: int | None = worded(
    'train_queries', 'transitions of a car that are predicted in training'
  )


def make_recipe(settings: Settings) -> Recipe:
  """That for cars, as the settings change it."""
  usual = driving(published(kind, settings.algorithm), settings.algorithm)
  return with_settings(usual, settings)


def make_problem(settings: Settings, recipe: Recipe) -> Problem:
  """Draws cars, and makes the network."""
  rides = list[Rides]()  # the pictures are of those that are measured

  def more(
    problem: Problem, judge: Judge, meta_params: PyTree
  ) -> dict[str, Any]:
    rides.append(ride(problem, judge, meta_params))
    return in_closed_loop(rides[-1])

  return regression(
    settings,
    recipe,
    cars(settings, recipe),
    name=f'car-{settings.algorithm}-{recipe.shots}shot-{settings.seed_name}',
    dataset='car',
    baseline=baselines,
    draw=lambda finished: draw_car(finished, rides[-1] if rides else None),
    experiment='experiments.car',
    report=partial(report, show=points),
  )._replace(more=more if settings.rides else None, without_more='--rides=0')


EXPERIMENT = Experiment(
  Settings,
  make_recipe,
  make_problem,
  small_operations=True,
  network=network_again,
  objective=mean_squared_error,
)
run = EXPERIMENT.run

if __name__ == '__main__':
  sys.exit(EXPERIMENT.main())
