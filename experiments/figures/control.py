"""Pictures of acting: what happens in test tasks, before and after."""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.canvas import (
  BLUE,
  COLORS,
  GREY,
  ORANGE,
  count_steps,
  figure_with_axes,
  grid,
  legend,
  save,
)
from experiments.figures.finished import draw_curves, tested, title_of
from experiments.runner.loop import Finished
from metajax.control.rollouts import Trajectory

__all__ = ['draw', 'paths', 'reward_curves']

_TASKS = 3
_EPISODES = 5  # of a task, those that are drawn
_STEPS = (0, 1, 3)  # of adaptation, after which it is shown


def draw(run: Finished, places: tuple[str, str] | None = None) -> None:
  """Draws the curves, and what happened in a few test tasks.

  Args:
    run: that is finished.
    places: the names of the first two numbers of an observation, where these
      are a place, and the parameters of the environment the place of a goal.
  """
  _warn_of_no_numbers(run)
  draw_curves(run)
  found = tested(run, run.problem.test, _TASKS)
  outputs = [trajectory for _, trajectory in found]
  path = run.workdir / 'test_tasks.png'
  if places is None:
    shown = 'rewards in one test task'
    reward_curves(path, outputs[0], title_of(run, shown))
    return
  goals = [np.asarray(task.query.inputs.parameters)[0] for task, _ in found]
  drawn = min(_EPISODES, outputs[0].rewards.shape[1])
  shown = f'{drawn} episodes in each of {len(outputs)} test tasks'
  paths(path, outputs, goals, places, title_of(run, shown))


def _warn_of_no_numbers(run: Finished) -> None:
  """Says how many test tasks have no return, which makes the mean none."""
  assert run.evaluation is not None  # of a run that was tested
  values = np.asarray(run.evaluation.values[run.problem.metric.name])
  bad = np.flatnonzero(~np.isfinite(values).all(axis=-1))
  if len(bad):
    first = ', '.join(map(str, bad[:5]))
    warnings.warn(
      f'{len(bad)} of {len(values)} test tasks have a return that is no number'
      f' (tasks {first}{", ..." if len(bad) > 5 else ""}), and so has the mean',
      stacklevel=2,
    )


def paths(
  path: str | os.PathLike[str],
  outputs: Sequence[Trajectory],
  goals: Sequence[np.ndarray],
  places: tuple[str, str],
  title: str,
) -> Figure:
  """Draws the ways of a few episodes, a row a task, a column a moment.

  Args:
    path: the PNG file.
    outputs: of each task, leaves `[steps + 1, episodes, ...]`.
    goals: of each task, `[2]`.
    places: the names of the axes.
    title: one line with the protocol.

  Returns:
    The figure.
  """
  last = len(outputs[0].rewards) - 1
  moments = [step for step in _STEPS if step <= last]
  figure = Figure(
    figsize=(2.6 * len(moments) + 0.6, 2.6 * len(outputs) + 0.6),
    layout='constrained',
  )
  axes: Any = figure.subplots(
    len(outputs), len(moments), squeeze=False, sharex=True, sharey=True
  )
  for row, trajectory, goal in zip(axes, outputs, goals, strict=True):
    for each, step in zip(row, moments, strict=True):
      _ways(each, trajectory, step, goal)
  for each, step in zip(axes[0], moments, strict=True):
    each.set_title(f'after {count_steps(step)}' if step else 'before')
  for each in axes[-1]:
    each.set_xlabel(places[0])
  for each in axes[:, 0]:
    each.set_ylabel(places[1])
  return save(figure, path, title)


def _ways(
  axes: Axes, trajectory: Trajectory, step: int, goal: np.ndarray
) -> None:
  grid(axes)
  drawn = min(_EPISODES, trajectory.rewards.shape[1])
  beyond = 0
  for number in range(drawn):
    ends = int(trajectory.active[step, number].sum())
    way = np.asarray(trajectory.observations[step, number, :ends, :2])
    beyond += bool((np.abs(way) > 1).any())
    axes.plot(way[:, 0], way[:, 1], color=BLUE, lw=0.9, alpha=0.7)
    axes.plot(*way[-1], ls='', marker='.', color=BLUE)
  axes.plot(*goal, ls='', marker='*', ms=13, color=ORANGE, mec='white')
  axes.set_xlim(-1, 1)
  axes.set_ylim(-1, 1)
  axes.set_xticks((-1, 0, 1))
  axes.set_yticks((-1, 0, 1))
  axes.set_aspect('equal')
  total = float(np.mean(trajectory.rewards[step].sum(axis=-1)))
  note = f'; {beyond} of {drawn} leave the frame' if beyond else ''
  axes.text(
    0.03, 0.97, f'return {total:.1f}{note}', transform=axes.transAxes, va='top',
    fontsize=8, color=GREY, zorder=5,
    bbox={'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.8, 'pad': 1},
  )  # fmt: skip


def reward_curves(
  path: str | os.PathLike[str], trajectory: Trajectory, title: str
) -> Figure:
  """Draws the sum of rewards up to each step, the mean over episodes.

  Args:
    path: the PNG file.
    trajectory: of one task, leaves `[steps + 1, episodes, ...]`.
    title: one line with the protocol.

  Returns:
    The figure.
  """
  figure, axes = figure_with_axes()
  last = len(trajectory.rewards) - 1
  moments = sorted({step for step in (*_STEPS, last) if step <= last})
  for place, step in enumerate(moments):
    so_far = np.cumsum(np.mean(trajectory.rewards[step], axis=0))
    name = f'after {count_steps(step)}' if step else 'before adaptation'
    if not last:
      name = 'in a trial'  # of a memory, which takes no steps
    color = COLORS[place - 1] if step else GREY
    axes.plot(np.arange(1, len(so_far) + 1), so_far, color=color, label=name)
  axes.set_xlabel('step of an episode')
  axes.set_ylabel('sum of rewards so far')
  legend(axes)
  return save(figure, path, title)
