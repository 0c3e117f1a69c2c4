"""Runs an experiment for long, and watches whether it grows.

  python tests/experiments/soak.py --minutes=10

trains a small network on strokes with a checkpoint, validation and lines of
metrics every few steps, notes every ten seconds how much memory the process
has of its own, and asks it to stop. After a minute of warming up it must not
grow by more than 2%, or the exit code is 1. Run it alone: nothing else is
measured.
"""

import argparse
import re
import signal
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


def own_bytes(pid: int) -> int:
  """The memory of its own that a process holds, by the kernel's account.

  Pages of files are left out, as the kernel drops and reads them as it likes;
  what it has swapped out is not.
  """
  status = Path(f'/proc/{pid}/status').read_text()
  found = re.findall(r'(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB', status)
  return sum(map(int, found)) * 1024


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
      seen.append(own_bytes(process.pid))
      print(f'{passed:.0f} s: {seen[-1] / 2**20:.1f} MiB', flush=True)
    process.send_signal(signal.SIGTERM)
    code = process.wait()
    lines = Path(workdir, 'metrics.jsonl').read_text().count('\n')
  warm = seen[int(WARM_UP / INTERVAL) :]
  # What the allocator gives back in between is nobody's leak.
  growth = max(warm) / warm[0] - 1
  print(
    f'{minutes:g} minutes, {lines} lines of metrics, exit code {code}:'
    f' {warm[0] / 2**20:.1f} MiB when warm, then {min(warm) / 2**20:.1f} to'
    f' {max(warm) / 2**20:.1f}: grew by {growth:.1%}'
  )
  return int(growth > TOLERANCE)


if __name__ == '__main__':
  sys.exit(main())
