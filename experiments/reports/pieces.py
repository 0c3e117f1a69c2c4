"""Pieces of a page: tables, facts, figures; whatever they hold is escaped."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

__all__ = [
  'beside',
  'classes',
  'command',
  'details',
  'environment',
  'facts',
  'figures',
  'headline',
  'images',
  'join',
  'link',
  'matrix',
  'paragraph',
  'table',
  'task',
  'tasks',
]


@cache
def environment() -> jinja2.Environment:
  """The templates, which escape whatever is put into them."""
  return jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / 'templates'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
  )


def _piece(name: str, *arguments: Any) -> Markup:
  module: Any = environment().get_template('pieces.html').module
  made: Markup = getattr(module, name)(*arguments)
  return made


def table(
  cells: Sequence[Sequence[Any]], caption: str, names: int = 1
) -> Markup:
  """A table that scrolls within itself.

  Args:
    cells: the header, then the lines.
    caption: what it is of.
    names: columns that are no figures.
  """
  header, *rows = cells
  return _piece('table', header, rows, names, caption)


def facts(pairs: Mapping[str, Any]) -> Markup:
  """Names and what they are."""
  return _piece('facts', list(pairs.items()))


def headline(
  value: str,
  exact: float | None,
  interval: str,
  unit: str,
  label: str,
  others: Mapping[str, Any],
) -> Markup:
  """The figure that a page is about, its interval, and what stands beside it.

  Args:
    value: as it is shown.
    exact: as the record has it.
    interval: half of it, or nothing.
    unit: of both.
    label: what was measured, and how.
    others: what it is compared with.
  """
  return _piece(
    'headline', value, exact, interval, unit, label, list(others.items())
  )


def command(text: str) -> Markup:
  """A command that can be copied."""
  return _piece('command', text)


def details(summary: str, body: Markup) -> Markup:
  """What is shown when it is asked for."""
  return _piece('details', summary, body)


def figures(pairs: Sequence[tuple[str, Markup, str]]) -> Markup:
  """Charts side by side where there is room: heading, chart, note."""
  return _piece('figures', pairs)


def beside(chart: Markup, rest: Markup) -> Markup:
  """A chart, and what is said of it, side by side where there is room."""
  return _piece('beside', chart, rest)


def matrix(
  names: Sequence[str],
  rows: Sequence[tuple[str, Sequence[tuple[str, int, str]]]],
  caption: str,
  corner: str,
) -> Markup:
  """A table of shaded cells: text, shade from 0 to 4 or 9, and title."""
  return _piece('grid', names, rows, caption, corner)


def task(heading: str, line: str, body: Markup) -> Markup:
  """One task."""
  return _piece('task', heading, line, body)


def tasks(each: Sequence[Markup], broad: bool = False) -> Markup:
  """Tasks, side by side where there is room, or each as broad as the page."""
  style = 'tasks broad' if broad else 'tasks'
  return Markup('<div class="{}">{}</div>').format(style, join(each))


def classes(shown: Mapping[str, Any]) -> Markup:
  """A task of classification: support, queries and predictions by class."""
  return _piece('classes', shown)


def images(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Markup:
  """Images beside each other, each with its name."""
  return _piece('images', rows)


def paragraph(text: str) -> Markup:
  """A note."""
  return Markup('<p class="note">{}</p>').format(text)


def link(path: str, text: str) -> Markup:
  """A link to a file beside this one."""
  return Markup('<a href="{}">{}</a>').format(path, text)


def join(parts: Sequence[Markup]) -> Markup:
  """One after the other."""
  return Markup('').join(parts)
