"""What a server counts of itself, for Prometheus."""

from collections.abc import Callable
from typing import Any

from prometheus_client import (
  CollectorRegistry,
  Counter,
  Gauge,
  Histogram,
  ProcessCollector,
  generate_latest,
)

__all__ = ['Metrics']

_SECONDS = (
  0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30,
)  # fmt: skip
_TASKS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
  """Counters of one server; the memory of the process is among them."""

  content_type = 'text/plain; version=0.0.4; charset=utf-8'

  def __init__(self) -> None:
    self._registry = CollectorRegistry()
    own: Any = {'namespace': 'metajax', 'registry': self._registry}
    self._own = own
    self.requests = Counter(
      'requests', 'Requests that were answered', ['route', 'status'], **own
    )
    self.seconds = Histogram(
      'request_seconds', 'From the head of a request to its answer',
      ['route'], buckets=_SECONDS, **own,
    )  # fmt: skip
    self.tasks = Histogram(
      'batch_tasks', 'Requests that ran as one program', ['program'],
      buckets=_TASKS, **own,
    )  # fmt: skip
    ProcessCollector(registry=self._registry)  # process_resident_memory_bytes

  def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
    """A number that is asked for when the metrics are."""
    Gauge(name, text, **self._own).set_function(value)

  def text(self) -> bytes:
    """All of it, in the text format of Prometheus."""
    return generate_latest(self._registry)
