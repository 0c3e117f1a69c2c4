"""Pages about runs: written again, or of several runs side by side.

  python -m experiments.report runs/one
  python -m experiments.report runs/one runs/another --workdir=runs/both

Every run writes `report.html` into its workdir: one file, which opens from the
disk. The first command writes it again, of what the workdir holds, without the
data and without a device. The second compares runs: results, curves, settings
that differ, and the difference on the same test tasks; the page is written into
--workdir.
"""

import sys
from pathlib import Path

from experiments.reports import of_run, of_runs
from experiments.runner import flags
from experiments.runner.errors import UsageError, printable, unwritable
from experiments.runner.paths import Place, Places
from experiments.runner.settings import Base, setting, settings

__all__ = ['Settings', 'run']


@settings
class Settings(Base):
  """Which runs the page is of, and where it goes."""

  runs: tuple[str, ...] = setting(
    (), Places(), 'workdirs of runs that have ended; --runs= may be left out',
    of='machine', resume=True,
  )  # fmt: skip
  workdir: str = setting(
    'runs/report', Place(), 'where a page of several runs goes',
    of='machine', resume=True,
  )  # fmt: skip


def run(settings: Settings) -> int:
  """Writes the page, and says where it is."""
  folders = [*map(Path, settings.runs)]
  if not folders:
    raise UsageError('runs', 'names no run; give workdirs of some that ended')
  try:
    if len(folders) == 1:
      path = of_run.write(folders[0], 'runs')
    else:
      path = of_runs.write(folders, Path(settings.workdir))
  except OSError as error:
    where = folders[0] if len(folders) == 1 else Path(settings.workdir)
    raise unwritable('workdir', where, error) from error
  print(printable(str(path)))
  return 0


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run, names='runs'))
