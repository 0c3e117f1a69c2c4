"""LEO against NumPy, differences, and what its terms are for."""

import functools

import jax
import numpy as np
import pytest
from numpy_draws import at, classes, parameters

import metajax
from metajax.algorithms.leo import (
  Codes,
  Gaussian,
  correlation,
  divergence,
  encoder_penalty,
)
from metajax.base import Batch, Task, Weighted
from metajax.models import mlp
from metajax.precision import drawn_like_inputs
from metajax.testing import slopes

WAYS, SIZE = 3, 4
EMBEDDING = drawn_like_inputs(mlp([6], 5))
KEY = jax.random.key(0)


def random_tasks(num: int) -> Task:
  return classes(num, WAYS, 6, 5)


def make(num_steps: int = 2, num_weight_steps: int = 2, **settings):
  return metajax.leo(
    EMBEDDING,
    metajax.cross_entropy,
    WAYS,
    0.5,
    num_steps,
    weight_lr=0.1,
    num_weight_steps=num_weight_steps,
    code_size=SIZE,
    **settings,
  )


WITHOUT_TERMS = dict.fromkeys(
  ('kl_weight', 'encoder_weight', 'orthogonality_weight'), 0.0
)


def draw(tasks: Task):
  return parameters(make().init, tasks.support.inputs[0])


@functools.cache
def adapt(*steps: int):
  return jax.jit(make(*steps).adapt)


@pytest.mark.in_ci
def test_the_meta_gradient_equals_central_differences(float64):
  tasks = random_tasks(3)
  found = slopes(make(**WITHOUT_TERMS), draw(tasks), tasks)
  np.testing.assert_allclose(*found, rtol=1e-5)


def dense(params, inputs):
  return inputs @ params['kernel'] + params['bias']


@pytest.mark.usefixtures('float64')
def test_weights_without_steps_are_those_of_numpy():
  tasks = random_tasks(1)
  params = draw(tasks)
  support = at(tasks.support, 0)
  adapted, _ = adapt(0, 0)(KEY, params, support)
  embed = jax.jit(EMBEDDING.apply)
  features = np.asarray(embed(params.params, support.inputs))
  features = features / np.sqrt((features**2).sum(1, keepdims=True) + 1e-10)
  kernel = np.asarray(adapted.kernel)
  codes = dense(params.encoder['head'], features)
  for way in range(WAYS):
    related = []
    for own in codes[support.targets == way]:
      for other in codes:
        hidden = np.concatenate([own, other])
        for layer in ('Dense_0', 'Dense_1'):
          hidden = np.maximum(dense(params.relation[layer], hidden), 0)
        related.append(dense(params.relation['head'], hidden))
    code = np.mean(related, axis=0)[:SIZE]
    weights = dense(params.decoder['head'], code)[: features.shape[1]]
    np.testing.assert_allclose(kernel[:, way], weights, rtol=1e-10)


@pytest.mark.in_ci
def test_the_trajectory_is_nothing_then_codes_then_weights(float64):
  tasks = random_tasks(1)
  params, support = draw(tasks), at(tasks.support, 0)
  adapted, adaptation = adapt(2, 3)(KEY, params, support)
  kernels = np.asarray(adaptation.trajectory.kernel)
  losses = np.asarray(adaptation.losses)
  assert len(kernels) == 1 + 3 + 3
  assert losses.shape == (1 + 2 + 3,)
  np.testing.assert_array_equal(kernels[0], 0)
  np.testing.assert_allclose(losses[0], np.log(WAYS))
  np.testing.assert_array_equal(kernels[-1], adapted.kernel)
  # A number of steps of the codes is what is decoded after so many.
  for steps in range(3):
    shorter, _ = adapt(steps, 0)(KEY, params, support)
    np.testing.assert_allclose(
      shorter.kernel, kernels[1 + steps], rtol=1e-10, atol=1e-12
    )
  assert losses[-1] < losses[1]


