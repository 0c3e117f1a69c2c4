"""What was measured so far, as a file and as pictures."""

from pathlib import Path
from typing import Any

from experiments.benchmark.speed import draw, page
from experiments.benchmark.speed.measure import Point, Timing
from experiments.benchmark.speed.methods import MethodRow
from experiments.runner.errors import UsageError
from experiments.runner.settings import Base
from experiments.runner.workdir import make_directory, write_json

__all__ = ['RECORD', 'Record', 'open_record']

RECORD = 'benchmark.json'


class Record:
  """What was measured so far, in the workdir."""

  def __init__(self, path: Path, settings: Base | None = None) -> None:
    self.path = path
    self.settings = settings  # which the page has the command of
    self.machine: dict[str, Any] = {}
    self.peak = 0.0
    self.timings: list[Timing] = []
    self.points: list[Point] = []
    self.methods: list[MethodRow] = []

  def write(self) -> None:
    """Writes the record and its page, and draws it."""
    write_json(
      self.path,
      {
        'machine': self.machine,
        'matmul_peak_flops': self.peak,
        'rows': [row._asdict() for row in self.timings],
        'curves': [point._asdict() for point in self.points],
        'methods': [row._asdict() for row in self.methods],
      },
    )
    folder = self.path.parent
    page.write(
      folder,
      self.settings,
      self.machine,
      self.peak,
      self.timings,
      self.points,
      self.methods,
    )
    if self.timings:
      draw.speeds(folder / 'speed.png', self.timings)
      draw.memory(folder / 'memory.png', self.timings)
    if self.methods:
      draw.methods(folder / 'methods.png', self.methods)
    for workload, axis in {(each.workload, each.axis) for each in self.points}:
      draw.curve(
        folder / f'{workload}_by_{axis}.png',
        [p for p in self.points if (p.workload, p.axis) == (workload, axis)],
      )


def open_record(workdir: Path, settings: Base | None = None) -> Record:
  """Makes the workdir, and a record to write there.

  Args:
    workdir: where it goes.
    settings: of the benchmark; the page has their command.

  Raises:
    UsageError: if there is a record already, or none can be written.
  """
  record = workdir / RECORD
  if record.exists():
    raise UsageError(
      'workdir', f'{workdir} already holds a {RECORD}; name another directory'
    )
  make_directory(workdir)
  return Record(record, settings)
