"""Settings: what an experiment is told, as typed and immutable values.

A class of settings is a frozen dataclass whose fields are made by `setting`,
which has to say of each one what it means and what follows from it:

- `of`: what it is a setting of. `tasks` are what a test asks for, so runs are
  compared on equal ones only; `data` says where these lie; `method` is what
  adapts; `training` how it is trained; `test` how it is judged; `machine` where
  and how a run runs, which changes its results by rounding alone. All but
  `data` and `machine` are the identity of a run (`is_identity`).
- `resume`: whether a run may go on with another value. Nothing that has shaped
  its parameters may change.
- `forwarded`: whether a comparison hands it to each of its runs.

The same checks serve the command line (`runner.flags`) and Python, with the
same message: `Settings(steps=-1)` raises what `--steps=-1` prints.
"""

import dataclasses
import difflib
import math
import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

from experiments.runner.errors import UsageError, suggestion
from experiments.runner.plugins import import_plugins
from metajax.algorithms.recipe import Recipe

__all__ = [
  'Assignments', 'Base', 'Finite', 'Kind', 'Listed', 'OneOf', 'Part',
  'Positive', 'Repeated', 'Said', 'Share', 'Text', 'Whole', 'WholeOrAuto',
  'YesNo', 'assigned', 'assignments', 'is_identity', 'said', 'setting',
  'settings',
]  # fmt: skip

Part = Literal['tasks', 'data', 'method', 'training', 'test', 'machine']
_LARGEST = 2**31 - 1


class Kind:
  """A kind of value: how a text is read, and what is allowed."""

  allowed = 'a text'

  def check(self, value: Any) -> Any:
    """Returns the value as it is kept, or raises ValueError."""
    if isinstance(value, os.PathLike):
      value = os.fspath(value)
    if not isinstance(value, str):
      raise ValueError(f'must be {self.allowed}')
    return value

  def parse(self, text: str) -> Any:
    """Reads what the command line has."""
    return self.check(text)


class Text(Kind):
  """Any text, or a path."""


class YesNo(Kind):
  """True or false."""

  allowed = 'true or false'

  def check(self, value: Any) -> Any:
    """Returns the value, or raises ValueError."""
    if not isinstance(value, bool):
      raise ValueError(f'must be {self.allowed}')
    return value

  def parse(self, text: str) -> Any:
    """Reads what a search, or `--set`, has."""
    return self.check({'true': True, 'false': False}.get(text.lower(), text))


class Whole(Kind):
  """A whole number from a least one."""

  def __init__(self, at_least: int = 1) -> None:
    self.at_least = at_least
    self.allowed = f'a whole number from {at_least}'

  def check(self, value: Any) -> Any:
    """Returns the number, or raises ValueError."""
    try:
      number = operator.index(value)
    except TypeError:
      number = self.at_least - 1
    if isinstance(value, bool) or number < self.at_least:
      raise ValueError(f'must be {self.allowed}')
    if number > _LARGEST:
      raise ValueError(f'must be {self.allowed} to {_LARGEST}')
    return number

  def parse(self, text: str) -> Any:
    """Reads what the command line has."""
    try:
      number = int(text)
    except ValueError:
      raise ValueError(f'must be {self.allowed}') from None
    return self.check(number)


class WholeOrAuto(Whole):
  """A whole number, or the word `auto`."""

  def __init__(self) -> None:
    super().__init__()
    self.allowed = f'auto, or {self.allowed}'

  def check(self, value: Any) -> Any:
    """Returns the number or `'auto'`, or raises ValueError."""
    return value if value == 'auto' else super().check(value)

  def parse(self, text: str) -> Any:
    """Reads what the command line has."""
    return text if text == 'auto' else super().parse(text)


class Finite(Kind):
  """A finite number."""

  allowed = 'a finite number'

  def holds(self, number: float) -> bool:
    """Whether a finite number is allowed."""
    del number
    return True

  def check(self, value: Any) -> Any:
    """Returns the number, or raises ValueError."""
    try:
      number = math.nan if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError):
      number = math.nan
    if not (math.isfinite(number) and self.holds(number)):
      raise ValueError(f'must be {self.allowed}')
    return number

  def parse(self, text: str) -> Any:
    """Reads what the command line has."""
    try:
      return self.check(float(text))
    except ValueError:
      raise ValueError(f'must be {self.allowed}') from None


class Positive(Finite):
  """A finite number above zero."""

  allowed = 'a finite number > 0'

  def holds(self, number: float) -> bool:
    """Whether a finite number is allowed."""
    return number > 0


class Share(Finite):
  """A part of something, or all of it."""

  allowed = 'a number above 0, up to 1'

  def holds(self, number: float) -> bool:
    """Whether a finite number is allowed."""
    return 0 < number <= 1


class OneOf(Kind):
  """One of some names, which may be known only when it is asked.

  Args:
    names: all of them, or a function that returns them: methods and networks
      may be registered from outside before the first value is checked.
  """

  def __init__(self, names: Sequence[str] | Callable[[], Sequence[str]]):
    self._names = names

  @property
  def names(self) -> Sequence[str]:
    """The names that there are now."""
    return self._names() if callable(self._names) else self._names

  @property
  def allowed(self) -> str:  # type: ignore[override]
    """What to say that is allowed."""
    return f'<{"|".join(self.names)}>'

  def check(self, value: Any) -> Any:
    """Returns the name, or raises ValueError."""
    if value not in self.names:
      raise ValueError(
        f'value should be one of {self.allowed}'
        f'{suggestion(str(value), self.names)}'
      )
    return value

  def parse(self, text: str) -> Any:
    """Leaves the check to the value that it becomes part of."""
    return text


