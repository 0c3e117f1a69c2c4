"""The baselines that need no training."""

import jax
import numpy as np
import pytest

import metajax
from metajax.base import Batch
from metajax.models import mlp

KEY = jax.random.key(0)
MODEL = mlp([4], 2)


def two_classes() -> Batch:
  targets = np.array([0, 1, 0, 1])
  means = np.where(targets == 1, 1.0, -1.0)
  noise = 0.1 * np.random.default_rng(0).normal(size=(4, 3))
  return Batch(means[:, None] + noise, targets)


def test_from_scratch_has_nothing_to_meta_learn():
  learner = metajax.from_scratch(MODEL, metajax.cross_entropy)
  assert jax.tree.leaves(learner.init(KEY, np.zeros((1, 3)))) == []


def test_from_scratch_starts_anew_with_every_key_and_fits_the_support_set():
  learner = metajax.from_scratch(
    MODEL, metajax.cross_entropy, inner_lr=0.05, num_steps=60
  )
  support = two_classes()

  @jax.jit
  def fitted(key, support):
    adapted, adaptation = learner.adapt(key, (), support)
    outputs = learner.predict(adapted, support.inputs)
    return adaptation, *metajax.cross_entropy(outputs, support.targets)

  starts = []
  for seed in (1, 2):
    adaptation, loss, metrics = fitted(jax.random.key(seed), support)
    starts.append(np.asarray(adaptation.trajectory['Dense_0']['kernel'])[0])
    assert adaptation.losses.shape == (60,)
    assert float(loss) < 0.3 * float(np.asarray(adaptation.losses)[0])
    assert float(metrics['accuracy']) == 1.0
  assert np.abs(starts[0] - starts[1]).min() > 0


def test_from_scratch_draws_the_parameters_that_the_model_draws(float64):
  learner = metajax.from_scratch(MODEL, metajax.cross_entropy, num_steps=1)
  params_key, _ = jax.random.split(KEY)
  support = two_classes()
  _, adaptation = jax.jit(learner.adapt)(KEY, (), support)
  jax.tree.map(
    lambda drawn, path: np.testing.assert_allclose(
      np.asarray(path)[0], drawn, rtol=1e-6
    ),
    jax.jit(MODEL.init)(params_key, support.inputs),
    adaptation.trajectory,
  )


def test_nearest_class_mean_is_that_of_numpy():
  images = np.random.default_rng(0).random((6, 3, 3, 1)).astype(np.float32)
  queries = np.random.default_rng(1).random((5, 3, 3, 1)).astype(np.float32)
  targets = np.array([0, 1, 1, 0, 1, 0])
  learner = metajax.nearest_class_mean(metajax.cross_entropy, 2)

  @jax.jit
  def of(support, queries):
    adapted, _ = learner.adapt(KEY, (), support)
    return learner.predict(adapted, queries)

  logits = of(Batch(images, targets), queries)
  means = np.stack([images[targets == way].mean(0) for way in range(2)])
  expected = -((queries[:, None] - means[None]) ** 2).sum((2, 3, 4))
  np.testing.assert_allclose(logits, expected, rtol=1e-4)


def test_settings_that_cannot_be_meant_are_refused():
  with pytest.raises(ValueError, match='inner_lr must be above 0'):
    metajax.from_scratch(MODEL, metajax.cross_entropy, inner_lr=0.0)
  with pytest.raises(ValueError, match='num_classes must be 1 or more'):
    metajax.nearest_class_mean(metajax.cross_entropy, 0)
