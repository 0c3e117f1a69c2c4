"""What the command line makes of what goes wrong."""

import signal

from experiments.runner.common import Common
from experiments.runner.flags import one_line


def test_who_stops_what_has_nothing_to_save_reads_one_line(capsys):
  def stopped():
    raise KeyboardInterrupt

  assert one_line(Common, stopped) == 128 + signal.SIGINT
  assert capsys.readouterr() == ('', 'stopped\n')
