"""The page of a measurement: a table, what it says, and how to get it again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from experiments.reports import page, pieces
from experiments.reports.again import command_and_settings, given
from experiments.reports.page import Section
from experiments.runner.report import versions
from experiments.runner.settings import Base

__all__ = ['write']


def write(
  workdir: Path,
  settings: Base,
  *,
  title: str,
  lead: str,
  cells: Sequence[Sequence[Any]],
  caption: str,
  names: int = 1,
  notes: Sequence[str] = (),
  others: Mapping[str, Any] | None = None,
) -> Path:
  """Writes the page of a measurement into its workdir.

  Args:
    workdir: where it goes.
    settings: of the measurement; the page has its command.
    title: the heading.
    lead: what was asked, in a sentence.
    cells: the figures: header and lines.
    caption: of them.
    names: columns of them that are no figures.
    notes: what they say, a sentence each.
    others: versions besides those of metajax and of what it stands on.
  """
  figures = [*map(pieces.paragraph, notes), pieces.table(cells, caption, names)]
  stands_on = {**versions(), **(others or {})}
  sections = [
    Section('Figures', pieces.join(figures)),
    Section('Versions', pieces.facts(stands_on)),
    command_and_settings(settings.given(), given(settings)),
  ]
  made = page.page('A measurement', title, lead, Markup(''), sections)
  return page.write(workdir, made)
