"""The pictures of the benchmark."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from experiments.benchmark.speed.measure import Point, Timing
from experiments.benchmark.speed.methods import MethodRow
from experiments.figures.canvas import COLORS

__all__ = ['bars', 'curve', 'memory', 'methods', 'speeds']

_MIB = 2**20


def bars(
  path: Path, rows: Sequence[Timing], value: Callable[[Timing], float | None],
  label: str,
) -> Path:  # fmt: skip
  """Draws one group of bars per workload, on a logarithmic axis.

  Args:
    path: the PNG file.
    rows: of all workloads.
    value: the height of a bar; None leaves it out.
    label: what the heights are.

  Returns:
    The path.
  """
  groups = list(dict.fromkeys(map(_group, rows)))
  names = list(dict.fromkeys(row.implementation for row in rows))
  width = 0.8 / len(names)
  figure = Figure(figsize=(2 + 1.9 * len(groups), 4.6), layout='constrained')
  axes = figure.add_subplot(yscale='log')
  for index, name in enumerate(names):
    offset = (index - len(names) / 2 + 0.5) * width
    found = [
      (groups.index(_group(row)) + offset, height)
      for row in rows
      if row.implementation == name and (height := value(row))
    ]
    if found:
      drawn = axes.bar(
        [place for place, _ in found],
        [height for _, height in found],
        width=width,
        label=name,
        color=COLORS[index % len(COLORS)],
      )
      axes.bar_label(drawn, fmt='{:.3g}', fontsize=6, rotation=90, padding=2)
  axes.set_xticks(range(len(groups)), groups, fontsize=8)
  axes.set_ylabel(label)
  axes.margins(y=0.2)
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(
    fontsize=8, ncols=3, loc='upper center', bbox_to_anchor=(0.5, -0.1)
  )
  figure.savefig(path, dpi=150)
  return path


def _group(row: Timing) -> str:
  steps = f'{row.inner_steps} step{"s"[: row.inner_steps - 1]}'
  return f'{row.workload}\n{row.tasks} tasks, {steps}'


def speeds(path: Path, rows: Sequence[Timing]) -> Path:
  """Draws tasks per second, as multiples of those of metajax."""
  return bars(
    path, rows, lambda row: row.ratio_to_metajax, 'tasks/s relative to metajax'
  )


def memory(path: Path, rows: Sequence[Timing]) -> Path:
  """Draws the peak memory of the processes, in MiB."""
  return bars(
    path,
    rows,
    lambda row: (row.peak_device_bytes or row.peak_process_bytes) / _MIB,
    'peak memory (MiB)',
  )


def methods(path: Path, rows: Sequence[MethodRow]) -> Path:
  """Draws the time of a step of every method, as multiples of MAML's."""
  ordered = sorted(rows, key=lambda row: -row.ratio_to_maml)
  figure = Figure(figsize=(7, 1 + 0.22 * len(rows)), layout='constrained')
  axes = figure.add_subplot(xscale='log')
  drawn = axes.barh(
    [row.method for row in ordered],
    [row.ratio_to_maml for row in ordered],
    color=COLORS[0],
  )
  axes.bar_label(drawn, fmt='{:.2f}', fontsize=7, padding=2)
  axes.axvline(1, color='#8A9099', lw=0.7)
  axes.tick_params(axis='y', labelsize=8)
  axes.margins(x=0.1, y=0.01)
  axes.set_xlabel("time of an outer step, relative to MAML's")
  axes.spines[['top', 'right']].set_visible(False)
  figure.savefig(path, dpi=150)
  return path


def curve(path: Path, points: Sequence[Point]) -> Path:
  """Draws tasks per second and temporaries against what varies."""
  names = list(dict.fromkeys(point.implementation for point in points))
  figure = Figure(figsize=(9, 4), layout='constrained')
  for column, (field, unit, label) in enumerate(
    (
      ('tasks_per_second', 1, 'tasks/s'),
      ('compiled_temp_bytes', _MIB, 'temporaries of the compiled step (MiB)'),
    )
  ):
    axes = figure.add_subplot(1, 2, column + 1, xscale='log', yscale='log')
    for name, colour in zip(names, COLORS, strict=False):
      found = [
        (point.value, getattr(point, field) / unit)
        for point in points
        if point.implementation == name and getattr(point, field)
      ]
      if found:
        axes.plot(*zip(*found, strict=True), 'o-', label=name, color=colour)
    ticks = sorted({point.value for point in points})
    axes.set_xticks(ticks, map(str, ticks))
    axes.xaxis.minorticks_off()
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel(points[0].axis.replace('_', ' '))
    axes.set_ylabel(label)
    axes.grid(color='#E3E5E8', lw=0.7)
    axes.spines[['top', 'right']].set_visible(False)
    if axes.get_lines():
      axes.legend(fontsize=8)
  figure.suptitle(f'{points[0].workload}, by {points[0].axis}', fontsize=10)
  figure.savefig(path, dpi=150)
  return path
