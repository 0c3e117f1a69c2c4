"""The routes of a server, and what stands around each of them."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from experiments.serving.adapters import Adapters
from experiments.serving.batching import Batcher, StoppedError
from experiments.serving.description import about, openapi
from experiments.serving.limits import (
  Limits,
  RefusalError,
  Slots,
  busy,
  read_body,
)
from experiments.serving.metrics import Metrics
from experiments.serving.reading import Reader, Request, Support
from metajax.trained import LearnerError, Prediction, TrainedLearner
from metajax.trained.portable import Adapted

__all__ = ['Service', 'make_app']

_LOG = logging.getLogger('experiments.serving')
_JSON = 'application/json'
# The page asks its own server, and nobody else.
_PAGE = {
  'content-security-policy': "default-src 'none'; connect-src 'self';"
  " img-src blob: data:; style-src 'unsafe-inline';"
  " script-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
  " frame-ancestors 'none'",
}


class Service:
  """A learner, and all that stands between it and a request.

  Args:
    learner: that is served.
    batcher: runs its programs.
    adapters: that are kept.
    metrics: of the server.
    limits: the same.
  """

  def __init__(
    self,
    learner: TrainedLearner,
    batcher: Batcher,
    adapters: Adapters,
    metrics: Metrics,
    limits: Limits,
  ) -> None:
    self.learner = learner
    self.batcher = batcher
    self.adapters = adapters
    self.metrics = metrics
    self.limits = limits
    self.slots = Slots(limits)
    self.ready = False
    self._read = Reader(learner, limits)
    # One, as Pillow has a setting of the process that decoding changes.
    self._decoder = ThreadPoolExecutor(1, 'decoder')
    for name, text, value in (
      ('waiting', 'Requests that wait or are worked on',
       lambda: self.slots.taken),
      ('queue_length', 'Tasks that wait for a program',
       lambda: batcher.waiting),
      ('adapters', 'Adapters that are kept', lambda: len(adapters)),
      ('adapter_bytes', 'Bytes of all adapters', lambda: adapters.bytes),
      ('programs', 'Programs that are compiled', lambda: batcher.compiled),
    ):  # fmt: skip
      metrics.watch(name, text, value)

  def stop(self) -> None:
    """Ends the threads."""
    self.batcher.stop()
    self._decoder.shutdown(wait=False, cancel_futures=True)

  async def adapt(self, request: HttpRequest) -> Response:
    """Adapts to a support set, and keeps that."""
    started = time.perf_counter()
    async with self._asked(request, predicts=False) as asked:
      assert asked.support is not None
      adapted = await self._adapted(asked.support, asked.seed)
      return _answer(
        {
          'adapter': self.adapters.put(adapted),
          'examples': len(adapted.support),
          **({'classes': adapted.classes} if adapted.classes else {}),
        },
        asked, started,
      )  # fmt: skip

  async def predict(self, request: HttpRequest) -> Response:
    """Predicts by an adapter that is kept, or by one for this request alone."""
    started = time.perf_counter()
    async with self._asked(request, predicts=True) as asked:
      if asked.support is None:
        adapted = self.adapters.get(asked.adapter or '')
      else:
        adapted = await self._adapted(asked.support, asked.seed)
      assert asked.queries is not None
      outputs = await self.batcher.predict(
        adapted.state, adapted.support, asked.queries
      )
      return _answer(_said(adapted, outputs), asked, started)

  @contextlib.asynccontextmanager
  async def _asked(
    self, request: HttpRequest, predicts: bool
  ) -> AsyncIterator[Request]:
    """Reads a request, and holds a slot while it is worked on."""
    kind, _, _ = request.headers.get('content-type', '').partition(';')
    if kind.strip().lower() != _JSON:
      raise RefusalError(415, f'the content-type of a request is {_JSON}')
    if request.headers.get('content-encoding', 'identity') != 'identity':
      raise RefusalError(415, 'a request is not compressed')
    if not self.ready:
      raise busy('the server is starting; try again in a second', 503)
    self.slots.check()
    body = await read_body(
      request.receive, dict(request.scope['headers']), self.limits, self.slots
    )
    size = len(body)
    try:
      with self.slots.one():
        async with asyncio.timeout(self.limits.seconds):
          loop = asyncio.get_running_loop()
          asked = await loop.run_in_executor(
            self._decoder, self._read, body, predicts
          )
          del body
          yield asked
    except TimeoutError:
      raise busy(
        f'the server had too much to do for {self.limits.seconds:g} seconds'
      ) from None
    finally:
      self.slots.held -= size

  async def _adapted(self, support: Support, seed: int) -> Adapted:
    state = await self.batcher.adapt(support.inputs, support.targets, seed)
    return Adapted(
      self.learner, self.learner.programs, state, support.inputs,
      support.classes,
    )  # fmt: skip


def _said(adapted: Adapted, outputs: np.ndarray) -> dict[str, Any]:
  """What outputs mean, as an answer has it."""
  found = adapted.learner_says(outputs)
  numbers = (
    found.probabilities if isinstance(found, Prediction) else found.values
  )
  if not np.isfinite(numbers).all():
    raise RefusalError(
      422, 'the learner has no finite answer to these examples; give others'
    )
  if not isinstance(found, Prediction):
    return {'values': found.values.tolist(), 'names': found.names}
  return {
    'labels': found.labels,
    'probabilities': [
      dict(zip(found.classes, row, strict=True))
      for row in found.probabilities.tolist()
    ],
    'classes': found.classes,
  }


def _answer(said: dict[str, Any], asked: Request, started: float) -> Response:
  if asked.warnings:
    said['warnings'] = asked.warnings
  said['milliseconds'] = round(1000 * (time.perf_counter() - started), 3)
  return JSONResponse(said)


def make_app(
  service: Service, failed: Callable[[BaseException], None]
) -> Callable[..., Awaitable[None]]:
  """The application, for a server of ASGI.

  Args:
    service: what it is about.
    failed: is told why the server cannot become ready.
  """
  page = resources.files('experiments.serving').joinpath('page.html')
  html = page.read_bytes()
  described = openapi(service.learner, service.limits)

  async def show(_: HttpRequest) -> Response:
    return Response(html, media_type='text/html', headers=_PAGE)

  async def health(_: HttpRequest) -> Response:
    if service.ready:
      return JSONResponse({'status': 'ready'})
    batcher = service.batcher
    done, number = batcher.begun
    programs = f'{done} of {number}'
    return JSONResponse(
      {'status': 'starting', 'programs': programs}, 503, {'retry-after': '1'}
    )

  async def metrics(_: HttpRequest) -> Response:
    found = service.metrics
    return Response(found.text(), media_type=found.content_type)

  async def description(_: HttpRequest) -> Response:
    return JSONResponse(described)

  async def model(_: HttpRequest) -> Response:
    return JSONResponse(about(service.learner, service.limits))

  async def refuse(_: HttpRequest, error: Exception) -> Response:
    if isinstance(error, RefusalError):
      return _refused(error.status, error.message, error.headers)
    if isinstance(error, HTTPException):
      return _refused(error.status_code, error.detail, error.headers)
    return _refused(500, 'something is wrong with the server', None)

  routes = [
    Route('/', show, methods=['GET']),
    Route('/adapt', service.adapt, methods=['POST']),
    Route('/predict', service.predict, methods=['POST']),
    Route('/health', health, methods=['GET']),
    Route('/metrics', metrics, methods=['GET']),
    Route('/model', model, methods=['GET']),
    Route('/openapi.json', description, methods=['GET']),
  ]
  app = Starlette(
    routes=routes,
    exception_handlers=dict.fromkeys(
      (RefusalError, HTTPException, Exception), refuse
    ),
    lifespan=lambda _: _living(service, failed),
  )
  app.router.redirect_slashes = False
  return _watched(app, service, {route.path for route in routes})


def _refused(status: int, message: str, headers: Any) -> Response:
  return JSONResponse({'error': message}, status, headers)


@contextlib.asynccontextmanager
async def _living(
  service: Service, failed: Callable[[BaseException], None]
) -> AsyncIterator[None]:
  """Compiles and works beside the routes, until the server ends."""

  async def start() -> None:
    started = time.perf_counter()
    try:
      await service.batcher.compile_all()
    except (StoppedError, asyncio.CancelledError):
      return
    except Exception as error:
      if not isinstance(error, LearnerError):
        _LOG.exception('a program cannot be compiled')
      failed(error)
      return
    service.ready = True
    took = time.perf_counter() - started
    print(f'ready: {service.batcher.compiled} programs in {took:.1f} s',
          flush=True)  # fmt: skip

  tasks = [asyncio.create_task(start()),
           asyncio.create_task(service.batcher.work())]  # fmt: skip
  try:
    yield
  finally:
    service.stop()
    for task in tasks:
      task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _watched(
  app: Callable[..., Awaitable[None]], service: Service, known: set[str]
) -> Callable[..., Awaitable[None]]:
  """Counts answers, and logs what nobody has foreseen."""

  async def watched(scope: Any, receive: Any, send: Any) -> None:
    if scope['type'] != 'http':
      return await app(scope, receive, send)
    started, status = time.perf_counter(), 0

    async def send_on(message: Any) -> None:
      nonlocal status
      if message['type'] == 'http.response.start':
        status = message['status']
      await send(message)

    route = scope['path'] if scope['path'] in known else 'other'
    try:
      await app(scope, receive, send_on)
    except Exception:  # which starlette has answered, and raised again
      _LOG.exception('%s %s', scope['method'], route)
    finally:
      service.metrics.requests.labels(route, str(status)).inc()
      service.metrics.seconds.labels(route).observe(
        time.perf_counter() - started
      )

  return watched