def test_chance_has_a_part_in_training_and_none_in_a_test(float64):
  tasks = random_tasks(1)
  params, grad = draw(tasks), jax.jit(make(0, 0).grad)
  first, second = (
    adapt(2, 3)(jax.random.key(seed), params, at(tasks.support, 0))[0].kernel
    for seed in range(2)
  )
  np.testing.assert_array_equal(first, second)
  first, second = (
    float(grad(jax.random.key(seed), params, tasks)[1]['loss'])
    for seed in range(2)
  )
  assert first != second


def test_terms_of_the_loss_are_those_of_the_paper():
  gaussian = Gaussian(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
  # KL(N(1, 4) || N(0, 1)) = (1 + 4 - 1) / 2 - log 2
  np.testing.assert_allclose(
    jax.jit(divergence)(gaussian), (0 + 2 - np.log(2)) / 2, rtol=1e-6
  )
  codes = Codes(gaussian, np.array([1.0, 2.0]), np.array([1.0, 4.0]))
  penalty, slope = jax.jit(jax.value_and_grad(encoder_penalty))(codes)
  assert float(penalty) == 2
  np.testing.assert_array_equal(slope.last, 0)
  np.testing.assert_array_equal(slope.first, [0, -2])
  correlated = jax.jit(correlation)
  assert float(correlated(np.array([[3.0, 0.0], [0.0, 5.0]]))) == 0
  assert float(correlated(np.array([[1.0, 0.0], [2.0, 0.0]]))) == 0.5


@pytest.mark.long
def test_every_term_reaches_the_meta_gradient(float64):
  tasks = random_tasks(2)
  params = draw(tasks)
  grad = jax.jit(lambda terms: make(**terms).grad(KEY, params, tasks)[0])
  without = grad(WITHOUT_TERMS)
  for name in WITHOUT_TERMS:
    gradient = grad({**WITHOUT_TERMS, name: 1.0})
    change = jax.tree.map(
      lambda a, b: np.asarray(a) - np.asarray(b), gradient, without
    )
    changed = {
      part
      for part in change._fields
      if max(abs(leaf).max() for leaf in jax.tree.leaves(getattr(change, part)))
      > 1e-9
    }
    assert changed == (
      {'decoder'}
      if name == 'orthogonality_weight'
      else {'params', 'encoder', 'relation'}
    )


def test_a_class_that_the_task_does_not_have_is_never_predicted(float64):
  tasks = random_tasks(1)
  params, support = draw(tasks), at(tasks.support, 0)
  without = Weighted(support.targets, support.targets != 2)
  adapted, _ = adapt(2, 3)(KEY, params, support._replace(targets=without))

  @jax.jit
  def predicted(adapted, queries):
    logits = make().predict(adapted, queries)
    return logits, jax.nn.softmax(logits)

  logits, shares = predicted(adapted, tasks.query.inputs[0])
  assert np.isfinite(logits).all()
  assert np.asarray(shares)[:, 2].max() == 0
  # And what fills up the support set does not matter.
  other = np.where(without.weights[:, None], support.inputs, 7.0)
  again, _ = adapt(2, 3)(KEY, params, Batch(other, without))
  np.testing.assert_allclose(
    np.asarray(again.kernel)[:, :2],
    np.asarray(adapted.kernel)[:, :2],
    rtol=1e-10,
  )


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    ({'num_classes': 0}, 'num_classes must be 1 or more, got 0'),
    ({'code_lr': 0.0}, 'inner_lr must be above 0, got 0.0'),
    ({'num_steps': -1}, 'num_steps must be 0 or more, got -1'),
    ({'weight_lr': 0.0}, 'inner_lr must be above 0, got 0.0'),
    ({'num_weight_steps': -1}, 'num_steps must be 0 or more, got -1'),
    ({'code_size': 0}, 'code_size must be 1 or more, got 0'),
  ],
)
def test_what_cannot_be_meant_is_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    metajax.leo(
      EMBEDDING, metajax.cross_entropy, **{'num_classes': WAYS, **wrong}
    )
