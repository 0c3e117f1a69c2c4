"""Tables of results, for people and for files.

A table is a list of lines of cells, of which the first is the header. Its first
columns are names, the others figures, which are flush right.
"""

import shutil
import textwrap
from collections.abc import Sequence

import rich.console
import rich.table
import rich.text
from rich.cells import cell_len

from experiments.runner.errors import printable

__all__ = [
  'markdown', 'markdown_lines', 'plain', 'say', 'show', 'three_digits'
]  # fmt: skip


def three_digits(value: float) -> str:
  """A positive figure in three digits, or more, and never with an exponent."""
  return f'{value:.3g}' if value < 999.5 else f'{value:,.0f}'


def plain(text: str) -> rich.text.Text:
  """A text of which nothing is markup, nor speaks to the terminal."""
  return rich.text.Text(printable(text))


def markdown(table: Sequence[Sequence[str]], names: int = 1) -> str:
  """The table as Markdown has it."""
  header, *lines = table
  rule = [*['---'] * names, *['---:'] * (len(header) - names)]
  return markdown_lines([header, rule, *lines])


def markdown_lines(lines: Sequence[Sequence[str]]) -> str:
  """More lines of such a table, for one that is printed as it comes."""
  shown = (
    [printable(cell).replace('|', r'\|') for cell in cells] for cells in lines
  )
  return ''.join(f'| {" | ".join(cells)} |\n' for cells in shown)


def say(text: str) -> None:
  """Prints a text in lines as wide as the terminal, broken between words."""
  columns = shutil.get_terminal_size().columns
  lines = textwrap.wrap(
    printable(text), columns, subsequent_indent='  ', break_on_hyphens=False
  )
  print('\n'.join(lines), flush=True)


def show(
  table: Sequence[Sequence[str]], names: int = 1, title: str | None = None
) -> None:
  """Prints the table; what is wider than the terminal in parts of its columns.

  Args:
    table: the header, and a line for every row.
    names: how many columns are no figures; they are in every part.
    title: of the table.
  """
  console = rich.console.Console()
  for number, columns in enumerate(_parts(table, names, console.width)):
    shown = rich.table.Table(title=title and plain(title) if not number else '')
    for place, width in columns.items():
      shown.add_column(
        plain(table[0][place]),
        justify='left' if place < names else 'right',
        width=width,
        overflow='fold',
      )
    for cells in table[1:]:
      shown.add_row(*(plain(cells[place]) for place in columns))
    console.print(shown)


def _parts(
  table: Sequence[Sequence[str]], names: int, room: int
) -> list[dict[int, int]]:
  """The columns of every part, and how wide they are.

  Headers are in one line if all fits so, and are broken between words if not.
  """
  rows = [[printable(cell) for cell in cells] for cells in table]
  cells = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
  words = [
    max(map(cell_len, [*' '.join(column[:1]).split(), *column[1:], '']))
    for column in zip(*rows, strict=True)
  ]
  if _width(cells) <= room:
    return [dict(enumerate(cells))]
  parts = list[dict[int, int]]()
  of_names = dict(enumerate(words[:names]))
  for place, width in list(enumerate(words))[names:]:
    if not parts or _width([*parts[-1].values(), width]) > room:
      parts.append(dict(of_names))
    parts[-1][place] = width
  return parts or [of_names]


def _width(columns: Sequence[int]) -> int:
  """Of a table with a frame and room around each cell."""
  return sum(columns) + 3 * len(columns) + 1
