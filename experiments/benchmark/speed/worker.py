"""The process of one implementation: it does what the parent asks for.

  python -m experiments.benchmark.speed.worker FILE_DESCRIPTOR

Requests are `(function of this module, arguments)`, answers whatever it
returns, or a `Failure`.
"""

import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark.speed.base import (
  SEED,
  Failure,
  Memory,
  Problem,
  Program,
  Reference,
  Settled,
  Tasks,
  Weights,
  Workload,
  resolve,
)

__all__ = [
  'Requests', 'directional_error', 'flops_per_step', 'machine', 'matmul_peak',
  'serve',
]  # fmt: skip

_GIVEN_STEPS = 4  # outer steps whose tasks are drawn beforehand
_DIFFERENCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
# Sides of matrices: what is large for one device is small for another.
_PRODUCTS = {'cpu': (1024, 2048)}
_LARGE_PRODUCTS = (2048, 4096, 8192)
_REPETITIONS = 9


class Requests:
  """What a worker can be asked for."""

  def __init__(self) -> None:
    self._program: Program | None = None

  @property
  def program(self) -> Program:
    """The implementation, once there is one."""
    assert self._program is not None
    return self._program

  def make(self, name: str, problem: Any) -> None:
    """Becomes an implementation, of what it is made for."""
    self._program = resolve(name)(problem)

  def advance(self, num_steps: int) -> tuple[float, float]:
    """Takes outer steps; returns a loss, and the seconds that they took."""
    start = time.perf_counter()
    loss = self.program.advance(num_steps)
    return loss, time.perf_counter() - start

  def settle(self, seconds: float) -> Settled:
    """Finds the fastest variant, and how many steps take `seconds`."""
    variants = self.program.variants or {'': lambda: None}
    settled = []
    for name, select in variants.items():
      select()
      # What one variant has warmed up is no use to the next.
      if len(variants) > 1:
        self.advance(1)
      settled.append(_settled(self.advance, seconds, name))
    best = min(settled, key=lambda each: each.seconds)
    variants[best.variant]()
    return best

  def memory(self) -> Memory:
    """The peaks so far."""
    return Memory(_peak_process_bytes(), self.program.device_bytes())

  def temp_bytes(self) -> int | None:
    """Temporaries of the compiled step."""
    return self.program.temp_bytes()

  def gradient_error(self, name: str, problem: Problem) -> float:
    """How far an implementation's meta-gradient is from differences."""
    program = resolve(name)(problem)
    assert program.meta_gradient is not None
    return directional_error(
      program.meta_gradient, problem.weights, problem.tasks[0]
    )

  def machine(self) -> dict[str, Any]:
    """What the figures are taken on."""
    return machine()

  def matmul_peak(self, precision: Any) -> float:
    """The matrix-product peak of this machine."""
    import jax

    sides = _PRODUCTS.get(jax.default_backend(), _LARGE_PRODUCTS)
    return matmul_peak(precision, sides)

  def reference(self, workload: Workload, precision: Any) -> Reference:
    """All that is to be known before a workload is measured."""
    from experiments.benchmark.speed.base import small
    from experiments.benchmark.speed.in_metajax import prepare

    problem = prepare(workload, precision, _GIVEN_STEPS)
    return Reference(
      machine(),
      problem,
      prepare(small(workload), 'float32', 1),
      flops_per_step(problem),
    )


def _settled(
  advance: Callable[[int], tuple[float, float]], seconds: float, variant: str
) -> Settled:
  steps = 1
  while (elapsed := advance(steps)[1]) < seconds / 4:
    steps *= 4
  each = elapsed / steps
  return Settled(max(1, round(seconds / each)), each, variant)


