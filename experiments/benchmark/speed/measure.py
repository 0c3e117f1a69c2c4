"""The parent: it starts the workers, and lets them take turns."""

import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmark.speed.base import (
  Implementation,
  Precision,
  Reference,
  Settled,
  Workload,
)
from experiments.benchmark.speed.processes import (
  TimeLimitError,
  Worker,
  WorkerError,
)

__all__ = [
  'LIMIT', 'DisagreementError', 'Point', 'Say', 'Timing', 'check_agreement',
  'curve', 'first_step', 'is_wrong', 'machine', 'matmul_peak', 'measure',
  'reference', 'turns',
]  # fmt: skip

# Relative differences of first losses that rounding explains: 2e-4 were seen
# after five inner steps through maxima, where float64 has 1e-15.
TOLERANCES: dict[Precision, float] = {'float32': 5e-4, 'bfloat16': 2e-2}
WRONG_GRADIENT = 1e-5  # relative error, in float64, from which one is wrong
# Seconds of a step, and how many turns must do from there on.
_FEW_TURNS = ((60.0, 1), (5.0, 3))
LIMIT = 1200.0  # seconds for an answer

Say = Callable[[str], None]


class Timing(NamedTuple):
  """What was measured of one implementation of one workload."""

  implementation: str
  workload: str
  tasks: int
  inner_steps: int
  tasks_per_second: float  # median over rounds
  ratio_to_metajax: float  # median over rounds of the ratio within a round
  peak_process_bytes: int
  peak_device_bytes: int | None  # on an accelerator
  compiled_temp_bytes: int | None  # None where nothing is compiled
  seconds_to_first_step: float  # from process start, nothing compiled before
  seconds_to_first_step_warm: float  # once more, with compiled programs kept
  flops_per_step: int  # of matrix products, counted
  roofline_fraction: float  # of the matrix-product peak of the same run
  gradient_error: float  # relative, against central differences in float64
  first_loss: float
  variant: str  # such as a number of threads
  rounds: int


class Point(NamedTuple):
  """One point of a scaling curve."""

  implementation: str
  workload: str
  axis: str
  value: int
  tasks_per_second: float | None
  compiled_temp_bytes: int | None


class DisagreementError(Exception):
  """Implementations that should compute the same thing do not."""


class _Started(NamedTuple):
  """An implementation that has taken its first step."""

  implementation: Implementation
  worker: Worker
  first_loss: float
  cold: float
  warm: float
  temp_bytes: int | None
  gradient_error: float


def reference(workload: Workload, precision: Precision) -> Reference:
  """What a worker of its own finds out before anything is measured."""
  found: Reference = _ask_once('reference', workload, precision)
  return found


def matmul_peak(precision: Precision) -> float:
  """Operations per second of the fastest matrix product, in its own process."""
  return float(_ask_once('matmul_peak', precision))


def machine() -> dict[str, Any]:
  """What the figures are taken on."""
  found: dict[str, Any] = _ask_once('machine')
  return found


def _ask_once(request: str, *arguments: Any) -> Any:
  """The answer of a worker that does nothing else."""
  with tempfile.TemporaryDirectory() as cache, Worker(Path(cache)) as worker:
    return worker.ask(request, *arguments)


def measure(
  workload: Workload,
  implementations: Sequence[Implementation],
  known: Reference,
  peak: float,
  rounds: int,
  seconds: float,
  say: Say,
) -> list[Timing]:
  """Times implementations of a workload, taking turns.

  Args:
    workload: what to compute.
    implementations: the first is what the others are compared with.
    known: the `reference` of the workload.
    peak: the `matmul_peak` of the machine.
    rounds: how many turns each one has.
    seconds: about how long a turn is.
    say: where to report what goes on.

  Returns:
    A timing of every implementation whose process lived.

  Raises:
    DisagreementError: if they do not all have the first loss of the first.
  """
  started: list[_Started] = []
  try:
    for each in implementations:
      try:
        say(f'{workload.name}: {each.name}')
        started.append(_start(each, known))
      except WorkerError as error:
        say(f'{workload.name}: {each.name} left out: {error}')
    losses = {each.implementation.name: each.first_loss for each in started}
    check_agreement(workload.name, losses, known.problem.precision)
    return _take_turns(workload, started, known, peak, rounds, seconds, say)
  finally:
    for done in started:
      done.worker.close()


def _start(implementation: Implementation, known: Reference) -> _Started:
  with tempfile.TemporaryDirectory() as directory:
    cache = Path(directory)
    worker = Worker(cache)
    try:
      loss, cold = first_step(worker, implementation.make, known.problem)
      with Worker(cache) as second:
        _, warm = first_step(second, implementation.make, known.problem)
        temporaries = second.ask('temp_bytes', limit=LIMIT)
        error = second.ask(
          'gradient_error', implementation.make, known.small, limit=LIMIT
        )
    except BaseException:
      worker.close()
      raise
  return _Started(implementation, worker, loss, cold, warm, temporaries, error)


def first_step(worker: Worker, make: str, problem: Any) -> tuple[float, float]:
  """Has a worker begin; returns its first loss, and its age after that."""
  worker.ask('make', make, problem, limit=LIMIT)
  loss, _ = worker.ask('advance', 1, limit=LIMIT)
  return loss, worker.age()


