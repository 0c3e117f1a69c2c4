"""What waits at the same time runs as one program, of sizes that are compiled.

One thread runs programs and another compiles what was not compiled before, so
that neither waits for the event loop, nor it for them. Nothing is waited for in
order to have more at a time: a program takes what has come while the one before
it ran. Programs are timed when they are compiled; where tasks together take as
long as one by one, as those of a large network do on few cores, they run so.
"""

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from experiments.serving.limits import RefusalError
from experiments.serving.metrics import Metrics
from metajax.trained import LearnerError, TrainedLearner
from metajax.trained.portable.learner import keys

__all__ = ['Batcher', 'Shape', 'Sizes', 'StoppedError']

Kind = Literal['adapt', 'predict']

# Queries of a task that are filled up to, and up to which tasks run together:
# with more, one task has enough to do by itself.
_QUERIES = (1, 4, 8, 16, 64)
_TOGETHER = 16
# Tasks run together for so much of their time one by one, or less: the first of
# them waits for the last.
_WORTH = 0.9
_TIMES = 3  # that a program is timed


class StoppedError(Exception):
  """The server ends while it compiles."""


class Shape(NamedTuple):
  """What a program is compiled for."""

  kind: Kind
  tasks: int
  support: int  # examples of a support set
  queries: int = 0


class Sizes(NamedTuple):
  """What is compiled before a server is ready, and how much may be then."""

  supports: tuple[int, ...]  # examples of a support set
  tasks: tuple[int, ...]  # that run as one program
  more: int  # programs for other sizes

  def alone(self) -> list[Shape]:
    """Programs for one task: adaptations, then predictions."""
    adapt = [Shape('adapt', 1, support) for support in self.supports]
    return adapt + [
      Shape('predict', 1, support, queries)
      for support in self.supports
      for queries in _QUERIES
    ]

  def together(self, alone: Shape) -> list[Shape]:
    """Programs for more tasks of a shape."""
    if alone.queries > _TOGETHER:
      return []
    return [alone._replace(tasks=each) for each in self.tasks if each > 1]


class _Job(NamedTuple):
  """A task that waits."""

  shape: Shape  # of the program for it alone
  arrays: tuple[Any, ...]
  answer: asyncio.Future[Any]


