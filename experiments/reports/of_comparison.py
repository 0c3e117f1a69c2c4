"""The page of what has made many runs: a comparison, a sweep."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from experiments.reports import page, pieces
from experiments.reports.again import command_and_settings, given
from experiments.reports.charts import Point, intervals
from experiments.reports.curves import Figure, limits_of
from experiments.reports.measures import label_of, shown
from experiments.reports.page import PAGE, Section
from experiments.reports.scales import count
from experiments.runner.settings import Base
from metajax.metric import Metric

__all__ = ['Row', 'best_of', 'linked', 'results', 'write']


class Row(NamedTuple):
  """What one of the runs has reached."""

  name: str
  workdir: Path | None  # of the run, whose page is linked
  value: float | None
  ci95: float | None  # half the interval


def write(
  workdir: Path,
  settings: Base,
  *,
  kind: str,
  title: str,
  lead: str,
  one: str,
  several: str = '',
  metric: Metric,
  rows: Sequence[Row],
  cells: Sequence[Sequence[str]],
  caption: str,
  names: int = 1,
  figures: Sequence[Figure] = (),
  failed: Mapping[str, str] | None = None,
  headline: Markup | None = None,
) -> Path:
  """Writes the page of a comparison into its workdir.

  Args:
    workdir: of the comparison.
    settings: of it; the page has its command.
    kind: what it is, in a few words.
    title: the heading.
    lead: what was asked, in a sentence.
    one: what a row is, in the singular.
    several: the same in the plural, if it takes more than an s.
    metric: what rows are compared by.
    rows: the best of which is the headline; all have their intervals drawn.
    cells: a table: header and lines. The first cell of a line is the name of a
      row, and links to its page.
    caption: of the table.
    names: columns of it that are no figures.
    figures: headings, charts (`experiments.reports.charts`) and notes.
    failed: names of what ended badly, and how.
    headline: in place of the best of the rows.
  """
  ranked = sorted(
    (row for row in rows if row.value is not None),
    key=lambda row: metric.sort_key(float(row.value or 0)),
  )
  if headline is None and ranked:
    best = ranked[0]
    headline = best_of(
      best.name, count(len(ranked), one, several), metric, best.value, best.ci95
    )
  folders = {row.name: row.workdir for row in rows if row.workdir}
  table = pieces.table(
    [
      cells[0],
      *(
        [linked(first, folders[first], workdir), *rest]
        if first in folders
        else [first, *rest]
        for first, *rest in cells[1:]
      ),
    ],
    caption,
    names,
  )
  drawn = results([(row.name, row.value, row.ci95) for row in ranked], metric)
  sections = [
    Section(
      'Results', pieces.figures([('At test', drawn, ''), *figures]) + table
    ),
    _failed(failed or {}),
    command_and_settings(settings.given(), given(settings)),
  ]
  return page.write(
    workdir,
    page.page(
      kind,
      title,
      lead,
      headline or Markup(''),
      [each for each in sections if each.body],
    ),
  )


def best_of(
  name: str,
  among: str,
  metric: Metric,
  value: float | None,
  half: float | None,
  remark: str = '',
) -> Markup:
  """The headline of several: the best of them, and what is to be said of it."""
  return pieces.headline(
    'not finite' if value is None else metric.format(value),
    value,
    '' if value is None or half is None else metric.format(half),
    metric.unit,
    f'{name}, the best of {among} by {label_of(metric)} at test; ±'
    f' is a 95% interval over tasks{remark}',
    {},
  )


def linked(name: str, workdir: Path, folder: Path) -> Markup | str:
  """A name, with a link to the page in its workdir where there is one."""
  if not (workdir / PAGE).exists():
    return name
  path = os.path.relpath(workdir / PAGE, folder)
  return pieces.link(f'./{quote(os.fsencode(path))}', name)


def results(
  rows: Sequence[tuple[str, float | None, float | None]], metric: Metric
) -> Markup:
  """Draws values of a metric with their intervals, one below the other."""
  drawn = []
  for name, value, half in rows:
    if value is None:
      continue
    at = metric.scale * value
    ends: tuple[float | None, float | None] = None, None
    if half is not None:
      ends = (at - metric.scale * half, at + metric.scale * half)
    drawn.append((name, Point(at, 0, *ends, shown(metric, value, half))))
  return intervals(
    f'{metric.axis} at test with 95% intervals', drawn, metric.axis,
    limits=limits_of(metric),
  )  # fmt: skip


def _failed(failed: Mapping[str, str]) -> Section:
  if not failed:
    return Section('', Markup(''))
  rows = [[name, reason] for name, reason in failed.items()]
  return Section(
    'What failed',
    pieces.table([['name', 'reason'], *rows], 'What ended badly', names=2),
  )
