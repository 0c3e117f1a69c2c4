r"""Self-destructing models: weights that adapt to what is wanted alone.

Meta-learning with its sign turned around, for a task that is blocked. An
adversary adapts the weights :math:`\phi` to it, with a new head and K steps of
Adam; what is learned is to be good at a wanted task, and a bad start for that
adversary:

.. math::
  \min_\phi \; L(\phi, W) - \lambda \frac{1}{K + 1} \sum_{t=0}^{K}
    H(\phi_t, B), \qquad
  \phi_{t+1} = \phi_t - \alpha\,\mathrm{Adam}(\nabla L(\phi_t, S))

with W examples of the wanted task, S and B examples of the blocked one, and H
what the adversary fails by, see `AGAINST`. An adversary of a fixed number of
steps is beaten by one with more of them, or with another rate. So both can be
drawn anew for each task: the number of steps uniformly, and the rate as

.. math::
  \log \alpha = \log a + \sigma(z + s\,\epsilon) (\log b - \log a), \qquad
  \epsilon \sim \mathrm{Logistic}(0, 1)

where z is learned by the adversary, against the weights. With a spread s of 1
it begins uniform between a and b, and with 0 the rate is what is learned.

References:
  Henderson, Mitchell, Manning, Jurafsky, Finn (2023), Self-destructing models:
  increasing the costs of harmful dual uses of foundation models,
  https://arxiv.org/abs/2211.14946
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.adaptation.solved_head import ridge_regression
from metajax.base import (
  Adaptation,
  Batch,
  MetaLearner,
  Metrics,
  Model,
  Objective,
  PyTree,
  Task,
)
from metajax.equality import by_value
from metajax.estimators import gradient_of
from metajax.inner import partition
from metajax.inner.descend import Checkpoint, check_num_steps, descend
from metajax.inner.optimizers import adam
from metajax.inner.second_order import SecondOrder
from metajax.models.modes import training, with_key
from metajax.objectives import cross_entropy, loss_and_metrics

__all__ = ['AGAINST', 'Contest', 'Guarded', 'calibrated', 'self_destruct']

# Logits for a share of votes: those of the class of all votes, and of none.
_SHARPNESS = 8.0


class Contest(NamedTuple):
  """The inputs of both tasks, or their targets, side by side."""

  blocked: PyTree
  wanted: PyTree


class Guarded(NamedTuple):
  """What is learned: the weights, and by the adversary its rate."""

  params: PyTree  # of the model, with the head of the wanted task
  rate: jax.Array  # z, see above; rates are anything but linear in it


def calibrated(
  logits: jax.Array, targets: jax.Array, ridge: float = 1e-2
) -> jax.Array:
  r"""The best that can be read from logits, by a linear map to the labels.

  .. math::
    \mathrm{logits}' = s X (X^T X / n + \rho I)^{-1} X^T Y / n

  with X the logits, standardised and with a constant, and Y the labels, one
  hot. An adversary that is wrong because classes have changed places is not
  one that has learned nothing, and its loss shall not count as if it were.

  Args:
    logits: `[examples, outputs]`.
    targets: integer classes `[examples]`, below the number of outputs.
    ridge: rho; the larger, the less of chance is taken for knowledge.

  Returns:
    Logits of the same shape.

  Example:
    >>> import jax.numpy as jnp
    >>> wrong = jnp.array([[0.0, 9.0], [9.0, 0.0]])
    >>> jnp.argmax(calibrated(wrong, jnp.array([0, 1])), axis=1).tolist()
    [0, 1]
  """
  examples, outputs = logits.shape
  centred = logits - jnp.mean(logits, axis=0, keepdims=True)
  size = jnp.mean(jnp.square(centred)) + jnp.finfo(logits.dtype).eps
  constant = jnp.ones((examples, 1), logits.dtype)
  features = jnp.concatenate([centred * jax.lax.rsqrt(size), constant], axis=1)
  labels = jax.nn.one_hot(targets, outputs, dtype=logits.dtype)
  fitted = ridge_regression(features, labels, examples * ridge)
  return _SHARPNESS * features @ fitted


def _calibrated(
  logits: jax.Array, targets: jax.Array, ridge: float
) -> jax.Array:
  return cross_entropy(calibrated(logits, targets, ridge), targets)[0]


def _entropy(logits: jax.Array, targets: jax.Array, ridge: float) -> jax.Array:
  del targets, ridge
  log_shares = jax.nn.log_softmax(logits)
  return -jnp.mean(jnp.sum(jnp.exp(log_shares) * log_shares, axis=-1))


def _clamped(logits: jax.Array, targets: jax.Array, ridge: float) -> jax.Array:
  return jnp.minimum(_negated(logits, targets, ridge), jnp.log(logits.shape[1]))


def _negated(logits: jax.Array, targets: jax.Array, ridge: float) -> jax.Array:
  del ridge
  return cross_entropy(logits, targets)[0]


AGAINST: dict[str, Callable[[jax.Array, jax.Array, float], jax.Array]] = {
  # The cross-entropy of the best linear reading of its logits (`calibrated`),
  'calibrated': _calibrated,
  # how undecided it is,
  'entropy': _entropy,
  # its cross-entropy, which has no bound,
  'negated': _negated,
  # and the same up to that of chance.
  'clamped': _clamped,
}


@by_value
def self_destruct(
  model: Model,
  blocked_model: Model,
  objective: Objective,
  *,
  against: str = 'calibrated',
  weight: float = 1.0,
  num_steps: int = 16,
  min_steps: int | None = None,
  batch_size: int | None = None,
  rates: tuple[float, float] = (1e-6, 1e-2),
  rate_spread: float = 0.0,
  eps_root: float = 1e-8,
  ridge: float = 1e-2,
  second_order: SecondOrder = 'mixed',
  checkpoint: Checkpoint = 'none',
) -> MetaLearner:
  """Trains a model that is good at one task, and bad to adapt to another.

  `adapt` is the adversary, with all its steps, at the rate that it has learned;
  `predict` is what it has then. A task of training has the adversary's examples
  for its support set; its queries are a `Contest`, as many of either task.

  Args:
    model: the network with the head of the wanted task, whose parameters have
      a part called `head` (see `metajax.inner.partition.head`).
    blocked_model: the same network with a head of the blocked one, whose
      targets are integer classes. The adversary begins with a head that this
      draws.
    objective: of the wanted task.
    against: a name in `AGAINST`: what the adversary is to fail by. Losses
      without a bound can be won by large logits alone.
    weight: lambda, what the blocked task counts.
    num_steps: K, the most steps of the adversary.
    min_steps: draw their number for each task, from so many to `num_steps`;
      always all of them by default.
    batch_size: examples of a step of the adversary, drawn for each; the whole
      support set by default.
    rates: a and b, between which the adversary's rate is.
    rate_spread: s, how widely it is drawn around the one that is learned.
    eps_root: of its Adam; without one updates have steep derivatives.
    ridge: of `calibrated`.
    second_order: how the adversary's gradients are differentiated; with
      `'none'` they are held constant (see `metajax.inner.descend`).
    checkpoint: what is computed again instead of kept, see there.

  Returns:
    A `MetaLearner` of `Guarded` meta-parameters. Its metrics are `loss`, those
    of the objective on the wanted task, and of the adversary `blocked_failure`
    (mean of H), `blocked_accuracy` after its last step, and `adversary_rate`.

  Raises:
    ValueError: if `against` is no such name, rates, weights or counts are out
      of their range; in `grad`, if queries are no `Contest`.

  Example:
    >>> import jax, metajax
    >>> from metajax.models import mlp
    >>> learner = self_destruct(
    ...   mlp([4], 3), mlp([4], 2), metajax.cross_entropy, num_steps=1)
    >>> batch = lambda ways: metajax.Batch(
    ...   jax.numpy.ones((6, 5)), jax.numpy.arange(6) % ways)
    >>> blocked, wanted = batch(2), batch(3)
    >>> task = metajax.Task(
    ...   support=blocked,
    ...   query=metajax.Batch(Contest(blocked.inputs, wanted.inputs),
    ...                       Contest(blocked.targets, wanted.targets)))
    >>> @jax.jit
    ... def gradient(key, task):
    ...   params = learner.init(key, task.support.inputs)
    ...   tasks = jax.tree.map(lambda leaf: leaf[None], task)
    ...   return learner.grad(key, params, tasks)
    >>> _, metrics = gradient(jax.random.key(0), task)
    >>> sorted(metrics)  # doctest: +NORMALIZE_WHITESPACE
    ['accuracy', 'adversary_rate', 'blocked_accuracy', 'blocked_failure',
     'loss']
  """
  _check(against, num_steps, min_steps, batch_size, rates)
  for name, value in (('weight', weight), ('rate_spread', rate_spread)):
    if not 0 <= value < math.inf:
      raise ValueError(f'{name} must be 0 or more, got {value}')
  if not 0 < ridge < math.inf:
    raise ValueError(f'ridge must be above 0, got {ridge}')
  failure = AGAINST[against]
  low, high = (jnp.log(each) for each in rates)

  def init(key: jax.Array, inputs: PyTree) -> Guarded:
    return Guarded(model.init(key, inputs), jnp.zeros(()))

  adversary = _Adversary(
    blocked_model, num_steps, batch_size, eps_root, second_order, checkpoint
  )

  def adapt(
    key: jax.Array, meta_params: Guarded, support: Batch
  ) -> tuple[PyTree, Adaptation]:
    rate = jnp.exp(low + (high - low) * jax.nn.sigmoid(meta_params.rate))
    nothing: Callable[[PyTree], PyTree] = lambda params: ()  # noqa: E731
    adapted, adaptation, _ = adversary.attack(
      key, meta_params.params, rate, support, None, nothing
    )
    return adapted, adaptation

  def contest_loss(
    key: jax.Array, meta_params: Guarded, task: Task
  ) -> tuple[jax.Array, Metrics]:
    inputs, targets = task.query
    if not isinstance(inputs, Contest) or not isinstance(targets, Contest):
      raise ValueError(
        'inputs and targets of the queries must be a Contest, of the blocked'
        f' and the wanted task; got {type(inputs).__name__} and'
        f' {type(targets).__name__}'
      )
    attack_key, rate_key, steps_key, wanted_key = jax.random.split(key, 4)
    noise = rate_spread * jax.random.logistic(rate_key)
    share = jax.nn.sigmoid(_opposed(meta_params.rate) + noise)
    rate = jnp.exp(low + (high - low) * share)
    steps = None
    if min_steps is not None:
      steps = jax.random.randint(steps_key, (), min_steps, num_steps + 1)

    def judge(params: PyTree) -> tuple[jax.Array, jax.Array]:
      logits = blocked_model.apply(params, inputs.blocked)
      _, metrics = cross_entropy(logits, targets.blocked)
      return failure(logits, targets.blocked, ridge), metrics['accuracy']

    _, _, (failures, accuracies) = adversary.attack(
      attack_key, meta_params.params, rate, task.support, steps, judge
    )
    taken = jnp.arange(num_steps + 1) <= (num_steps if steps is None else steps)
    failed = jnp.sum(jnp.where(taken, failures, 0)) / jnp.sum(taken)
    apply = with_key(model.apply, wanted_key)
    loss, metrics = loss_and_metrics(
      objective, apply(meta_params.params, inputs.wanted), targets.wanted
    )
    total = loss - weight * failed
    return total, {
      **metrics,
      'loss': total,
      'blocked_failure': failed,
      'blocked_accuracy': accuracies[-1],
      'adversary_rate': rate,
    }

  return MetaLearner(
    init, adapt, blocked_model.apply, gradient_of(contest_loss)
  )


class _Adversary(NamedTuple):
  """Whoever adapts the weights to what is blocked."""

  model: Model  # with a head of the blocked task
  num_steps: int
  batch_size: int | None
  eps_root: float
  second_order: SecondOrder
  checkpoint: Checkpoint

  def attack(
    self,
    key: jax.Array,
    params: PyTree,
    rate: jax.Array,
    support: Batch,
    steps: jax.Array | None,
    judge: Callable[[PyTree], PyTree],
  ) -> tuple[PyTree, Adaptation, PyTree]:
    """The adversary; and what is judged before each step and after all."""
    head_key, step_key = jax.random.split(key)
    head, _ = partition.split(
      self.model.init(head_key, support.inputs), partition.head
    )
    _, body = partition.split(params, partition.head)

    def loss(params: PyTree, step: jax.Array) -> tuple[jax.Array, PyTree]:
      batch, own = support, jax.random.fold_in(step_key, step)
      if self.batch_size is not None:
        number = len(jax.tree.leaves(support.targets)[0])
        at = jax.random.randint(own, (self.batch_size,), 0, number)
        batch = jax.tree.map(lambda leaf: leaf[at], support)
      apply = training(self.model.apply, own, step)
      outputs = apply(params, batch.inputs)
      return cross_entropy(outputs, batch.targets)[0], judge(params)

    adapted, descent = descend(
      loss,
      partition.merge(head, body),
      adam(rate, eps_root=self.eps_root),
      self.num_steps,
      active_steps=steps,
      has_aux=True,
      second_order=self.second_order,
      checkpoint=self.checkpoint,
    )
    judged = jax.tree.map(
      lambda before, last: jnp.concatenate([before, last[None]]),
      descent.aux,
      judge(adapted),
    )
    return adapted, Adaptation(descent.losses, descent.trajectory), judged


def _opposed(value: jax.Array) -> jax.Array:
  """The same value, whose derivative is that of its opposite."""
  return 2 * jax.lax.stop_gradient(value) - value


def _check(
  against: str,
  num_steps: int,
  min_steps: int | None,
  batch_size: int | None,
  rates: tuple[float, float],
) -> None:
  if against not in AGAINST:
    raise ValueError(
      f'against must be one of {", ".join(AGAINST)}; got {against!r}'
    )
  check_num_steps(num_steps)
  if min_steps is not None and not 0 <= min_steps <= num_steps:
    raise ValueError(
      f'min_steps must be from 0 to num_steps={num_steps}, got {min_steps}'
    )
  if batch_size is not None and batch_size < 1:
    raise ValueError(f'batch_size must be 1 or more, got {batch_size}')
  if not 0 < rates[0] < rates[1] < math.inf:
    raise ValueError(
      'rates must be two finite numbers above 0, the smaller one first; got'
      f' {rates}'
    )
