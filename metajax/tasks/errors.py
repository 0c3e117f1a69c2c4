"""What is wrong with data, in one line."""

__all__ = ['DataError', 'reason']


class DataError(ValueError):
  """Data that is missing, corrupt or unfit; the message is one line."""


def reason(error: BaseException) -> str:
  """The first line of an exception's message, or its type if it has none."""
  return str(error).strip().partition('\n')[0] or type(error).__name__
