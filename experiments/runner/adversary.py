"""What an adversary reaches who has a few examples of a task, and time.

It searches: whole networks and heads alone, optimisers, rates and numbers of
steps. What it chooses is what is best on validation examples, and what counts
is how that does on others.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.base import Batch, Model, PyTree
from metajax.inner import partition
from metajax.inner.descend import descend
from metajax.objectives import cross_entropy

__all__ = ['TRIALS', 'Attack', 'Trial', 'attack', 'lengths']

_BATCH = 16


class Trial(NamedTuple):
  """One way to adapt."""

  optimizer: str
  rate: float
  frozen: bool  # the body stays as it is


TRIALS = (
  *(Trial('adam', rate, False) for rate in (3e-4, 1e-3, 3e-3, 1e-2)),
  *(Trial('momentum', rate, False) for rate in (0.03, 0.1)),
  *(Trial('adam', rate, True) for rate in (1e-2, 1e-1)),
)

_OPTIMIZERS: dict[str, Callable[[jax.Array], optax.GradientTransformation]] = {
  'adam': optax.adam,
  'momentum': lambda rate: optax.sgd(rate, momentum=0.9),
}


class Attack(NamedTuple):
  """What the adversary reached, and by what."""

  accuracy: float  # on test examples
  validation: float
  trial: Trial
  steps: int


class _Data(NamedTuple):
  support: Batch
  number: jax.Array  # how many of these it has
  validation: Batch
  test: Batch


def lengths(most: int) -> list[int]:
  """The numbers of steps that it tries: the most, and a few that are less."""
  return sorted({max(1, most * share // 100) for share in (10, 20, 40, 100)})


def attack(
  model: Model,
  body: PyTree,
  examples: Batch,
  validation: Batch,
  test: Batch,
  *,
  steps: int,
  seed: int,
  trials: tuple[Trial, ...] = TRIALS,
  progress: Callable[[int, int], None] = lambda done, number: None,
) -> Attack:
  """Searches for the best way to adapt a body to a few examples.

  Args:
    model: the network, with a head of the task called `head`.
    body: its parameters but for those of the head.
    examples: what the adversary has.
    validation: what it chooses by.
    test: what then counts.
    steps: at most.
    seed: of its heads and batches.
    trials: what it tries.
    progress: is told how many of them are done, and of how many.
  """
  # Arrays of one length, so that all numbers of examples are one program.
  number = len(examples.targets)
  room = 1 << (number - 1).bit_length()
  support = jax.tree.map(
    lambda leaf: jnp.resize(leaf, (room, *leaf.shape[1:])), examples
  )
  data = _Data(support, jnp.int32(number), validation, test)
  reached = list[Attack]()
  for number, trial in enumerate(trials, 1):
    reached += _tried(model, body, data, trial, steps, seed)
    progress(number, len(trials))
  return max(reached, key=lambda found: found.validation)


def _tried(
  model: Model, body: PyTree, data: _Data, trial: Trial, steps: int, seed: int
) -> Iterator[Attack]:
  reached = _reached(
    model,
    trial.optimizer,
    trial.frozen,
    tuple(lengths(steps)),
    body,
    data,
    jnp.float32(trial.rate),
    jax.random.key(seed),
  )
  for length, validation, test in zip(lengths(steps), *reached, strict=True):
    yield Attack(float(test), float(validation), trial, length)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _reached(
  model: Model,
  optimizer: str,
  frozen: bool,
  lengths: tuple[int, ...],
  body: PyTree,
  data: _Data,
  rate: jax.Array,
  key: jax.Array,
) -> tuple[list[jax.Array], list[jax.Array]]:
  """Accuracies on validation and on test, after each number of steps."""
  head_key, batch_key = jax.random.split(key)
  drawn = model.init(head_key, data.support.inputs)
  start = {**body, 'head': drawn['head']}
  select = partition.head if frozen else partition.everything
  adapted, rest = partition.split(start, select)
  made = _OPTIMIZERS[optimizer](rate)
  state, taken = None, 0

  def loss(adapted: PyTree, step: jax.Array) -> jax.Array:
    own = jax.random.fold_in(batch_key, step)
    at = jax.random.randint(own, (_BATCH,), 0, data.number)
    inputs, targets = jax.tree.map(lambda leaf: leaf[at], data.support)
    outputs = model.apply(partition.merge(adapted, rest), inputs)
    return cross_entropy(outputs, targets)[0]

  reached: tuple[list[jax.Array], list[jax.Array]] = ([], [])
  for length in lengths:
    adapted, descent = descend(
      loss, adapted, made, length - taken,
      optimizer_state=state, start_step=taken, second_order='none',
    )  # fmt: skip
    state, taken = descent.optimizer_state, length
    params = partition.merge(adapted, rest)
    for kept, batch in zip(reached, (data.validation, data.test), strict=True):
      outputs = model.apply(params, batch.inputs)
      kept.append(cross_entropy(outputs, batch.targets)[1]['accuracy'])
  return reached
