"""What a bilevel problem of experiments is: all that is particular to one."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from experiments.bilevel.digits import momentum
from metajax.base import Batch, Objective, PyTree, Task
from metajax.bilevel import Problem
from metajax.objectives import cross_entropy

__all__ = ['Data', 'Kind', 'Rival']


class Rival(NamedTuple):
  """Hyper-parameters that nobody had to learn, to compare with."""

  hyperparams: PyTree
  support: Batch | None = None  # to train on in place of the training set


class Data(NamedTuple):
  """A problem's data of one seed."""

  task: Task  # training set and validation set
  test: Batch
  draw: Callable[[jax.Array], PyTree]  # hyper-parameters, for random search
  rivals: Mapping[str, Rival]
  truth: Any = None  # what hyper-parameters should tell, where it is known


class Kind(NamedTuple):
  """A bilevel problem, and the defaults of its settings."""

  about: str  # one line
  problem: Problem
  data: Callable[[int], dict[str, Data]]  # of a seed; several: by distribution
  inner_lr: float
  inner_steps: int
  outer_lr: float
  outer_steps: int
  seeds: int
  random: str  # what random search draws
  # What pictures need of them, as JSON has it.
  show: Callable[[Data, PyTree], dict[str, Any]]
  objective: Objective = cross_entropy  # on validation and on test
  # The inner one, from a rate.
  optimizer: Callable[[float], optax.GradientTransformation] = momentum
  # What hyper-parameters that were learned stand for; of several, validation
  # chooses what is tested.
  settle: Callable[[PyTree], list[PyTree]] = lambda hyperparams: [hyperparams]
  # What else can be said of them, numbers by name.
  measure: Callable[[Data, PyTree], dict[str, float]] = lambda data, of: {}
