"""What methods that adapt in closed form share: classes, means, one step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from metajax.base import EXCLUDED, Adaptation, PyTree

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


def check_classes(targets: jax.Array) -> None:
  """Refuses targets of other problems than classification."""
  if targets.ndim != 1 or not jnp.issubdtype(targets.dtype, jnp.integer):
    raise ValueError(
      'this method classifies, and wants integer classes [examples] as'
      f' targets; got {targets.dtype} of shape {targets.shape}'
    )


def memberships(
  targets: jax.Array, num_classes: int, dtype: DTypeLike
) -> jax.Array:
  """Says which example is of which class.

  Args:
    targets: integer classes `[examples]`.
    num_classes: how many there are.
    dtype: of the result.

  Returns:
    `[examples, classes]`, 1 where the example is of the class, 0 elsewhere.
    An example whose target is `metajax.base.PADDING` is of no class.

  Raises:
    ValueError: if targets are not integer classes.

  Example:
    >>> import jax.numpy as jnp
    >>> memberships(jnp.array([1, 0]), 2, 'float32').tolist()
    [[0.0, 1.0], [1.0, 0.0]]
  """
  check_classes(targets)
  return jax.nn.one_hot(targets, num_classes, dtype=dtype)


def are_numbers(targets: jax.Array) -> bool:
  """Says whether targets are numbers `[examples, outputs]`, so no classes."""
  return targets.ndim == 2 and jnp.issubdtype(targets.dtype, jnp.floating)


class Targets(NamedTuple):
  """Targets of a support set as rows of numbers."""

  rows: jax.Array  # [examples, outputs]; classes are one-hot
  real: jax.Array  # booleans [examples]; the others are padding
  present: jax.Array  # booleans [outputs], whether the task has the class


def encode_targets(
  targets: jax.Array, num_classes: int | None, dtype: DTypeLike
) -> Targets:
  """Writes targets of classes and of regression alike as rows of numbers.

  Args:
    targets: classes `[examples]` or numbers `[examples, outputs]`.
    num_classes: how many classes there are; `None` where targets must be
      numbers.
    dtype: of the rows.

  Returns:
    `Targets`; numbers as they are, all of them real and present.

  Raises:
    ValueError: if targets are neither, or classes without `num_classes`.
  """
  if are_numbers(targets):
    examples, outputs = targets.shape
    return Targets(
      targets.astype(dtype),
      jnp.ones((examples,), bool),
      jnp.ones((outputs,), bool),
    )
  if num_classes is None:
    raise ValueError(
      'without num_classes targets must be numbers [examples, outputs]; got'
      f' {targets.dtype} of shape {targets.shape}'
    )
  return encode_classes(targets, num_classes, dtype)


def encode_classes(
  targets: jax.Array, num_classes: int, dtype: DTypeLike
) -> Targets:
  """`memberships`, and which examples and classes there are."""
  members = memberships(targets, num_classes, dtype)
  return Targets(members, jnp.any(members > 0, 1), jnp.any(members > 0, 0))


def class_means(features: jax.Array, members: jax.Array) -> jax.Array:
  """The mean of each class.

  Args:
    features: `[examples, ...]`.
    members: `[examples, classes]`, from `memberships`.

  Returns:
    `[classes, ...]`; zeros for a class without examples.
  """
  flat = features.reshape(len(features), -1)
  counts = jnp.maximum(jnp.sum(members, axis=0), 1)
  means = (members.T @ flat) / counts[:, None]
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
    before: of the structure of `adapted`; it knows no label.
    adapted: what the step makes of it.

  Returns:
    An `Adaptation` without losses, whose trajectory is these two.
  """
  trajectory = jax.tree.map(lambda *leaves: jnp.stack(leaves), before, adapted)
  return Adaptation(jnp.zeros((0,)), trajectory)


class Classifier(NamedTuple):
  """An embedding and a linear layer on top of it."""

  params: PyTree  # of the embedding
  kernel: jax.Array  # [features, ways]
  bias: jax.Array  # [ways]


def classify(classifier: Classifier, features: jax.Array) -> jax.Array:
  """The logits `[examples, ways]` of a linear layer on features."""
  return features @ classifier.kernel + classifier.bias[None, :]
