"""Odd and damaged input is accepted rightly, or refused in one line."""

import os
import re
import subprocess
import sys

import pytest
from processes import REPOSITORY


def fuzz(seconds: int) -> int:
  """Fuzzes for so long; returns the number of inputs."""
  ended = subprocess.run(
    [sys.executable, 'tests/experiments/fuzz.py', f'--seconds={seconds}'],
    cwd=REPOSITORY,
    env=os.environ | {'PYTHONPATH': str(REPOSITORY), 'JAX_PLATFORMS': 'cpu'},
    text=True,
    capture_output=True,
    check=False,
  )
  assert ended.returncode == 0, ended.stdout + ended.stderr
  total = re.search(r'^ +all +(\d+) ', ended.stdout, re.MULTILINE)
  assert total
  return int(total[1])


@pytest.mark.in_ci
def test_half_a_minute_of_fuzzing():
  assert fuzz(30) > 20


@pytest.mark.long
def test_five_minutes_of_fuzzing():
  """Slower than this on a machine that is busy with something else."""
  assert fuzz(300) >= 4000
