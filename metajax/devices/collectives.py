"""What the devices of a compiled program send to each other."""

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ['Collective', 'collectives']

_OPERATIONS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
  'collective-broadcast',
)
_NAMES = '|'.join(_OPERATIONS)
# `%name = f32[8,4]{1,0} all-reduce-start(...)`; a pair of start and done counts
# once, by its start.
_COLLECTIVE = re.compile(rf'= (.+?) ({_NAMES})(-start)?\(')
_ARRAY = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\]')
_COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.-]+) (?:\(.*)?.*\{$')
_CALLED = re.compile(r'(?:to_apply|calls|body|condition)=%?([\w.-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_LOOP = re.compile(r'\bwhile\(.*')
_TURN = re.compile(r'(?:body|condition)=%?([\w.-]+)')


class Collective(NamedTuple):
  """One exchange between devices."""

  op: str
  bytes: int  # of its result on one device
  inside_loop: bool  # whether it happens in every turn of a loop


def collectives(text: str) -> list[Collective]:
  """Lists the exchanges in a compiled program.

  Args:
    text: the program, as `compiled.as_text()` gives it.

  Returns:
    All of its collective operations.

  Example:
    >>> import jax
    >>> program = jax.jit(lambda x: x + 1).lower(1.0).compile().as_text()
    >>> collectives(program)
    []
  """
  computations = dict(_computations(text))
  turns = {
    name
    for lines in computations.values()
    for loop in _LOOP.findall(lines)
    for name in _TURN.findall(loop)
  }
  looped = _reached(computations, turns)
  return [
    Collective(op, _bytes(shape, op, bool(start)), name in looped)
    for name, lines in computations.items()
    for shape, op, start in _COLLECTIVE.findall(lines)
  ]


def _computations(text: str) -> Iterator[tuple[str, str]]:
  """Names and bodies of the functions of a program."""
  name: str | None = None
  lines: list[str] = []
  for line in text.splitlines():
    if name is None:
      if found := _COMPUTATION.match(line):
        name, lines = found[1], []
    elif line.startswith('}'):
      yield name, '\n'.join(lines)
      name = None
    else:
      lines.append(line)


def _reached(computations: dict[str, str], roots: set[str]) -> set[str]:
  """The functions that are called from some."""
  reached: set[str] = set()
  waiting = list(roots)
  while waiting:
    name = waiting.pop()
    if name in reached or name not in computations:
      continue
    reached.add(name)
    lines = computations[name]
    waiting += _CALLED.findall(lines)
    for branches in _BRANCHES.findall(lines):
      waiting += [each.strip().lstrip('%') for each in branches.split(',')]
  return reached


def _bytes(shape: str, op: str, is_start: bool) -> int:
  """The size of `f32[8,4]`, or of a tuple of such.

  The start of an asynchronous gather or permutation names its operands beside
  its results, and some numbers of its own; the results are the larger ones.
  """
  sizes = [
    _width(kind) * _product(lengths)
    for kind, lengths in _ARRAY.findall(shape)
    if not is_start or lengths
  ]
  if is_start and op != 'all-reduce':
    return max(sum(sizes[: len(sizes) // 2]), sum(sizes[len(sizes) // 2 :]))
  return sum(sizes)


def _width(kind: str) -> int:
  """Bytes of a number, by the name that XLA has for its kind."""
  if kind == 'pred':
    return 1
  bits = re.search(r'\d+', kind)
  return max(1, int(bits[0]) // 8) if bits else 0


def _product(lengths: str) -> int:
  result = 1
  for length in filter(None, lengths.split(',')):
    result *= int(length)
  return result
