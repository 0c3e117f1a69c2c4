"""An outer step of every method, beside one of MAML.

Each has its recipe for Omniglot, 5-way 1-shot, on noise of that size, and a
process of its own, which takes turns with that of MAML.
"""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.benchmark.speed.base import Settled
from experiments.benchmark.speed.measure import LIMIT, Say, first_step, turns
from experiments.benchmark.speed.processes import Worker, WorkerError
from experiments.benchmark.speed.workloads import OMNIGLOT
from experiments.recipes import images
from experiments.recipes.kinds import methods, published
from metajax.algorithms.recipe import Recipe

__all__ = [
  'MethodRow', 'MethodStep', 'measure_methods', 'recipe_of', 'trained_methods',
]  # fmt: skip

REFERENCE = 'maml'
_MAKE = 'experiments.benchmark.speed.in_metajax:in_method'


class MethodStep(NamedTuple):
  """What a worker is to compute."""

  method: str
  width: int = OMNIGLOT.width
  classes: int = OMNIGLOT.classes  # to draw from


class MethodRow(NamedTuple):
  """What was measured of one method."""

  method: str
  tasks_per_step: int
  seconds_per_step: float  # median over rounds
  ratio_to_maml: float  # median over rounds of the ratio within a round
  compiled_temp_bytes: int | None
  seconds_to_first_step: float  # from process start, nothing compiled before
  rounds: int


def recipe_of(method: str) -> Recipe:
  """The published setting of what is measured."""
  return published(images, method, OMNIGLOT.ways, OMNIGLOT.shots)


def trained_methods() -> list[str]:
  """The methods that take outer steps on images."""
  return [name for name in methods(images) if recipe_of(name).steps]


def measure_methods(
  steps: Sequence[MethodStep], rounds: int, seconds: float, say: Say
) -> Iterator[MethodRow]:
  """Times methods, in turns with MAML.

  Args:
    steps: what to compute.
    rounds: how many turns each one has.
    seconds: about how long a turn is.
    say: where to report what goes on.

  Yields:
    A row for MAML and for every other method whose process lived, as it is
    measured.
  """
  reference = steps[0]._replace(method=REFERENCE)
  with tempfile.TemporaryDirectory() as cache, Worker(Path(cache)) as theirs:
    cold, settled = _start(theirs, reference, seconds)
    alone = [_turn(theirs, settled) for _ in range(rounds)]
    yield _row(reference, theirs, cold, alone, [1.0])
    for step in steps:
      if step == reference:
        continue
      say(f'methods: {step.method}')
      try:
        yield _in_turns(step, theirs, settled, rounds, seconds)
      except WorkerError as error:
        say(f'methods: {step.method} left out: {error}')


def _in_turns(
  step: MethodStep,
  theirs: Worker,
  theirs_settled: Settled,
  rounds: int,
  seconds: float,
) -> MethodRow:
  with tempfile.TemporaryDirectory() as cache, Worker(Path(cache)) as worker:
    cold, settled = _start(worker, step, seconds)
    pairs = [
      (_turn(worker, settled), _turn(theirs, theirs_settled))
      for _ in range(turns(settled.seconds, rounds))
    ]
    mine = [seconds for seconds, _ in pairs]
    ratios = [seconds / reference for seconds, reference in pairs]
    return _row(step, worker, cold, mine, ratios)


def _start(
  worker: Worker, step: MethodStep, seconds: float
) -> tuple[float, Settled]:
  """Takes the first steps; returns how long that took, and what a turn is."""
  _, cold = first_step(worker, _MAKE, step)
  return cold, worker.ask('settle', seconds, limit=LIMIT)


def _turn(worker: Worker, settled: Settled) -> float:
  """Seconds of a step."""
  _, elapsed = worker.ask('advance', settled.steps, limit=LIMIT)
  return float(elapsed / settled.steps)


def _row(
  step: MethodStep,
  worker: Worker,
  cold: float,
  seconds: Sequence[float],
  ratios: Sequence[float],
) -> MethodRow:
  return MethodRow(
    method=step.method,
    tasks_per_step=recipe_of(step.method).tasks_per_step,
    seconds_per_step=statistics.median(seconds),
    ratio_to_maml=statistics.median(ratios),
    compiled_temp_bytes=worker.ask('temp_bytes', limit=LIMIT),
    seconds_to_first_step=cold,
    rounds=len(seconds),
  )
