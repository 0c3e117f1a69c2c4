"""Labels that a method has no output for are seen, in every method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax.base import Batch
from metajax.models import mlp

KEY = jax.random.key(0)
EMBEDDING = mlp([], 2)
LOSS = metajax.cross_entropy
LEARNERS = {
  'protonet': metajax.protonet(EMBEDDING, LOSS, 3),
  'matchingnet': metajax.matchingnet(EMBEDDING, LOSS, 3),
  'r2d2': metajax.r2d2(EMBEDDING, LOSS, 3),
  'lr_d2': metajax.lr_d2(EMBEDDING, LOSS, 3),
  'metaoptnet': metajax.metaoptnet(EMBEDDING, LOSS, 3),
  'siamese': metajax.siamese(EMBEDDING, LOSS, 3),
  'relationnet': metajax.relationnet(EMBEDDING, LOSS, 3),
  'in_context': metajax.in_context(EMBEDDING, LOSS, 3, width=8, depth=1),
  'maml': metajax.maml(mlp([], 3), LOSS, 0.1, 1),
}


@pytest.mark.in_ci
@pytest.mark.parametrize('labels', [[7, 7], [0, 3], [-1, 1]])
@pytest.mark.parametrize('name', LEARNERS)
def test_a_support_set_of_other_classes_gives_no_number(name, labels):
  learner = LEARNERS[name]

  @jax.jit
  def loss(labels):
    inputs = jnp.eye(2)
    params = learner.init(KEY, inputs)
    adapted, _ = learner.adapt(KEY, params, Batch(inputs, labels))
    outputs = learner.predict(adapted, inputs)
    return LOSS(outputs, jnp.array([0, 1]))[0]

  assert np.isfinite(loss(jnp.array([0, 1])))
  assert np.isnan(loss(jnp.array(labels)))