def directional_error(
  meta_gradient: Callable[[Weights, Tasks], tuple[float, Weights]],
  weights: Weights,
  tasks: Tasks,
) -> float:
  """The relative error of a gradient along a random direction, in float64.

  It is compared with central differences of the function's own value. The
  networks have kinks, and a step that crosses one says nothing; so a few
  lengths are tried, and the best counts. A wrong gradient is wrong for all.
  """
  weights, tasks = _double(weights), _double(tasks)
  random = np.random.default_rng(SEED)
  direction = {
    name: random.standard_normal(leaf.shape) for name, leaf in weights.items()
  }
  _, gradient = meta_gradient(weights, tasks)
  slope = sum(
    float(np.sum(gradient[name] * leaf)) for name, leaf in direction.items()
  )

  def loss(length: float) -> float:
    moved = {
      name: leaf + length * direction[name] for name, leaf in weights.items()
    }
    return meta_gradient(moved, tasks)[0]

  slopes = [
    (loss(length) - loss(-length)) / (2 * length) for length in _DIFFERENCES
  ]
  return min(
    abs(slope - each) / max(abs(slope), abs(each), 1e-300) for each in slopes
  )


def _double(tree: Any) -> Any:
  if isinstance(tree, dict):
    return {name: _double(leaf) for name, leaf in tree.items()}
  if isinstance(tree, tuple):
    return tuple(map(_double, tree))
  return tree.astype(np.float64) if tree.dtype.kind == 'f' else tree


def flops_per_step(problem: Problem) -> int:
  """The arithmetic of one outer step as the plain program spells it out."""
  from experiments.benchmark.speed.in_jax import nested
  from experiments.benchmark.speed.in_plain_jax import plain_loss_and_gradient
  from metajax.base import Batch, Task
  from metajax.devices.cost import cost

  support, query = problem.tasks[0]
  return cost(
    plain_loss_and_gradient(problem),
    nested(problem.weights),
    Task(Batch(*support), Batch(*query)),
  ).flops


def matmul_peak(precision: Any, sides: tuple[int, ...]) -> float:
  """Operations per second of the fastest product of square matrices."""
  import jax
  import jax.numpy as jnp

  multiply = jax.jit(jnp.matmul)

  def seconds(matrix: jax.Array) -> float:
    start = time.perf_counter()
    multiply(matrix, matrix).block_until_ready()
    return time.perf_counter() - start

  def peak(side: int) -> float:
    matrix = jax.random.normal(jax.random.key(SEED), (side, side), precision)
    seconds(matrix)  # compiles
    return 2 * side**3 / min(seconds(matrix) for _ in range(_REPETITIONS))

  return max(map(peak, sides))


def machine() -> dict[str, Any]:
  """What the figures are taken on."""
  import importlib.metadata
  import importlib.util
  import os

  import jax

  from experiments.runner import report

  versions = report.versions()
  for package in ('torch', 'transformers', 'higher', 'torchopt'):
    if importlib.util.find_spec(package):
      versions[package] = importlib.metadata.version(package)
  return {
    'cpu': _cpu_model(),
    'cores': len(os.sched_getaffinity(0)),
    'device': jax.devices()[0].device_kind,
    **versions,
  }


def _cpu_model() -> str:
  import platform

  found = _from_proc('/proc/cpuinfo', 'model name')
  return found or platform.processor() or platform.machine()


def _peak_process_bytes() -> int:
  """The most memory that this process has had.

  Not `ru_maxrss` where it can be helped: on Linux that starts from what the
  parent had when it forked.
  """
  if found := _from_proc('/proc/self/status', 'VmHWM'):
    return 1024 * int(found.split()[0])
  unit = 1 if sys.platform == 'darwin' else 1024
  return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _from_proc(path: str, name: str) -> str | None:
  try:
    lines = Path(path).read_text().splitlines()
  except OSError:
    return None
  found = (line.partition(':')[2] for line in lines if line.startswith(name))
  value = next(found, '').strip()
  return value or None


def serve(connection: Connection) -> None:
  """Answers until nobody asks any more."""
  requests = Requests()
  while True:
    try:
      name, arguments = connection.recv()
    except EOFError:
      return
    try:
      answer = getattr(requests, name)(*arguments)
    except Exception as error:
      lines = str(error).splitlines() or ['']
      answer = Failure(f'{type(error).__name__}: {lines[0]}'.rstrip(': '))
    connection.send(answer)


if __name__ == '__main__':
  with Connection(int(sys.argv[1])) as connection:
    serve(connection)
