r"""Learns an optimiser: a network is drawn anew for every task, and trained.

.. math::
  \phi \leftarrow \arg\min_\phi \; \mathbb{E}_{T, \theta_0}
    \frac{1}{T} \sum_t w_t \, L(\theta_t, Q), \qquad
  \theta_t = \theta_{t-1} + u_\phi(\nabla L(\theta_{t-1}, S_t))

Support and query set of a task are a training and a validation set; every inner
step is on a batch of the one, and judged on a batch of the other.

References:
  Andrychowicz et al. (2016), Learning to learn by gradient descent by gradient
  descent, https://arxiv.org/abs/1606.04474, and those of
  `metajax.learned.optimizers` and `metajax.learned.estimators`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from metajax.base import (
  Adaptation,
  Batch,
  Learner,
  MetaGradient,
  MetaLearner,
  Metrics,
  Model,
  Objective,
  PyTree,
  Task,
  task_keys,
)
from metajax.base import num_tasks as num_tasks_of
from metajax.equality import by_value
from metajax.inner import partition
from metajax.inner.descend import descend
from metajax.learned._optimizer_checks import check_whole
from metajax.learned.estimators import (
  evolved,
  persistent,
  truncated,
  unrolled,
)
from metajax.learned.optimizers import OPTIMIZERS
from metajax.learned.unrolls import (
  LearnedParams,
  Unroll,
  begin,
  step_shares,
)
from metajax.models.modes import refuse_key
from metajax.objectives import loss_and_metrics

__all__ = [
  'ESTIMATORS',
  'KEEPS_UNROLLS',
  'Estimator',
  'learn_optimizer',
  'training_learner',
  'training_unroll',
]

Estimator = Literal['unrolled', 'truncated', 'es', 'pes', 'truncated_es']
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
# Those whose unrolls go on from one outer step to the next.
KEEPS_UNROLLS = frozenset({'truncated', 'pes', 'truncated_es'})
_OF_THE_QUERIES = 1 << 18  # folded into the key of a step


@by_value
def training_unroll(
  model: Model,
  objective: Objective,
  optimizer: str,
  horizon: int,
  *,
  batch_size: int | None = None,
  step_weights: Sequence[float] | None = None,
  spread: float = 0.0,
) -> Unroll:
  """Training of a network by a learned optimiser, as an unroll.

  Args:
    model: the network.
    objective: its loss, of both sets.
    optimizer: kind of learned optimiser, of `metajax.learned.OPTIMIZERS`.
    horizon: inner steps.
    batch_size: examples per step, drawn with replacement; all without it.
    step_weights: what the loss after each step counts, `[horizon]` numbers from
      0; all alike without them.
    spread: the weights of a network that is drawn are multiplied by e to a
      uniform number from minus this to this, so that optimisers meet networks
      of several scales.

  Raises:
    ValueError: if a number or the kind is none of the above.
  """
  refuse_key(model)
  if optimizer not in OPTIMIZERS:
    raise ValueError(
      f'optimizer must be one of {", ".join(OPTIMIZERS)}, got {optimizer!r}'
    )
  check_whole('horizon', horizon)
  if batch_size is not None:
    check_whole('batch_size', batch_size)
  if not 0 <= spread < math.inf:
    raise ValueError(f'spread must be 0 or more, got {spread}')
  shares = step_shares(step_weights, horizon)

  def start(key: jax.Array, weights: PyTree, task: Task) -> PyTree:
    params = _drawn(model, key, task.support.inputs, spread)
    rule = OPTIMIZERS[optimizer].make(weights, horizon)
    return params, rule.init(partition.split_learned(params)[0])

  def step(
    key: jax.Array, weights: PyTree, state: PyTree, index: jax.Array, task: Task
  ) -> tuple[PyTree, jax.Array]:
    params, rule_state = state
    rule = OPTIMIZERS[optimizer].make(weights, horizon)
    learned, buffers = partition.split_learned(params)
    support = _batch(key, task.support, batch_size)

    def loss_of(learned: PyTree) -> jax.Array:
      params = partition.merge(learned, buffers)
      return _loss(params, model, objective, support)

    updates, rule_state = rule.update(
      jax.grad(loss_of)(learned), rule_state, learned
    )
    learned = optax.apply_updates(learned, updates)
    params = partition.merge(learned, buffers)
    query_key = jax.random.fold_in(key, _OF_THE_QUERIES)
    query = _batch(query_key, task.query, batch_size)
    loss = _loss(params, model, objective, query)
    return (params, rule_state), loss * jnp.asarray(shares, loss.dtype)[index]

  return Unroll(start, step, horizon)


@by_value
def learn_optimizer(
  model: Model | Sequence[Model],
  objective: Objective,
  optimizer: str = 'mlp',
  horizon: int = 100,
  *,
  estimator: Estimator = 'unrolled',
  batch_size: int | None = None,
  step_weights: Sequence[float] | None = None,
  spread: float = 0.0,
  length: int | None = None,
  num_pairs: int = 4,
  scale: float = 0.01,
  num_tasks: int | None = None,
  task: Task | None = None,
) -> MetaLearner:
  """A learned optimiser as a method: what it adapts is a network drawn anew.

  Train it with `metajax.outer_optimizer(optimizer, metajax.learned.LABELS)`;
  its `weights` are then for `metajax.learned.mlp_optimizer` or `learned_adam`,
  anywhere. An estimator that keeps unrolls has to be given all tasks of a step
  at once: `chunk_size` is `num_tasks`, on one device.

  Args:
    model: the network; or several, of which each has an equal share of the
      tasks of a step, all of which are then to be given at once. The first is
      the one that is adapted at test.
    objective: its loss.
    optimizer: kind of learned optimiser, `'mlp'` or `'adam'`.
    horizon: inner steps.
    estimator: of the meta-gradient, see `metajax.learned.estimators`:
      `'unrolled'`, `'es'` (`evolved`), `'truncated'`, `'pes'` (`persistent`),
      `'truncated_es'` (`persistent` that is not corrected).
    batch_size: see `training_unroll`.
    step_weights: see `training_unroll`.
    spread: see `training_unroll`.
    length: steps of a part of an unroll, where unrolls are kept; a tenth of the
      horizon where that is whole.
    num_pairs: of `'es'`.
    scale: of `'es'`, `'pes'` and `'truncated_es'`.
    num_tasks: tasks per outer step, where unrolls are kept.
    task: a task, or its shapes (`jax.eval_shape(sample, key)`), where unrolls
      are kept.

  Returns:
    A `MetaLearner` whose meta-parameters are `LearnedParams`.

  Raises:
    ValueError: if a number or a name is none of the above; if unrolls are kept
      and `num_tasks`, `task` or `length` is missing, or `length` does not
      divide the horizon.

  Example:
    >>> import metajax
    >>> from metajax.models import mlp
    >>> learner = learn_optimizer(mlp([8], 1), metajax.mean_squared_error,
    ...                           'adam', horizon=20)
  """
  models = (model,) if isinstance(model, Model) else tuple(model)
  if not models:
    raise ValueError('model must be a network, or several; got none')
  unrolls = [
    training_unroll(
      each, objective, optimizer, horizon,
      batch_size=batch_size, step_weights=step_weights, spread=spread,
    )
    for each in models
  ]  # fmt: skip
  kept = estimator in KEEPS_UNROLLS
  part = _length(horizon, length) if kept else horizon
  grad = _over_networks(
    [_estimate(each, estimator, part, num_pairs, scale) for each in unrolls]
  )
  if kept:
    if num_tasks is None or task is None:
      raise ValueError(
        f'{estimator} keeps unrolls; give num_tasks, of an outer step, and'
        ' task, one of them or its shapes'
      )
    check_whole('num_tasks', num_tasks)

  def init(key: jax.Array, inputs: PyTree) -> LearnedParams:
    del inputs  # the optimiser fits all
    weights = OPTIMIZERS[optimizer].init(key)
    if num_tasks is None or task is None or not kept:
      return LearnedParams(weights)
    share, pairs = num_tasks // len(models), estimator != 'truncated'
    return LearnedParams(
      weights,
      tuple(
        begin(each, weights, task, share, part, pairs=pairs) for each in unrolls
      ),
    )

  def make(params: LearnedParams, steps: int) -> optax.GradientTransformation:
    return OPTIMIZERS[optimizer].make(params.weights, steps)

  learner = training_learner(
    models[0], objective, make, horizon, batch_size=batch_size, spread=spread
  )
  return MetaLearner(init, learner.adapt, learner.predict, grad=grad)


@by_value
def training_learner(
  model: Model,
  objective: Objective,
  make: Callable[[PyTree, int], optax.GradientTransformation],
  num_steps: int,
  *,
  batch_size: int | None = None,
  spread: float = 0.0,
) -> Learner:
  """Training of a network that is drawn anew, by any optimiser, as a learner.

  What a learned optimiser is compared with: from one key it draws the network
  and the batches that `learn_optimizer` does.

  Args:
    model: the network.
    objective: its loss.
    make: the optimiser, of meta-parameters such as its rate, and of the number
      of steps.
    num_steps: how many.
    batch_size: see `training_unroll`.
    spread: see `training_unroll`.

  Returns:
    A `Learner`; its `init` has no meta-parameters to offer, and is not used.

  Example:
    >>> import metajax
    >>> from metajax.models import mlp
    >>> learner = training_learner(
    ...   mlp([8], 1), metajax.mean_squared_error,
    ...   lambda rate, steps: optax.adam(rate), 10)
    >>> task = metajax.tasks.sinusoid(5, 5)(jax.random.key(0))
    >>> _, way = learner.adapt(jax.random.key(1), 0.01, task.support)
    >>> way.losses.shape
    (10,)
  """

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[PyTree, Adaptation]:
    start_key, steps_key = jax.random.split(key)
    params = _drawn(model, start_key, support.inputs, spread)

    def loss(params: PyTree, step: jax.Array) -> jax.Array:
      step_key = jax.random.fold_in(steps_key, step)
      return _loss(
        params, model, objective, _batch(step_key, support, batch_size)
      )

    rule = make(meta_params, num_steps)
    adapted, descent = descend(
      loss, params, rule, num_steps, second_order='none'
    )
    return adapted, Adaptation(descent.losses, descent.trajectory)

  return Learner(lambda key, inputs: (), adapt, model.apply)


def _over_networks(estimates: Sequence[MetaGradient]) -> MetaGradient:
  """The mean over networks, each with a share of the tasks of its own."""
  number = len(estimates)

  def grad(
    key: jax.Array, meta_params: LearnedParams, tasks: Task
  ) -> tuple[LearnedParams, Metrics]:
    total = num_tasks_of(tasks)
    if total % number:
      raise ValueError(
        f'got {total} tasks for {number} networks; give a multiple, all at'
        ' once: tasks_per_step and chunk_size are both their number'
      )
    keys = task_keys(key, total)
    share, found = total // number, []
    for place, estimate in enumerate(estimates):
      own = slice(place * share, (place + 1) * share)
      unrolls = meta_params.unrolls[place] if meta_params.unrolls else ()
      params = LearnedParams(meta_params.weights, unrolls)
      mine = jax.tree.map(lambda leaf, own=own: leaf[own], tasks)
      found.append(estimate(keys[own], params, mine))
    weights, metrics = jax.tree.map(
      lambda *leaves: sum(leaves) / number,
      *((gradient.weights, metrics) for gradient, metrics in found),
    )
    if not meta_params.unrolls:
      return LearnedParams(weights), metrics
    unrolls = tuple(gradient.unrolls for gradient, _ in found)
    return LearnedParams(weights, unrolls), {
      **metrics, 'loss': _loss_of_good([metrics for _, metrics in found])
    }  # fmt: skip

  return grad


def _loss_of_good(found: Sequence[Metrics]) -> jax.Array:
  """The mean over all unrolls that have not diverged, of any network."""
  losses = jnp.stack([each['loss'] for each in found])
  good = 1 - jnp.stack([each['diverged'] for each in found])
  return jnp.sum(jnp.where(good > 0, good * losses, 0)) / jnp.sum(good)


def _length(horizon: int, length: int | None) -> int:
  if length is not None:
    return length
  return horizon // 10 if horizon % 10 == 0 else horizon


def _estimate(
  unroll: Unroll, estimator: str, length: int, num_pairs: int, scale: float
) -> MetaGradient:
  if estimator == 'unrolled':
    return unrolled(unroll)
  if estimator == 'es':
    return evolved(unroll, num_pairs=num_pairs, scale=scale)
  if estimator == 'truncated':
    return truncated(unroll, length)
  if estimator in ('pes', 'truncated_es'):
    corrected = estimator == 'pes'
    return persistent(unroll, length, scale=scale, corrected=corrected)
  raise ValueError(
    f'estimator must be one of {", ".join(ESTIMATORS)}, got {estimator!r}'
  )


def _drawn(
  model: Model, key: jax.Array, inputs: PyTree, spread: float
) -> PyTree:
  """The parameters of a network, of another scale each time."""
  if not spread:
    return model.init(key, inputs)
  init_key, scale_key = jax.random.split(key)
  scale = jnp.exp(spread * jax.random.uniform(scale_key, minval=-1, maxval=1))
  return jax.tree.map(
    lambda leaf: (scale * leaf).astype(leaf.dtype), model.init(init_key, inputs)
  )


def _batch(key: jax.Array, batch: Batch, size: int | None) -> Batch:
  if size is None:
    return batch
  number = len(jax.tree.leaves(batch)[0])
  chosen = jax.random.randint(key, (size,), 0, number)
  drawn: Batch = jax.tree.map(lambda leaf: leaf[chosen], batch)
  return drawn


def _loss(
  params: PyTree, model: Model, objective: Objective, batch: Any
) -> jax.Array:
  outputs = model.apply(params, batch.inputs)
  return loss_and_metrics(objective, outputs, batch.targets)[0]
