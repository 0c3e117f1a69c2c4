r"""Nearest mean of bags of words: what texts say without any model.

.. math::
  u(x) = \frac{n(x)}{\lVert n(x) \rVert}, \qquad
  s_k(x) = -\lVert u(x) - \tfrac{1}{|S_k|} \sum_{x' \in S_k} u(x') \rVert^2

where :math:`n(x)` counts each token of a text. It is to texts what the nearest
mean in pixel space is to images.
"""

import jax
import jax.numpy as jnp

from metajax.adaptation.classes import (
  class_means,
  memberships,
  present,
  rule_out_absent,
)
from metajax.base import Batch

__all__ = ['bag_of_words_scores']


def bag_of_words_scores(
  support: Batch, tokens: jax.Array, num_classes: int
) -> jax.Array:
  """Scores the classes of a task by the words they share with texts.

  It needs no vocabulary: a token that is nowhere in the support set counts by
  the length of a bag alone.

  Args:
    support: tokens `[examples, length]`, integers with -1 for none, and integer
      classes `[examples]`, possibly `Weighted`.
    tokens: of the texts to classify, `[texts, length]`.
    num_classes: classes of the task.

  Returns:
    float32 `[texts, classes]`, minus squared distances.

  Raises:
    ValueError: if tokens are no integers in two axes, or targets no classes.

  Example:
    >>> support = Batch(jnp.array([[1, 2, -1], [3, 4, 5]]), jnp.array([0, 1]))
    >>> texts = jnp.array([[2, 1, 9], [5, 3, 3]])
    >>> bag_of_words_scores(support, texts, 2).argmax(-1).tolist()
    [0, 1]
  """
  for each in (support.inputs, tokens):
    if each.ndim != 2 or not jnp.issubdtype(each.dtype, jnp.integer):
      raise ValueError(
        'bags of words are of tokens, integers [texts, length]; got'
        f' {each.dtype} of shape {each.shape}'
      )
  known = jnp.sort(support.inputs.reshape(-1))
  members = memberships(support.targets, num_classes, jnp.float32)
  means = class_means(_bags(support.inputs, known), members)
  bags = _bags(tokens, known)
  # Of what is in a bag and not known, its length alone matters: it is 1.
  squares = jnp.any(tokens >= 0, axis=1).astype(jnp.float32)
  lengths = jnp.sum(means**2, axis=1)[None]
  scores = 2 * bags @ means.T - squares[:, None] - lengths
  return rule_out_absent(scores, present(members, axis=0))


def _bags(tokens: jax.Array, known: jax.Array) -> jax.Array:
  """Counts `[texts, known]` of known tokens, of bags of the length 1.

  A token stands at its first place among those known, which are sorted.
  """
  real = tokens >= 0
  places = jnp.searchsorted(known, tokens)
  places = jnp.minimum(places, len(known) - 1)
  hits = real & (known[places] == tokens)
  rows = jnp.arange(tokens.shape[0])[:, None]
  counts = jnp.zeros((tokens.shape[0], len(known)), jnp.float32)
  counts = counts.at[rows, places].add(hits)
  # The sum of squared counts: each token of a text meets all that are like it.
  alike = tokens[:, :, None] == tokens[:, None, :]
  squared = jnp.sum(alike & real[:, :, None], axis=(1, 2), dtype=jnp.float32)
  return counts / jnp.sqrt(jnp.maximum(squared, 1))[:, None]
