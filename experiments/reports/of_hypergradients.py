"""The page of `experiments.hypergradients`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.bilevel.seeds import BY_TIME, LEARNED
from experiments.bilevel.summary import lines_of_convergence
from experiments.reports import of_comparison, pieces
from experiments.reports.charts import Point, Series
from experiments.reports.of_comparison import Row
from experiments.reports.of_methods import figure
from experiments.runner.settings import Base
from metajax.metric import ACCURACY, LOSS

__all__ = ['write']


def write(
  workdir: Path,
  settings: Base,
  outcome: Mapping[str, Any],
  cells: Sequence[Sequence[str]],
) -> Path:
  """Writes the page of a bilevel problem.

  Args:
    workdir: where it goes.
    settings: of the experiment.
    outcome: what `result.json` has.
    cells: the table: header and lines.
  """
  rows, series = list[Row](), list[Series]()
  for name, own in outcome['distributions'].items():
    of = f'{name}: ' if name else ''
    for row, values in own['rows'].items():
      found = values['accuracy']
      rows.append(Row(f'{of}{row}', None, found['mean'], found['ci95']))
    series += [
      Series(
        f'{of}seed {seed}',
        [
          Point(at, value)
          for at, value in zip(own['steps'], losses, strict=True)
          if value is not None
        ],
        len(series) + seed,
        'thin',
      )
      for seed, losses in enumerate(own['validation_loss'][:5])
    ]
  marks = lines_of_convergence(outcome)
  return of_comparison.write(
    workdir, settings,
    kind='Hyper-parameters by gradient',
    title=f'{outcome["problem"]}, {outcome["solve"].replace("_", " ")}',
    lead=f'{outcome["about"]}; beside random search, which draws'
    f' {outcome["random_search"]}. {" ".join(marks)}',
    one='row',
    metric=ACCURACY,
    rows=rows,
    cells=cells,
    caption='At test; ± is a 95% interval over seeds. Random search has as many'
    ' inner solutions, or as long',
    figures=[
      figure(
        'Validation by outer step', 'Of the first five seeds.', series, LOSS,
        'outer steps',
      )
    ],
    headline=_headline(outcome),
  )  # fmt: skip


def _headline(outcome: Mapping[str, Any]) -> Any:
  name, own = next(iter(outcome['distributions'].items()))
  found = own['rows'][LEARNED]['accuracy']
  searched = own['rows'][BY_TIME]['accuracy']
  if found['mean'] is None:
    return None
  return pieces.headline(
    ACCURACY.format(found['mean']),
    found['mean'],
    ACCURACY.format(found['ci95']),
    '%',
    f'accuracy at test{f" of {name}" if name else ""}, of hyper-parameters by'
    ' gradient; ± is a 95% interval over seeds'
    + ('' if outcome['converged'] else '. Not converged, see above'),
    {
      BY_TIME: 'not finite'
      if searched['mean'] is None
      else f'{ACCURACY.format(searched["mean"])} %',
    },
  )
