"""Hyper-parameters by their gradient, and by random search at equal cost."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.bilevel.setting import Data, Kind, Rival
from metajax.base import Batch, PyTree, Task
from metajax.bilevel import bilevel_learner, inner_solver
from metajax.equality import EqualPartial
from metajax.objectives import loss_and_metrics
from metajax.runs.training import make_train_step

__all__ = ['Bench', 'Learned', 'Progress']

# Is told how many outer steps, or random draws, are done.
Progress = Callable[[int, int], None]


class Learned(NamedTuple):
  """Hyper-parameters that descent has found, and what that took."""

  hyperparams: PyTree
  curve: list[dict[str, float]]  # metrics after every few outer steps
  seconds: float  # without compiling
  skipped: int  # outer steps that were not finite


class Bench:
  """A problem with its ways to solve, whose programs are compiled once.

  Args:
    kind: the problem.
    solve: how its solutions are differentiated.
    inner_lr: of the inner problem, and so on.
    inner_steps: on all of the training data.
    outer_lr: of Adam.
    outer_steps: each an inner solution and a gradient.
    options: of `solve`, see `metajax.bilevel.inner_solver`.

  Raises:
    ValueError: if an option is wrong.
  """

  def __init__(
    self,
    kind: Kind,
    solve: Any,
    *,
    inner_lr: float,
    inner_steps: int,
    outer_lr: float,
    outer_steps: int,
    options: dict[str, Any],
  ) -> None:
    self.kind, self.outer_steps = kind, outer_steps
    optimizer = kind.optimizer(inner_lr)
    self._learner = bilevel_learner(
      kind.problem, kind.objective, optimizer, inner_steps, solve, **options
    )
    self._outer = optax.adam(outer_lr)
    solver = inner_solver(optimizer, inner_steps)

    def judged(
      key: jax.Array, hyperparams: PyTree, task: Task, test: Batch | None
    ) -> dict[str, jax.Array]:
      params, solved = solver(
        lambda params: kind.problem.inner(params, hyperparams, task.support),
        kind.problem.start(key, hyperparams, task.support.inputs),
        0.0,
      )

      def measured(batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        outputs = kind.problem.predict(params, hyperparams, batch.inputs)
        return loss_and_metrics(kind.objective, outputs, batch.targets)

      validation, _ = measured(task.query)
      if test is None:
        return {'validation_loss': validation}
      loss, metrics = measured(test)
      return {
        'validation_loss': validation,
        'loss': loss,
        'residual': solved.residual,
        **metrics,
      }

    self._judged = jax.jit(judged)

  def judge(self, seed: int, data: Data, rival: Rival) -> dict[str, float]:
    """What hyper-parameters reach on validation and test, once trained with."""
    task = data.task
    if rival.support is not None:
      task = Task(rival.support, task.query)
    hyperparams = rival.hyperparams
    found = self._judged(jax.random.key(seed), hyperparams, task, data.test)
    measures = self.kind.measure(data, hyperparams)
    return {name: float(value) for name, value in found.items()} | measures

  def validate(self, seed: int, data: Data, hyperparams: PyTree) -> float:
    """The validation loss of hyper-parameters, once trained with."""
    key = jax.random.key(seed)
    found = self._judged(key, hyperparams, data.task, None)
    return float(found['validation_loss'])

  def descend(self, seed: int, data: Data, progress: Progress) -> Learned:
    """Descends the validation loss by hyper-gradients."""
    same = jax.tree_util.Partial(EqualPartial(_the_same), data.task)
    train = make_train_step(
      self._learner, self._outer, same, tasks_per_step=1, chunk_size=1
    )
    state = train.init(jax.random.key(seed))
    state, _ = train.run(state, 0)  # compiles, and takes no step
    curve, seconds, skipped = list[dict[str, float]](), 0.0, 0
    every = max(1, self.outer_steps // 20)
    for done in range(0, self.outer_steps, every):
      steps = min(every, self.outer_steps - done)
      began = time.perf_counter()
      state, metrics = train.run(state, steps)
      found = {name: float(value) for name, value in metrics.items()}
      seconds += time.perf_counter() - began
      skipped += int(found['skipped'])
      curve.append({'step': float(done + steps), **found})
      progress(done + steps, self.outer_steps)
    learned = jax.tree.map(np.asarray, state.meta_params)
    return Learned(learned, curve, seconds, skipped)

  def search(
    self, seed: int, data: Data, seconds: float, progress: Progress
  ) -> dict[str, Any]:
    """The best of random draws by validation: of as many, and of as long.

    Returns:
      `solves`: what the best of as many inner solutions as outer steps
      reaches; `time`: of as many as fit into the seconds; `number` of these;
      `seconds` of all.
    """
    draw = jax.jit(data.draw)
    keys = jax.random.key(seed + 1)
    self.validate(seed, data, draw(keys))  # compiles
    best = of_solves = math.inf, draw(keys)
    number, in_time, spent, began = 0, 0, 0.0, time.perf_counter()
    while number < self.outer_steps or spent < seconds:
      hyperparams = draw(jax.random.fold_in(keys, number))
      drawn = self.validate(seed, data, hyperparams), hyperparams
      number, spent = number + 1, time.perf_counter() - began
      if number <= self.outer_steps:
        of_solves = min(of_solves, drawn, key=_loss)
      if spent <= seconds or number == 1:
        best, in_time = min(best, drawn, key=_loss), number
      progress(int(1000 * spent), int(1000 * seconds))
    reached = {
      name: self.judge(seed, data, Rival(hyperparams))
      for name, (_, hyperparams) in (('solves', of_solves), ('time', best))
    }
    return {**reached, 'number': in_time, 'seconds': spent}


def _loss(drawn: tuple[float, PyTree]) -> float:
  """What random search goes by; what is no number is the worst."""
  return math.inf if math.isnan(drawn[0]) else drawn[0]


def _the_same(task: Task, key: jax.Array) -> Task:
  """A task distribution of one task."""
  del key
  return task
