"""What was sent, as arrays that a learner sees, or one line."""

import base64
import binascii
import difflib
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.data.own import pixels_of
from experiments.serving.limits import Limits, RefusalError
from metajax.tasks import DataError
from metajax.tasks.decoding import Picture
from metajax.trained import LearnerError, TrainedLearner

__all__ = ['Reader', 'Request', 'Support', 'parse']

_FORMATS = ('PNG', 'JPEG')
_LARGEST_SEED = 2**31 - 1
_LONGEST_NAME = 200
_AT_ONCE = 8  # so many of the largest files in a list


class Support(NamedTuple):
  """A support set as programs take it."""

  inputs: np.ndarray  # [examples, ...]
  targets: np.ndarray
  classes: tuple[str, ...]


class Request(NamedTuple):
  """What is asked for."""

  support: Support | None
  adapter: str | None
  queries: np.ndarray | None  # [queries, ...]
  seed: int
  warnings: list[str]


def parse(body: bytes) -> Any:
  """Reads JSON to the letter.

  Raises:
    RefusalError: 400 for what is no JSON, NaN and Infinity among it, and for
      names that an object has twice, of which Python would keep one.
  """
  try:
    return json.loads(
      body.decode('utf-8'),
      parse_constant=_no_constant,
      object_pairs_hook=_once_each,
    )
  except RecursionError:
    raise RefusalError(400, 'the JSON is nested too deeply') from None
  except ValueError as error:
    raise RefusalError(400, f'this is no JSON: {error}') from None


def _no_constant(name: str) -> Any:
  raise ValueError(f'{name} is no number of JSON')


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  made = dict(pairs)
  if len(made) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise RefusalError(400, f'{twice!r} is there twice; give each name once')
  return made


