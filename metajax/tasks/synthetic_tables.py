r"""Tables that no one has collected: tasks of random functions of columns.

.. math::
  f \sim \{\text{linear}, \text{network}, \text{tree}\}, \quad
  y = f(x) + \epsilon \quad \text{or} \quad
  P(y = 1) = \sigma(s \, (f(x) - b))

A learner that has seen many of them is one for tables that it has not seen: it
is fitted to the prior that they are drawn from, and applies Bayes' rule by a
pass through the network.

References:
  Mueller et al. (2022), Transformers can do Bayesian inference,
  https://arxiv.org/abs/2112.10510
  Hollmann et al. (2023), TabPFN, https://arxiv.org/abs/2207.01848
"""

import jax
import jax.numpy as jnp

from metajax.base import Batch, Task
from metajax.equality import EqualPartial

__all__ = ['synthetic_tables']

_HIDDEN = 16  # of a random network
_DEPTH = 4  # of a random tree


def synthetic_tables(
  num_features: int,
  shots: int,
  queries: int,
  *,
  classes: bool = False,
) -> jax.tree_util.Partial:
  """A distribution of tasks of random functions.

  Columns are correlated, and heavy-tailed at times; some have no effect. Values
  of a function have mean 0 and deviation 1 over the rows of its task. Numbers
  have noise of a deviation up to 1; of classes, the share of the rarer one is
  drawn from 0.1 to 0.5, and its odds follow from the function.

  Args:
    num_features: columns to predict from.
    shots: rows of the support set.
    queries: other rows.
    classes: whether targets are classes 0 and 1. The support set has both.

  Returns:
    `sample(key) -> Task`, with inputs `[rows, features]`, and targets
    `[rows, 1]` or, where they are classes, int32 `[rows]`.

  Raises:
    ValueError: if a count is not positive, or a support set too small for two
      classes.

  Example:
    >>> import jax
    >>> sample = synthetic_tables(5, shots=10, queries=20, classes=True)
    >>> task = sample(jax.random.key(0))
    >>> task.support.inputs.shape, sorted(set(task.support.targets.tolist()))
    ((10, 5), [0, 1])
  """
  if num_features < 1 or shots < 1 + classes or queries < 1:
    raise ValueError(
      f'num_features and queries must be 1 or more, and shots {1 + classes} or'
      f' more; got {num_features}, {queries} and {shots}'
    )
  return jax.tree_util.Partial(
    EqualPartial(_sample, num_features, shots, queries, classes)
  )


def _sample(
  num_features: int, shots: int, queries: int, classes: bool, key: jax.Array
) -> Task:
  keys = jax.random.split(key, 8)
  rows = shots + queries
  inputs = _columns(keys[0], rows, num_features)
  used = jax.random.bernoulli(
    keys[1], jax.random.uniform(keys[2], minval=0.2), (num_features,)
  )
  used = used.at[jax.random.randint(keys[3], (), 0, num_features)].set(True)
  seen = inputs * used[None]
  values = jnp.stack(
    [
      _linear(keys[4], seen),
      _network(keys[4], seen),
      _tree(keys[4], seen, used),
      _linear(keys[4], seen) + _tree(keys[5], seen, used),
    ]
  )[jax.random.randint(keys[5], (), 0, 4)]
  values = _scaled(values)
  if classes:
    targets = _classes(keys[6], values, shots)
  else:
    strength = jax.random.uniform(keys[6])
    noise = strength * jax.random.normal(keys[7], (rows,))
    targets = (values + noise)[:, None]
  return Task(
    Batch(inputs[:shots], targets[:shots]),
    Batch(inputs[shots:], targets[shots:]),
  )


def _columns(key: jax.Array, rows: int, number: int) -> jax.Array:
  """Correlated columns, of which some have long tails or few values."""
  mix_key, noise_key, kind_key, share_key = jax.random.split(key, 4)
  factors = jax.random.normal(noise_key, (rows, number))
  mixing = jax.random.normal(mix_key, (number, number)) / number**0.5
  share = jax.random.uniform(share_key)
  columns = share * factors @ mixing + (1 - share) * factors
  kind = jax.random.randint(kind_key, (1, number), 0, 4)
  columns = jnp.where(kind == 1, jnp.sinh(columns), columns)
  columns = jnp.where(kind == 2, jnp.sign(columns), columns)
  mean, deviation = columns.mean(0), columns.std(0)
  return (columns - mean[None]) / (deviation + 1e-3)[None]


def _linear(key: jax.Array, inputs: jax.Array) -> jax.Array:
  return _scaled(inputs @ jax.random.normal(key, (inputs.shape[1],)))


def _network(key: jax.Array, inputs: jax.Array) -> jax.Array:
  first, second, third = jax.random.split(key, 3)
  width = inputs.shape[1]
  weights = jax.random.normal(first, (width, _HIDDEN)) * 2 / width**0.5
  shift = jax.random.normal(third, (_HIDDEN,))
  hidden = jnp.tanh(inputs @ weights + shift[None])
  return _scaled(hidden @ jax.random.normal(second, (_HIDDEN,)))


def _tree(key: jax.Array, inputs: jax.Array, used: jax.Array) -> jax.Array:
  """A tree whose nodes of one depth ask of one column: a table of leaves."""
  column_key, cut_key, leaf_key = jax.random.split(key, 3)
  columns = jax.random.categorical(
    column_key, jnp.where(used, 0.0, -1e9), shape=(_DEPTH,)
  )
  cuts = jax.random.normal(cut_key, (_DEPTH,)) * 0.7
  leaf = (inputs[:, columns] > cuts[None]) @ (2 ** jnp.arange(_DEPTH))
  return _scaled(jax.random.normal(leaf_key, (2**_DEPTH,))[leaf])


def _scaled(values: jax.Array) -> jax.Array:
  return (values - values.mean()) / (values.std() + 1e-3)


def _classes(key: jax.Array, values: jax.Array, shots: int) -> jax.Array:
  """Classes whose odds follow from a function; the first rows have both."""
  share_key, sharp_key, draw_key = jax.random.split(key, 3)
  share = jax.random.uniform(share_key, minval=0.1, maxval=0.5)
  sharpness = jnp.exp(jax.random.uniform(sharp_key, minval=-1.0, maxval=2.0))
  noise = jax.random.logistic(draw_key, values.shape)
  # The greatest are 1, so many as the share says.
  score = sharpness * values + noise
  classes = (score > jnp.quantile(score, 1 - share)).astype(jnp.int32)
  given = classes[:shots]
  alone = jnp.all(given == given[0])
  return classes.at[shots - 1].set(jnp.where(alone, 1 - given[0], given[-1]))
