"""Examples of one's own as arrays that a model sees, or one line."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = [
  'LearnerError',
  'by_class',
  'check_finite',
  'images',
  'numbers',
  'pair',
  'rows',
  'scaled',
  'tokens',
]

NO_TOKEN = -1


class LearnerError(ValueError):
  """What is wrong with examples, or with files of a learner, in one line."""


def pair(examples: Any) -> tuple[Any, Any]:
  """Inputs and targets."""
  if isinstance(examples, Mapping) or not (
    isinstance(examples, Sequence) and len(examples) == 2
  ):
    raise LearnerError(
      'examples are inputs by the name of their class, or a pair of inputs and'
      f' targets; got {type(examples).__name__}'
    )
  return examples[0], examples[1]


def by_class(examples: Any) -> tuple[tuple[str, ...], list[Any]]:
  """Names of classes, and the inputs of each."""
  if isinstance(examples, Mapping):
    names = tuple(map(str, examples))
    if len(set(names)) < len(names):
      raise LearnerError(f'two classes have one name, of {", ".join(names)}')
    return names, list(examples.values())
  inputs, labels = pair(examples)
  labels = _names(labels)
  if not hasattr(inputs, '__len__') or isinstance(inputs, str):
    raise LearnerError(
      f'inputs are a list or an array; got {type(inputs).__name__}'
    )
  if len(labels) != len(inputs):
    raise LearnerError(
      f'every example has a label; got {len(inputs)} inputs and'
      f' {len(labels)} labels'
    )
  names = tuple(sorted(set(labels)))
  each: dict[str, list[Any]] = {name: [] for name in names}
  for value, label in zip(inputs, labels, strict=True):
    each[label].append(value)
  return names, list(each.values())


def _names(labels: Any) -> list[str]:
  """Labels as names of classes: one text or integer for each example."""
  given = labels.tolist() if hasattr(labels, 'tolist') else labels
  if isinstance(given, str) or not isinstance(given, Sequence):
    raise LearnerError(
      f'labels are a list, one for each example; got {type(labels).__name__}'
    )
  return list(map(_name, given))


def _name(label: Any) -> str:
  """One label; an integer is the same as the text of it."""
  if getattr(label, 'ndim', None) == 0:  # a scalar of an array
    label = label.item()
  if isinstance(label, float) and label.is_integer():
    label = int(label)
  if not isinstance(label, str | int):
    raise LearnerError(
      'labels are texts or integers, one for each example; got'
      f' {str(label)[:40]!r} ({type(label).__name__})'
    )
  return str(label)


def numbers(given: Any, what: str) -> np.ndarray:
  """An array of numbers, whatever holds them."""
  try:
    array = np.asarray(given)
  except (TypeError, ValueError):
    raise LearnerError(f'{what} are of several sizes; give them one') from None
  if not (
    np.issubdtype(array.dtype, np.integer)
    or np.issubdtype(array.dtype, np.floating)
    or array.dtype == bool
  ):
    raise LearnerError(f'{what} are numbers; got {array.dtype}')
  return array


def images(given: Any, shape: tuple[int, ...]) -> np.ndarray:
  """Images `[n, height, width, channels]` from 0 to 1."""
  array = numbers(given, 'images')
  if array.ndim == 3 and shape[-1] == 1:
    array = array[..., None]
  if array.ndim != 4 or array.shape[1:] != shape or not len(array):
    raise LearnerError(
      f'images are [n, {", ".join(map(str, shape))}]: number, height, width,'
      f' channels; got {list(array.shape)}'
    )
  if array.dtype == np.uint8:
    return array.astype(np.float32) / np.float32(255)
  if not np.issubdtype(array.dtype, np.floating):
    raise LearnerError(
      f'images are uint8, from 0 to 255, or fractions; got {array.dtype}'
    )
  check_finite(array, 'images')
  low, high = float(array.min()), float(array.max())
  if low < 0 or high > 1:
    raise LearnerError(
      f'images that are fractions go from 0 to 1; these go from {low:g} to'
      f' {high:g}, so divide them, or give uint8'
    )
  return array.astype(np.float32)


def rows(given: Any, what: Mapping[str, Any]) -> np.ndarray:
  """Rows of numbers, scaled as in training."""
  array = numbers(given, 'inputs')
  wanted = tuple(what['shape'])
  if array.shape[1:] != wanted or not len(array):
    names = what.get('names')
    each = f' ({", ".join(names)})' if names else ''
    raise LearnerError(
      f'inputs are numbers [n, {", ".join(map(str, wanted))}]{each}; got'
      f' {list(array.shape)}'
    )
  check_finite(array, 'inputs')
  return scaled(array, what)


def scaled(array: np.ndarray, what: Mapping[str, Any]) -> np.ndarray:
  """Columns less their mean, in units of their deviation."""
  wide = array.astype(np.float64)
  scaled = (wide - what['mean']) / np.asarray(what['deviation'])
  far = np.abs(scaled) > np.finfo(np.float32).max
  if far.any():
    raise LearnerError(
      f'{wide[far][0]:g} is further from the numbers of training than can be'
      ' computed with'
    )
  return scaled.astype(np.float32)


def check_finite(array: np.ndarray, what: str) -> None:
  """Refuses what is no number, by its place."""
  if not np.isfinite(array).all():
    place = np.argwhere(~np.isfinite(array))[0].tolist()
    raise LearnerError(f'{what} are finite numbers; that at {place} is not')


def tokens(
  given: Any, length: int, tokenize: Callable[..., Any] | None
) -> np.ndarray:
  """Tokens `[texts, length]` of texts, or of tokens already."""
  if isinstance(given, np.ndarray) and np.issubdtype(given.dtype, np.integer):
    if given.ndim != 2 or given.shape[1] > length or not len(given):
      raise LearnerError(
        f'tokens are [texts, {length}] or fewer; got {list(given.shape)}'
      )
    if given.min() < NO_TOKEN or given.max() > np.iinfo(np.int32).max:
      raise LearnerError(
        f'tokens go from 0, and {NO_TOKEN} is none; these go from'
        f' {given.min()} to {given.max()}'
      )
    if (given == NO_TOKEN).all(axis=1).any():
      place = int(np.argmax((given == NO_TOKEN).all(axis=1)))
      raise LearnerError(f'text {place} of {len(given)} has no tokens')
    tokens = given.astype(np.int32)
  else:
    texts = _texts(given)
    if tokenize is None:
      raise LearnerError('there is no tokenizer; give tokens, int32')
    try:
      tokens, cut = tokenize(texts, length)
    except LearnerError:
      raise
    except ValueError as error:  # of tokenizers
      raise LearnerError(str(error)) from error
    if cut:
      warnings.warn(
        f'{cut} of {len(texts)} texts have more than {length} tokens, and were'
        ' cut off',
        stacklevel=5,
      )
  rest = ((0, 0), (0, length - tokens.shape[1]))
  return np.pad(tokens, rest, constant_values=NO_TOKEN)


def _texts(given: Any) -> list[str]:
  if isinstance(given, str | Mapping) or not (
    hasattr(given, '__iter__') and all(isinstance(x, str) for x in given)
  ):
    raise LearnerError('inputs are texts; give a list of them')
  texts = [str(each) for each in given]
  if not texts:
    raise LearnerError('there are no texts')
  for number, each in enumerate(texts):
    if not each.strip():
      raise LearnerError(
        f'text {number} of {len(texts)} is empty; leave it out'
      )
  return texts
