"""What is wrong with data, in one line."""

from pathlib import Path

__all__ = [
  'MAX_UNPACKED_MEBIBYTES',
  'DataError',
  'check_file',
  'check_unpacked',
  'printable',
  'reason',
]

# Of a file that is smaller itself: a few bytes may unpack to any number.
MAX_UNPACKED_MEBIBYTES = 4096


class DataError(ValueError):
  """Data that is missing, corrupt or unfit; the message is one line.

  Args:
    message: the line; what cannot be printed in it is escaped, as names in
      files may hold anything.
    parameter: of the function that was called, if it is to be changed, and not
      the data.
    in_training: how the message goes on where data are for training, which can
      do without some of them, or take them otherwise. `fault` is without it.
  """

  def __init__(
    self, message: str, parameter: str | None = None, in_training: str = ''
  ) -> None:
    super().__init__(printable(message + in_training))
    self.fault = printable(message)
    self.parameter = parameter


def check_file(path: Path, wanted: str) -> None:
  """Refuses a path that leads to no file.

  Args:
    path: that is to be read.
    wanted: what to name in place of a directory.

  Raises:
    DataError: if nothing is there, or a directory.
  """
  if path.is_dir():
    raise DataError(f'{path}: is a directory; name a file {wanted}')
  if not path.is_file():
    raise DataError(f'{path}: there is no such file; check the path')


def check_unpacked(path: Path, unpacked: int, most: int) -> None:
  """Refuses a file before it fills the memory.

  Args:
    path: of the file; what it is on the disk, it may be in memory.
    unpacked: the bytes that it says it will have.
    most: mebibytes that are allowed.

  Raises:
    DataError: if they are more, of the parameter `max_unpacked_mebibytes`.
  """
  if unpacked > max(most * 2**20, path.stat().st_size):
    raise DataError(
      f'{path}: unpacks to {unpacked / 2**20:.0f} MiB, more than the {most}'
      ' that are allowed; max_unpacked_mebibytes raises that',
      parameter='max_unpacked_mebibytes',
    )


def printable(text: str) -> str:
  r"""A text with what cannot be printed as escapes.

  Example:
    >>> print(printable('a\nb'))
    a\nb
  """
  return ''.join(
    each
    if each.isprintable()
    else each.encode('unicode_escape').decode('ascii')
    for each in text
  )


def reason(error: BaseException) -> str:
  """The first line of an exception's message, or its type if it has none."""
  return str(error).strip().partition('\n')[0] or type(error).__name__
