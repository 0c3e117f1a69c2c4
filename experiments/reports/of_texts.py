"""The pages of `experiments.incremental` and `experiments.self_destruct`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.reports import of_comparison, pieces
from experiments.reports.charts import Point, Series
from experiments.reports.of_comparison import Row
from experiments.reports.of_methods import figure
from experiments.reports.scales import count
from experiments.runner.settings import Base
from metajax.metric import ACCURACY

__all__ = ['adversaries', 'arrivals']


def arrivals(
  workdir: Path,
  settings: Base,
  title: str,
  numbers: Sequence[int],
  strategies: Mapping[str, Mapping[str, Any]],
  cells: Sequence[Sequence[str]],
) -> Path:
  """Writes the page of classes that arrive a few at a time.

  Args:
    workdir: where it goes.
    settings: of the experiment.
    title: one line with the protocol.
    numbers: of classes, after every arrival.
    strategies: `accuracy` and `ci95` of each, at these numbers.
    cells: the table: header and lines.
  """
  series = [
    Series(
      name.replace('_', ' '),
      [
        _point(at, value, half)
        for at, value, half in zip(
          numbers, own['accuracy'], own['ci95'], strict=True
        )
      ],
      place,
    )
    for place, (name, own) in enumerate(strategies.items())
  ]
  return of_comparison.write(
    workdir, settings,
    kind='Classes that arrive a few at a time',
    title=title,
    lead=f'{count(numbers[-1], "class", "classes")} in all; after every arrival'
    ' all that have come are to be told apart.',
    one='strategy',
    several='strategies',
    metric=ACCURACY,
    rows=[
      Row(name, None, own['accuracy'][-1], own['ci95'][-1])
      for name, own in strategies.items()
    ],
    cells=cells,
    caption='Accuracy on all classes that have come, and what was forgotten',
    figures=[
      figure(
        'By classes that have come', '', series, ACCURACY,
        'classes that have come',
      )
    ],
  )  # fmt: skip


def adversaries(
  workdir: Path,
  settings: Base,
  title: str,
  outcome: Mapping[str, Any],
  cells: Sequence[Sequence[str]],
) -> Path:
  """Writes the page of adversaries and what they reach.

  Args:
    workdir: where it goes.
    settings: of the experiment.
    title: one line with the protocol.
    outcome: what `result.json` has: `adversaries`, by where they start, and
      `wanted`, the accuracy on the task that is to stay.
    cells: the table: header and lines.
  """
  starts, wanted = outcome['adversaries'], outcome['wanted']
  series = [
    Series(
      start,
      [_point(row['examples'], row['accuracy'], row['ci95']) for row in rows],
      place,
    )
    for place, (start, rows) in enumerate(starts.items())
  ]
  most = max(row['examples'] for row in starts['protected'])
  last = next(row for row in starts['protected'] if row['examples'] == most)
  accuracy, half = last['accuracy'], last['ci95']
  headline = pieces.headline(
    ACCURACY.format(accuracy),
    accuracy,
    '' if half is None else ACCURACY.format(half),
    '%',
    f'what an adversary reaches on blocked classes from the protected model and'
    f' {count(most, "example")}; ± is a 95% interval. Less is better.',
    {
      'wanted task before': f'{ACCURACY.format(wanted["before"])} %',
      'and after protection': f'{ACCURACY.format(wanted["after"])} %',
    },
  )
  numbers = sorted(
    {row['examples'] for rows in starts.values() for row in rows}
  )
  return of_comparison.write(
    workdir, settings,
    kind='A model that is hard to adapt to blocked classes',
    title=title,
    lead='Adversaries adapt the model to blocked classes by a few examples: the'
    ' protected one, the same without protection, and one of random weights.',
    one='start',
    several='starts',
    metric=ACCURACY,
    rows=[
      Row(start, None, rows[-1]['accuracy'], rows[-1]['ci95'])
      for start, rows in starts.items()
    ],
    cells=cells,
    caption='Accuracy of adversaries by the number of their examples',
    figures=[
      figure(
        'By examples of the adversary', '', series, ACCURACY,
        'blocked examples of the adversary', numbers,
      )
    ],
    headline=headline,
  )  # fmt: skip


def _point(x: float, value: float, half: float | None) -> Point:
  value = ACCURACY.scale * value
  if half is None:
    return Point(x, value)
  half = ACCURACY.scale * half
  return Point(x, value, value - half, value + half)
