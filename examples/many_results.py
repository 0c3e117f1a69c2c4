"""Tables of many runs.

  python examples/many_results.py runs

Every experiment leaves a `result.json` in its workdir, in which an accuracy
stands beside what it takes to understand it: the protocol and an interval. This
program reads all of them under the directories that it is given (`runs`, where
experiments put them, if none is) and prints a table of those that are
comparable, the best first, and another one for every other data set, task,
metric or normalisation. It takes less than 1 s.
"""

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import rich.console
import rich.table

from metajax import Metric


class Line(NamedTuple):
  """A run."""

  setting: str  # what has to agree for figures to be comparable
  metric: Metric
  method: str
  before: float  # adaptation
  after: float
  interval: float  # half of it, 95%
  run: str  # its workdir

  def rank(self) -> tuple[str, float]:
    """Sorts: what is comparable together, the best of it first."""
    return self.setting, self.metric.sort_key(self.after)


def read(path: Path) -> Line:
  """Reads one `result.json`."""
  result = json.loads(path.read_text())
  test, protocol = result['test'], result['protocol']
  metric = Metric(**result['metric'])  # knows what is better, and its digits
  ways = f'{protocol["ways"]}-way ' if 'ways' in protocol else ''
  setting = [result['dataset'], f'{ways}{protocol["shots"]}-shot', metric.name]
  if 'evaluation' in protocol:  # what a query is normalised with
    setting.append(protocol['evaluation'])
  return Line(
    ', '.join(setting),
    metric,
    result['algorithm'],
    test[f'{metric.name}_before'],
    test[metric.name],
    test['ci95'],
    str(path.parent),
  )


def main(paths: Sequence[str] = ('runs',)) -> list[Line]:
  """Prints the tables, and returns their lines."""
  found = {file for path in paths for file in Path(path).rglob('result.json')}
  lines = sorted(map(read, found), key=Line.rank)
  if not lines:
    print(f'no result.json under {", ".join(paths)}; name directories of runs')
  console = rich.console.Console()
  for setting, group in itertools.groupby(lines, lambda line: line.setting):
    table = rich.table.Table(title=setting, title_justify='left')
    table.add_column('method')
    table.add_column('before', justify='right')
    table.add_column('after, 95% interval', justify='right')
    table.add_column('run', overflow='fold')
    for line in group:
      before = line.metric.format(line.before)
      after = line.metric.format_interval(line.after, line.interval)
      table.add_row(line.method, before, after, line.run)
    console.print(table)
  return lines


if __name__ == '__main__':
  main(sys.argv[1:] or ('runs',))
