"""The page of a benchmark, of measurements that nobody has made."""

import sys
from pathlib import Path

from experiments.benchmark.speed import page
from experiments.benchmark.speed.measure import Point, Timing
from experiments.benchmark.speed.methods import MethodRow

sys.path.append(str(Path(__file__).parents[1] / 'reports'))
from reading import Read

ROW = Timing(
  'metajax', 'sinusoid', 25, 1, 1234.5, 1.0, 2**28, None, 2**20, 3.0, 1.0,
  10**9, 0.25, 1e-9, 1.5, '', 7,
)  # fmt: skip


def test_it_has_all_that_was_measured(tmp_path):
  slow = ROW._replace(
    implementation='<peer>', variant='2 threads', ratio_to_metajax=0.125
  )
  points = [
    Point(name, 'omniglot', 'tasks', number, 10.0 * number, None)
    for name in ('metajax', '<peer>')
    for number in (1, 4, 16)
  ]
  path = page.write(
    tmp_path, None, {'cores': 2}, 1e11, [ROW, slow], points,
    [MethodRow('maml', 32, 0.1, 1.0, None, 5.0, 7),
     MethodRow('anil', 32, 0.05, 0.5, 2**20, 5.0, 7)],
  )  # fmt: skip
  text = path.read_text()
  read = Read(text)
  assert not read.faults
  assert '<peer>' not in text
  texts = [each.get('data-text') for each in read.named('circle')]
  assert '<peer>, 2 threads: 0.125 of metajax' in texts
  assert 'metajax: 256 MiB' in texts
  assert 'metajax, tasks 16: 160' in texts
  assert 'anil: 0.5 of MAML' in texts
  assert '8 x' in read.text