class Listed(Kind):
  """Texts with commas between them."""

  allowed = 'a list of texts'
  member: Kind = Text()

  def check(self, value: Any) -> Any:
    """Returns a tuple, or raises ValueError."""
    if isinstance(value, str):
      value = self.parse(value)
    try:
      return tuple(self.member.check(each) for each in value)
    except (TypeError, ValueError):
      raise ValueError(f'must be {self.allowed}') from None

  def parse(self, text: str) -> Any:
    """Reads what the command line has."""
    return tuple(each.strip() for each in text.split(',') if each.strip())


class Repeated(Listed):
  """Texts of a flag that may be given several times."""

  def parse(self, text: str) -> Any:
    """Reads what one flag of the command line has."""
    return (text,)


class Assignments(Kind):
  """`name=value` pairs with commas between them; a mapping will do."""

  allowed = 'NAME=VALUE,NAME=VALUE,...'

  def check(self, value: Any) -> Any:
    """Returns the text, or raises ValueError."""
    if isinstance(value, Mapping):
      pairs = [f'{name}={each}' for name, each in value.items()]
      if smuggled := [each for each in pairs if re.search('[,=].*[,=]', each)]:
        raise ValueError(
          f'names and values have neither , nor = in them, got {smuggled[0]}'
        )
      value = ','.join(pairs)
    text = super().check(value)
    for pair in filter(None, text.split(',')):
      name, equals, given = pair.partition('=')
      if not (name.strip() and equals and given.strip()):
        raise ValueError(f'must be {self.allowed}')
    return text


class Said(NamedTuple):
  """What is said of a setting, once and next to it."""

  kind: Kind
  text: str  # the help
  of: Part
  resume: bool  # whether a resume may change it
  forwarded: bool  # whether a comparison hands it on


def setting(
  default: Any,
  kind: Kind,
  text: str,
  *,
  of: Part,
  resume: bool,
  forwarded: bool = False,
) -> Any:
  """A field of a class of settings, with all that has to be said of it."""
  return dataclasses.field(
    default=default,
    metadata={'said': Said(kind, text, of, resume, forwarded)},
  )


def said(cls: type) -> dict[str, Said]:
  """What is said of each setting of a class, by name."""
  return {each.name: each.metadata['said'] for each in dataclasses.fields(cls)}


def is_identity(of: Part) -> bool:
  """Whether results differ, by more than rounding, where such settings do."""
  return of not in ('data', 'machine')


class Base:
  """What all settings can do."""

  def __init__(self, **values: Any) -> None:  # `settings` makes another
    raise TypeError(f'{type(self).__name__} is not made by `settings`')

  def replace(self, **changes: Any) -> Self:
    """The same settings, but for some."""
    _check_names(type(self), changes)
    return dataclasses.replace(self, **changes)  # type: ignore[type-var]

  def given(self) -> dict[str, Any]:
    """All settings by name, as JSON has them."""
    return {
      name: list(value) if isinstance(value, tuple) else value
      for name in sorted(said(type(self)))
      for value in (getattr(self, name),)
    }


def settings(cls: type) -> Any:
  """Makes a class of settings: immutable, by keyword, each value checked.

  Raises:
    TypeError: if a field is not made by `setting`.
  """
  made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
  for each in dataclasses.fields(made):
    if 'said' not in each.metadata:
      raise TypeError(
        f'{cls.__name__}.{each.name} must be made by `setting`, which says what'
        ' it is of, whether a resume may change it and a comparison hands it on'
      )
  assign = made.__init__

  def check_and_assign(self: Any, **values: Any) -> None:
    _check_names(made, values)
    if values.get('plugin'):
      values['plugin'] = _checked('plugin', values['plugin'], made)
      import_plugins(values['plugin'])
    for name, value in values.items():
      values[name] = _checked(name, value, made)
    assign(self, **_absorbed(values, made))

  check_and_assign.__doc__ = 'Checks every value; see the fields.'
  made.__init__ = check_and_assign
  return made


def assignments(text: str) -> list[tuple[str, str]]:
  """The names and the texts of values that `set` has."""
  return [
    (name.strip(), value.strip())
    for name, _, value in (
      pair.partition('=') for pair in filter(None, text.split(','))
    )
  ]


def assigned(name: str, text: str, kind: Kind) -> Any:
  """The value of an assignment of `set`, or a UsageError that names it."""
  try:
    return kind.check(kind.parse(text))
  except ValueError as error:
    raise UsageError('set', f'{name}={text}: {error}') from None


def _absorbed(values: dict[str, Any], cls: type) -> dict[str, Any]:
  """Makes settings of what `set` assigns to fields that have a flag of theirs.

  So every check of a flag holds for them, however they were asked for.
  """
  rest = []
  for name, text in assignments(values.get('set') or ''):
    if name not in Recipe._fields or name not in said(cls):
      rest.append(f'{name}={text}')
    elif values.get(name) is not None:
      raise UsageError(
        'set', f'{name} is given twice, or by --{name} too; leave one out'
      )
    else:
      values[name] = assigned(name, text, said(cls)[name].kind)
  return values | {'set': ','.join(rest)} if 'set' in values else values


def _check_names(cls: type, values: Mapping[str, Any]) -> None:
  names = list(said(cls))
  for name in values:
    if name not in names:
      close = difflib.get_close_matches(name, names, 1, 0.8)
      guess = f', did you mean --{close[0]}?' if close else ';'
      raise UsageError(name, f'there is no such flag{guess} --help lists all')


def _checked(name: str, value: Any, cls: type) -> Any:
  field = cls.__dataclass_fields__[name]  # type: ignore[attr-defined]
  if value is None and field.default is None:
    return None
  try:
    return said(cls)[name].kind.check(value)
  except ValueError as error:
    given = ', got None' if value is None else ''
    raise UsageError(name, f'{error}{given}', value) from None
