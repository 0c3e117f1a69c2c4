"""Runs an experiment for long, and watches whether it grows.

  python tests/experiments/soak.py --minutes=10

trains a small network on strokes with a checkpoint, validation and lines of
metrics every few steps, notes the resident memory of the process every ten
seconds, and asks it to stop. After a minute of warming up, memory has to stay
within 2%, or the exit code is 1. Run it alone: nothing else is measured.
"""

import argparse
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from processes import REPOSITORY

INTERVAL = 10.0  # seconds between looks
WARM_UP = 60.0  # seconds in which memory may grow
TOLERANCE = 0.02

COMMAND = (
  sys.executable, '-m', 'experiments.images', '--width=16', '--steps=1000000',
  '--log_every=10', '--checkpoint_every=20', '--validation_tasks=20',
)  # fmt: skip


def resident_bytes(pid: int) -> int:
  """The memory that a process holds, by the kernel's account."""
  status = Path(f'/proc/{pid}/status').read_text()
  found = re.search(r'VmRSS:\s+(\d+) kB', status)
  assert found
  return int(found[1]) * 1024


def main() -> int:
  """Runs, looks and judges; exit code 1 if memory grew."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--minutes', type=float, default=10)
  minutes = parser.parse_args().minutes
  with tempfile.TemporaryDirectory() as folder:
    workdir = f'{folder}/run'
    process = subprocess.Popen(
      [*COMMAND, f'--workdir={workdir}'],
      cwd=REPOSITORY,
      stdout=subprocess.DEVNULL,
    )
    begun, seen = time.monotonic(), list[int]()
    while (passed := time.monotonic() - begun) < 60 * minutes:
      time.sleep(INTERVAL)
      if process.poll() is not None:
        print(f'the run ended by itself, with code {process.returncode}')
        return 1
      seen.append(resident_bytes(process.pid))
      print(f'{passed:.0f} s: {seen[-1] / 2**20:.1f} MiB', flush=True)
    process.send_signal(signal.SIGTERM)
    code = process.wait()
    lines = Path(workdir, 'metrics.jsonl').read_text().count('\n')
  warm = seen[int(WARM_UP / INTERVAL) :]
  spread = (max(warm) - min(warm)) / statistics.median(warm)
  print(
    f'{minutes:g} minutes, {lines} lines of metrics, exit code {code}:'
    f' {min(warm) / 2**20:.1f} to {max(warm) / 2**20:.1f} MiB, {spread:.1%}'
  )
  return int(spread > TOLERANCE)


if __name__ == '__main__':
  sys.exit(main())
