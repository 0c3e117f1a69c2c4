"""Objectives against numpy, and what they refuse."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.algorithms.neural_process import gaussian_likelihood
from metajax.base import Weighted
from metajax.models import mlp
from metajax.objectives import (
  confidence_interval,
  cross_entropy,
  expected_calibration_error,
  loss_and_metrics,
  macro_f1,
  mean_squared_error,
  negative_log_likelihood,
  weighted_mean,
)
from metajax.tasks import sinusoid


def test_cross_entropy_and_accuracy_are_those_of_numpy(float64):
  generator = np.random.default_rng(0)
  logits = generator.normal(size=(20, 3))
  targets = generator.integers(0, 3, 20)
  loss, metrics = jax.jit(cross_entropy)(logits, targets)
  odds = np.exp(logits)
  likelihood = odds[np.arange(20), targets] / odds.sum(1)
  np.testing.assert_allclose(loss, -np.log(likelihood).mean(), rtol=1e-13)
  np.testing.assert_allclose(
    metrics['accuracy'], (logits.argmax(1) == targets).mean()
  )


def test_cross_entropy_does_not_overflow():
  loss, _ = jax.jit(cross_entropy)(np.float32([[1e4, -1e4]]), np.array([1]))
  np.testing.assert_allclose(loss, 2e4)


@pytest.mark.parametrize(
  ('outputs', 'targets'),
  [((4, 3), (3,)), ((4, 3), (4, 1)), ((4, 3), (4, 3)), ((4,), (4,))],
)
def test_cross_entropy_refuses_shapes_that_do_not_fit(outputs, targets):
  with pytest.raises(ValueError, match='wants logits') as error:
    cross_entropy(np.zeros(outputs), np.zeros(targets, int))
  assert str(outputs) in str(error.value)
  assert str(targets) in str(error.value)


def test_mean_squared_error_is_a_mean_over_examples_and_outputs():
  loss, metrics = jax.jit(mean_squared_error)(
    np.float32([[1, 2], [3, 4]]), np.float32([[1, 0], [0, 4]])
  )
  assert float(loss) == float(metrics['mse']) == (4 + 9) / 4


def test_mean_squared_error_never_broadcasts():
  with pytest.raises(ValueError, match=r'\(5, 1\) and \(5,\)'):
    mean_squared_error(np.zeros((5, 1)), np.zeros(5))


def test_confidence_interval_is_that_of_numpy():
  values = np.random.default_rng(1).normal(size=(30, 2)).astype(np.float32)
  np.testing.assert_allclose(
    jax.jit(confidence_interval)(values),
    1.96 * values.std(axis=0, ddof=1) / np.sqrt(30),
    rtol=1e-5,
  )


def test_the_interval_holds_the_true_mean_in_95_of_100_cases():
  draws = np.random.default_rng(2).normal(3.0, 2.0, (200, 1000))
  interval = jax.jit(confidence_interval)(draws.astype(np.float32))
  missed = np.abs(draws.mean(0) - 3.0) > np.asarray(interval)
  assert 0.03 < missed.mean() < 0.07


def test_the_interval_of_one_task_is_refused():
  with pytest.raises(ValueError, match='needs 2 tasks or more, got 1'):
    confidence_interval(np.zeros((1, 3)))


# Measures, each against a loop over classes or bins


def softmax(logits):
  odds = np.exp(logits - logits.max(1, keepdims=True))
  return odds / odds.sum(1, keepdims=True)


def numpy_macro_f1(logits, targets):
  predicted = logits.argmax(1)
  scores = []
  for label in set(targets) | set(predicted):
    hits = np.sum((targets == label) & (predicted == label))
    precision = hits / max(np.sum(predicted == label), 1)
    recall = hits / max(np.sum(targets == label), 1)
    both = precision + recall
    scores.append(2 * precision * recall / both if both else 0)
  return np.mean(scores)


def numpy_calibration_error(logits, targets):
  confidence = softmax(logits).max(1)
  correct = logits.argmax(1) == targets
  error = 0
  for low in range(15):
    inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
    if inside.any():
      gap = correct[inside].mean() - confidence[inside].mean()
      error += inside.mean() * abs(gap)
  return error


def numpy_likelihood(logits, targets):
  return -np.log(softmax(logits)[np.arange(len(targets)), targets]).mean()


MEASURES = [
  (macro_f1, numpy_macro_f1),
  (expected_calibration_error, numpy_calibration_error),
  (negative_log_likelihood, numpy_likelihood),
]
each_measure = pytest.mark.parametrize(('measure', 'expected'), MEASURES)


def draw(seed, examples=40, classes=7):
  generator = np.random.default_rng(seed)
  # Few of the classes are true, so that some occur nowhere at all.
  return (
    generator.normal(scale=2, size=(examples, classes)),
    generator.integers(0, 3, examples),
  )


@each_measure
@pytest.mark.parametrize('examples', [1, 3, 200])
def test_measures_are_those_of_numpy(float64, measure, expected, examples):
  compiled = jax.jit(measure)
  for seed in range(5):
    logits, targets = draw(seed, examples)
    np.testing.assert_allclose(
      compiled(logits, targets), expected(logits, targets), rtol=1e-12
    )


def test_macro_f1_by_hand():
  predicted, targets = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])
  logits = np.eye(5, dtype=np.float32)[predicted]
  # Class 0: 2/3, class 1: 1/2, class 2 is never found; 3 and 4 do not occur.
  np.testing.assert_allclose(
    jax.jit(macro_f1)(logits, targets), (2 / 3 + 1 / 2 + 0) / 3, rtol=1e-6
  )
  assert jax.jit(macro_f1)(np.eye(3, dtype=np.float32), np.arange(3)) == 1


def test_calibration_error_by_hand():
  error = jax.jit(expected_calibration_error)
  logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.6, 0.4]])
  targets = np.array([0, 1, 1, 0])
  # Of the two at 0.9 a half is right; the others are alone in their bins.
  expected = 2 / 4 * 0.4 + 1 / 4 * 0.3 + 1 / 4 * 0.4
  np.testing.assert_allclose(error(logits, targets), expected, rtol=1e-5)
  sure = 100 * np.eye(2)
  assert error(sure, np.array([0, 1])) == 0
  assert error(sure, np.array([1, 0])) == 1


@each_measure
def test_measures_leave_padding_out(float64, measure, expected):
  logits, targets = draw(0)
  real = np.arange(40) % 3 != 0
  padded = Weighted(np.where(real, targets, 99), real)
  compiled = jax.jit(measure)
  np.testing.assert_allclose(
    compiled(logits, padded), expected(logits[real], targets[real]), rtol=1e-12
  )
  assert compiled(logits, padded._replace(weights=np.zeros(40))) == 0


@each_measure
def test_a_weight_counts_an_example_so_many_times(float64, measure, expected):
  logits, targets = draw(0)
  times = np.arange(40) % 4
  again = np.repeat(np.arange(40), times)
  np.testing.assert_allclose(
    jax.jit(measure)(logits, Weighted(targets, times / 8)),
    expected(logits[again], targets[again]),
    rtol=1e-12,
  )


@each_measure
def test_tokens_count_like_examples(float64, measure, expected):
  logits, targets = draw(0)
  shape = 8, 5
  real = np.random.default_rng(1).random(shape) < 0.7
  found = jax.jit(measure)(
    logits.reshape(*shape, -1), Weighted(targets.reshape(shape), real)
  )
  chosen = real.reshape(-1)
  np.testing.assert_allclose(
    found, expected(logits[chosen], targets[chosen]), rtol=1e-12
  )


@each_measure
@pytest.mark.parametrize('wrong', [-1, 1000])
def test_a_class_that_no_output_stands_for_makes_no_number(
  measure, expected, wrong
):
  del expected
  logits, targets = draw(0)
  targets[7] = wrong
  assert np.isnan(jax.jit(measure)(logits, targets))


def test_a_wrong_class_is_seen_in_the_gradient_too():
  slope = jax.grad(lambda outputs: metajax.cross_entropy(outputs, TOO_MANY)[0])
  assert np.isnan(slope(np.zeros((3, 2), np.float32))).all()


TOO_MANY = np.array([0, 1, 2])


def test_weights_of_another_length_are_refused():
  for measure, _ in MEASURES:
    with pytest.raises(ValueError, match='a weight for each of'):
      measure(np.zeros((3, 2)), Weighted(TOO_MANY, np.ones(2)))
  with pytest.raises(ValueError, match='a weight for each of'):
    metajax.mean_squared_error(
      np.zeros((3, 2)), Weighted(np.zeros((3, 2)), np.ones(2))
    )


def test_the_squared_error_is_of_what_has_a_weight(float64):
  generator = np.random.default_rng(0)
  outputs, targets = generator.normal(size=(2, 5, 3))
  weights = np.array([0.5, 0, 2, 0, 1])
  targets[1] = np.nan
  loss = jax.jit(jax.value_and_grad(metajax.mean_squared_error, has_aux=True))
  (value, _), slope = loss(outputs, Weighted(targets, weights))
  squares = np.square(outputs - np.nan_to_num(targets)).mean(axis=1)
  np.testing.assert_allclose(value, weights @ squares / 3.5, rtol=1e-12)
  assert (np.asarray(slope)[[1, 3]] == 0).all()
  assert np.isfinite(slope).all()


@each_measure
@pytest.mark.parametrize('x64', [False, True])
def test_measures_are_the_same_for_one_batch_and_for_many(
  measure, expected, x64
):
  with jax.enable_x64(x64):
    dtype = jnp.float64 if x64 else jnp.float32
    batches = [draw(seed) for seed in range(3)]
    logits = np.asarray([logits for logits, _ in batches], dtype)
    targets = np.asarray([targets for _, targets in batches])
    for many in (
      jax.jit(jax.vmap(measure))(logits, targets),
      jax.jit(partial(jax.lax.map, lambda one: measure(*one)))(
        (logits, targets)
      ),
    ):
      assert many.dtype == dtype
      np.testing.assert_allclose(
        many, [expected(*one) for one in batches], rtol=1e-12 if x64 else 1e-5
      )


@each_measure
def test_measures_refuse_shapes_that_do_not_fit(measure, expected):
  del expected
  with pytest.raises(ValueError, match='wants logits') as error:
    measure(np.zeros((4, 3)), np.zeros(3, int))
  for part in (measure.__name__, '(4, 3)', '(3,)'):
    assert part in str(error.value)


def test_what_is_not_a_number_is_seen():
  logits = np.array([[np.nan, 0.0], [1.0, 0.0]])
  for measure in (expected_calibration_error, negative_log_likelihood):
    assert np.isnan(jax.jit(measure)(logits, np.array([0, 0])))


@pytest.mark.parametrize(
  'form',
  [
    lambda loss: loss,
    lambda loss: (loss, None),
    lambda loss: (loss, {}),
    lambda loss: [loss][0],
  ],
)
def test_an_objective_may_return_a_loss_alone(form):
  loss, metrics = loss_and_metrics(
    lambda outputs, targets: form(jnp.mean(outputs - targets)),
    jnp.ones(3),
    jnp.zeros(3),
  )
  assert (float(loss), metrics) == (1.0, {})


@pytest.mark.parametrize(
  ('returned', 'message'),
  [
    (np.zeros(3, np.float32), r'float32 of shape \(3,\)'),
    (np.int32(1), r'int32 of shape \(\)'),
    (True, 'bool'),
    ((np.float32(1), np.float32(2)), 'got .* beside the loss'),
    ((np.float32(1), {'loss': np.float32(1)}), "a metric 'loss', a name"),
    ((np.float32(1), {'skipped': np.float32(1)}), "a metric 'skipped', a na"),
    ((np.float32(1), {'each': np.zeros(3)}), r"metric 'each' .* shape \(3,\)"),
  ],
)
def test_an_objective_of_another_form_is_refused(returned, message):
  def mine(outputs, targets):
    return returned

  with pytest.raises(ValueError, match=f'objective mine .*{message}|{message}'):
    loss_and_metrics(mine, jnp.ones(3), jnp.zeros(3))


@pytest.mark.in_ci
def test_methods_train_and_test_with_a_loss_alone():
  def absolute(outputs, targets):
    return jnp.mean(jnp.abs(outputs - targets))

  learner = metajax.maml(mlp([4], 1), absolute, 0.1, 1)
  train = metajax.make_train_step(
    learner, optax.sgd(0.1), sinusoid(3, 3), tasks_per_step=2
  )
  state, metrics = train.run(train.init(jax.random.key(0)), 1)
  assert sorted(metrics) == ['loss', 'skipped']
  tested = metajax.evaluate(
    learner, absolute, state.meta_params, sinusoid(3, 3),
    key=jax.random.key(1), num_tasks=2,
  )  # fmt: skip
  assert sorted(tested.mean) == ['loss']


def test_a_mean_of_hits_is_none_of_integers():
  hits, weights = jnp.array([True, True, False]), jnp.array([0.5, 0.25, 0.25])
  assert float(weighted_mean(hits, weights)) == 0.75
  assert float(weighted_mean(jnp.array([1, 3]), jnp.array([0.5, 0.5]))) == 2.0


def test_a_mean_of_many_halves_does_not_overflow():
  ones = jnp.ones((300, 300), jnp.float16)
  mean = weighted_mean(ones, jnp.ones((300, 300)))
  assert mean == 1
  assert mean.dtype == jnp.float16


def test_an_objective_of_three_values_is_refused():
  with pytest.raises(ValueError, match='objective <lambda> must return a loss'):
    loss_and_metrics(lambda outputs, targets: (1.0, {}, 2), 0, 0)


def test_a_likelihood_of_padding_has_no_part_in_the_gradient():
  targets = Weighted(jnp.array([[1.0], [jnp.nan]]), jnp.array([1.0, 0.0]))
  gradient = jax.grad(lambda outputs: gaussian_likelihood(outputs, targets)[0])(
    jnp.zeros((2, 2))
  )
  np.testing.assert_array_equal(gradient[1], np.zeros(2))
  assert np.abs(gradient[0]).max() > 0
