"""Tables of results, for people and for files.

A table is a list of lines of cells, of which the first is the header. Its first
columns are names, the others figures, which are flush right.
"""

from collections.abc import Sequence

import rich.console
import rich.table
import rich.text

from experiments.runner.errors import printable

__all__ = ['markdown', 'plain', 'show', 'three_digits']


_WIDE = 1000  # columns, more than any table has


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
  shown = [
    [printable(cell).replace('|', r'\|') for cell in cells]
    for cells in (header, *lines)
  ]
  return ''.join(
    f'| {" | ".join(cells)} |\n' for cells in (shown[0], rule, *shown[1:])
  )


def show(
  table: Sequence[Sequence[str]], names: int = 1, title: str | None = None
) -> None:
  """Prints the table, to a file as wide as it is."""
  header, *lines = table
  shown = rich.table.Table(title=title and plain(title))
  for number, name in enumerate(header):
    is_name = number < names
    shown.add_column(
      plain(name), justify='left' if is_name else 'right', no_wrap=is_name
    )
  for cells in lines:
    shown.add_row(*map(plain, cells))
  console = rich.console.Console()
  if not console.is_terminal:
    console.width = _WIDE
  console.print(shown)
