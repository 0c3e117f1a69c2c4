"""What the parent and its workers pass to each other.

Nothing here imports JAX or torch: a worker has in memory what its own
implementation needs, and no more.
"""

import contextlib
import importlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

__all__ = [
  'EPSILON',
  'IMAGES_PER_CLASS',
  'LORA_RANK',
  'SEED',
  'Failure',
  'Implementation',
  'Memory',
  'Network',
  'Precision',
  'Problem',
  'Program',
  'Reference',
  'Settled',
  'Tasks',
  'Weights',
  'Workload',
  'folder_of',
  'noise_images',
  'resolve',
  'small',
]  # fmt: skip

Precision = Literal['float32', 'bfloat16']
Network = Literal[
  'mlp', 'conv4_stride', 'conv4_max_pool', 'transformer', 'resnet12', 'lora'
]  # fmt: skip

SEED = 0
EPSILON = 1e-3  # of batch normalisation
IMAGES_PER_CLASS = 20  # as in Omniglot; so are texts
LORA_RANK = 8  # as is the scale, so that the product is added as it is

Weights = dict[str, np.ndarray]  # by path, such as 'Conv_0/kernel'
# ((inputs, targets) of the support set, and of the queries), each
# [tasks, examples, ...], channels last.
Tasks = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Workload(NamedTuple):
  """One outer step, in numbers."""

  name: str
  network: Network
  tasks: int
  inner_steps: int
  inner_lr: float
  outer_lr: float = 1e-3
  ways: int = 1
  shots: int = 1
  queries: int = 1  # per class, as are shots
  width: int = 64
  side: int = 28  # of an image, or the length of a sequence
  classes: int = 64  # to draw from
  depth: int = 2  # blocks of a pretrained transformer
  vocabulary: int = 256  # tokens
  # Whether every implementation draws its own tasks in every step; otherwise
  # those whose library has no sampler go round a few given ones.
  sampling: bool = False


class Problem(NamedTuple):
  """What an implementation starts from."""

  workload: Workload
  precision: Precision
  weights: Weights  # float32
  tasks: list[Tasks]  # of the first outer steps
  # The files of a pretrained transformer, which everybody stands on.
  pretrained: Mapping[str, bytes] = {}


class Program(NamedTuple):
  """An implementation, made for a problem."""

  # Takes outer steps; returns a loss, when they are done: that of the last, or
  # their mean.
  advance: Callable[[int], float]
  # The mean loss over tasks and its gradient, in the type of its arguments.
  meta_gradient: Callable[[Weights, Tasks], tuple[float, Weights]] | None = None
  # Temporaries of one compiled outer step; None where nothing is compiled.
  temp_bytes: Callable[[], int | None] = lambda: None
  # The peak on the accelerator; None where there is none.
  device_bytes: Callable[[], int | None] = lambda: None
  # Settings that a user might try; the fastest counts.
  variants: Mapping[str, Callable[[], None]] = {}


class Implementation(NamedTuple):
  """One way to compute a workload."""

  name: str
  make: str  # 'module:function', from a Problem to a Program
  needs: tuple[str, ...] = ()  # packages that may not be installed
  given_tasks: bool = False  # whether it wants those of the problem
  networks: tuple[Network, ...] = (
    'mlp', 'conv4_stride', 'conv4_max_pool', 'transformer',
  )  # fmt: skip


class Settled(NamedTuple):
  """How an implementation takes its turns."""

  steps: int  # per turn
  seconds: float  # per step, roughly
  variant: str  # the fastest one


class Memory(NamedTuple):
  """Peaks so far."""

  process_bytes: int
  device_bytes: int | None


class Reference(NamedTuple):
  """What is fixed before anything is measured."""

  machine: dict[str, Any]
  problem: Problem
  small: Problem  # for the check of gradients
  flops_per_step: int


class Failure(NamedTuple):
  """The answer of a worker that cannot do what it was asked for."""

  reason: str


def small(workload: Workload) -> Workload:
  """The same computation, small enough to be differenced in float64."""
  return workload._replace(
    tasks=min(workload.tasks, 2),
    inner_steps=min(workload.inner_steps, 2),
    queries=min(workload.queries, 4),
    width=min(workload.width, 8),
    side=min(workload.side, 16),
    classes=min(workload.classes, 8),
    depth=min(workload.depth, 2),
    vocabulary=min(workload.vocabulary, 256),
  )


@contextlib.contextmanager
def folder_of(problem: Problem) -> Iterator[Path]:
  """A folder with the pretrained transformer of a problem, for a while."""
  with tempfile.TemporaryDirectory() as name:
    for file, content in problem.pretrained.items():
      (Path(name) / file).write_bytes(content)
    yield Path(name)


def noise_images(classes: int, side: int) -> np.ndarray:
  """Draws as many images as a data set has; what they show is noise.

  Returns:
    uint8 `[classes, IMAGES_PER_CLASS, side, side]`.
  """
  shape = classes, IMAGES_PER_CLASS, side, side
  return np.random.default_rng(SEED).integers(256, size=shape, dtype=np.uint8)


def resolve(name: str) -> Callable[..., Any]:
  """The function that 'module:function' names."""
  module, _, function = name.partition(':')
  found: Callable[..., Any] = getattr(importlib.import_module(module), function)
  return found
