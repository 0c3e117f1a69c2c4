"""What methods that adapt in closed form share: classes, means, one step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from metajax.base import EXCLUDED, Adaptation, PyTree, values_and_weights
from metajax.objectives import without_padding

__all__ = [
  'Classifier',
  'Targets',
  'are_numbers',
  'check_classes',
  'check_num_classes',
  'class_means',
  'classify',
  'encode_classes',
  'encode_targets',
  'memberships',
  'one_step',
  'present',
  'rule_out_absent',
  'unit_length',
]

# A vector that is shorter has no direction.
_SHORT = 1e-5


def check_num_classes(num_classes: int, at_least: int = 1) -> None:
  """Refuses numbers of classes that cannot be meant."""
  if num_classes < at_least:
    raise ValueError(
      f'num_classes must be {at_least} or more, got {num_classes}'
    )


def check_classes(targets: PyTree) -> None:
  """Refuses targets of other problems than classification."""
  classes, weights = values_and_weights(targets)
  if classes.ndim != 1 or not jnp.issubdtype(classes.dtype, jnp.integer):
    raise ValueError(
      'this method classifies, and wants integer classes [examples] as'
      f' targets; got {classes.dtype} of shape {classes.shape}'
    )
  _check_weights(weights, classes.shape[0])


def _check_weights(weights: jax.Array | None, examples: int) -> None:
  if weights is not None and jnp.shape(weights) != (examples,):
    raise ValueError(
      f'this method wants one weight for each of {examples} examples; got'
      f' weights of shape {jnp.shape(weights)}'
    )


def memberships(
  targets: PyTree, num_classes: int, dtype: DTypeLike
) -> jax.Array:
  """Says which example is of which class.

  Args:
    targets: integer classes `[examples]`, or `Weighted` ones.
    num_classes: how many there are.
    dtype: of the result.

  Returns:
    `[examples, classes]`, the weight of the example, or else 1, where it is of
    the class, 0 elsewhere. An example of no class that there is has no
    numbers, unless its weight is 0.

  Raises:
    ValueError: if targets are not integer classes.

  Example:
    >>> import jax.numpy as jnp
    >>> memberships(jnp.array([1, 0]), 2, 'float32').tolist()
    [[0.0, 1.0], [1.0, 0.0]]
  """
  check_classes(targets)
  classes, weights = values_and_weights(targets)
  if weights is None:
    weights = jnp.ones(classes.shape, dtype)
  inside = (classes >= 0) & (classes < num_classes)
  members = jax.nn.one_hot(classes, num_classes, dtype=dtype)
  # No product with nan: the compiler takes one with booleans for a choice.
  return jnp.where(
    (inside | (weights == 0))[:, None],
    weights.astype(dtype)[:, None] * members,
    jnp.nan,
  )


def are_numbers(targets: PyTree) -> bool:
  """Says whether targets are numbers `[examples, outputs]`, so no classes."""
  values, _ = values_and_weights(targets)
  return values.ndim == 2 and jnp.issubdtype(values.dtype, jnp.floating)


class Targets(NamedTuple):
  """Targets of a support set as rows of numbers."""

  rows: jax.Array  # [examples, outputs]; classes are one-hot; 0 for padding
  weights: jax.Array  # [examples]; 0 for padding
  present: jax.Array  # booleans [outputs], whether the task has the class

  @property
  def real(self) -> jax.Array:
    """Booleans `[examples]`; the others are padding."""
    return ~(self.weights <= 0)  # what is no number is to be seen

  @property
  def members(self) -> jax.Array:
    """What `memberships` says of classes."""
    return self.weights[:, None] * self.rows


def encode_targets(
  targets: PyTree, num_classes: int | None, dtype: DTypeLike
) -> Targets:
  """Writes targets of classes and of regression alike as rows of numbers.

  Args:
    targets: classes `[examples]` or numbers `[examples, outputs]`, or
      `Weighted` ones.
    num_classes: how many classes there are; `None` where targets must be
      numbers.
    dtype: of the rows.

  Returns:
    `Targets`; numbers as they are, all of them present.

  Raises:
    ValueError: if targets are neither, or classes without `num_classes`.
  """
  if are_numbers(targets):
    values, weights = values_and_weights(targets)
    examples, outputs = values.shape
    _check_weights(weights, examples)
    rows = without_padding('encode_targets', values.astype(dtype), weights)
    if weights is None:
      weights = jnp.ones((examples,), dtype)
    return Targets(rows, weights.astype(dtype), jnp.ones((outputs,), bool))
  if num_classes is None:
    values, _ = values_and_weights(targets)
    raise ValueError(
      'without num_classes targets must be numbers [examples, outputs]; got'
      f' {values.dtype} of shape {values.shape}'
    )
  return encode_classes(targets, num_classes, dtype)


def encode_classes(
  targets: PyTree, num_classes: int, dtype: DTypeLike
) -> Targets:
  """One-hot classes, and which examples and classes there are."""
  members = memberships(targets, num_classes, dtype)
  weights = jnp.sum(members, axis=1)
  rows = members / jnp.where(weights == 0, 1, weights)[:, None]
  return Targets(rows, weights, present(members, axis=0))


def present(members: jax.Array, axis: int) -> jax.Array:
  """Whether there is any weight along an axis.

  What is no number, as an example of no class that there is, counts too: it is
  to be seen in the logits.
  """
  return jnp.any(~(members <= 0), axis=axis)


def class_means(features: jax.Array, members: jax.Array) -> jax.Array:
  """The mean of each class.

  Args:
    features: `[examples, ...]`.
    members: `[examples, classes]`, from `memberships`.

  Returns:
    `[classes, ...]`; zeros for a class without examples.
  """
  flat = features.reshape(features.shape[0], -1)
  counts = jnp.sum(members, axis=0)
  means = (members.T @ flat) / jnp.where(counts == 0, 1, counts)[:, None]
  return means.reshape(-1, *features.shape[1:])


def unit_length(vectors: jax.Array, axis: int) -> jax.Array:
  """Vectors of length 1 along an axis; far shorter ones have no direction."""
  squares = jnp.sum(jnp.square(vectors), axis, keepdims=True)
  return vectors * jax.lax.rsqrt(squares + _SHORT**2)


def rule_out_absent(logits: jax.Array, present: jax.Array) -> jax.Array:
  """Makes classes that a task does not have as good as impossible.

  Args:
    logits: `[examples, classes]`.
    present: booleans `[classes]`.

  Returns:
    The logits, finite but very low for what is not present.
  """
  return jnp.where(present[None], logits, jnp.asarray(EXCLUDED, logits.dtype))


def one_step(before: PyTree, adapted: PyTree) -> Adaptation:
  """The adaptation of a method that adapts in a single closed step.

  Args:
    before: of the structure of `adapted`; it knows no label. What is the very
      same array in both is no part of the trajectory.
    adapted: what the step makes of it.

  Returns:
    An `Adaptation` without losses, whose trajectory is these two.
  """
  trajectory = jax.tree.map(
    lambda first, last: None if first is last else jnp.stack([first, last]),
    before,
    adapted,
  )
  return Adaptation(jnp.zeros((0,)), trajectory)


class Classifier(NamedTuple):
  """An embedding and a linear layer on top of it."""

  params: PyTree  # of the embedding
  kernel: jax.Array  # [features, ways]
  bias: jax.Array  # [ways]


def classify(classifier: Classifier, features: jax.Array) -> jax.Array:
  """The logits `[examples, ways]` of a linear layer on features."""
  return features @ classifier.kernel + classifier.bias[None, :]
