"""Checks of methods pass what is right, and find every kind of mistake."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax import testing
from metajax.base import (
  Adaptation,
  Batch,
  Head,
  Learner,
  MetaLearner,
  PyTree,
)
from metajax.testing import small_network

# Tiny, so that compiling takes no time: logits are linear in the mean image.
MODEL = metajax.Model(
  init=lambda key, inputs: {
    'scale': jnp.array([0.9, -1.3, 0.4], inputs.dtype),
    'shift': jnp.array([0.0, 0.1, 0.2], inputs.dtype),
  },
  apply=lambda params, inputs: (
    inputs.mean((1, 2)) * params['scale'][None] + params['shift'][None]
  ),
)
RATE = 0.3


def adapt(
  key: jax.Array, params: PyTree, support: Batch
) -> tuple[PyTree, Adaptation]:
  """One step, whose gradient is differentiated."""
  loss, slope = jax.value_and_grad(loss_of)(params, support)
  moved = jax.tree.map(lambda leaf, slope: leaf - RATE * slope, params, slope)
  return moved, way(loss, params, moved)


def loss_of(params: PyTree, batch: Batch) -> jax.Array:
  """Squares: their second derivatives take less compiling than others."""
  outputs = MODEL.apply(params, batch.inputs)
  return jnp.square(outputs - jax.nn.one_hot(batch.targets, 3)).mean()


def way(loss: jax.Array, *entries: PyTree) -> Adaptation:
  return Adaptation(
    loss[None], jax.tree.map(lambda *leaves: jnp.stack(leaves), *entries)
  )


def learner_of(adapt=adapt, *, init=MODEL.init, predict=MODEL.apply, grad=None):
  learner = Learner(init, adapt, predict)
  if grad is None:
    grad = metajax.backprop(learner, metajax.cross_entropy)
  return MetaLearner(*learner, grad=grad)


RIGHT = learner_of()


def first_order(key, params, support):
  """One step, whose gradient is held constant."""
  slope = jax.lax.stop_gradient(jax.grad(loss_of)(params, support))
  moved = jax.tree.map(lambda leaf, g: leaf - RATE * g, params, slope)
  return moved, way(loss_of(params, support), params, moved)


def with_gradient(change) -> MetaLearner:
  """The right method, but for `change(key, gradient, metrics, tasks)`."""

  def grad(key, meta_params, tasks):
    return change(key, *RIGHT.grad(key, meta_params, tasks), tasks)

  return learner_of(grad=grad)


# What is right.


@cache
def right() -> testing.Trial:
  return testing.make_trial(RIGHT)


@pytest.mark.in_ci
@pytest.mark.parametrize(
  'check',
  [
    testing.check_structure,
    testing.check_finite,
    testing.check_metrics,
    testing.check_trajectory,
    partial(
      testing.check_trajectory, num_steps=1, weights=lambda params: params
    ),
    testing.check_before_adaptation,
    testing.check_same_key,
    testing.check_other_key,
    testing.check_one_trace,
    testing.check_microbatches,
    partial(testing.check_microbatches, chunk_size=1),
    testing.check_without_jit,
    testing.check_differences,
  ],
)
def test_what_is_right_passes(check):
  check(right())


@pytest.mark.in_ci
@pytest.mark.parametrize('x64', [False, True])
def test_all_checks_run_whatever_the_precision_outside(x64):
  with jax.enable_x64(x64):
    testing.check_method(
      RIGHT, num_steps=1, weights=lambda params: params, key=jax.random.key(3)
    )
    assert jax.config.jax_enable_x64 == x64


def test_tasks_of_regression_pass():
  model = metajax.Model(
    init=lambda key, inputs: jnp.ones((2,), inputs.dtype),
    apply=lambda params, inputs: jnp.sin(
      inputs * params[None, :1] + params[None, 1:]
    ),
  )
  learner = metajax.maml(model, metajax.mean_squared_error, 0.1, 2)

  def batch(seed: int, examples: int) -> Batch:
    inputs = np.random.default_rng(seed).uniform(-2, 2, (3, examples, 1))
    return Batch(inputs, np.sin(inputs + np.arange(3)[:, None, None]))

  trial = testing.make_trial(
    learner,
    objective=metajax.mean_squared_error,
    tasks=metajax.Task(batch(0, 4), batch(1, 5)),
  )
  testing.check_metrics(trial)
  testing.check_trajectory(trial, num_steps=2)
  testing.check_before_adaptation(trial)


def test_a_count_among_the_meta_parameters_is_held_fixed():
  def init(key, inputs):
    return MODEL.init(key, inputs), jnp.array(7)

  def grad(key, meta_params, tasks):
    gradient, metrics = RIGHT.grad(key, meta_params[0], tasks)
    return (gradient, jnp.array(-1)), metrics

  counting = learner_of(
    lambda key, meta_params, support: adapt(key, meta_params[0], support),
    init=init,
    grad=grad,
  )
  trial = testing.make_trial(counting)
  assert (int(trial.meta_params[1]), int(trial.gradient[1])) == (7, -1)
  testing.check_structure(trial)
  testing.check_differences(trial)
  testing.check_trajectory(trial, num_steps=1)


def test_tasks_are_drawn_in_random_order_and_told_apart_by_their_patterns():
  tasks = jax.device_get(
    testing.small_tasks(ways=4, shots=1, queries=3, num_tasks=6)
  )
  assert tasks.query.inputs.shape == (6, 12, 4, 4, 1)
  for targets in (tasks.support.targets, tasks.query.targets):
    assert len({tuple(row) for row in targets.tolist()}) > 1
  for task in range(6):
    support, query = jax.tree.map(lambda leaf: leaf[task], tasks)  # noqa: B023
    far = np.square(query.inputs[:, None] - support.inputs[None]).sum((2, 3, 4))
    nearest = support.targets[far.argmin(1)]
    np.testing.assert_array_equal(nearest, query.targets)


@pytest.mark.parametrize(
  ('head', 'shape'),
  [
    (Head('outputs'), (2, 4)),
    (Head('features', 9), (2, 9)),
    (Head('outputs', warps=True), (2, 4)),
  ],
)
def test_a_small_network_has_the_head_that_is_asked_for(float64, head, shape):
  model = small_network(head, 4)
  inputs = jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float64)
  params = jax.eval_shape(model.init, jax.random.key(0), inputs)
  assert jax.eval_shape(model.apply, params, inputs).shape == shape
  assert any('warp' in name for name in params) == head.warps
  assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {'float64'}


# What is wrong, and what is to be said of it.


def one_less(key, gradient, metrics, tasks):
  return {'scale': gradient['scale']}, metrics


def transposed(key, gradient, metrics, tasks):
  return gradient | {'scale': gradient['scale'][None]}, metrics


def as_pairs(key, gradient, metrics, tasks):
  return tuple(gradient.values()), metrics


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (one_less, r"at \['shift'\] these have an array .* and it has nothing"),
    (transposed, r"at \['scale'\] .* shape \(3,\) and .* shape \(1, 3\)"),
    (as_pairs, 'should have the structure of the meta-parameters'),
  ],
)
def test_another_structure_is_found(change, message):
  found = jax.device_get((right().gradient, right().metrics))
  gradient, _ = change(None, *found, None)
  trial = right()._replace(gradient=gradient)
  with pytest.raises(AssertionError, match=message):
    testing.check_structure(trial)


def test_a_structure_is_told_from_another_with_the_same_names():
  def listed(key, gradient, metrics, tasks):
    return [gradient], metrics

  learner = with_gradient(lambda *args: listed(*args))
  wrapped = learner._replace(
    init=lambda key, inputs: (MODEL.init(key, inputs),),
    grad=lambda key, params, tasks: learner.grad(key, params[0], tasks),
  )
  with pytest.raises(AssertionError, match='structure of the meta-parameters'):
    testing.check_structure(testing.make_trial(wrapped))


def test_a_gradient_that_is_no_number_is_found():
  broken = right().gradient | {'shift': np.array([0, np.inf, np.nan])}
  with pytest.raises(AssertionError, match=r"it is not at \['shift'\]"):
    testing.check_finite(right()._replace(gradient=broken))


def test_a_gradient_that_is_held_constant_is_found():
  def constant(key, params, support):
    return adapt(key, jax.lax.stop_gradient(params), support)

  with pytest.raises(AssertionError, match=r'largest entry is 0\.0e'):
    testing.check_finite(testing.make_trial(learner_of(constant)))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda metrics: {'loss': metrics['loss']}, r"\['accuracy', 'loss'\]"),
    (lambda metrics: metrics | {'extra': 1.0}, "found .*'extra'"),
    (
      lambda metrics: metrics | {'loss': np.ones(5)},
      r'loss should be a scalar, .* has the shape \(5,\)',
    ),
    (
      lambda metrics: metrics | {'loss': jnp.nan},
      'loss should be finite; it is nan',
    ),
    (
      lambda metrics: metrics | {'accuracy': np.array(40.0)},
      'accuracy should be from 0 to 1; it is 40',
    ),
  ],
)
def test_metrics_that_are_wrong_are_found(change, message):
  trial = right()._replace(metrics=change(right().metrics))
  with pytest.raises(AssertionError, match=message):
    testing.check_metrics(trial)


def test_a_step_that_is_not_differentiated_is_found():
  trial = testing.make_trial(learner_of(first_order))
  with pytest.raises(AssertionError, match='exact=False says so'):
    testing.check_differences(trial)
  for check in (testing.check_structure, testing.check_finite):
    check(trial)


@pytest.mark.in_ci
def test_the_check_of_all_finds_it_too_unless_it_is_meant():
  learner = learner_of(first_order)
  with pytest.raises(AssertionError, match='central differences say'):
    testing.check_method(learner)
  testing.check_method(learner, exact=False)


def noisy(draw):
  """Adapts to inputs with noise."""

  def noisy_adapt(key, params, support):
    noise = 0.1 * draw(key, support.inputs.shape).astype(support.inputs.dtype)
    return adapt(key, params, support._replace(inputs=support.inputs + noise))

  return learner_of(noisy_adapt)


@cache
def at_random() -> testing.Trial:
  return testing.make_trial(noisy(jax.random.uniform))


def test_a_key_that_is_forgotten_is_found():
  forgetful = noisy(
    lambda key, shape: jax.random.uniform(jax.random.key(0), shape)
  )
  trial = testing.make_trial(forgetful)
  with pytest.raises(AssertionError, match='The key is not used'):
    testing.check_other_key(trial, adapts_at_random=True)
  testing.check_other_key(at_random(), adapts_at_random=True)


def test_a_key_that_should_not_matter_is_found():
  with pytest.raises(AssertionError, match='adapts_at_random=True says so'):
    testing.check_other_key(at_random())


def test_noise_from_elsewhere_than_the_key_is_found():
  generator = np.random.default_rng(0)
  shared = noisy(lambda key, shape: jnp.asarray(generator.normal(size=shape)))
  # Compiled it is always the same.
  trial = testing.make_trial(shared)
  testing.check_same_key(trial)
  with pytest.raises(AssertionError, match='without jit'):
    testing.check_without_jit(trial)


def test_noise_drawn_while_running_is_found():
  generator = np.random.default_rng(0)

  def draw(key, shape):
    return jax.pure_callback(
      lambda key: generator.normal(size=shape).astype(np.float32),
      jax.ShapeDtypeStruct(shape, np.float32),
      jax.random.key_data(key),
      vmap_method='sequential',
    )

  trial = testing.make_trial(noisy(draw))
  with pytest.raises(AssertionError, match='to the last bit; found others at'):
    testing.check_same_key(trial)


def test_a_sum_over_tasks_is_found():
  def summed(key, gradient, metrics, tasks):
    num = len(tasks.query.targets)
    return jax.tree.map(lambda leaf: num * leaf, gradient), metrics

  trial = testing.make_trial(with_gradient(summed))
  with pytest.raises(AssertionError, match='should be the mean over tasks'):
    testing.check_microbatches(trial)


def test_one_key_for_all_tasks_is_found():
  learner = noisy(jax.random.uniform)

  def grad(key, meta_params, tasks):
    key = key[0] if key.ndim else key
    keys = jnp.stack([key] * len(tasks.query.targets))
    return learner.grad(keys, meta_params, tasks)

  trial = testing.make_trial(learner._replace(grad=grad))
  with pytest.raises(AssertionError, match='2 tasks at a time'):
    testing.check_microbatches(trial)


def test_what_depends_on_tracing_is_found():
  def depends(key, gradient, metrics, tasks):
    if isinstance(tasks.query.targets, jax.core.Tracer):
      return gradient, metrics
    return jax.tree.map(lambda leaf: leaf * (1 + 1e-9), gradient), metrics

  trial = testing.make_trial(with_gradient(depends))
  with pytest.raises(AssertionError, match='times what rounding explains'):
    testing.check_without_jit(trial)


def test_meta_parameters_of_a_weak_type_are_found():
  trial = testing.make_trial(
    learner_of(
      lambda key, params, support: adapt(
        key,
        params | {'shift': jnp.broadcast_to(params['shift'], (3,))},
        support,
      ),
      init=lambda key, inputs: MODEL.init(key, inputs) | {'shift': 0.5},
    )
  )
  with pytest.raises(AssertionError, match='grad should be traced once'):
    testing.check_one_trace(trial)


def entries(change) -> testing.Trial:
  """The right method, but for the entries of its trajectory."""

  def changed(key, params, support):
    moved, adaptation = right().adapt(key, params, support)
    return moved, change(*jax.device_get((params, moved, adaptation)))

  return right()._replace(adapt=changed)


def stacked(loss, *entries: PyTree) -> Adaptation:
  """The same as `way`, of what is known."""
  return Adaptation(
    np.asarray(loss)[None],
    jax.tree.map(lambda *leaves: np.stack(leaves), *entries),
  )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      lambda start, moved, adaptation: adaptation._replace(
        trajectory=adaptation.trajectory['scale']
      ),
      'should have the structure of what is adapted',
    ),
    (
      lambda start, moved, adaptation: stacked(0.0, moved, start),
      r"should be what is adapted; found another at \['scale'\]",
    ),
    (
      lambda start, moved, adaptation: stacked(0.0, moved, moved),
      'start at the weights of the meta-parameters; found others at',
    ),
    (
      lambda start, moved, adaptation: stacked(0.0, start, start, moved),
      r'2 entries and losses of shape \(1,\); found 3 entries',
    ),
    (
      lambda start, moved, adaptation: adaptation._replace(losses=np.zeros(2)),
      r'found 2 entries and \(2,\)',
    ),
    (
      lambda start, moved, adaptation: adaptation._replace(
        trajectory=adaptation.trajectory
        | {'shift': np.stack([start['shift'], *[moved['shift']] * 2])}
      ),
      r'found leading axes \[\(2,\), \(3,\)\]',
    ),
  ],
)
def test_a_trajectory_that_goes_elsewhere_is_found(change, message):
  with pytest.raises(AssertionError, match=message):
    testing.check_trajectory(
      entries(change), num_steps=1, weights=lambda params: params
    )


def test_an_adaptation_that_does_nothing_is_found():
  def stays(key, params, support):
    return params, way(loss_of(params, support), params, params)

  trial = testing.make_trial(learner_of(stays))
  with pytest.raises(AssertionError, match=r'largest change is 0\.0e'):
    testing.check_trajectory(trial)


def test_labels_that_leak_are_found():
  def leaks(start, moved, adaptation):
    half = jax.tree.map(lambda a, b: (a + b) / 2, start, moved)
    return stacked(0.0, half, moved)

  trial = entries(leaks)
  testing.check_trajectory(trial, num_steps=1)
  with pytest.raises(AssertionError, match='Labels leak into the first entry'):
    testing.check_before_adaptation(trial)
