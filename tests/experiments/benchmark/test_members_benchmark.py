"""The measurement of several runs as one program."""

import pytest

from experiments.benchmark import members
from experiments.runner.errors import UsageError


def test_a_row_compares_as_many_runs_with_each_other():
  turns = [
    {
      'one': {'step': 2e-3, 'processor': 3e-3, 'start': 4.0},
      'seeds': {'step': 8e-3, 'processor': 24e-3, 'start': 5.0},
    }
  ]
  assert members._row('sinusoid', 'seeds', turns, 8) == [
    'sinusoid', '8 seeds', '1', '2.00 (2.00-2.00)', '1.00 (1.00-1.00)', '5.0',
    f'{8 * (4 + 1) / (5 + 4):.2f}',
  ]  # fmt: skip
  assert members._row('sinusoid', 'one', turns, 8) == [
    'sinusoid', '1', '2', '', '', '4.0', ''
  ]  # fmt: skip


def test_what_is_no_workload_is_refused(tmp_path):
  settings = members.Settings(workloads=('waves',), workdir=tmp_path / 'x')
  with pytest.raises(UsageError, match="'waves' is none of sinusoid, strokes"):
    members.run(settings)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_workload_is_measured(tmp_path, capsys):
  settings = members.Settings(
    workloads=('sinusoid',), members=2, rounds=1, workdir=tmp_path
  )
  assert members.run(settings) == 0
  assert len(capsys.readouterr().out.splitlines()) == 2 + 3
  assert (tmp_path / 'members.json').exists()
  assert '2 seeds' in (tmp_path / 'report.html').read_text(encoding='utf-8')