def check_agreement(
  workload: str, losses: dict[str, float], precision: Precision = 'float32'
) -> None:
  """Compares first losses with that of the first entry.

  Raises:
    DisagreementError: names the two implementations and their losses.
  """
  if not losses:
    return
  (expected_name, expected), *others = losses.items()
  for name, loss in others:
    # Written so that NaN is a difference.
    if not abs(loss - expected) <= TOLERANCES[precision] * abs(expected):
      raise DisagreementError(
        f'{workload}: {name} does not compute what {expected_name} does; its'
        f' first loss is {loss:.8g}, not {expected:.8g}'
      )


def _take_turns(
  workload: Workload,
  started: list[_Started],
  known: Reference,
  peak: float,
  rounds: int,
  seconds: float,
  say: Say,
) -> list[Timing]:
  settled: dict[str, Settled] = {}
  for each in started:
    settled[each.implementation.name] = each.worker.ask(
      'settle', seconds, limit=LIMIT
    )
  speeds: dict[str, list[float]] = {name: [] for name in settled}
  for turn in range(rounds):
    say(f'{workload.name}: round {turn + 1} of {rounds}')
    for each in started:
      name = each.implementation.name
      steps = settled[name].steps
      if turn >= turns(settled[name].seconds, rounds):
        continue
      _, elapsed = each.worker.ask('advance', steps, limit=LIMIT)
      speeds[name].append(workload.tasks * steps / elapsed)
  fastest = next(iter(speeds.values()), [])
  return [
    _timing(workload, each, settled, speeds, fastest, known, peak)
    for each in started
  ]


def turns(seconds: float, rounds: int) -> int:
  """How many turns an implementation has, by the seconds of its step."""
  for slow, few in _FEW_TURNS:
    if seconds > slow:
      return min(few, rounds)
  return rounds


def _timing(
  workload: Workload,
  started: _Started,
  settled: dict[str, Settled],
  speeds: dict[str, list[float]],
  reference_speeds: list[float],
  known: Reference,
  peak: float,
) -> Timing:
  name = started.implementation.name
  speed = statistics.median(speeds[name])
  memory = started.worker.ask('memory')
  return Timing(
    implementation=name,
    workload=workload.name,
    tasks=workload.tasks,
    inner_steps=workload.inner_steps,
    tasks_per_second=speed,
    # The slow ones have fewer turns: those that there are correspond.
    ratio_to_metajax=statistics.median(
      mine / theirs
      for mine, theirs in zip(speeds[name], reference_speeds, strict=False)
    ),
    peak_process_bytes=memory.process_bytes,
    peak_device_bytes=memory.device_bytes,
    compiled_temp_bytes=started.temp_bytes,
    seconds_to_first_step=started.cold,
    seconds_to_first_step_warm=started.warm,
    flops_per_step=known.flops_per_step,
    roofline_fraction=(known.flops_per_step * speed / workload.tasks / peak),
    gradient_error=started.gradient_error,
    first_loss=started.first_loss,
    variant=settled[name].variant,
    rounds=len(speeds[name]),
  )


def curve(
  workload: Workload,
  axis: str,
  values: Sequence[int],
  implementations: Sequence[Implementation],
  precision: Precision,
  seconds: float,
  limit: float,
  say: Say,
) -> Iterator[Point]:
  """How speed and memory depend on one number of a workload.

  Args:
    workload: what to compute.
    axis: the field of it that varies.
    values: of that field, ascending.
    implementations: whose curves to draw.
    precision: of the computation.
    seconds: about how long to time each point; none to compile only.
    limit: seconds that a point may take; one that takes longer ends the curve.
    say: where to report what goes on.

  Yields:
    The points that there are, as they are measured.
  """
  going_on = list(implementations)
  for value in values:
    varied: dict[str, Any] = {axis: value}
    here = workload._replace(**varied)
    known = reference(here, precision)
    for each in tuple(going_on):
      say(f'{workload.name}: {axis} {value}, {each.name}')
      try:
        yield _point(here, axis, value, each, known, seconds, limit)
      except WorkerError as error:
        going_on.remove(each)
        what = 'ends' if isinstance(error, TimeLimitError) else 'stops'
        say(f'the curve of {each.name} {what} before {axis} {value}: {error}')


def _point(
  workload: Workload,
  axis: str,
  value: int,
  implementation: Implementation,
  known: Reference,
  seconds: float,
  limit: float,
) -> Point:
  with tempfile.TemporaryDirectory() as cache, Worker(Path(cache)) as worker:
    ask: Callable[..., Any] = lambda *request: worker.ask(  # noqa: E731
      *request, limit=limit
    )
    ask('make', implementation.make, known.problem)
    speed = None
    if seconds:
      ask('advance', 1)
      settled = ask('settle', seconds)
      _, elapsed = ask('advance', settled.steps)
      speed = workload.tasks * settled.steps / elapsed
    return Point(
      implementation.name,
      workload.name,
      axis,
      value,
      speed,
      ask('temp_bytes'),
    )


def is_wrong(timing: Timing) -> bool:
  """Whether the gradient is not that of the loss."""
  error = timing.gradient_error
  return not (math.isfinite(error) and error < WRONG_GRADIENT)
