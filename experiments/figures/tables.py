"""Pictures of tables: test tasks, and a method beside its rivals."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.figures import regression
from experiments.figures.canvas import BLUE, GREY, ORANGE, grid, save
from experiments.figures.finished import draw_curves, title_of
from experiments.runner.loop import Finished
from experiments.runner.over_tasks import count_of_tasks
from metajax.metric import Metric

__all__ = ['beside_rivals', 'draw_table']


def draw_table(run: Finished) -> None:
  """Draws the curves, a test task of numbers, and all rivals."""
  if 'classes' in run.problem.protocol['unit']:
    draw_curves(run)
  else:
    regression.draw_table(run)
  if found := run.outcome.get('rivals'):
    beside_rivals(
      run.workdir / 'rivals.png',
      found,
      title_of(run, f'test of {count_of_tasks(found["tasks"])}'),
    )


def beside_rivals(
  path: str | os.PathLike[str], found: Mapping[str, Any], title: str
) -> Figure:
  """Draws values with their intervals, and differences with theirs.

  Args:
    path: the PNG file.
    found: the entry `rivals` of `result.json`.
    title: one line with the protocol.

  Returns:
    The figure. Of what is not known there is a name, and no point.
  """
  metric = Metric(**found['metrics'][0])
  rows = found['rows']
  figure = Figure(figsize=(9, 1.2 + 0.36 * len(rows)), layout='constrained')
  values, differences = figure.subplots(1, 2, sharey=True)
  places = np.arange(len(rows))[::-1]
  for place, row in zip(places, rows, strict=True):
    own = row[metric.name]
    if own['mean'] is None:  # such as an area under the curve of one class
      continue
    method = 'difference' not in own
    bar = {'fmt': 'o', 'ms': 5, 'capsize': 3}
    values.errorbar(
      metric.scale * own['mean'], place,
      xerr=metric.scale * (own['ci95'] or 0),
      color=BLUE if method else GREY, **bar,
    )  # fmt: skip
    if not method and own['difference'] is not None:
      # By how much the method is better.
      sign = metric.scale * (1 if metric.higher_is_better else -1)
      known = own['difference_ci95'] is not None  # of one task nothing is
      half = metric.scale * (own['difference_ci95'] or 0)
      gain = sign * own['difference']
      color = BLUE if gain > half else ORANGE if gain < -half else GREY
      differences.errorbar(
        gain, place, xerr=half,
        color=color if known else GREY, **bar,
      )  # fmt: skip
  values.set_yticks(places, [row['name'] for row in rows])
  values.set_xlabel(metric.axis)
  differences.axvline(0, color='black', lw=1)
  differences.set_xlabel(f'{rows[0]["name"]} is better by')
  grid(values)
  grid(differences)
  return save(figure, path, title)
