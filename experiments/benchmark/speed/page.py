"""The page of a benchmark."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from experiments.benchmark.speed.measure import Point, Timing
from experiments.benchmark.speed.methods import MethodRow
from experiments.benchmark.speed.tables import (
  methods_table,
  timings_table,
  workload_title,
)
from experiments.reports import charts, page, pieces
from experiments.reports.again import command_and_settings, given
from experiments.reports.charts import Series
from experiments.reports.page import Section
from experiments.reports.scales import plain_number
from experiments.runner.settings import Base

__all__ = ['write']

_MIB = 2**20


def write(
  folder: Path,
  settings: Base | None,
  machine: Mapping[str, Any],
  peak: float,
  timings: Sequence[Timing],
  points: Sequence[Point],
  methods: Sequence[MethodRow],
) -> Path:
  """Writes the page of a benchmark.

  Args:
    folder: where it goes.
    settings: of the benchmark, if they are known.
    machine: that it ran on.
    peak: operations per second of its fastest matrix product.
    timings: of implementations of workloads.
    points: of curves.
    methods: outer steps of methods.
  """
  workloads = dict.fromkeys((row.workload, row.tasks) for row in timings)
  curves = dict.fromkeys((each.workload, each.axis) for each in points)
  sections = [
    *(
      _of_workload([r for r in timings if (r.workload, r.tasks) == each], peak)
      for each in workloads
    ),
    *(
      _of_curve([p for p in points if (p.workload, p.axis) == each])
      for each in curves
    ),
  ]
  if methods:
    sections.append(_of_methods(methods))
  facts = {name.replace('_', ' '): value for name, value in machine.items()}
  sections.append(Section('Machine', pieces.facts(facts)))
  if settings is not None:
    sections.append(command_and_settings(settings.given(), given(settings)))
  text = page.page(
    'A benchmark of metajax',
    'An outer step of every method' if methods else 'An outer step, timed',
    'Implementations take turns, each in a process of its own; figures are'
    ' medians over turns.',
    Markup(''),
    [each for each in sections if each.body],
  )
  return page.write(folder, text)


def _of_workload(rows: Sequence[Timing], peak: float) -> Section:
  names = [', '.join(filter(None, [r.implementation, r.variant])) for r in rows]
  ratios = [row.ratio_to_metajax for row in rows]
  sizes = [
    (row.peak_device_bytes or row.peak_process_bytes) / _MIB for row in rows
  ]
  speed = charts.intervals(
    'tasks a second beside those of metajax',
    _rows(names, ratios, ' of metajax'),
    'tasks/s relative to metajax',
    level=('metajax', 1.0),
    may_be_log=True,
  )
  memory = charts.intervals(
    'peak memory', _rows(names, sizes, ' MiB'), 'MiB', may_be_log=True
  )
  title, _, note = workload_title(rows[0], peak).partition(': ')
  table = pieces.table(
    timings_table(rows),
    '"metajax is" says how many times as fast; roofline is the share of the'
    ' peak that is reached; start is with nothing compiled, warm with all',
  )
  figures = pieces.figures([('Speed', speed, ''), ('Peak memory', memory, '')])
  return Section(f'{title}, {rows[0].tasks} tasks', figures + table, f'{note}.')


def _of_curve(points: Sequence[Point]) -> Section:
  axis = points[0].axis.replace('_', ' ')
  names = list(dict.fromkeys(each.implementation for each in points))
  figures = []
  for heading, field, unit in (
    ('tasks/s', 'tasks_per_second', 1),
    ('temporaries of the compiled step (MiB)', 'compiled_temp_bytes', _MIB),
  ):
    series = [
      Series(
        name,
        [
          charts.Point(each.value, value / unit)
          for each in points
          if each.implementation == name and (value := getattr(each, field))
        ],
        place,
      )
      for place, name in enumerate(names)
    ]
    if any(each.points for each in series):
      chart = charts.lines(
        f'{heading} by {axis}', series, axis, heading, may_be_log=True,
        x_is_log=True, x_ticks=sorted({each.value for each in points}),
      )  # fmt: skip
      figures.append((heading, chart, ''))
  body = pieces.figures(figures) if figures else Markup('')
  return Section(f'{points[0].workload}, by {axis}', body)


def _of_methods(rows: Sequence[MethodRow]) -> Section:
  ordered = sorted(rows, key=lambda row: row.ratio_to_maml)
  chart = charts.intervals(
    'time of an outer step in that of MAML',
    _rows(
      [row.method for row in ordered],
      [row.ratio_to_maml for row in ordered],
      ' of MAML',
    ),
    'time of an outer step, relative to that of MAML',
    level=('maml', 1.0),
    may_be_log=True,
  )
  table = pieces.table(
    methods_table(rows), 'By the recipe of each, the fastest first'
  )
  return Section('Methods', pieces.beside(chart, table))


def _rows(
  names: Sequence[str], values: Sequence[float], unit: str
) -> list[tuple[str, charts.Point]]:
  return [
    (
      name,
      charts.Point(
        value, 0, text=f'{plain_number(float(f"{value:.3g}"))}{unit}'
      ),
    )
    for name, value in zip(names, values, strict=True)
  ]
