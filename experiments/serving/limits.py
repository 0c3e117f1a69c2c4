"""What is too much for a server, and how it says so."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, NamedTuple

from metajax.tasks.errors import printable

__all__ = ['Limits', 'RefusalError', 'Slots', 'busy', 'read_body']

_LONGEST = 500  # characters of a message
_LINGER = 2.0  # seconds in which what is refused may still be sent
_EXPECT = b'expect'


class Limits(NamedTuple):
  """The most of everything that a server takes."""

  request_bytes: int = 16 * 2**20
  held_bytes: int = 256 * 2**20  # of all requests that are being read
  body_seconds: float = 10.0  # until a request has arrived
  seconds: float = 30.0  # from then until it is answered
  examples: int = 256  # of a support set
  queries: int = 256
  characters: int = 20_000  # of a text
  pixels: int = 2**24  # of an image file
  waiting: int = 64  # requests that wait or are worked on
  connections: int = 256


class RefusalError(Exception):
  """What a request is answered that gets nothing else.

  Args:
    status: of HTTP.
    message: becomes one line.
    headers: of the answer.
  """

  def __init__(
    self, status: int, message: str, headers: Mapping[str, str] | None = None
  ) -> None:
    line = printable(' '.join(message.split()))
    self.message = (
      line if len(line) <= _LONGEST else f'{line[: _LONGEST - 3]}...'
    )
    super().__init__(self.message)
    self.status = status
    self.headers = dict(headers or {})


def busy(message: str, status: int = 429) -> RefusalError:
  """That there is too much to do."""
  return RefusalError(status, message, {'retry-after': '1'})


class Slots:
  """How many requests are worked on, and how many bytes are held for them.

  Args:
    limits: of the server.
  """

  def __init__(self, limits: Limits) -> None:
    self._limits = limits
    self.taken = 0
    self.held = 0

  def check(self) -> None:
    """Refuses what would have no slot."""
    if self.taken >= self._limits.waiting:
      raise busy(
        f'{self.taken} requests are waiting, as many as may; try again in a'
        ' second'
      )

  @contextlib.contextmanager
  def one(self) -> Iterator[None]:
    """Takes a slot for the length of a block."""
    self.check()
    self.taken += 1
    try:
      yield
    finally:
      self.taken -= 1


async def read_body(
  receive: Callable[[], Awaitable[Any]],
  headers: Mapping[bytes, bytes],
  limits: Limits,
  slots: Slots,
) -> bytes:
  """Reads a request that is not too large and not too slow.

  Args:
    receive: of ASGI.
    headers: of the request.
    limits: of the server.
    slots: count the bytes; whoever lets go of the body takes them off.

  Raises:
    RefusalError: 413 if it is too large, whatever its header says; 408 if it
      does not arrive in time; 429 if too much is being read already; 400 if it
      ends before its time.
  """
  body = bytearray()
  try:
    async with asyncio.timeout(limits.body_seconds):
      if _declared(headers) > limits.request_bytes:
        raise await _too_large(receive, headers, limits)
      more = True
      while more:
        message = await receive()
        if message['type'] == 'http.disconnect':
          raise RefusalError(400, 'the request ended before its time')
        part = message.get('body', b'')
        more = message.get('more_body', False)
        if len(body) + len(part) > limits.request_bytes:
          raise await _too_large(receive, headers, limits, more)
        if slots.held + len(part) > limits.held_bytes:
          raise busy('too much is being sent at a time; try again in a second')
        slots.held += len(part)
        body += part
  except BaseException as error:
    slots.held -= len(body)
    if not isinstance(error, TimeoutError):
      raise
    raise RefusalError(
      408,
      f'the request did not arrive in {limits.body_seconds:g} seconds',
      {'connection': 'close'},
    ) from None
  return bytes(body)


def _declared(headers: Mapping[bytes, bytes]) -> int:
  length = headers.get(b'content-length', b'0')
  return int(length) if length.isdigit() else 0


async def _too_large(
  receive: Callable[[], Awaitable[Any]],
  headers: Mapping[bytes, bytes],
  limits: Limits,
  more: bool = True,
) -> RefusalError:
  """Takes a little more, for who still sends would not read the answer."""
  rest = limits.request_bytes
  with contextlib.suppress(TimeoutError):
    async with asyncio.timeout(_LINGER):
      while more and rest > 0 and _EXPECT not in headers:
        message = await receive()
        rest -= len(message.get('body', b''))
        more = message.get('more_body', False)
  return RefusalError(
    413,
    f'a request has {limits.request_bytes} bytes at most; send fewer examples,'
    ' or smaller ones',
    {'connection': 'close'},
  )
