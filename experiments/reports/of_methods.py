"""The pages of `experiments.compare` and of `experiments.by_shots`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.reports import of_comparison
from experiments.reports.charts import Point, Series, lines
from experiments.reports.curves import Figure, limits_of
from experiments.reports.measures import label_of, shown
from experiments.reports.of_comparison import Row
from experiments.reports.scales import count
from experiments.runner.compared import Compared, table
from experiments.runner.settings import Base
from metajax.metric import Metric

__all__ = ['by_shots', 'compared', 'figure']


def compared(
  workdir: Path,
  settings: Base,
  title: str,
  rows: Mapping[str, Compared],
  curves: Mapping[str, Sequence[tuple[float, float]]],
  failed: Mapping[str, str],
) -> Path:
  """Writes the page of methods that were trained for the same time.

  Args:
    workdir: of the comparison.
    settings: of it.
    title: one line with the protocol.
    rows: what each reached, by the names of their workdirs in this one.
    curves: of every method, seconds of training and the validation then.
    failed: names of what ended badly, and how.
  """
  found = list(rows.values())
  metric = found[0].metric
  method = count(len(found), 'method')
  return of_comparison.write(
    workdir,
    settings,
    kind='A comparison of methods',
    title=title,
    lead=f'{method}, each trained for the same time on the same data, and'
    ' tested on the same tasks.',
    one='method',
    metric=metric,
    rows=[
      Row(row.method, workdir / folder, row.value, row.ci95)
      for folder, row in rows.items()
    ],
    cells=table(found),
    caption='The best first; "of MAML" is the time of a step in those of MAML',
    names=2,
    figures=_over_time(found, curves, metric),
    failed=failed,
  )


def _over_time(
  rows: Sequence[Compared],
  curves: Mapping[str, Sequence[tuple[float, float]]],
  metric: Metric,
) -> list[Figure]:
  scale = metric.scale
  series = list[Series]()
  for row in sorted(rows, key=lambda row: metric.sort_key(row.value)):
    points = [Point(x, scale * y) for x, y in curves.get(row.method, ())]
    at, half = scale * row.value, scale * row.ci95
    said = f'{row.method}, test: {shown(metric, row.value, row.ci95)}'
    end = Point(row.train_seconds, at, at - half, at + half, said)
    place = len(series) // 2
    series += [
      Series(row.method, points, place),
      Series('', [end], place, 'dots'),
    ]
  return [
    figure(
      'By seconds of training',
      'Lines are validation; dots at their ends, with an interval, the test.',
      series, metric, 'seconds of training',
    )
  ]  # fmt: skip


def by_shots(
  workdir: Path,
  settings: Base,
  title: str,
  results: Mapping[str, Sequence[tuple[int, float, float]]],
  runs: Mapping[str, Path],
  cells: Sequence[Sequence[str]],
  metric: Metric,
  failed: Mapping[str, str],
) -> Path:
  """Writes the page of runs that were tested from more and more examples.

  Args:
    workdir: of the tests.
    settings: of them.
    title: one line with the protocol.
    results: of every run, numbers of examples, values of the metric, and halves
      of their 95% intervals.
    runs: their workdirs.
    cells: the table: header and lines.
    metric: what was measured.
    failed: names of what ended badly, and how.
  """
  numbers = sorted({at for points in results.values() for at, *_ in points})
  most, scale = numbers[-1], metric.scale
  series = [
    Series(
      name,
      [
        Point(at, scale * y, scale * (y - half), scale * (y + half))
        for at, y, half in points
      ],
      place,
    )
    for place, (name, points) in enumerate(results.items())
  ]
  return of_comparison.write(
    workdir,
    settings,
    kind='Runs tested from fewer and from more examples',
    title=title,
    lead=f'{count(len(results), "run")}, tested on the same tasks again, from'
    f' {", ".join(map(str, numbers))} examples per class. Nothing was trained.',
    one='run',
    metric=metric,
    rows=[
      Row(name, runs.get(name), y, half)
      for name, points in results.items()
      for at, y, half in points
      if at == most
    ],
    cells=cells,
    caption=f'{label_of(metric)} by the number of examples per class',
    figures=[
      figure(
        'By support examples per class', '', series, metric,
        'support examples per class', numbers,
      )
    ],
    failed=failed,
  )  # fmt: skip


def figure(
  heading: str,
  note: str,
  series: Sequence[Series],
  metric: Metric,
  x_label: str,
  x_ticks: Sequence[int] = (),
) -> Figure:
  """Draws a metric against a number, which has ticks on a scale of its ratios.

  Args:
    heading: of the chart.
    note: below it.
    series: what is drawn, as it is shown.
    metric: of the y axis.
    x_label: of the x axis.
    x_ticks: where its ticks are.
  """
  chart = lines(
    f'{metric.axis} against {x_label}', series, x_label, metric.axis,
    show=lambda value: f'{value:.{metric.digits}f}{metric.unit}',
    y_limits=limits_of(metric), may_be_log=not metric.is_share,
    x_is_log=bool(x_ticks), x_ticks=x_ticks,
  )  # fmt: skip
  return heading, chart, note
