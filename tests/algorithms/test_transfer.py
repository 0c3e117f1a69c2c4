"""Baselines that train on all classes, against plain softmax regression."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax.adaptation.heads import TransferParams, cosine_head, linear_head
from metajax.base import Batch, Task
from metajax.models import mlp
from metajax.testing import slopes

WAYS, CLASSES, FEATURES, EXAMPLES = 3, 7, 4, 9
KEY = jax.random.key(0)
EMBEDDING = mlp([5], FEATURES)
BASELINES = ('baseline', 'baseline_plus_plus', 'multi_task', 'transfer')


def make(name: str, **options) -> metajax.MetaLearner:
  return getattr(metajax, name)(
    EMBEDDING, metajax.cross_entropy, WAYS, CLASSES, **options
  )


def inputs_of(seed: int, *shape: int) -> jax.Array:
  return jax.random.normal(jax.random.key(seed), (*shape, 6))


def batches_of_classes(num: int = 2) -> Task:
  inputs = inputs_of(1, num, EXAMPLES)
  targets = jax.random.randint(KEY, (num, EXAMPLES), 0, CLASSES)
  return Task(Batch(inputs, targets), Batch(inputs, targets))


def support_set() -> Batch:
  return Batch(inputs_of(2, 6), jnp.array([2, 0, 1, 0, 2, 1]))


def perturbed(meta_params):
  """With a head that is not zero."""
  return jax.tree.map(
    lambda leaf: leaf + 0.3 * jax.random.normal(KEY, leaf.shape, leaf.dtype),
    meta_params,
  )


def initial(learner: metajax.MetaLearner):
  return perturbed(jax.jit(learner.init)(jax.random.key(3), inputs_of(1, 2)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
  highest = logits.max(-1, keepdims=True)
  return logits - highest - np.log(np.exp(logits - highest).sum(-1))[..., None]


def loss_over(choices, meta_params: TransferParams, tasks: Task) -> jax.Array:
  """The mean of -log p of each class among the classes of its choice."""
  features = jax.vmap(partial(EMBEDDING.apply, meta_params.params))(
    tasks.query.inputs
  )
  logits = features @ meta_params.head['kernel']
  logits += meta_params.head['bias'][None, None]
  losses = [
    jax.nn.logsumexp(row[jnp.array(choices(int(label)))]) - row[int(label)]
    for row, label in zip(
      logits.reshape(-1, logits.shape[-1]),
      np.asarray(tasks.query.targets).reshape(-1),
      strict=True,
    )
  ]
  return jnp.mean(jnp.array(losses))


def assert_equal_trees(one, other, rtol=1e-10):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol, atol=1e-12), one, other
  )


@pytest.mark.parametrize('name', ['baseline', 'nearest_mean', 'transfer'])
def test_training_is_the_regression_of_all_classes(float64, name):
  learner, tasks = make(name), batches_of_classes()
  meta_params = initial(learner)
  gradient, metrics = jax.jit(learner.grad)(KEY, meta_params, tasks)
  loss, expected = jax.value_and_grad(
    partial(loss_over, lambda label: range(CLASSES))
  )(meta_params, tasks)
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-12)
  assert_equal_trees(gradient, expected)


def test_multi_task_compares_a_class_with_those_of_its_task(float64):
  learner, tasks = make('multi_task'), batches_of_classes()
  meta_params = initial(learner)
  # Three tasks of three classes; the third has no third class.
  num_tasks = 3
  assert meta_params.head['kernel'].shape == (FEATURES, num_tasks * WAYS)

  def relabelled(label):
    return label % num_tasks * WAYS + label // num_tasks

  def of_its_task(place):
    return range(place // WAYS * WAYS, place // WAYS * WAYS + WAYS)

  moved = tasks._replace(
    query=tasks.query._replace(
      targets=jax.tree.map(relabelled, tasks.query.targets)
    )
  )
  gradient, metrics = jax.jit(learner.grad)(KEY, meta_params, tasks)
  loss, expected = jax.value_and_grad(partial(loss_over, of_its_task))(
    meta_params, moved
  )
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-12)
  assert_equal_trees(gradient, expected)


@pytest.mark.parametrize('name', BASELINES)
def test_the_gradient_is_that_of_differences(float64, name):
  learner, tasks = make(name), batches_of_classes()
  meta_params = jax.tree.map(
    lambda leaf: leaf.astype(jnp.float64), initial(learner)
  )
  by_gradient, by_differences = slopes(learner, meta_params, tasks)
  np.testing.assert_allclose(by_gradient, by_differences, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize('name', BASELINES)
def test_training_does_not_look_at_a_support_set(name):
  learner, tasks = make(name), batches_of_classes()
  meta_params, grad = initial(learner), jax.jit(learner.grad)
  other = tasks._replace(support=jax.tree.map(jnp.zeros_like, tasks.support))
  assert_equal_trees(
    grad(KEY, meta_params, tasks), grad(KEY, meta_params, other), rtol=0
  )


@pytest.mark.parametrize('name', ['baseline', 'multi_task'])
def test_a_new_head_is_that_of_numpy(float64, name):
  learner = make(name, inner_lr=0.3, num_steps=4)
  meta_params, support = initial(learner), support_set()
  adapted, _ = jax.jit(learner.adapt)(KEY, meta_params, support)
  features = np.asarray(EMBEDDING.apply(meta_params.params, support.inputs))
  kernel, bias = np.zeros((FEATURES, WAYS)), np.zeros(WAYS)
  labels = np.eye(WAYS)[np.asarray(support.targets)]
  for _ in range(4):
    error = np.exp(log_softmax(features @ kernel + bias)) - labels
    kernel -= 0.3 * features.T @ error / len(features)
    bias -= 0.3 * error.mean(0)
  np.testing.assert_allclose(adapted.head['kernel'], kernel, rtol=1e-10)
  np.testing.assert_allclose(adapted.head['bias'], bias, rtol=1e-10)
  queries = inputs_of(4, 5)
  np.testing.assert_allclose(
    learner.predict(adapted, queries),
    EMBEDDING.apply(meta_params.params, queries) @ kernel + bias[None],
    rtol=1e-10,
  )


@pytest.mark.parametrize('name', BASELINES)
def test_a_support_set_is_fitted(name):
  learner = make(name, inner_lr=0.1, num_steps=200)
  meta_params, support = initial(learner), support_set()
  adapted, _ = jax.jit(learner.adapt)(KEY, meta_params, support)
  loss, metrics = metajax.cross_entropy(
    learner.predict(adapted, support.inputs), support.targets
  )
  assert float(loss) < 0.9 * np.log(WAYS)
  assert float(metrics['accuracy']) > 0.8


@pytest.mark.parametrize('name', BASELINES)
def test_only_transfer_moves_the_embedding(name):
  learner = make(name, num_steps=2)
  meta_params = initial(learner)
  adapted, _ = jax.jit(learner.adapt)(KEY, meta_params, support_set())
  moved = [
    np.abs(a - b).max() > 0
    for a, b in zip(
      jax.tree.leaves(adapted.params),
      jax.tree.leaves(meta_params.params),
      strict=True,
    )
  ]
  assert any(moved) == (name == 'transfer')
  assert adapted.head['kernel'].shape == (FEATURES, WAYS)


@pytest.mark.parametrize(
  'name', ['baseline', 'multi_task', 'nearest_mean', 'transfer']
)
def test_before_adaptation_all_classes_are_equally_likely(name):
  learner = make(name)
  _, adaptation = jax.jit(learner.adapt)(KEY, initial(learner), support_set())
  before = jax.tree.map(lambda leaf: leaf[0], adaptation.trajectory)
  logits = learner.predict(before, inputs_of(4, 5))
  np.testing.assert_array_equal(logits, np.tile(logits[:, :1], (1, WAYS)))


def test_nearest_mean_is_that_of_the_features(float64):
  learner = make('nearest_mean')
  meta_params, support = initial(learner), support_set()
  adapted, _ = learner.adapt(KEY, meta_params, support)
  prototypes = metajax.protonet(EMBEDDING, metajax.cross_entropy, WAYS)
  expected, _ = prototypes.adapt(KEY, meta_params.params, support)
  queries = inputs_of(4, 5)
  np.testing.assert_allclose(
    learner.predict(adapted, queries),
    prototypes.predict(expected, queries),
    rtol=1e-12,
  )


@pytest.mark.parametrize('learn_scale', [False, True])
def test_cosines_are_those_of_numpy(float64, learn_scale):
  head = cosine_head(WAYS, 4.0, learn_scale)
  features = inputs_of(5, 5)
  params = head.init(KEY, features)
  assert ('log_scale' in params) == learn_scale
  params['length'] = jnp.array([1.0, 0.5, 2.0])
  kernel = np.asarray(params['kernel'])
  expected = [
    [
      4.0 * length * feature @ column
      / np.linalg.norm(feature) / np.linalg.norm(column)
      for column, length in zip(kernel.T, (1.0, 0.5, 2.0), strict=True)
    ]
    for feature in np.asarray(features)
  ]  # fmt: skip
  np.testing.assert_allclose(head.apply(params, features), expected, rtol=1e-8)
  np.testing.assert_allclose(
    head.apply(params, 10 * features), expected, rtol=1e-8
  )


def test_features_without_direction_have_a_finite_gradient():
  head = cosine_head(WAYS, 10.0)
  params = head.init(KEY, jnp.zeros((1, 4)))

  def loss(params, features):
    return jnp.sum(head.apply(params, features) ** 2)

  slope = jax.grad(loss, (0, 1))(params, jnp.zeros((2, 4)))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_a_linear_head_is_drawn_in_the_precision_of_its_features(float64):
  params = linear_head(2).init(KEY, jnp.zeros((1, 3), jnp.float64))
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
    np.dtype('float64')
  }


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('baseline', {'inner_lr': 0.0}, 'inner_lr must be above 0, got 0.0'),
    ('transfer', {'num_steps': -1}, 'num_steps must be 0 or more, got -1'),
    ('baseline_plus_plus', {'scale': -2.0}, 'above 0, got -2.0'),
    ('baseline_plus_plus', {'train_scale': 0.0}, 'above 0, got 0.0'),
  ],
)
def test_settings_that_cannot_be_meant_are_refused(name, options, message):
  with pytest.raises(ValueError, match=message):
    make(name, **options)


@pytest.mark.parametrize(
  ('classes', 'message'),
  [
    ((0, 5), 'num_classes must be 1 or more, got 0'),
    ((5, 1), 'train_classes must be 2 or more, got 1'),
  ],
)
@pytest.mark.parametrize('name', [*BASELINES, 'nearest_mean'])
def test_no_classes_are_refused(name, classes, message):
  with pytest.raises(ValueError, match=message):
    getattr(metajax, name)(EMBEDDING, metajax.cross_entropy, *classes)
