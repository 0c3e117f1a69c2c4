r"""Hallucination: a generator that is learned makes more support examples.

.. math::
  S_i' = S_i \cup \{(G(f(x), \epsilon), y)\}_{(x, y) \in S_i,\;
    \epsilon \sim N(0, I)}

in the space of the features f, in front of any learner on features. Embedding,
generator and learner are trained together, by the loss on the queries.

The paper's G is a multilayer perceptron that starts as the identity of x, by
identity blocks in its weights, which asks for features that are not negative.
Here it is x plus a multilayer perceptron that starts small, which comes to the
same for any features.

References:
  Wang, Girshick, Hebert, Hariharan (2018), Low-shot learning from imaginary
  data, https://arxiv.org/abs/1801.05401
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.adaptation.generators import Generator, change_of
from metajax.base import (
  Adaptation,
  Batch,
  Learner,
  MetaLearner,
  Model,
  Objective,
  PyTree,
)
from metajax.equality import by_value
from metajax.estimators import backprop
from metajax.inner import partition
from metajax.models.modes import like, refuse_key, with_key

__all__ = ['Hallucinated', 'hallucinate', 'identity', 'noisy_copies']

# This is for learners that need no network of their own on features.
identity = Model(
  init=lambda key, inputs: (), apply=lambda params, inputs: inputs
)


class Hallucinated(NamedTuple):
  """Meta-parameters of a learner with a generator, and what it adapts to."""

  params: PyTree  # of the embedding
  generator: PyTree
  learner: PyTree  # meta-parameters, or adapted


@by_value
def hallucinate(
  embedding: Model,
  objective: Objective,
  learner: Learner | MetaLearner,
  generator: Generator,
  num_extra: int = 4,
) -> MetaLearner:
  """Puts an embedding and a generator of examples in front of a learner.

  The meta-gradient is that of backpropagation through the learner's adaptation,
  in place of the estimator that the learner may have of its own.

  Args:
    embedding: `[examples, ...]` to `[examples, features]`.
    objective: judges the adapted learner on the queries.
    learner: any method on features that adapts differentiably and keeps no
      counts of steps (as MAML++ and Reptile do), such as
      `protonet(identity, cross_entropy, 5)`.
    generator: makes the examples; `noisy_copies()` is that of the paper.
    num_extra: new examples for each of the support set.

  Returns:
    A `MetaLearner` whose meta-parameters are `Hallucinated`.

  Raises:
    ValueError: if `num_extra` is negative; in `grad`, if the learner counts
      its steps.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> base = metajax.protonet(identity, metajax.cross_entropy, 5)
    >>> learner = hallucinate(
    ...   conv4(None), metajax.cross_entropy, base, noisy_copies())
  """
  refuse_key(embedding)
  if num_extra < 0:
    raise ValueError(f'num_extra must be 0 or more, got {num_extra}')

  def init(key: jax.Array, inputs: PyTree) -> Hallucinated:
    keys = jax.random.split(key, 3)
    params = embedding.init(keys[0], inputs)
    shapes = jax.eval_shape(embedding.apply, params, inputs)
    features = jnp.zeros(shapes.shape, shapes.dtype)
    return Hallucinated(
      params,
      generator.init(keys[1], features),
      learner.init(keys[2], features),
    )

  def adapt(
    key: jax.Array, meta_params: Hallucinated, support: Batch
  ) -> tuple[Hallucinated, Adaptation]:
    own_key, adapt_key = jax.random.split(key)
    features = embedding.apply(meta_params.params, support.inputs)
    real = Batch(features, support.targets)
    seeds = jax.tree.map(lambda leaf: jnp.repeat(leaf, num_extra, axis=0), real)
    extra = seeds._replace(
      inputs=generator.generate(own_key, meta_params.generator, seeds.inputs)
    )
    both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), real, extra)
    adapted, adaptation = learner.adapt(adapt_key, meta_params.learner, both)
    trajectory = partition.nothing_of(meta_params)._replace(
      learner=adaptation.trajectory
    )
    return (
      meta_params._replace(learner=adapted),
      adaptation._replace(trajectory=trajectory),
    )

  def predict(
    adapted: Hallucinated, inputs: PyTree, key: jax.Array | None = None
  ) -> PyTree:
    features = embedding.apply(adapted.params, inputs)
    return with_key(learner.predict, key)(adapted.learner, features)

  whole = Learner(init, adapt, like(learner.predict, predict))
  return MetaLearner(*whole, grad=backprop(whole, objective))


@by_value
def noisy_copies(width: int = 64) -> Generator:
  """The generator of Wang et al.: three layers, from an example and noise.

  Args:
    width: of the hidden layers; theirs is the number of features.

  Returns:
    A `Generator` whose noise has as many dimensions as there are features.
  """
  network = change_of(width)

  def init(key: jax.Array, features: jax.Array) -> PyTree:
    return network.init(key, (features, features))

  def generate(
    key: jax.Array, params: PyTree, features: jax.Array
  ) -> jax.Array:
    noise = jax.random.normal(key, features.shape, features.dtype)
    changed: jax.Array = network.apply(params, (features, noise))
    return changed

  return Generator(init, generate)
