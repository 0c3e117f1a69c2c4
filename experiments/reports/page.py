"""A page: one HTML file that asks for nothing from anywhere."""

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

import metajax
from experiments.reports.pieces import environment
from experiments.runner.workdir import write_text

__all__ = ['DAMAGED', 'PAGE', 'Section', 'page', 'write']

PAGE = 'report.html'  # in a workdir
# What comes of a record that is not as it was written.
DAMAGED = (
  LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
  jinja2.UndefinedError,
)  # fmt: skip


class Section(NamedTuple):
  """A part of a page, under its heading."""

  title: str
  body: Markup
  note: str = ''

  @property
  def anchor(self) -> str:
    """What a link to it names."""
    return re.sub('[^a-z0-9]+', '-', self.title.lower()).strip('-')


def page(
  kind: str,
  title: str,
  lead: str,
  headline: Markup,
  sections: Sequence[Section],
) -> str:
  """Makes a page.

  Args:
    kind: what is reported of, in a few words.
    title: the heading.
    lead: what was asked, in a sentence.
    headline: the answer.
    sections: the rest.

  Returns:
    HTML. Style and script are in it, and the browser runs no other script:
    their hashes are its policy.
  """
  style, script = (
    (Path(__file__).parent / 'templates' / name).read_text(encoding='utf-8')
    for name in ('style.css', 'page.js')
  )
  return environment().get_template('page.html').render(
    kind=kind, title=title, lead=lead, headline=headline, sections=sections,
    style=Markup(style), script=Markup(script), style_hash=_hash(style),
    script_hash=_hash(script), version=metajax.__version__,
  )  # fmt: skip


def write(folder: Path, text: str) -> Path:
  """Writes a page into a folder, all at once or not at all."""
  path = folder / PAGE
  # Names of files may have bytes that are no text.
  write_text(path, text.encode(errors='replace').decode())
  return path


def _hash(text: str) -> str:
  digest = hashlib.sha256(text.encode()).digest()
  return f'sha256-{base64.b64encode(digest).decode()}'
