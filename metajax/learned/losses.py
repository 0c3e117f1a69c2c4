r"""Losses that are learned: what an inner loop descends, not the right one.

.. math:: \ell_\phi = \frac{1}{n} \sum_i \sum_c
  \mathrm{softplus}\left(f_\phi(z_{ic}, y_{ic}) \right)

A small network f looks at every output z beside its target y, the same for all
outputs and examples; of classes z is the logarithm of the probability, and y is
1 for the right one and 0 for others. So one learned loss is for any number of
outputs. Its weights are meta-parameters as any others.

References:
  Bechtle et al. (2021), Meta-learning via learned loss,
  https://arxiv.org/abs/1906.05374
"""

import jax
import jax.numpy as jnp

from metajax.base import Metrics, Objective, PyTree, values_and_weights

__all__ = ['init_learned_loss', 'learned_loss']


def init_learned_loss(key: jax.Array, hidden: int = 32) -> dict[str, jax.Array]:
  """Draws weights of `learned_loss`.

  Args:
    key: of the hidden layer and of that of the output.
    hidden: units of the hidden layer.

  Raises:
    ValueError: if `hidden` is not 1 or more.

  Example:
    >>> sorted(init_learned_loss(jax.random.key(0)))
    ['hidden', 'hidden_bias', 'output']
  """
  if hidden < 1:
    raise ValueError(f'hidden must be 1 or more, got {hidden}')
  first_key, last_key = jax.random.split(key)
  return {
    'hidden': jax.random.normal(first_key, (2, hidden)) / 2,
    'hidden_bias': jnp.zeros(hidden),
    'output': jax.random.normal(last_key, (hidden,)) / hidden**0.5,
  }


def learned_loss(weights: PyTree) -> Objective:
  """The loss of some weights, an objective as any other.

  Args:
    weights: of `init_learned_loss`; the loss is differentiable by them.

  Returns:
    `(outputs, targets) -> (loss, {})`. Integer targets are classes, for which
    outputs are logits `[examples, classes]`; others are numbers, and outputs of
    their shape. `Weighted` examples count by their weight. It raises ValueError
    for targets of another shape.

  Raises:
    ValueError: if weights are not those of such a loss.

  Example:
    >>> loss = learned_loss(init_learned_loss(jax.random.key(0)))
    >>> bool(loss(jnp.zeros((4, 1)), jnp.ones((4, 1)))[0] > 0)
    True
  """
  fit = isinstance(weights, dict) and sorted(weights) == [
    'hidden', 'hidden_bias', 'output'
  ]  # fmt: skip
  units = jnp.shape(weights['output']) if fit else ()
  if not fit or jnp.shape(weights['hidden']) != (2, *units):
    raise ValueError(
      'weights of a learned loss are a dictionary of hidden, [2, units],'
      ' hidden_bias and output, [units], as init_learned_loss makes it; got'
      f' {jax.tree.map(jnp.shape, weights)}'
    )

  def objective(
    outputs: jax.Array, targets: PyTree
  ) -> tuple[jax.Array, Metrics]:
    values, counts = values_and_weights(targets)
    if jnp.issubdtype(jnp.result_type(values), jnp.integer):
      outputs = jax.nn.log_softmax(outputs)
      values = jax.nn.one_hot(values, outputs.shape[-1], dtype=outputs.dtype)
    if jnp.shape(values) != outputs.shape:
      raise ValueError(
        'a learned loss wants outputs and targets of one shape, or classes for'
        f' logits; got {outputs.shape} and {jnp.shape(values)}'
      )
    pairs = jnp.stack([outputs, values], axis=-1)
    bias = jnp.expand_dims(weights['hidden_bias'], range(pairs.ndim - 1))
    hidden = jnp.tanh(pairs @ weights['hidden'] + bias)
    losses = jax.nn.softplus(hidden @ weights['output'])
    each = jnp.sum(losses.reshape(len(losses), -1), axis=-1)
    if counts is None:
      return jnp.mean(each), {}
    counts = jnp.asarray(counts).reshape(len(each), -1).mean(-1)
    return jnp.vdot(counts, each) / jnp.sum(counts), {}

  return objective
