"""Learned optimisers against those that all have, tuned, on like networks."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.runner.intervals import of_few
from experiments.runner.problem import TEST_SEED, VALIDATION_SEED
from experiments.runner.progress import shown
from metajax.base import (
  Learner,
  Metrics,
  Model,
  Objective,
  PyTree,
  SampleTask,
)
from metajax.equality import by_value
from metajax.learned import OPTIMIZERS, training_learner
from metajax.runs.evaluation import Judged, evaluate

__all__ = ['RATES', 'Opponent', 'Place', 'compare', 'stepping']


class Opponent(NamedTuple):
  """Adam or SGD with momentum, at a rate that may fall by a cosine."""

  rate: jax.Array | float
  falls: jax.Array | float = 0.0  # above 0: it does
  momentum: jax.Array | float = 0.0  # above 0: SGD


def stepping(opponent: Opponent, steps: int) -> optax.GradientTransformation:
  """All opponents in one, as each network then has one program for them."""
  adam, momentum = optax.scale_by_adam(), optax.trace(decay=0.9)
  falling = optax.cosine_decay_schedule(1.0, steps)

  def init(params: PyTree) -> PyTree:
    return jnp.int32(0), adam.init(params), momentum.init(params)

  def update(
    gradient: PyTree, state: PyTree, params: PyTree = None
  ) -> tuple[PyTree, PyTree]:
    del params
    count, moments, trace = state
    by_adam, moments = adam.update(gradient, moments)
    by_sgd, trace = momentum.update(gradient, trace)
    share = jnp.where(opponent.falls > 0, falling(count), 1.0)
    updates = jax.tree.map(
      lambda one, other: (
        -opponent.rate * share * jnp.where(opponent.momentum > 0, other, one)
      ),
      by_adam,
      by_sgd,
    )
    return updates, (count + 1, moments, trace)

  return optax.GradientTransformation(init, update)


_OPPONENTS: dict[str, Callable[[float], Opponent]] = {
  'adam': Opponent,
  'adam_cosine': partial(Opponent, falls=1.0),
  'sgd_momentum': partial(Opponent, momentum=1.0),
}
_FEW = 300  # steps
# Ten of each; the best is found, and is at no end where that is so.
RATES: dict[str, np.ndarray] = {
  'adam': np.geomspace(1e-3, 3e-1, 10),
  'adam_cosine': np.geomspace(1e-3, 3e-1, 10),
  'sgd_momentum': np.geomspace(3e-3, 3.0, 10),
}


class Place(NamedTuple):
  """Where optimisers are compared: a network, and for how many steps."""

  model: Model
  steps: int


class _Bench(NamedTuple):
  objective: Objective
  batch_size: int | None
  # Tasks with their examples of training behind the queries:
  tuning: SampleTask  # on classes of training, by which rates are chosen
  test: SampleTask
  queries: int  # of a task, without these
  num_tasks: int
  num_tuning: int


def compare(
  weights: PyTree,
  kind: str,
  places: Mapping[str, Place],
  **bench: Any,
) -> dict[str, Any]:
  """Trains unseen networks by each optimiser, from the same starts and batches.

  The rate of an opponent is that of ten which has the lowest mean final loss on
  networks of the same kind on classes of training, for as many steps. Beside
  it stands the best of the ten for each task, which nobody could have known.

  Args:
    weights: of the learned optimiser.
    kind: of it.
    places: what is trained, by name.
    **bench: fields of `_Bench`.

  Returns:
    By place: of the learned optimiser and of each opponent the final losses on
    validation and training examples, with intervals, and paired differences.
  """
  of, found = _Bench(**bench), {}
  for name, place in places.items():
    with shown(f'comparing optimisers: {name}', at_once=True):
      found[name] = _at(weights, kind, place, of)
  return found


def _at(
  weights: PyTree, kind: str, place: Place, bench: _Bench
) -> dict[str, Any]:
  learned = _learner(place, OPTIMIZERS[kind].make, bench)
  ours = _tested(learned, weights, bench)
  summary: dict[str, Any] = {
    'steps': place.steps,
    'learned': _described(ours),
  }
  learner = _learner(place, stepping, bench)
  for name, make in _OPPONENTS.items():
    rates = RATES[name]
    each = [make(rate) for rate in rates]
    tuned = [_tuned(learner, one, bench, place.steps) for one in each]
    best = int(np.argmin([x if np.isfinite(x) else np.inf for x in tuned]))
    theirs = _tested(learner, each[best], bench)
    summary[name] = {
      'rate': float(rates[best]),
      'rate_at_an_end': best in (0, len(rates) - 1),
      **_described(theirs),
      'difference': _difference(ours, theirs),
    }
    if name == 'adam' and place.steps <= _FEW:  # with hindsight, for each task
      tested = [_tested(learner, one, bench)['validation'] for one in each]
      finals = np.stack([one[:, -1] for one in tested])
      finals = np.where(np.isfinite(finals), finals, np.inf).min(0)
      summary['adam_best_for_each_task'] = {
        'validation': _mean(finals),
        'difference': _mean(ours['validation'][:, -1] - finals),
      }
  return summary


def _learner(
  place: Place,
  make: Callable[[PyTree, int], optax.GradientTransformation],
  bench: _Bench,
) -> Learner:
  return training_learner(
    place.model, bench.objective, make, place.steps, batch_size=bench.batch_size
  )


def _tuned(
  learner: Learner, opponent: Opponent, bench: _Bench, steps: int
) -> float:
  """The mean final loss on networks that rates are chosen by."""
  # Of few steps all are judged: one compiled program then serves the test too.
  judged: Judged = 'every_step' if steps <= _FEW else 'last_step'
  found = _losses(
    learner, opponent, bench, bench.tuning, VALIDATION_SEED,
    bench.num_tuning, judged,
  )  # fmt: skip
  return float(found['validation'][:, -1].mean())


def _tested(
  learner: Learner, meta_params: PyTree, bench: _Bench
) -> dict[str, np.ndarray]:
  return _losses(
    learner, meta_params, bench, bench.test, TEST_SEED, bench.num_tasks,
    'every_step',
  )  # fmt: skip


def _losses(
  learner: Learner,
  meta_params: PyTree,
  bench: _Bench,
  sample: SampleTask,
  seed: int,
  number: int,
  judged: Judged,
) -> dict[str, np.ndarray]:
  """Losses on validation and training examples, `[tasks, steps + 1]`."""
  values = evaluate(
    learner,
    _both_losses(bench.objective, bench.queries),
    jax.tree.map(jnp.float32, meta_params),
    sample,
    key=jax.random.key(seed),
    num_tasks=number,
    judged=judged,
  ).values
  return {
    'validation': np.asarray(values['loss'], float),
    'training': np.asarray(values['training'], float),
  }


@by_value
def _both_losses(objective: Objective, queries: int) -> Objective:
  """The loss on the queries, and that on what stands behind them."""

  def both(outputs: PyTree, targets: PyTree) -> tuple[jax.Array, Metrics]:
    (loss, _), (training, _) = (
      objective(outputs[part], targets[part])
      for part in (slice(queries), slice(queries, None))
    )
    return loss, {'training': training}

  return both


def _described(found: dict[str, np.ndarray]) -> dict[str, Any]:
  return {name: _mean(values[:, -1]) for name, values in found.items()} | {
    f'{name}_curve': _thinned(values.mean(0)) for name, values in found.items()
  }


def _thinned(curve: np.ndarray, most: int = 101) -> list[list[float]]:
  """Steps and losses, not more than can be told apart in a picture."""
  steps = np.unique(np.linspace(0, len(curve) - 1, most).round().astype(int))
  return [steps.tolist(), np.round(curve[steps], 5).tolist()]


def _difference(
  ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> dict[str, Any]:
  return {name: _mean((ours[name] - theirs[name])[:, -1]) for name in ours}


def _mean(values: np.ndarray) -> dict[str, Any]:
  """A mean with half its interval; of finite values, and how many are not."""
  finite = values[np.isfinite(values)]
  several = len(finite) > 1
  return {
    'mean': float(finite.mean()) if len(finite) else None,
    'ci95': float(of_few(finite)) if several else None,
    'not_finite': int(len(values) - len(finite)),
  }
