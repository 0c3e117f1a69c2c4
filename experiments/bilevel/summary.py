"""Means over seeds, the table of them, and what has not converged."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.bilevel.seeds import BY_SOLVES, BY_TIME, LEARNED
from experiments.runner.intervals import of_few
from metajax.bilevel.solvers import LAST_STEPS
from metajax.metric import ACCURACY, LOSS, Metric

__all__ = ['METRICS', 'lines_of_convergence', 'summary', 'table']

METRICS = {
  'accuracy': ACCURACY,
  'loss': LOSS,
  'f1': Metric('f1', True, unit='%', label='F1 of found corruptions'),
}
# What a linear system may be missed by, as a part of its right side.
_LINEAR = 1e-2


def summary(
  found: Sequence[Mapping[str, Any]], tolerance: float, solve: str
) -> dict[str, Any]:
  """What all seeds have in common.

  Args:
    found: of every seed, what `of_seed` returns.
    tolerance: norm of the inner gradient that counts as 0.
    solve: how solutions were differentiated.

  Returns:
    `distributions`: by name `rows` with means, halves of 95% intervals over
    seeds and values by seed, `curve`, `search`; `converged`, whether every
    inner problem and linear system of the last outer steps was solved; and
    `residual` and `solver_residual`, the largest of them.
  """
  each = {
    name: [seed['distributions'][name] for seed in found]
    for name in found[0]['distributions']
  }
  ends = [own['curve'][-1] for seeds in each.values() for own in seeds]
  inner, linear = (
    [np.nan if end[name] is None else end[name] for end in ends]
    for name in ('inner_gradient_norm', 'solver_residual')
  )
  # Comparisons that NaN fails.
  solved = all(value <= tolerance for value in inner)
  if solve in ('implicit', 'neumann'):
    solved = solved and all(value <= _LINEAR for value in linear)
  return {
    'distributions': {
      name: _distribution(seeds, tolerance) for name, seeds in each.items()
    },
    'converged': solved,
    'residual': float(np.max(inner)),
    'solver_residual': float(np.max(linear)),
    'skipped_steps': sum(
      own['skipped'] for seeds in each.values() for own in seeds
    ),
  }


def _distribution(
  seeds: Sequence[Mapping[str, Any]], tolerance: float
) -> dict[str, Any]:
  rows = dict[str, Any]()
  for name, first in seeds[0]['rows'].items():
    row = dict[str, Any]()
    for metric in first:
      values = np.array([own['rows'][name][metric] for own in seeds], float)
      row[metric] = {
        'mean': float(values.mean()),
        'ci95': float(of_few(values)),
        'values': values.tolist(),
      }
    residuals = np.array(row['residual']['values'])
    row['converged'] = int((residuals <= tolerance).sum())
    rows[name] = row
  numbers = [own['search']['number'] for own in seeds]
  return {
    'rows': rows,
    'steps': [point['step'] for point in seeds[0]['curve']],
    'validation_loss': [
      [point['loss'] for point in own['curve']] for own in seeds
    ],
    'random_solves': float(np.mean(numbers)),
    'seconds_each': float(np.mean([own['seconds'] for own in seeds])),
    'show': seeds[0]['show'],
  }


def table(outcome: Mapping[str, Any]) -> list[list[str]]:
  """The header, and a line for everything that was tested."""
  distributions = outcome['distributions']
  first = next(iter(distributions.values()))['rows'][LEARNED]
  metrics = [metric for name, metric in METRICS.items() if name in first]
  seeds = outcome['settings']['seeds']
  lines = [
    [
      'hyper-parameters',
      *(metric.heading for metric in metrics),
      'inner gradient',
      'converged',
    ]
  ]
  for name, own in distributions.items():
    for row, values in own['rows'].items():
      of = f'{name}: ' if name else ''
      lines.append(
        [
          f'{of}{_called(row, outcome, own)}',
          *(_cell(metric, values) for metric in metrics),
          f'{values["residual"]["mean"]:.1e}'
          if values['residual']['mean'] is not None
          else 'not finite',
          f'{values["converged"]} of {seeds}',
        ]
      )
  return lines


def _called(
  row: str, outcome: Mapping[str, Any], own: Mapping[str, Any]
) -> str:
  if row == LEARNED:
    return f'{row} ({outcome["solve"].replace("_", " ")})'
  if row == BY_SOLVES:
    return f'{row} ({outcome["settings"]["outer_steps"]} solutions)'
  if row == BY_TIME:
    seconds = own['seconds_each']
    return f'{row} ({own["random_solves"]:.0f} solutions, {seconds:.0f} s)'
  return row


def _cell(metric: Metric, values: Mapping[str, Any]) -> str:
  found = values.get(metric.name)
  if found is None:
    return ''
  if found['mean'] is None:
    return 'not finite'
  return metric.format_interval(found['mean'], found['ci95'])


def _is_of_all_steps(outcome: Mapping[str, Any]) -> bool:
  """Whether every inner step was differentiated, so no minimum is supposed."""
  given = outcome['config']['last_steps']
  last = {'one_step': 1, 'truncated': given or LAST_STEPS}
  solve, steps = outcome['solve'], outcome['settings']['inner_steps']
  return bool(solve == 'unrolled' or last.get(solve, 0) >= steps)


def lines_of_convergence(outcome: Mapping[str, Any]) -> list[str]:
  """What is to be said of inner problems and systems that were not solved."""
  if outcome['converged']:
    return []
  solve = outcome['solve']
  tolerance = outcome['settings']['tolerance']
  residual = outcome['residual']
  lines = []
  if residual is None or residual > tolerance:
    shown = 'not finite' if residual is None else f'{residual:.2g}'
    what = (
      'the gradient is that of so many inner steps, not of a minimum'
      if _is_of_all_steps(outcome)
      else f'the gradient of {solve} supposes a minimum, and is off; take more'
      ' --inner_steps, or --solve=unrolled'
    )
    lines.append(
      f'not converged: the norm of the inner gradient was up to {shown} in the'
      f' last outer steps, above --tolerance={tolerance:g}: {what}'
    )
  linear = outcome['solver_residual']
  if solve in ('implicit', 'neumann') and not (
    linear is not None and linear <= _LINEAR
  ):
    shown = 'not finite' if linear is None else f'{linear:.2g}'
    more = '--max_iterations or --damping' if solve == 'implicit' else '--terms'
    lines.append(
      f'not converged: the linear system of {solve} was missed by up to {shown}'
      f' of its right side in the last outer steps; raise {more}'
    )
  return lines
