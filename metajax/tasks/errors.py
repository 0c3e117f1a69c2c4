"""What is wrong with data, in one line."""

__all__ = ['DataError', 'printable', 'reason']


class DataError(ValueError):
  """Data that is missing, corrupt or unfit; the message is one line.

  Args:
    message: the line; what cannot be printed in it is escaped, as names in
      files may hold anything.
    parameter: of the function that was called, if it is to be changed, and not
      the data.
  """

  def __init__(self, message: str, parameter: str | None = None) -> None:
    super().__init__(printable(message))
    self.parameter = parameter


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
