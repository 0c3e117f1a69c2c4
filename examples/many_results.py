"""One table of many runs.

  python examples/many_results.py runs

Every experiment leaves a `result.json` in its workdir, in which an accuracy
stands beside what it takes to understand it: the protocol and an interval. This
program reads all of them under the directories that it is given (`runs`, where
experiments put them, if none is) and prints a line for each: what is comparable
stands together, the best first. It takes about 2 s, of which most is Python's
start.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import rich.console
import rich.table


class Line(NamedTuple):
  """A run."""

  dataset: str
  task: str  # '5-way 1-shot', or '10-shot' where there are no classes
  metric: str  # with how batches were normalised, where that matters
  method: str
  before: float  # adaptation
  after: float
  interval: float  # half of it, 95%
  run: str  # where it stands

  def rank(self) -> tuple:
    """Sorts: what is comparable together, the best of it first."""
    better_is_higher = self.metric.startswith('accuracy')
    return *self[:3], -self.after if better_is_higher else self.after


def read(path: Path) -> Line:
  """Reads one `result.json`."""
  result = json.loads(path.read_text())
  test, protocol = result['test'], result['protocol']
  # The metric is what there is a value of before adaptation.
  (metric,) = (
    name.removesuffix('_before') for name in test if name.endswith('_before')
  )
  ways = f'{protocol["ways"]}-way ' if 'ways' in protocol else ''
  how = f', {protocol["evaluation"]}' if 'evaluation' in protocol else ''
  return Line(
    result['dataset'],
    f'{ways}{protocol["shots"]}-shot',
    f'{metric}{how}',
    result['algorithm'],
    test[f'{metric}_before'],
    test[metric],
    test['ci95'],
    str(path.parent),
  )


def main(paths: Sequence[str] = ('runs',)) -> list[Line]:
  """Prints the table, and returns its lines."""
  found = (file for path in paths for file in Path(path).rglob('result.json'))
  lines = sorted(map(read, set(found)), key=Line.rank)
  if not lines:
    print(f'no result.json under {", ".join(paths)}; name directories of runs')
    return lines
  table = rich.table.Table()
  for name in ('dataset', 'task', 'metric', 'method'):
    table.add_column(name)
  for name in ('before', 'after', '95%'):
    table.add_column(name, justify='right')
  table.add_column('run', overflow='fold')
  for number, line in enumerate(lines):
    if number and line[:3] != lines[number - 1][:3]:
      table.add_section()
    figures = (line.before, line.after, line.interval)
    table.add_row(*line[:4], *(f'{value:.3f}' for value in figures), line.run)
  rich.console.Console().print(table)
  return lines


if __name__ == '__main__':
  main(sys.argv[1:] or ('runs',))
