"""What the command line makes of what goes wrong."""

import signal
import subprocess
import sys
from pathlib import Path

from experiments.runner.common import Common
from experiments.runner.flags import one_line

REPOSITORY = Path(__file__).resolve().parents[3]


def test_who_stops_what_has_nothing_to_save_reads_one_line(capsys):
  def stopped():
    raise KeyboardInterrupt

  assert one_line(Common, stopped) == 128 + signal.SIGINT
  assert capsys.readouterr() == ('', 'stopped\n')


def test_a_reader_that_has_seen_enough_is_no_fault():
  program = (
    'import sys\n'
    'from experiments.runner.common import Common\n'
    'from experiments.runner.flags import one_line\n'
    'def printing():\n'
    '  while True: print("row")\n'
    'sys.exit(one_line(Common, printing))\n'
  )
  ended = subprocess.Popen(
    [sys.executable, '-c', program],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=REPOSITORY,
  )
  assert ended.stdout.readline() == 'row\n'
  ended.stdout.close()
  said = ended.stderr.read()
  ended.stderr.close()
  assert ended.wait() == 128 + signal.SIGPIPE
  assert said == 'stopped: what is printed is read no more\n'
