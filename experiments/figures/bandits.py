"""Pictures of bandits: what a trial costs, pull by pull."""

import os
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.figures.canvas import (
  COLORS,
  GREY,
  figure_with_axes,
  legend,
  save,
)
from experiments.figures.finished import draw_curves, outputs_of, title_of
from experiments.runner.loop import Finished
from experiments.runner.remembering import bandit_policies, pulled, test_trials
from metajax.control.bandits import regrets

__all__ = ['draw', 'regret_by_pull']

_SURE = {'random': GREY, 'optimum': 'black'}


def draw(run: Finished, pulls: int) -> None:
  """Draws the curves, and the regret of a trial beside that of known policies.

  Args:
    run: that is finished.
    pulls: of a trial.
  """
  draw_curves(run)
  number = run.outcome['protocol']['test_tasks']
  sample = run.problem.test
  _, played = outputs_of(run, sample, range(number))
  chances = test_trials(sample, number).parameters
  actions = jnp.asarray(played.actions[:, -1])  # after the last inner step
  found = np.asarray(regrets(chances, actions))
  drawn = {run.outcome['algorithm']: found.mean((0, 1))}
  policies = bandit_policies(chances.shape[-1], pulls)
  for name, policy in policies.items():
    drawn[name] = pulled(policy, sample, number, pulls).regrets.mean(0)
  path = run.workdir / 'regret_by_pull.png'
  regret_by_pull(path, drawn, title_of(run, f'{number} test bandits'))


def _dashes(place: int, width: float) -> tuple[float, tuple[float, float]]:
  """Of lines in one place those above are thinner, and have wider gaps."""
  drawn = max(16.0 - 2.0 * place, 3.0)  # of 20 points
  return 0.0, (drawn / width, (20.0 - drawn) / width)


def regret_by_pull(
  path: str | os.PathLike[str], regrets: Mapping[str, np.ndarray], title: str
) -> Figure:
  """Draws what was lost so far against pulling the best arm.

  Args:
    path: the PNG file.
    regrets: by name, the mean of each pull, `[pulls]`; the first name is of
      the method, and stands out.
    title: one line with the protocol.

  Returns:
    The figure.
  """
  figure, axes = figure_with_axes()
  method = next(iter(regrets))
  for place, (name, each) in enumerate(regrets.items()):
    total = np.cumsum(each)
    width = 1.5 if name == 'random' else max(4.8 - 0.6 * place, 1.0)
    axes.plot(
      np.arange(1, len(total) + 1),
      total,
      color=_SURE.get(name) or COLORS[place % len(COLORS)],
      lw=width,
      ls='-' if name in (method, 'random') else _dashes(place, width),
      zorder=3 + 0.1 * place,
      label=name,
    )
  axes.set_xlabel('pull')
  axes.set_ylabel('regret so far (successes less than the best arm)')
  axes.set_xlim(left=1)
  # At random it grows so much that the others would look alike.
  most = [np.sum(each) for name, each in regrets.items() if name != 'random']
  axes.set_ylim(0, 1.15 * max(most, default=1.0) or 1.0)
  legend(axes)
  return save(figure, path, title)
