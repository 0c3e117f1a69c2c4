"""Folds of the classes of training, for cross-validation."""

import re
from typing import Any

from experiments.runner.errors import UsageError
from experiments.runner.settings import Kind, setting
from metajax.tasks import DataError, fold_of

__all__ = ['fold', 'folded']


class _Fold(Kind):
  """The K-th of N parts."""

  allowed = 'K/N, the K-th of N parts, such as 1/5'

  def check(self, value: Any) -> Any:
    """Returns the text, or raises ValueError."""
    text = super().check(value)
    found = re.fullmatch(r'([1-9]\d{0,3})/([1-9]\d{0,3})', text)
    if not found or not 1 < int(found[2]) >= int(found[1]):
      raise ValueError(f'must be {self.allowed}')
    return text


def fold() -> Any:
  """The setting that tests on classes of training, for cross-validation."""
  return setting(
    None, _Fold(), 'K/N: validate and test on the K-th of N parts of the'
    ' training classes, and train on the others; classes of validation and of'
    ' test are left alone. Strokes, of which there is no end, are other ones of'
    ' training',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip


def folded(settings: Any, splits: Any) -> Any:
  """Splits of training classes alone, if there is a fold to test on."""
  if getattr(settings, 'fold', None) is None:
    return splits
  part, parts = map(int, settings.fold.split('/'))
  try:
    others, inside = fold_of(splits.train, part, parts, settings.within_groups)
  except DataError as error:
    raise UsageError('fold', str(error)) from error
  return splits._replace(train=others, validation=inside, test=inside)
