"""What a prediction for a query depends on."""

import jax
import numpy as np
import pytest

import metajax
from metajax.base import Batch, Model, Task
from metajax.models import conv4
from metajax.normalisation import population, predict_queries

WAYS = 3
MODEL = conv4(WAYS, width=4)
# Whole programs, which the compilation cache keeps.
draw_params, apply, measure = map(
  jax.jit, (MODEL.init, MODEL.apply, MODEL.measure)
)


def learner_of(model: Model) -> metajax.MetaLearner:
  return metajax.fomaml(model, metajax.cross_entropy, 0.1, 1)


def random_batch(seed: int, examples: int) -> Batch:
  images = np.random.default_rng(seed).normal(size=(examples, 8, 8, 1))
  return Batch(images.astype(np.float32), np.arange(examples) % WAYS)


@pytest.fixture(scope='module')
def tasks() -> tuple[Task, Task]:
  """Two tasks that differ in all queries but the first."""
  support, query, others = (
    random_batch(0, 3),
    random_batch(1, 4),
    random_batch(2, 4),
  )
  changed = np.concatenate([query.inputs[:1], others.inputs[1:]])
  return Task(support, query), Task(support, query._replace(inputs=changed))


@pytest.fixture(scope='module')
def params():
  return draw_params(jax.random.key(3), random_batch(0, 3).inputs)


def first_predictions(learner, meta_params, tasks, normalisation):
  """What is predicted for the first query, which both tasks share."""

  @jax.jit
  def predict(task: Task) -> jax.Array:
    adapted, _ = learner.adapt(jax.random.key(4), meta_params, task.support)
    return predict_queries(learner, adapted, task, normalisation)

  return [np.asarray(predict(task))[0] for task in tasks]


def test_transductive_predictions_depend_on_the_other_queries(tasks, params):
  before, after = first_predictions(
    learner_of(MODEL), params, tasks, 'transductive'
  )
  assert np.abs(before - after).max() > 1e-3


def test_predictions_by_support_ignore_the_other_queries(tasks, params):
  before, after = first_predictions(learner_of(MODEL), params, tasks, 'support')
  np.testing.assert_array_equal(before, after)


def test_predictions_by_population_ignore_the_other_queries(tasks, params):
  statistics = measure(params, random_batch(5, 20).inputs)
  before, after = first_predictions(
    population(learner_of, MODEL), (params, statistics), tasks, 'transductive'
  )
  np.testing.assert_array_equal(before, after)


def test_by_support_a_query_is_normalised_with_the_support_set(tasks, params):
  learner, (task, _) = learner_of(MODEL), tasks
  outputs = jax.jit(
    lambda params, task: predict_queries(learner, params, task, 'support')
  )(params, task)
  outputs = np.asarray(outputs)
  for i in range(4):
    batch = np.concatenate([task.support.inputs, task.query.inputs[i : i + 1]])
    expected = np.asarray(apply(params, batch))[-1]
    np.testing.assert_allclose(outputs[i], expected, rtol=1e-4, atol=1e-5)


def convolution(images, kernel):
  """By two in both directions, of images filled up with zeros."""
  size = -(-images.shape[1] // 2)
  more = max(2 * (size - 1) + 3 - images.shape[1], 0)
  around = (more // 2, more - more // 2)
  filled = np.pad(images, ((0, 0), around, around, (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(filled, (3, 3), (1, 2))
  return np.einsum('nhwcij,ijco->nhwo', windows[:, ::2, ::2], kernel)


def layer_by_layer(params, images, statistics=None):
  """Conv-4 by hand: the output, and means and variances of every layer."""
  params, hidden, seen = jax.device_get(params), images, []
  for i in range(4):
    hidden = convolution(hidden, params[f'Conv_{i}']['kernel'])
    norm = params[f'BatchNorm_{i}']
    flat = np.asarray(hidden).reshape(-1, hidden.shape[-1])
    seen.append((flat.mean(0), flat.var(0)))
    mean, variance = statistics[i] if statistics else seen[-1]
    flat = (flat - mean) / np.sqrt(variance + 1e-3) * norm['scale']
    hidden = np.maximum(flat + norm['bias'], 0).reshape(hidden.shape)
  features = np.asarray(hidden).mean((1, 2))
  head = params['head']
  return features @ head['kernel'] + head['bias'], seen


@pytest.fixture(scope='module')
def uneven_params(params):
  """Scales and shifts away from 1 and 0, so that they matter."""
  generator = np.random.default_rng(6)
  return jax.tree.map(
    lambda leaf: np.float32(leaf + 0.3 * generator.normal(size=leaf.shape)),
    jax.device_get(params),
  )


def test_measured_statistics_are_those_computed_by_hand(uneven_params):
  images = random_batch(7, 10).inputs
  statistics = measure(uneven_params, images)
  outputs, by_hand = layer_by_layer(uneven_params, images)
  for i, (mean, variance) in enumerate(by_hand):
    measured = statistics[f'BatchNorm_{i}']
    np.testing.assert_allclose(measured['mean'], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
      measured['variance'], variance, rtol=1e-4, atol=1e-5
    )
  np.testing.assert_allclose(
    apply(uneven_params, images), outputs, rtol=1e-3, atol=1e-4
  )


@pytest.mark.in_ci
def test_a_frozen_model_normalises_by_the_statistics_it_was_given(
  uneven_params,
):
  measured_on, images = random_batch(7, 10).inputs, random_batch(8, 2).inputs
  statistics = measure(uneven_params, measured_on)
  _, by_hand = layer_by_layer(uneven_params, measured_on)
  expected, _ = layer_by_layer(uneven_params, images, by_hand)
  outputs = jax.jit(MODEL.freeze(statistics).apply)(uneven_params, images)
  np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-4)


def test_statistics_stay_fixed_while_a_model_adapts(tasks, params):
  statistics = measure(params, random_batch(5, 20).inputs)
  learner = population(learner_of, MODEL)
  adapted, adaptation = jax.jit(learner.adapt)(
    jax.random.key(0), (params, statistics), tasks[0].support
  )
  jax.tree.map(np.testing.assert_array_equal, adapted[1], statistics)
  last = adaptation.after(-1, adapted)
  jax.tree.map(np.testing.assert_array_equal, last, adapted)


def test_a_population_learner_draws_its_own_meta_params():
  images = random_batch(0, 6).inputs
  learner = population(learner_of, MODEL)
  meta_params, statistics = jax.jit(learner.init)(jax.random.key(3), images)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    statistics,
    measure(meta_params, images),
  )


def test_a_model_without_statistics_has_no_population():
  model = Model(init=MODEL.init, apply=MODEL.apply)
  with pytest.raises(ValueError, match='no measure and freeze'):
    population(learner_of, model)


def test_an_unknown_normalisation_is_refused(tasks, params):
  with pytest.raises(ValueError, match="got 'batch'"):
    predict_queries(learner_of(MODEL), params, tasks[0], 'batch')
