"""Test tasks of acting as a page shows them, as plain data that JSON has."""

from typing import Any

import numpy as np

from experiments.figures.finished import task_of_test
from experiments.runner.loop import Finished
from metajax.control.rollouts import Trajectory

__all__ = ['rollouts']

_DIGITS = 4


def rollouts(
  run: Finished,
  index: int,
  outputs: Trajectory,
  places: tuple[str, str] | None = None,
) -> dict[str, Any]:
  """One episode before adaptation, and one after; or rewards without places.

  Args:
    run: that is finished.
    index: number of the test task.
    outputs: of it, leaves `[steps + 1, episodes, ...]`.
    places: what the first two numbers of an observation are, where they are a
      place, and the parameters of the environment the place of a goal.
  """
  last = len(outputs.rewards) - 1
  moments = [step for step in sorted({0, 1, last}) if step <= last]
  if places is None:
    return _ways('the sum of rewards so far', 'step', 'sum of rewards', [
      _way(
        _name(step) if last else 'in a trial',
        np.arange(1, len(total) + 1), total, step or not last,
      )
      for step in moments
      for total in (np.cumsum(np.mean(outputs.rewards[step], axis=0)),)
    ])  # fmt: skip
  ways = []
  for step in moments:
    ends = int(outputs.active[step, 0].sum())
    seen = np.asarray(outputs.observations[step, 0, :ends])
    ways.append(_way(_name(step), seen[:, 0], seen[:, 1], step))
  goal = np.asarray(
    task_of_test(run.problem.test, index).query.inputs.parameters
  )[0]
  ways.append(
    {'name': 'goal', 'x': _numbers(goal[:1]), 'y': _numbers(goal[1:])}
    | {'style': 'dots'}
  )
  return _ways('the way of one episode, and the goal', *places, ways)


def _name(step: int) -> str:
  if not step:
    return 'before adaptation'
  return f'after {step} update' + ('s' if step > 1 else '')


def _way(name: str, x: Any, y: Any, step: int) -> dict[str, Any]:
  return {
    'name': name,
    'x': _numbers(x),
    'y': _numbers(y),
    'style': 'line' if step else 'thin',
  }


def _ways(
  title: str, x_label: str, y_label: str, ways: list[dict[str, Any]]
) -> dict[str, Any]:
  return {
    'kind': 'ways',
    'title': title,
    'x_label': x_label,
    'y_label': y_label,
    'ways': ways,
  }


def _numbers(values: Any) -> list[float | None]:
  """As JSON has them: what is no number is none."""
  return [
    round(float(value), _DIGITS) if np.isfinite(value) else None
    for value in np.ravel(values)
  ]
