"""Rooms of a size that can be seen whole, and doors that point one way."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = sorted(
  path.relative_to(REPOSITORY)
  for package in ('metajax', 'experiments')
  for path in (REPOSITORY / package).rglob('*.py')
)
# What knows of whom: a wing may import those before it.
WINGS = (
  'equality', 'base', 'inner', 'models', 'tasks', 'objectives', 'metric',
  'precision', 'normalisation', 'estimators', 'devices', 'adaptation',
  'control', 'bilevel', 'learned', 'algorithms', 'wrappers', 'runs',
  'testing',
)  # fmt: skip

every_file = pytest.mark.parametrize('path', FILES, ids=str)


def lines_of_code(text: str) -> set[int]:
  """Lines that hold more than a comment."""
  return {
    line
    for token in tokenize.generate_tokens(io.StringIO(text).readline)
    if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE,
                          tokenize.INDENT, tokenize.DEDENT)
    for line in range(token.start[0], token.end[0] + 1)
  }  # fmt: skip


def lines_of_documentation(tree: ast.AST) -> set[int]:
  """Lines of docstrings."""
  kinds = ast.FunctionDef | ast.ClassDef | ast.Module
  return {
    line
    for node in ast.walk(tree)
    if isinstance(node, kinds) and ast.get_docstring(node)
    for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
  }


@every_file
def test_a_room_can_be_seen_whole_and_says_what_is_public(path):
  text = (REPOSITORY / path).read_text()
  tree = ast.parse(text)
  assert text.count('\n') <= 400
  code = lines_of_code(text) - lines_of_documentation(tree)
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef):
      own = code & set(range(node.lineno, node.end_lineno + 1))
      assert len(own) <= 80, node.name
  thin = 'runpy.run_module' in text  # another name of a binary
  assert re.search(r'^ *__all__ = ', text, re.MULTILINE) or thin


@pytest.mark.parametrize(
  'path', sorted((REPOSITORY / 'examples').glob('*.py')), ids=lambda p: p.stem
)
def test_an_example_can_be_read_in_one_go(path):
  assert 50 <= path.read_text().count('\n') <= 100


def test_the_library_has_few_rooms_at_its_root():
  assert len(list((REPOSITORY / 'metajax').glob('*.py'))) <= 8


def wing_of(module: str) -> str | None:
  found = re.match(r'metajax\.(\w+)', module)
  return found[1] if found and found[1] in WINGS else None


@every_file
def test_doors_point_one_way(path):
  tree = ast.parse((REPOSITORY / path).read_text())
  imported = {
    node.module
    for node in ast.walk(tree)
    if isinstance(node, ast.ImportFrom) and node.module
  }
  if path.parts[0] == 'metajax':
    assert not [each for each in imported if each.startswith('experiments')]
    own = wing_of('.'.join(path.with_suffix('').parts))
    for module in filter(None, map(wing_of, imported)):
      if own is not None:
        assert WINGS.index(module) <= WINGS.index(own), module
  elif path.parts[1] == 'runner':
    below = ('data', 'figures', 'reports', 'benchmark')
    for part in below:
      assert f'experiments.{part}' not in {
        '.'.join(each.split('.')[:2]) for each in imported
      }
