"""Serves what a run has learned, to programs and on a page.

  python -m experiments.export --run=runs/x --output=model
  python -m experiments.serve --model=model

compiles programs, and says where the page is. `POST /adapt` takes a support
set and returns the id of an adapter, `POST /predict` takes the id, or a support
set, and queries; `GET /openapi.json` describes both. Requests of several users
that wait at the same time run as one program. SIGTERM finishes what was begun,
and ends with exit code 0. It needs `pip install -e '.[serve]'`; see
docs/serving.md.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from experiments.benchmark.kinds import Counts
from experiments.runner import flags
from experiments.runner.cache import use_compilation_cache
from experiments.runner.errors import UsageError, check_given, printable
from experiments.runner.paths import Place
from experiments.runner.settings import (
  Base,
  Positive,
  Text,
  Whole,
  setting,
  settings,
)
from metajax.trained import LearnerError, TrainedLearner, load
from metajax.trained.loading import LEARNER
from metajax.trained.portable import MANIFEST

__all__ = ['Settings', 'run']

_MIB = 2**20
_LARGEST_PORT = 2**16 - 1


@settings
class Settings(Base):
  """Which learner, where, and how much of everything."""

  model: str | None = setting(
    None, Place(), 'directory that experiments.export wrote',
    of='data', resume=False,
  )  # fmt: skip
  host: str = setting(
    '127.0.0.1', Text(), 'address to listen on; others than this machine reach'
    ' 0.0.0.0, and nothing asks who they are',
    of='machine', resume=False,
  )  # fmt: skip
  port: int = setting(
    8000, Whole(0), 'to listen on; 0 for any', of='machine', resume=False
  )
  shots: tuple[int, ...] = setting(
    (1, 5), Counts(), 'examples per class that programs are compiled for before'
    ' the server is ready; of what predicts numbers, examples in all; of what'
    ' was exported for some numbers alone, by default these',
    of='machine', resume=False,
  )  # fmt: skip
  max_batch: int = setting(
    8,
    Whole(),
    'requests that run as one program, where that is quicker',
    of='machine',
    resume=False,
  )
  more_programs: int = setting(
    32, Whole(0), 'that may be compiled later, for other numbers of examples;'
    ' what needs one more is refused',
    of='machine', resume=False,
  )  # fmt: skip
  max_waiting: int = setting(
    64, Whole(), 'requests that wait or are worked on; others are answered 429',
    of='machine', resume=False,
  )  # fmt: skip
  max_connections: int = setting(
    256, Whole(), 'that are open at a time', of='machine', resume=False
  )
  max_request_mib: int = setting(
    16, Whole(), 'MiB of a request', of='machine', resume=False
  )
  max_examples: int = setting(
    256, Whole(2), 'of a support set', of='machine', resume=False
  )
  max_queries: int = setting(
    256, Whole(), 'of a request', of='machine', resume=False
  )
  body_seconds: float = setting(
    10.0, Positive(), 'in which a request has to arrive',
    of='machine', resume=False,
  )  # fmt: skip
  seconds: float = setting(
    30.0, Positive(), 'in which it is answered', of='machine', resume=False
  )
  adapters: int = setting(
    1000, Whole(), 'that are kept; the least recently used goes',
    of='machine', resume=False,
  )  # fmt: skip
  adapter_mib: int = setting(
    256, Whole(), 'MiB of all adapters', of='machine', resume=False
  )
  cache_dir: str | None = setting(
    None, Place(), 'compiled programs [default: metajax in the user\'s cache'
    ' directory]',
    of='machine', resume=False,
  )  # fmt: skip


def run(settings: Settings) -> int:
  """Loads, binds, compiles and serves; returns the exit code."""
  check_given(settings, 'model')
  if settings.port > _LARGEST_PORT:
    raise UsageError('port', f'is {_LARGEST_PORT} at most', settings.port)
  try:
    from experiments.serving import server
  except ImportError as error:
    raise UsageError(
      'model', f"serving needs {error.name}; pip install -e '.[serve]'"
    ) from error
  learner = _loaded(settings.model or '')
  use_compilation_cache(settings.cache_dir)
  service = _service(learner, settings)
  with server.bind(settings.host, settings.port) as taken:
    host, port, *_ = taken.getsockname()
    name = f'[{host}]' if ':' in host else host
    manifest = learner.manifest
    print(f'{manifest["method"]} on {manifest["inputs"]["kind"]}: starting at'
          f' http://{name}:{port}', flush=True)  # fmt: skip
    failure = server.serve(service, taken)
  if isinstance(failure, LearnerError):
    raise UsageError('shots', str(failure))
  if failure is not None:
    print(f'stopped: {printable(str(failure))}', file=sys.stderr)
    return 1
  print('stopped; all that was begun is answered')
  return 0


def _loaded(directory: str) -> TrainedLearner:
  if not (Path(directory) / MANIFEST).is_file():
    raise UsageError(
      'model',
      f'{directory} holds no exported learner; python -m experiments.export'
      f' --run={directory if (Path(directory) / LEARNER).is_file() else "..."}'
      ' --output=DIR makes one',
    )
  try:
    learner = load(directory)
  except LearnerError as error:
    raise UsageError('model', str(error)) from error
  platform = {'gpu': 'cuda'}.get(jax.default_backend(), jax.default_backend())
  platforms = learner.manifest['platforms']
  if platform not in platforms:
    raise UsageError(
      'model',
      f'{directory} was exported for {", ".join(platforms)}, and this machine'
      f' has {platform}; export it with --platforms={platform}',
    )
  return learner


def supports_of(
  manifest: Mapping[str, Any], shots: tuple[int, ...]
) -> tuple[int, ...]:
  """Examples in all of the support sets that programs are compiled for."""
  own = [each['examples'] for each in manifest['programs']]
  if None not in own and shots == Settings().shots:
    return tuple(sorted(own))  # others it does not take
  classes = manifest['outputs'].get('classes', 1)
  return tuple(sorted({classes * each for each in shots}))


def _service(learner: TrainedLearner, settings: Settings) -> Any:
  from experiments.serving.adapters import Adapters
  from experiments.serving.app import Service
  from experiments.serving.batching import Batcher, Sizes
  from experiments.serving.limits import Limits
  from experiments.serving.metrics import Metrics

  supports = supports_of(learner.manifest, settings.shots)
  if supports[-1] > settings.max_examples:
    raise UsageError(
      'shots',
      f'{supports[-1]} examples in all are more than'
      f' max_examples={settings.max_examples}',
    )
  tasks = [1]
  while tasks[-1] < settings.max_batch:
    tasks.append(min(2 * tasks[-1], settings.max_batch))
  limits = Limits(
    request_bytes=settings.max_request_mib * _MIB,
    held_bytes=16 * settings.max_request_mib * _MIB,
    body_seconds=settings.body_seconds,
    seconds=settings.seconds,
    examples=settings.max_examples,
    queries=settings.max_queries,
    waiting=settings.max_waiting,
    connections=settings.max_connections,
  )
  metrics = Metrics()
  sizes = Sizes(supports, tuple(tasks), settings.more_programs)
  return Service(
    learner,
    Batcher(learner, sizes, metrics),
    Adapters(settings.adapters, settings.adapter_mib * _MIB),
    metrics,
    limits,
  )


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
