"""The port: who may hold it, for how long, and how it is given back."""

import asyncio
import json
import signal
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from experiments.runner.errors import UsageError
from experiments.serving.app import Service, make_app
from experiments.serving.limits import Limits

__all__ = ['bind', 'make_server', 'serve']

_KEPT = 30  # seconds that a connection may be idle between requests


def bind(host: str, port: int) -> socket.socket:
  """Takes a port, before anything is computed for it.

  Raises:
    UsageError: if it is in use, or cannot be had.
  """
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  # asyncio turns off Nagle's algorithm where the protocol is named; with it an
  # answer waits 40 ms for the client's acknowledgement of its head.
  taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
  try:
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind((host, port))
    taken.listen(socket.SOMAXCONN)
  except socket.gaierror as error:
    taken.close()
    raise UsageError('host', f'{error.strerror}; name another', host) from error
  except OSError as error:
    taken.close()
    raise UsageError(
      'port', f'{error.strerror}; name another, or 0 for any', port
    ) from error
  return taken


def make_server(
  service: Service, failed: Callable[[BaseException], None]
) -> uvicorn.Server:
  """A server that holds no port yet.

  Args:
    service: what it serves.
    failed: is told why it cannot become ready.
  """
  limits = service.limits
  config = uvicorn.Config(
    make_app(service, failed), http=_protocol(limits), ws='none',
    loop='asyncio', lifespan='on', log_config=None, log_level='warning',
    access_log=False, server_header=False, timeout_keep_alive=_KEPT,
    timeout_graceful_shutdown=int(limits.body_seconds + limits.seconds) + 1,
  )  # fmt: skip
  return uvicorn.Server(config)


def serve(service: Service, taken: socket.socket) -> BaseException | None:
  """Serves until a signal asks to end; what was begun is finished then.

  Returns:
    What went wrong before the server was ready, if something did.
  """
  failures = list[BaseException]()

  def failed(error: BaseException) -> None:
    failures.append(error)
    server.should_exit = True

  server = make_server(service, failed)
  # uvicorn raises the signals again that it has taken.
  before = {
    number: signal.signal(number, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    server.run([taken])
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  return failures[0] if failures else None


def _protocol(limits: Limits) -> type[H11Protocol]:
  """HTTP for connections that may neither be many nor slow."""

  class Patient(H11Protocol):
    """Gives what no route reads so much time, and says errors as JSON."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
      super().connection_made(transport)
      if len(self.connections) > limits.connections:
        self._say(429, 'there are too many connections; try again in a second')
      else:
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
      if self.transport.is_closing():
        return
      super().data_received(data)
      # Of a request that is answered already the rest may come, too.
      answered = self.conn.our_state is h11.DONE
      if not answered and self.conn.their_state is not h11.IDLE:
        self._stop_waiting()
      elif self._head is None:
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
      self._stop_waiting()
      super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
      self._say(400, msg)

    def _wait_for_head(self) -> None:
      self._head = self.loop.call_later(
        limits.body_seconds, self._say, 408,
        f'no request came in {limits.body_seconds:g} seconds',
      )  # fmt: skip

    def _stop_waiting(self) -> None:
      if self._head is not None:
        self._head.cancel()
        self._head = None

    def _say(self, status: int, message: str) -> None:
      self._stop_waiting()
      if self.transport.is_closing():
        return
      body = json.dumps({'error': message}).encode()
      if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
        headers = [
          ('content-type', 'application/json'),
          ('content-length', str(len(body))),
          ('connection', 'close'),
          *([('retry-after', '1')] if status == 429 else []),
        ]
        reason = HTTPStatus(status).phrase.encode()
        events: list[Any] = [
          h11.Response(status_code=status, headers=headers, reason=reason),
          h11.Data(data=body),
          h11.EndOfMessage(),
        ]
        for event in events:
          self.transport.write(self.conn.send(event) or b'')
      self.transport.close()

  return Patient
