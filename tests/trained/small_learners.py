"""Small learners of every method, as they are exported."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from experiments.recipes import images, regression
from experiments.recipes.kinds import methods, published
from metajax import testing
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS
from metajax.base import Batch, Model
from metajax.models import conv4
from metajax.objectives import cross_entropy, mean_squared_error
from metajax.trained import Compiled, TrainedLearner, build

WAYS, SHOTS, QUERIES = 3, 1, 4
SHAPE = [4, 4, 1]


@cache
def make_learner(name: str, batch_norm: bool = False) -> TrainedLearner:
  """A learner of a method, with meta-parameters that are drawn."""
  row = ALGORITHMS[name]
  on_images = name in methods(images) or row.on_streams
  if row.on_streams:  # which has a recipe for neither
    recipe = Recipe(inner_lr=0.1)
  elif on_images:
    recipe = published(images, name, WAYS, SHOTS)
  else:
    recipe = published(regression, name)
  recipe = recipe._replace(
    train_classes=6, inner_steps=2, eval_inner_steps=2, steps=20, ways=WAYS
  )
  if row.head.kind == 'none':
    model = Model(lambda key, inputs: (), lambda params, inputs: inputs)
  elif batch_norm:
    model = conv4(WAYS, width=4, halvings=2)
  else:
    model = testing.small_network(row.head, WAYS if on_images else 1)
  objective = cross_entropy if on_images else mean_squared_error
  support = Batch(
    jax.ShapeDtypeStruct((WAYS * SHOTS, *SHAPE), jnp.float32),
    jax.ShapeDtypeStruct((WAYS * SHOTS,), jnp.int32),
  )
  inputs = {'kind': 'images', 'shape': SHAPE, 'files': {}}
  outputs = {'classes': WAYS}
  if not on_images:
    support = Batch(
      jax.ShapeDtypeStruct((WAYS * SHOTS, 2), jnp.float32),
      jax.ShapeDtypeStruct((WAYS * SHOTS, 1), jnp.float32),
    )
    scale = {'mean': [1.0, -2.0], 'deviation': [2.0, 0.5]}
    inputs = {'kind': 'numbers', 'shape': [2], 'names': ['u', 'v'], **scale}
    outputs = {'names': ['y'], 'mean': [3.0], 'deviation': [10.0]}
  learner = row.make(model, objective, recipe)
  zeros = jnp.zeros(support.inputs.shape)
  meta_params = jax.jit(learner.init)(jax.random.key(0), zeros)
  manifest = {
    'method': name, 'inputs': inputs, 'outputs': outputs, 'temperature': 0.5,
    'normalisation': 'support' if batch_norm else 'none',
    'random': row.adapts_at_random,
  }  # fmt: skip
  how = 'support' if batch_norm else 'transductive'
  return TrainedLearner(
    manifest, Compiled(build(learner, meta_params, support, how))
  )


def examples_for(learner: TrainedLearner, seed: int = 0):
  """A support set and queries."""
  rng = np.random.default_rng(seed)
  if not learner.classifies:
    inputs = rng.normal(size=(WAYS * SHOTS, 2))
    targets = rng.normal(size=(WAYS * SHOTS, 1))
    return (inputs, targets), rng.normal(size=(QUERIES, 2))
  patterns = rng.uniform(0, 0.8, (WAYS, *SHAPE))

  def some(number: int) -> list[np.ndarray]:
    return [each + rng.uniform(0, 0.2, (number, *SHAPE)) for each in patterns]

  named = {f'class {i}': each for i, each in enumerate(some(SHOTS))}
  return named, np.concatenate(some(QUERIES))