class Reader:
  """Reads requests for a learner.

  Files are decoded exactly as `experiments.predict` does.

  Args:
    learner: that they are for.
    limits: of the server.
  """

  def __init__(self, learner: TrainedLearner, limits: Limits) -> None:
    self._learner = learner
    self._limits = limits
    self._what = learner.manifest['inputs']

  def __call__(self, body: bytes, predicts: bool) -> Request:
    """Reads the body of a request.

    Args:
      body: JSON.
      predicts: whether it is for `/predict`; else for `/adapt`.

    Raises:
      RefusalError: 400 for what is no JSON, 422 for what does not fit.
    """
    given = parse(body)
    names = ['support', 'seed', *(['adapter', 'queries'] if predicts else [])]
    _check_names(given, names)
    if predicts and ('support' in given) == ('adapter' in given):
      raise RefusalError(422, 'give either adapter or support, and queries')
    if 'adapter' in given and 'seed' in given:
      raise RefusalError(422, 'seed is of the adaptation; give it to /adapt')
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter('always')
      try:
        read = Request(
          self._support(given) if 'adapter' not in given else None,
          _adapter(given),
          self._queries(given) if predicts else None,
          _seed(given),
          [],
        )
      except (LearnerError, DataError) as error:
        raise RefusalError(422, str(error)) from error
    # Of texts that were cut off; the rest is none of the client's business.
    notes = [str(each.message) for each in caught if 'cut off' in
             str(each.message)]  # fmt: skip
    return read._replace(warnings=notes)

  def _support(self, given: Mapping[str, Any]) -> Support:
    support: Any = given.get('support')
    if not self._learner.classifies:
      _check_names(support, ['inputs', 'targets'], 'support')
      inputs, targets = (
        self._list(support.get(name), f'support.{name}', self._limits.examples)
        for name in ('inputs', 'targets')
      )
      width = len(self._learner.manifest['outputs']['names'])
      pair = (
        self._values(inputs, 'support.inputs'),
        _rows(targets, (width,), 'support.targets'),
      )
      return Support(*self._learner.support(pair))
    if not isinstance(support, dict):
      raise RefusalError(
        422, 'support is an object: lists of examples by the name of a class'
      )
    number = 0
    for name, examples in support.items():
      _check_text(name, 'the name of a class', _LONGEST_NAME)
      own = self._list(examples, f'support[{name!r}]', self._limits.examples)
      number += len(own)
    if number > self._limits.examples:
      raise RefusalError(
        422,
        f'a support set has {self._limits.examples} examples at most; got'
        f' {number}',
      )
    if len(support) > 1:  # the learner says what is wrong with one
      self._learner.for_classes(len(support))
    return Support(*self._learner.support(self._by_class(support)))

  def _by_class(self, support: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Examples of each class; files are decoded together, as of a folder."""
    flat = [each for examples in support.values() for each in examples]
    if self._what['kind'] == 'images' and _are_files(flat, 'support'):
      names = [
        f'{name!r}[{number}]'
        for name, examples in support.items()
        for number in range(len(examples))
      ]
      pixels = self._pixels(flat, names, 'support')
      ends = np.cumsum([len(each) for each in support.values()])[:-1]
      return dict(zip(support, np.split(pixels, ends), strict=True))
    return {
      name: self._values(examples, f'support[{name!r}]')
      for name, examples in support.items()
    }

  def _queries(self, given: Mapping[str, Any]) -> np.ndarray:
    most = self._limits.queries
    queries = self._list(given.get('queries'), 'queries', most)
    if self._what['kind'] == 'images' and _are_files(queries, 'queries'):
      names = [str(number) for number in range(len(queries))]
      return self._learner.inputs(self._pixels(queries, names, 'queries'))
    return self._learner.inputs(self._values(queries, 'queries'), 'queries: ')

  def _list(self, given: Any, where: str, most: int) -> list[Any]:
    if not isinstance(given, list) or not given:
      raise RefusalError(422, f'{where} is a list of one or more')
    if len(given) > most:
      raise RefusalError(422, f'{where} has {most} at most; got {len(given)}')
    return given

  def _values(self, given: list[Any], where: str) -> Any:
    """Examples that are no files."""
    kind = self._what['kind']
    if kind == 'texts':
      for number, text in enumerate(given):
        _check_text(text, f'{where}[{number}]', self._limits.characters)
      return given
    shape = tuple(self._what['shape'])
    if kind == 'numbers':
      return _rows(given, shape, where)
    if shape[-1] == 1 and not _is_nested(given[0], 3):
      return _fractions(_rows(given, shape[:-1], where), where)[..., None]
    return _fractions(_rows(given, shape, where), where)

  def _pixels(
    self, files: Sequence[str], names: Sequence[str], where: str
  ) -> np.ndarray:
    pictures, total = list[Picture](), 0
    for name, text in zip(names, files, strict=True):
      try:
        data = base64.b64decode(text, validate=True)
      except (binascii.Error, ValueError):
        raise RefusalError(
          422, f'{where}: {name} is no base64 of a PNG or JPEG file'
        ) from None
      total += self._checked(data, f'{where}: {name}')
      if total > _AT_ONCE * self._limits.pixels:
        raise RefusalError(
          422,
          f'{where}: the files have more than'
          f' {_AT_ONCE * self._limits.pixels} pixels in all; send smaller ones',
        )
      pictures.append(Picture(name, data))
    return pixels_of(self._what, pictures, where)

  def _checked(self, data: bytes, name: str) -> int:
    """The pixels of a file, of which nothing is decoded if they are not right.

    What is not resized is kept whole, so a small file could take much memory.
    """
    width, height = _size_of(data, name)
    most = self._limits.pixels
    if width * height > most:
      raise RefusalError(
        422, f'{name} has {width} x {height} pixels, and {most} are allowed'
      )
    rows, columns, _ = self._what['shape']
    resized = self._what.get('files', {}).get('size') is not None
    # It may lie on its side.
    if not resized and {width, height} != {rows, columns}:
      raise RefusalError(
        422,
        f'{name} has {width} x {height} pixels, and the learner sees {columns}'
        f' x {rows}',
      )
    return width * height


def _check_names(
  given: Any, names: Sequence[str], where: str = 'a request'
) -> None:
  if not isinstance(given, dict):
    raise RefusalError(422, f'{where} is an object of {", ".join(names)}')
  for name in given:
    if name not in names:
      close = difflib.get_close_matches(name, names, 1)
      guess = f'did you mean {close[0]}?' if close else ', '.join(names)
      raise RefusalError(422, f'{where} has no {name!r}; {guess}')


def _adapter(given: Mapping[str, Any]) -> str | None:
  adapter = given.get('adapter')
  if 'adapter' in given and not isinstance(adapter, str):
    raise RefusalError(422, 'adapter is the id that /adapt has returned')
  return adapter


def _seed(given: Mapping[str, Any]) -> int:
  seed = given.get('seed', 0)
  if type(seed) is not int or not 0 <= seed <= _LARGEST_SEED:
    raise RefusalError(422, f'seed is a whole number from 0 to {_LARGEST_SEED}')
  return seed


def _check_text(text: Any, where: str, most: int) -> None:
  if not isinstance(text, str) or not text.strip():
    raise RefusalError(422, f'{where} is a text that is not empty')
  if len(text) > most:
    raise RefusalError(
      422, f'{where} has {most} characters at most; got {len(text)}'
    )
  try:
    text.encode()
  except UnicodeEncodeError:
    raise RefusalError(422, f'{where} has half of a character in it') from None


def _are_files(given: Sequence[Any], where: str) -> bool:
  files = {isinstance(each, str) for each in given}
  if len(files) > 1:
    raise RefusalError(
      422, f'{where} has files and arrays; give all images one way'
    )
  return files == {True}


def _size_of(data: bytes, name: str) -> tuple[int, int]:
  """Width and height, as the file says before anything of it is decoded."""
  import PIL.Image

  try:
    with PIL.Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
      width, height = opened.size
      return width, height
  except Exception:  # whatever decoders make of what was sent
    raise RefusalError(
      422, f'{name} cannot be read as a PNG or JPEG file'
    ) from None


def _rows(given: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
  """Nested lists `[n, *shape]` as an array."""
  for number, each in enumerate(given):
    _check_nested(each, shape, shape, f'{where}[{number}]')
  try:
    array = np.array(given, np.float64)
  except OverflowError:
    array = np.array(np.inf)
  if not np.isfinite(array).all():
    raise RefusalError(422, f'{where} has a number that is too large')
  return array


def _check_nested(
  given: Any, shape: tuple[int, ...], whole: tuple[int, ...], where: str
) -> None:
  fits = isinstance(given, list) and len(given) == shape[0]
  if fits and len(shape) == 1:
    fits = set(map(type, given)) <= {int, float}
  if not fits:
    size = ' x '.join(map(str, whole))
    raise RefusalError(422, f'{where} does not fit: {size} numbers are wanted')
  if len(shape) > 1:
    for each in given:
      _check_nested(each, shape[1:], whole, where)


def _is_nested(given: Any, depth: int) -> bool:
  """Whether a list is of lists, so deep at its beginning."""
  while depth and isinstance(given, list) and given:
    given, depth = given[0], depth - 1
  return not depth


def _fractions(array: np.ndarray, where: str) -> np.ndarray:
  if array.min() < 0 or array.max() > 1:
    raise RefusalError(
      422,
      f'{where}: pixels of arrays go from 0 to 1, and these from'
      f' {array.min():g} to {array.max():g}; divide them, or send files',
    )
  return array
