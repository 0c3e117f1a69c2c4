"""R2D2, LR-D2 and MetaOptNet: what they solve, and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax.adaptation.solved_head import ridge_regression, solve_definite
from metajax.algorithms.lr_d2 import newton_step
from metajax.algorithms.metaoptnet import support_vector_machine
from metajax.base import Batch, Model, Task, Weighted
from metajax.models import mlp
from metajax.testing import slopes

WAYS, KEY = 3, jax.random.key(0)
# A linear embedding of two features, kept by hand.
EMBEDDING = Model(
  init=lambda key, inputs: {
    'kernel': jnp.asarray(
      np.random.default_rng(9).normal(size=(inputs.shape[1], 2)), inputs.dtype
    )
  },
  apply=lambda params, inputs: inputs @ params['kernel'],
)
METHODS = [metajax.r2d2, metajax.lr_d2, metajax.metaoptnet]
every_method = pytest.mark.parametrize('method', METHODS)


def batch(seed: int, examples: int) -> Batch:
  generator = np.random.default_rng(seed)
  targets = generator.permutation(np.arange(examples) % WAYS)
  inputs = generator.normal(size=(examples, 4)) + targets[:, None]
  return Batch(inputs, targets.astype(np.int32))


def initial(learner, inputs):
  return jax.jit(learner.init)(KEY, inputs)


def predicted(learner, params, support: Batch, inputs) -> np.ndarray:
  """What is predicted after adaptation, as one program."""

  @jax.jit
  def predict(params, support, inputs):
    adapted, _ = learner.adapt(KEY, params, support)
    return learner.predict(adapted, inputs)

  return np.asarray(predict(params, support, inputs))


def adapt(method, support: Batch):
  learner = method(EMBEDDING, metajax.cross_entropy, WAYS)
  params = initial(learner, support.inputs)
  adapted, adaptation = jax.jit(learner.adapt)(KEY, params, support)
  return learner, adapted, adaptation


@pytest.mark.parametrize(('examples', 'features'), [(4, 9), (9, 4)])
def test_both_forms_of_a_ridge_regression_are_that_of_numpy(
  float64, examples, features
):
  generator = np.random.default_rng(0)
  x = generator.normal(size=(examples, features))
  y = generator.normal(size=(examples, 2))
  expected = np.linalg.inv(x.T @ x + 0.3 * np.eye(features)) @ x.T @ y
  weights = jax.jit(ridge_regression)(x, y, 0.3)
  np.testing.assert_allclose(weights, expected, rtol=1e-9)


def test_the_outputs_of_r2d2_are_those_of_numpy(float64):
  support, queries = batch(0, 6), batch(1, 5)
  learner = metajax.r2d2(
    EMBEDDING, metajax.cross_entropy, WAYS, ridge=0.5, contrast=7.0
  )
  params = initial(learner, support.inputs)._replace(
    log_scale=np.log(1.5), shift=np.array(0.25)
  )
  embed = np.asarray(params.params['kernel'])
  x = np.c_[np.asarray(support.inputs) @ embed, np.ones(6)]
  y = 7.0 * np.eye(WAYS)[np.asarray(support.targets)]
  weights = np.linalg.solve(x.T @ x + 0.5 * np.eye(3), x.T @ y)
  expected = np.c_[np.asarray(queries.inputs) @ embed, np.ones(5)] @ weights
  np.testing.assert_allclose(
    predicted(learner, params, support, queries.inputs),
    1.5 * expected + 0.25,
    rtol=1e-9,
  )


def test_r2d2_regresses_where_targets_are_numbers(float64):
  x, queries = np.linspace(-5, 5, 8)[:, None], np.linspace(-4, 4, 5)[:, None]
  y = np.sin(x + 1)
  raw = Model(lambda key, inputs: (), lambda params, inputs: inputs)
  learner = metajax.r2d2(raw, metajax.mean_squared_error, ridge=0.1)
  found = predicted(learner, initial(learner, x), Batch(x, y), queries)
  x = np.c_[x, np.ones(8)]
  weights = np.linalg.solve(x.T @ x + 0.1 * np.eye(2), x.T @ y)
  np.testing.assert_allclose(
    found, np.c_[queries, np.ones(5)] @ weights, rtol=1e-9
  )


def logistic_loss(x, signs, weights, strength):
  return jnp.sum(jnp.log1p(jnp.exp(-signs * (x @ weights)))) + (
    strength / 2
  ) * jnp.sum(weights**2)


@pytest.mark.parametrize(('examples', 'features'), [(4, 6), (9, 3)])
def test_a_step_of_lr_d2_is_one_of_newton(float64, examples, features):
  generator = np.random.default_rng(0)
  x = generator.normal(size=(examples, features))
  signs = generator.choice([-1.0, 1.0], examples)
  weights = generator.normal(size=features)

  @jax.jit
  def derivatives(w):
    loss = lambda w: logistic_loss(x, signs, w, 0.2)  # noqa: E731
    return (
      jax.hessian(loss)(w),
      jax.grad(loss)(w),
      newton_step(x, signs, w, 0.2),
    )

  hessian, slope, found = derivatives(weights)
  expected = weights - np.linalg.solve(hessian, slope)
  np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_steps_of_lr_d2_end_at_the_minimum_and_count(float64):
  support = batch(0, 6)
  learner = metajax.lr_d2(
    EMBEDDING, metajax.cross_entropy, WAYS, num_steps=12, ridge=0.2
  )
  params = initial(learner, support.inputs)
  adapted, adaptation = jax.jit(learner.adapt)(KEY, params, support)
  assert adaptation.losses.shape == (12,)
  assert adaptation.trajectory.weights.shape == (13, 3, WAYS)
  np.testing.assert_allclose(
    np.asarray(adaptation.losses)[0], np.log(2), rtol=1e-12
  )
  embed = np.asarray(params.params['kernel'])
  x = np.c_[support.inputs @ embed, np.ones(6)]
  slope_of = jax.jit(jax.grad(lambda w, signs: logistic_loss(x, signs, w, 0.2)))
  for way in range(WAYS):
    signs = np.where(support.targets == way, 1.0, -1.0)
    slope = slope_of(np.asarray(adapted.weights)[:, way], signs)
    np.testing.assert_allclose(slope, np.zeros(3), atol=1e-12)


def test_newton_steps_stay_finite_where_examples_are_surely_classified():
  x = np.float32([[1.0], [-1.0]])
  signs = np.float32([1.0, -1.0])
  step = jax.jit(
    jax.value_and_grad(lambda w: newton_step(x, signs, w, 1e-3)[0])
  )
  for start in (60.0, -60.0):
    value, slope = step(np.float32([start]))
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


def dual_in_numpy(kernel, labels, limit, ridge, steps):
  """Projected gradient steps, until nothing moves."""

  def project(v):  # rows onto the simplex of that size
    ordered = -np.sort(-v, axis=1)
    excess = np.cumsum(ordered, 1) - limit
    counts = np.arange(1, v.shape[1] + 1)
    last = (ordered > excess / counts).sum(1)
    shift = excess[np.arange(len(v)), last - 1] / last
    return np.maximum(v - shift[:, None], 0)

  rate = 1 / (np.linalg.eigvalsh(kernel)[-1] + ridge)
  below = project(np.zeros_like(labels))
  for _ in range(steps):
    alpha = limit * labels - below
    slope = kernel @ alpha + ridge * alpha - labels
    moved = project(below + rate * slope)
    still = np.abs(moved - below).max() < 1e-14
    below = moved
    if still:
      break
  return limit * labels - below


# The last one has as many examples that weigh nothing as others.
@pytest.mark.parametrize(
  ('shots', 'limit', 'spread'),
  [
    (1, 0.1, 1.0),
    pytest.param(2, 0.1, 1.0, marks=pytest.mark.long),
    pytest.param(4, 1.0, 4.0, marks=pytest.mark.long),
  ],
)
def test_the_dual_solution_is_that_of_a_long_run_in_numpy(
  float64, shots, limit, spread
):
  generator = np.random.default_rng(0)
  labels = np.eye(4)[np.arange(4 * shots) % 4]
  x = np.maximum(
    spread * labels @ generator.normal(size=(4, 8))
    + generator.normal(0.5, 1, (4 * shots, 8)),
    0,
  )
  kernel = x @ x.T
  expected = dual_in_numpy(kernel, labels, limit, 0.5, steps=30_000)
  alpha = np.asarray(
    jax.jit(support_vector_machine)(kernel, labels, limit, 0.5)
  )
  np.testing.assert_allclose(alpha, expected, atol=1e-9)
  # It is a maximum of the dual within its bounds.
  np.testing.assert_allclose(alpha.sum(1), np.zeros(len(x)), atol=1e-12)
  assert (alpha <= limit * labels + 1e-12).all()


def test_the_dual_solution_has_the_derivatives_of_differences(float64):
  generator = np.random.default_rng(1)
  labels = np.eye(3)[np.arange(6) % 3]
  x = generator.normal(size=(6, 4)) + labels @ np.ones((3, 4))
  weigh = generator.normal(size=(6, 3))

  @jax.jit
  def value(x, ridge):
    return jnp.sum(
      weigh * support_vector_machine(x @ x.T, jnp.asarray(labels), 0.2, ridge)
    )

  gradient, slope = jax.jit(jax.grad(value, argnums=(0, 1)))(x, 0.5)
  step = 1e-5
  direction = generator.normal(size=x.shape)
  along = [value(x + s * direction, 0.5) for s in (step, -step)]
  np.testing.assert_allclose(
    np.vdot(gradient, direction), (along[0] - along[1]) / (2 * step), rtol=1e-6
  )
  ends = [value(x, 0.5 + s) for s in (step, -step)]
  np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


def test_examples_well_within_their_class_do_not_weigh(float64):
  x = np.array([[2.0], [9.0], [-2.0], [-9.0]])
  labels = np.eye(2)[[0, 0, 1, 1]]
  alpha = np.asarray(
    jax.jit(support_vector_machine)(x @ x.T, labels, 1.0, 1e-3)
  )
  assert np.abs(alpha[1]).max() < 1e-9
  assert np.abs(alpha[0]).max() > 1e-2


@every_method
def test_the_meta_gradient_is_that_of_differences(float64, method):
  tasks = jax.tree.map(
    lambda *leaves: np.stack(leaves),
    Task(batch(0, 6), batch(1, 4)),
    Task(batch(2, 6), batch(3, 4)),
  )
  learner = method(EMBEDDING, metajax.cross_entropy, WAYS)
  params = initial(learner, tasks.support.inputs[0])
  by_gradient, by_differences = slopes(learner, params, tasks)
  np.testing.assert_allclose(by_gradient, by_differences, rtol=1e-5, atol=1e-9)


@every_method
def test_before_the_support_set_all_classes_are_equally_likely(method):
  learner, adapted, adaptation = adapt(method, batch(0, 6))
  before = adaptation.after(0, adapted)
  logits = np.asarray(jax.jit(learner.predict)(before, batch(1, 4).inputs))
  np.testing.assert_array_equal(logits, np.tile(logits[:, :1], (1, WAYS)))


@pytest.mark.in_ci
@every_method
def test_padding_and_classes_that_are_not_there_change_nothing(float64, method):
  """As many classes as there are, or one more without examples."""
  whole = batch(0, 6)
  there = whole.targets < 2
  small = Batch(whole.inputs[there], whole.targets[there])
  padded = whole._replace(
    targets=Weighted(whole.targets, there.astype(np.float64))
  )
  queries = batch(1, 4).inputs
  outputs = []
  for ways, support in ((2, small), (WAYS, padded)):
    learner = method(EMBEDDING, metajax.cross_entropy, ways)
    params = initial(learner, support.inputs)
    outputs.append(predicted(learner, params, support, queries))
  np.testing.assert_allclose(outputs[1][:, :2], outputs[0], rtol=1e-9)
  assert (outputs[1][:, 2] < -1e29).all()


def test_losses_of_lr_d2_leave_padding_out(float64):
  whole = batch(0, 6)
  padded = Batch(
    whole.inputs[[0, 1, 2, 3, 4, 5, 0, 1]],
    Weighted(
      np.append(whole.targets, np.int32([0, 1])), np.r_[np.ones(6), 0, 0]
    ),
  )
  _, _, adaptation = adapt(metajax.lr_d2, padded)
  _, _, expected = adapt(metajax.lr_d2, whole)
  np.testing.assert_allclose(adaptation.losses, expected.losses, rtol=1e-9)


@pytest.mark.parametrize('method', [metajax.lr_d2, metajax.metaoptnet])
def test_classifiers_refuse_regression(method):
  numbers = Batch(
    np.ones((1, 4, 1), np.float32), np.ones((1, 4, 1), np.float32)
  )
  tasks = Task(numbers, numbers)
  learner = method(mlp([4], 3), metajax.mean_squared_error, WAYS)
  params = jax.eval_shape(learner.init, KEY, tasks.support.inputs[0])
  with pytest.raises(ValueError, match=r'integer classes.*float32.*\(4, 1\)'):
    jax.eval_shape(learner.grad, KEY, params, tasks)


def test_r2d2_wants_the_number_of_classes():
  support = batch(0, 6)
  learner = metajax.r2d2(EMBEDDING, metajax.cross_entropy)
  params = jax.eval_shape(learner.init, KEY, support.inputs)
  with pytest.raises(ValueError, match=r'without num_classes.*int32'):
    jax.eval_shape(learner.adapt, KEY, params, support)


@pytest.mark.parametrize(
  ('method', 'options', 'message'),
  [
    (metajax.r2d2, {'num_classes': 0}, 'num_classes must be 1 or more, got 0'),
    (metajax.r2d2, {'ridge': 0.0}, 'ridge must be above 0, got 0.0'),
    (metajax.r2d2, {'contrast': -1.0}, 'contrast must be above 0, got -1.0'),
    (metajax.lr_d2, {'num_steps': -1}, 'num_steps must be 0 or more, got -1'),
    (metajax.lr_d2, {'scale': 0.0}, 'scale must be above 0, got 0.0'),
    (metajax.metaoptnet, {'num_classes': 1}, '2 or more, got 1'),
    (metajax.metaoptnet, {'limit': 0.0}, 'limit must be above 0, got 0.0'),
    (metajax.metaoptnet, {'num_iterations': 0}, '1 or more, got 0'),
  ],
)
def test_settings_that_cannot_be_meant_are_refused(method, options, message):
  with pytest.raises(ValueError, match=message):
    method(EMBEDDING, metajax.cross_entropy, **{'num_classes': WAYS, **options})


def test_elimination_solves_what_numpy_solves(float64):
  generator = np.random.default_rng(0)
  roots = generator.normal(size=(4, 7, 7))
  matrices = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(7)
  rights = generator.normal(size=(4, 7, 3))
  found = jax.jit(jax.vmap(solve_definite))(matrices, rights)
  np.testing.assert_allclose(
    found, np.linalg.solve(matrices, rights), rtol=1e-9, atol=1e-11
  )


def test_solving_calls_no_lapack():
  """Its kernels wait for threads that wait for them, with several devices."""
  matrices, rights = np.ones((4, 7, 7)), np.ones((4, 7, 3))
  lowered = jax.jit(jax.vmap(solve_definite)).lower(matrices, rights)
  assert 'custom_call' not in lowered.as_text()
