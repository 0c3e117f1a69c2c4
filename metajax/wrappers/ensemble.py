r"""An ensemble of meta-learners: any method, several times at once.

.. math::
  p(y \mid x) = \sum_{e=1}^{E} w_e \, p_{\theta_e}(y \mid x)

Members differ in their initialisation and in the keys that they adapt with,
and nothing else: each has the meta-gradient that it would have alone.

References:
  Dvornik, Schmid, Mairal (2019), Diversity with cooperation: ensemble methods
  for few-shot classification, https://arxiv.org/abs/1903.11341
  Stacking: Wolpert (1992), Stacked generalization; Breiman (1996).
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from metajax.adaptation.classes import check_classes
from metajax.base import (
  Adaptation,
  Batch,
  MetaLearner,
  Metrics,
  PyTree,
  Task,
  num_tasks,
  task_keys,
  values_and_weights,
)
from metajax.equality import by_value
from metajax.inner import partition
from metajax.objectives import weighted_mean
from metajax.wrappers.selection import held_out

__all__ = ['Combination', 'Members', 'combine', 'ensemble', 'stack']

Combination = Literal['mean', 'vote', 'stacked', 'outputs']

# Weights are estimated in so many rounds, which converge at a handful of
# examples.
_ROUNDS = 50


class Members(NamedTuple):
  """What an ensemble knows of a task."""

  adapted: PyTree  # leaves [members, ...]
  weights: jax.Array  # [members], with sum 1


@by_value
def ensemble(
  meta_learner: MetaLearner,
  size: int,
  combination: Combination = 'mean',
  *,
  num_classes: int | None = None,
  num_folds: int | None = None,
) -> MetaLearner:
  r"""Several copies of a method, vectorised.

  Logits are combined as probabilities and given back as their logarithms:
  `'mean'`, of all members alike; `'vote'`, by how many members a class comes
  first for, with half a vote for their mean, which breaks ties; `'stacked'`,
  the mean with weights that are fitted to each task, so that the likelihood of
  support examples, each left out in turn, is the highest. For regression there
  is `'outputs'`, the mean of these as they are.

  Args:
    meta_learner: any method.
    size: how many members.
    combination: one of these four.
    num_classes: for `'stacked'`: classes per task, with 2 support examples or
      more each.
    num_folds: for `'stacked'`: how often examples are left out, as for
      `metajax.wrappers.selection.select`.

  Returns:
    A `MetaLearner` whose meta-parameters have a leading axis of members. Its
    metrics in training are means over members, not those of the combination.

  Raises:
    ValueError: if `size` is not positive, `combination` is none of these, or
      if `'stacked'` is without `num_classes`; when it adapts, if the support
      set cannot be divided, or if targets are not classes for another
      combination than `'outputs'`.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = ensemble(
    ...   metajax.maml(conv4(5), metajax.cross_entropy, 0.4, 1), size=4)
  """
  if size < 1:
    raise ValueError(f'size must be 1 or more, got {size}')
  if combination not in get_args(Combination):
    raise ValueError(
      f'combination must be one of {", ".join(get_args(Combination))}; got'
      f' {combination!r}'
    )
  if combination == 'stacked' and num_classes is None:
    raise ValueError("combination='stacked' needs num_classes")

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    return jax.vmap(meta_learner.init, in_axes=(0, None))(
      task_keys(key, size), inputs
    )

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[Members, Adaptation]:
    if combination != 'outputs':
      check_classes(support.targets)
    keys = task_keys(key, size)
    adapted, adaptation = jax.vmap(meta_learner.adapt, in_axes=(0, 0, None))(
      keys, meta_params, support
    )
    weights = jnp.full((size,), 1 / size)
    if combination == 'stacked':
      weights = stack(
        *jax.vmap(
          lambda key, params: held_out(
            meta_learner, key, params, support, num_classes, num_folds
          )
        )(keys, meta_params)
      )
    along = jax.tree.map(
      lambda leaf: jnp.swapaxes(leaf, 0, 1), adaptation.trajectory
    )
    # Before the first step the members know no label, nor do the weights.
    length = len(jax.tree.leaves(along)[0])
    alike = jnp.full_like(weights, 1 / size)
    later = partition.repeat(weights, length - 1)
    trajectory = Members(along, jnp.concatenate([alike[None], later]))
    losses = jnp.mean(adaptation.losses, axis=0)
    return Members(adapted, weights), Adaptation(losses, trajectory)

  def predict(adapted: Members, inputs: PyTree) -> jax.Array:
    outputs = jax.vmap(meta_learner.predict, in_axes=(0, None))(
      adapted.adapted, inputs
    )
    if combination == 'outputs':
      return jnp.mean(outputs, axis=0)
    return combine(outputs, adapted.weights, votes=combination == 'vote')

  def grad(
    key: jax.Array, meta_params: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    of_tasks = task_keys(key, num_tasks(tasks))
    of_members = jax.vmap(lambda key: task_keys(key, size), out_axes=1)
    gradients, metrics = jax.vmap(meta_learner.grad, in_axes=(0, 0, None))(
      of_members(of_tasks), meta_params, tasks
    )
    return gradients, jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), metrics)

  return MetaLearner(init, adapt, predict, grad)


def combine(
  outputs: jax.Array, weights: jax.Array, votes: bool = False
) -> jax.Array:
  """The logarithms of a mixture of probabilities.

  Args:
    outputs: logits `[members, examples, classes]`.
    weights: `[members]`, with sum 1.
    votes: let members vote, instead of taking the mean.

  Returns:
    `[examples, classes]`.

  Example:
    >>> import jax.numpy as jnp
    >>> sure, unsure = jnp.array([[[9.0, 0.0]]]), jnp.array([[[0.0, 1.0]]])
    >>> outputs = jnp.concatenate([sure, unsure, unsure])
    >>> weights = jnp.full(3, 1 / 3)
    >>> int(jnp.argmax(combine(outputs, weights)))
    0
    >>> int(jnp.argmax(combine(outputs, weights, votes=True)))
    1
  """
  each = jax.nn.log_softmax(outputs) + jnp.log(weights)[:, None, None]
  mean = jax.nn.logsumexp(each, axis=0)
  if not votes:
    return mean
  first = jnp.argmax(outputs, axis=-1)
  counts = jnp.sum(
    jax.nn.one_hot(first, outputs.shape[-1], dtype=outputs.dtype), axis=0
  )
  return jnp.log((counts + 0.5 * jnp.exp(mean)) / (len(outputs) + 0.5))


def stack(outputs: jax.Array, targets: PyTree) -> jax.Array:
  r"""Weights of a mixture that make the likelihood of targets the highest.

  .. math:: w_e \leftarrow \frac{1}{\sum_i c_i} \sum_i c_i
    \frac{w_e p_e(y_i)}{\sum_{e'} w_{e'} p_{e'}(y_i)}

  Each round of expectation-maximisation raises the likelihood, which is
  concave in the weights.

  Args:
    outputs: logits `[members, examples, classes]`.
    targets: integer classes `[members, examples]`, the same for each member, or
      `Weighted` ones with weights c of this shape.

  Returns:
    Weights `[members]`, with sum 1.
  """
  classes, weights = values_and_weights(targets)
  if weights is None:
    weights = jnp.ones(classes.shape, outputs.dtype)
  logs = jnp.take_along_axis(
    jax.nn.log_softmax(outputs), classes[..., None], axis=-1
  )[..., 0]

  counts = weights.astype(logs.dtype)

  def round_of(weights: jax.Array, _: None) -> tuple[jax.Array, None]:
    shares = jax.nn.softmax(logs + jnp.log(weights)[:, None], axis=0)
    return jax.vmap(weighted_mean)(shares, counts), None

  start = jnp.full((len(logs),), 1 / len(logs), logs.dtype)
  weights, _ = jax.lax.scan(round_of, start, length=_ROUNDS)
  return weights
