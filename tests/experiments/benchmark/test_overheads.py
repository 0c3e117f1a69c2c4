"""The measurement of what devices, processes and checkpoints cost."""

import json
import os
import subprocess
import sys

import pytest
from processes import REPOSITORY


@pytest.mark.long
def test_every_layout_is_measured(cache, tmp_path):
  unused = tmp_path / 'unused'  # as the processes get the flag of the cache
  ended = subprocess.run(
    [
      sys.executable, '-m', 'experiments.overheads', '--workloads=sinusoid',
      '--rounds=1', '--steps=20', '--size=1600', cache,
      f'--workdir={tmp_path}',
    ],
    cwd=REPOSITORY,
    env=os.environ
    | {'JAX_PLATFORMS': 'cpu', 'XDG_CACHE_HOME': str(unused)},
    capture_output=True,
    text=True,
  )  # fmt: skip
  assert ended.returncode == 0, ended
  assert not unused.exists()
  record = json.loads((tmp_path / 'overheads.json').read_text())
  assert [row['what'] for row in record['rows']] == [
    'one device', 'one device, mesh task:1', 'two devices', 'two processes',
    'no checkpoints', 'every 100 steps',
  ]  # fmt: skip
  for row in record['rows']:
    assert row['tasks_per_second'] > 0
  pause = record['large_save']
  assert pause['bytes'] == 6400
  assert 0 < pause['pause_seconds'] <= pause['written_seconds']
  page = (tmp_path / 'report.html').read_text(encoding='utf-8')
  assert 'every 100 steps' in page