class Batcher:
  """Runs adaptations and predictions, several at a time where that is compiled.

  Args:
    learner: whose programs these are.
    sizes: what is compiled.
    metrics: count what ran together.
  """

  def __init__(
    self, learner: TrainedLearner, sizes: Sizes, metrics: Metrics
  ) -> None:
    self._learner = learner
    self._programs = learner.programs
    self._fills = learner.manifest['normalisation'] != 'transductive'
    self._sizes = sizes
    self._metrics = metrics
    self._waiting = deque[_Job]()
    self._some = asyncio.Event()
    self._ready = set[Shape]()
    self._compiling = dict[Shape, asyncio.Future[float]]()
    self._more = sizes.more
    self._runner = ThreadPoolExecutor(1, 'programs')
    self._compiler = ThreadPoolExecutor(1, 'compiler')
    self._stopping = False

  @property
  def waiting(self) -> int:
    """Tasks that wait for a program."""
    return len(self._waiting)

  @property
  def compiled(self) -> int:
    """Programs that there are."""
    return len(self._ready)

  @property
  def begun(self) -> tuple[int, int]:
    """Programs for one task that there are, and before the server is ready."""
    alone = self._sizes.alone()
    return sum(shape in self._ready for shape in alone), len(alone)

  async def compile_all(self) -> None:
    """Compiles what a server has to have before it is ready.

    Raises:
      LearnerError: if the learner has no such program.
      StoppedError: if the server ends.
    """
    loop = asyncio.get_running_loop()

    async def seconds(shape: Shape) -> float:
      return await loop.run_in_executor(self._compiler, self._compile, shape)

    for alone in self._sizes.alone():
      one = await seconds(alone)
      self._ready.add(alone)
      for shape in self._sizes.together(alone):
        if await seconds(shape) > _WORTH * shape.tasks * one:
          break  # more of them would gain nothing, either
        self._ready.add(shape)

  async def work(self) -> None:
    """Runs what waits, for as long as the server lives."""
    loop = asyncio.get_running_loop()
    while True:
      while not self._waiting:
        self._some.clear()
        await self._some.wait()
      jobs, shape = self._next()
      if not jobs:
        continue
      try:
        found = await loop.run_in_executor(self._runner, self._run, shape, jobs)
      except Exception as error:
        for job in jobs:
          _answer(job.answer.set_exception, job, error)
      else:
        for job, each in zip(jobs, found, strict=True):
          _answer(job.answer.set_result, job, each)

  def stop(self) -> None:
    """Ends the threads, after what they do now."""
    self._stopping = True
    for each in (self._runner, self._compiler):
      each.shutdown(wait=False, cancel_futures=True)

  async def adapt(
    self, inputs: np.ndarray, targets: np.ndarray, seed: int
  ) -> list[np.ndarray]:
    """What is adapted to a support set: arrays `[1, ...]`."""
    shape = Shape('adapt', 1, len(inputs))
    state: list[np.ndarray] = await self._submit(
      shape, inputs, targets, _key(seed)
    )
    return state

  async def predict(
    self, state: Sequence[np.ndarray], support: np.ndarray, queries: np.ndarray
  ) -> np.ndarray:
    """Outputs `[queries, outputs]`."""
    if not self._fills:  # all of them share statistics
      shape = Shape('predict', 1, len(support), len(queries))
      found: np.ndarray = await self._submit(shape, state, support, queries)
      return found
    most = _QUERIES[-1]
    parts = [queries[at : at + most] for at in range(0, len(queries), most)]
    answers = await asyncio.gather(
      *(
        self._submit(
          Shape('predict', 1, len(support), _next_size(len(part))), state,
          support, part,
        )
        for part in parts
      )
    )  # fmt: skip
    return np.concatenate(answers)

  async def _submit(self, shape: Shape, *arrays: Any) -> Any:
    if shape not in self._ready:
      await self._one_more(shape)
    answer = asyncio.get_running_loop().create_future()
    self._waiting.append(_Job(shape, arrays, answer))
    self._some.set()
    return await answer

  async def _one_more(self, shape: Shape) -> None:
    """Compiles a program for a size that was not foreseen, once."""
    compiling = self._compiling.get(shape)
    if compiling is None:
      if self._more <= 0:
        known = sorted({each.support for each in self._ready})
        raise RefusalError(
          422,
          f'there is no program for {shape.support} examples in all'
          f'{f" and {shape.queries} queries" * bool(shape.queries)}, and no'
          ' more are compiled; those are for'
          f' {" or ".join(map(str, known))} examples',
        )
      self._more -= 1
      loop = asyncio.get_running_loop()
      compiling = loop.run_in_executor(self._compiler, self._compile, shape)
      self._compiling[shape] = compiling
      compiling.add_done_callback(functools.partial(self._is_compiled, shape))
    try:
      # Whoever gives up leaves the program to those who wait for it, too.
      await asyncio.shield(compiling)
    except LearnerError as error:
      raise RefusalError(422, str(error)) from error

  def _is_compiled(self, shape: Shape, done: asyncio.Future[float]) -> None:
    del self._compiling[shape]
    if done.cancelled() or done.exception() is not None:
      self._more += 1  # so that another may be
    else:
      self._ready.add(shape)

  def _next(self) -> tuple[list[_Job], Shape]:
    """The task that has waited longest, and those that run with it."""
    first = self._waiting[0].shape
    most = max(
      each.tasks for each in self._ready if each._replace(tasks=1) == first
    )
    jobs, rest = list[_Job](), deque[_Job]()
    for job in self._waiting:
      if job.answer.done():  # given up
        continue
      taken = job.shape == first and len(jobs) < most
      (jobs if taken else rest).append(job)
    self._waiting = rest
    tasks = next(
      (size for size in sorted(self._sizes.tasks)
       if size >= len(jobs) and first._replace(tasks=size) in self._ready), 1,
    )  # fmt: skip
    return jobs, first._replace(tasks=tasks)

  def _run(self, shape: Shape, jobs: Sequence[_Job]) -> list[Any]:
    """Runs a program; in the thread of these."""
    self._metrics.tasks.labels(shape.kind).observe(len(jobs))
    tasks = [job.arrays for job in jobs]
    tasks += [tasks[0]] * (shape.tasks - len(jobs))
    if shape.kind == 'adapt':
      inputs, targets, all_keys = map(np.stack, zip(*tasks, strict=True))
      state = self._programs.adapt(inputs, targets, all_keys)
      leaves = [np.asarray(leaf) for leaf in state]
      # Copies: a view would keep the states of all tasks.
      return [
        [leaf[at : at + 1].copy() for leaf in leaves] for at in range(len(jobs))
      ]
    states, supports, queries = zip(*tasks, strict=True)
    state = [np.concatenate(leaves) for leaves in zip(*states, strict=True)]
    filled = np.stack([_filled(each, shape.queries) for each in queries])
    outputs = self._programs.predict(state, np.stack(supports), filled)
    found = np.asarray(outputs)
    return [
      found[at, : len(own)].copy()
      for at, own in enumerate(queries[: len(jobs)])
    ]

  def _compile(self, shape: Shape) -> float:
    """Compiles a program by running it; returns the seconds of a run."""
    if self._stopping:
      raise StoppedError
    tasks = 1 if shape.kind == 'predict' else shape.tasks
    inputs = self._zeros(tasks, shape.support)
    targets = self._targets(tasks, shape.support)
    all_keys = np.repeat(_key(0)[None], tasks, axis=0)
    run = functools.partial(self._programs.adapt, inputs, targets, all_keys)
    if shape.kind == 'predict':
      state = [
        np.repeat(np.asarray(leaf), shape.tasks, axis=0) for leaf in run()
      ]
      run = functools.partial(
        self._programs.predict, state,
        self._zeros(shape.tasks, shape.support),
        self._zeros(shape.tasks, shape.queries),
      )  # fmt: skip
    times = []
    for _ in range(1 + _TIMES):
      started = time.perf_counter()
      jax.block_until_ready(run())
      times.append(time.perf_counter() - started)
    return min(times[1:])

  def _zeros(self, tasks: int, examples: int) -> np.ndarray:
    what = self._learner.manifest['inputs']
    if what['kind'] == 'texts':
      return np.zeros((tasks, examples, what['length']), np.int32)
    return np.zeros((tasks, examples, *what['shape']), np.float32)

  def _targets(self, tasks: int, examples: int) -> np.ndarray:
    outputs = self._learner.manifest['outputs']
    if self._learner.classifies:
      numbers = np.arange(examples, dtype=np.int32) % outputs['classes']
      return np.repeat(numbers[None], tasks, axis=0)
    return np.zeros((tasks, examples, len(outputs['names'])), np.float32)


def _answer(tell: Callable[[Any], None], job: _Job, what: Any) -> None:
  if not job.answer.done():  # whoever asked may have given up
    tell(what)


@functools.lru_cache(maxsize=256)
def _key(seed: int) -> np.ndarray:
  return np.asarray(keys([seed])[0])


def _next_size(number: int) -> int:
  return next(size for size in _QUERIES if size >= number)


def _filled(queries: np.ndarray, size: int) -> np.ndarray:
  rest = np.repeat(queries[:1], size - len(queries), axis=0)
  return np.concatenate([queries, rest])
