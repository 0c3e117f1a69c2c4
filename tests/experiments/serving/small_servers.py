"""Small learners, and servers of them in this process."""

import base64
import contextlib
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from experiments.serving.adapters import Adapters
from experiments.serving.app import Service
from experiments.serving.batching import Batcher, Sizes
from experiments.serving.limits import Limits
from experiments.serving.metrics import Metrics
from experiments.serving.server import bind, make_server
from metajax.trained import TrainedLearner

WAYS = 3
SHAPE = (4, 4, 1)
LIMITS = Limits()
PATIENCE = 60  # seconds until something is given up


class Means:
  """Nearest class means, without a compiler.

  `calls` are the shapes of queries that it has seen; while `gate` is closed
  nothing ends, and `fault` is raised where there is one.
  """

  def __init__(self, outputs: int = WAYS, shared: bool = False) -> None:
    self.gate = threading.Event()
    self.gate.set()
    self.begun = threading.Event()
    self.calls: list[tuple[int, ...]] = []
    self.fault: Exception | None = None
    self._outputs, self._shared = outputs, shared

  def adapt(self, inputs: Any, targets: Any, keys: Any) -> list[Any]:
    assert keys.shape == (len(inputs), 2)
    self._wait()
    flat = inputs.reshape(*inputs.shape[:2], -1).astype(np.float32)
    if targets.ndim == 3:
      return [targets.mean(axis=1)]
    member = targets[:, None] == np.arange(self._outputs)[:, None]
    count = np.maximum(member.sum(axis=2, keepdims=True), 1)
    return [(member.astype(np.float32) @ flat) / count.astype(np.float32)]

  def predict(self, state: list[Any], support: Any, queries: Any) -> Any:
    self.calls.append(queries.shape)
    self._wait()
    (means,) = state
    assert len(means) == len(support) == len(queries)
    flat = queries.reshape(*queries.shape[:2], -1).astype(np.float32)
    if means.ndim == 2:
      return means[:, None] + flat.sum(axis=2, keepdims=True)
    if self._shared:
      flat = flat - flat.mean(axis=1, keepdims=True)
    distances = ((flat[:, :, None] - means[:, None]) ** 2).sum(axis=-1)
    return -distances

  def _wait(self) -> None:
    self.begun.set()
    assert self.gate.wait(PATIENCE)
    if self.fault is not None:
      raise self.fault


def of_images(**changes: Any) -> TrainedLearner:
  manifest = {
    'method': 'protonet', 'temperature': 0.5, 'normalisation': 'none',
    'inputs': {'kind': 'images', 'shape': list(SHAPE)},  # of one's own
    'outputs': {'classes': WAYS},
  }  # fmt: skip
  manifest |= changes
  shared = manifest['normalisation'] == 'transductive'
  return TrainedLearner(manifest, Means(shared=shared))


def of_texts() -> TrainedLearner:
  def tokenize(texts, most):
    ids = [[len(word) for word in text.split()] for text in texts]
    found = np.full((len(ids), most), -1, np.int32)
    for row, own in zip(found, ids, strict=True):
      row[: len(own)] = own[:most]
    return found, sum(len(own) > most for own in ids)

  manifest = {
    'method': 'protonet', 'temperature': 1.0, 'normalisation': 'none',
    'inputs': {'kind': 'texts', 'length': 4}, 'outputs': {'classes': WAYS},
  }  # fmt: skip
  return TrainedLearner(manifest, Means(), tokenize)


def of_numbers() -> TrainedLearner:
  inputs = {
    'kind': 'numbers', 'shape': [2], 'names': ['u', 'v'], 'mean': [1.0, -2.0],
    'deviation': [2.0, 0.5],
  }  # fmt: skip
  outputs = {'names': ['y'], 'mean': [3.0], 'deviation': [10.0]}
  manifest = {
    'method': 'cnp', 'temperature': 1.0, 'normalisation': 'none',
    'inputs': inputs, 'outputs': outputs,
  }  # fmt: skip
  return TrainedLearner(manifest, Means(1))


class Answer(NamedTuple):
  """What came back."""

  status: int
  headers: dict[str, str]
  body: bytes

  @property
  def said(self) -> Any:
    return json.loads(self.body)


class Running(NamedTuple):
  """A server."""

  port: int
  service: Service
  learner: TrainedLearner

  def ask(
    self, method: str, route: str, body: Any = None, **headers: str
  ) -> Answer:
    connection = http.client.HTTPConnection('127.0.0.1', self.port, PATIENCE)
    if body is not None and not isinstance(body, bytes):
      body = json.dumps(body).encode()
    kind = {'content-type': 'application/json'} if body is not None else {}
    named = {name.replace('_', '-'): each for name, each in headers.items()}
    with contextlib.closing(connection):
      connection.request(method, route, body, kind | named)
      found = connection.getresponse()
      names = {name.lower(): each for name, each in found.getheaders()}
      return Answer(found.status, names, found.read())

  def post(self, route: str, body: Any, **headers: str) -> Answer:
    return self.ask('POST', route, body, **headers)

  def until(self, holds: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
      assert time.monotonic() < deadline
      time.sleep(0.005)


@contextlib.contextmanager
def serving(
  learner: TrainedLearner,
  limits: Limits = LIMITS,
  *,
  supports: tuple[int, ...] = (WAYS, 2 * WAYS),
  more: int = 4,
  adapters: int = 100,
  waits: bool = True,
) -> Iterator[Running]:
  """A server of a learner, in a thread of this process."""
  metrics = Metrics()
  batcher = Batcher(learner, Sizes(supports, (1, 2, 4), more), metrics)
  service = Service(
    learner, batcher, Adapters(adapters, 2**20), metrics, limits
  )
  failures: list[BaseException] = []
  taken = bind('127.0.0.1', 0)
  server = make_server(service, failures.append)
  thread = threading.Thread(target=server.run, args=([taken],))
  running = Running(taken.getsockname()[1], service, learner)
  thread.start()
  try:
    if waits:
      running.until(lambda: service.ready or failures)
      assert not failures
    yield running
  finally:
    server.should_exit = True
    thread.join(PATIENCE)
    taken.close()
  assert not thread.is_alive()


def examples(seed: int = 0, shots: int = 1) -> dict[str, list[Any]]:
  """Images of three classes, as arrays of JSON."""
  rng = np.random.default_rng(seed)
  patterns = rng.uniform(0, 0.8, (WAYS, *SHAPE))
  return {
    f'class {number}': (
      each + rng.uniform(0, 0.2, (shots, *SHAPE))
    ).tolist()
    for number, each in enumerate(patterns)
  }  # fmt: skip


def queries_of(seed: int = 1, number: int = 1) -> list[Any]:
  """As many images of each class, without their names."""
  return [each for own in examples(seed, number).values() for each in own]


def file_of(pixels: np.ndarray, kind: str = 'PNG') -> str:
  """A file in base64."""
  made = io.BytesIO()
  PIL.Image.fromarray(pixels).save(made, kind)
  return base64.b64encode(made.getvalue()).decode()
