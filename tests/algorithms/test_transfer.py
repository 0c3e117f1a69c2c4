"""Baselines that train on all classes, against plain softmax regression."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_draws import parameters

import metajax
from metajax.adaptation.heads import TransferParams, cosine_head, linear_head
from metajax.base import Batch, Task
from metajax.models import mlp
from metajax.testing import slopes

WAYS, CLASSES, FEATURES, EXAMPLES = 3, 7, 4, 9
KEY = jax.random.key(0)
EMBEDDING = mlp([5], FEATURES)
BASELINES = ('baseline', 'baseline_plus_plus', 'multi_task', 'transfer')
embed = jax.jit(EMBEDDING.apply)


def make(name: str, **options) -> metajax.MetaLearner:
  return getattr(metajax, name)(
    EMBEDDING, metajax.cross_entropy, WAYS, CLASSES, **options
  )


@functools.cache
def grad_of(name: str):
  return jax.jit(make(name).grad)


def inputs_of(seed: int, *shape: int) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=(*shape, 6))


def batches_of_classes(num: int = 2) -> Task:
  inputs = inputs_of(1, num, EXAMPLES)
  generator = np.random.default_rng(0)
  targets = generator.integers(0, CLASSES, (num, EXAMPLES), np.int32)
  return Task(Batch(inputs, targets), Batch(inputs, targets))


def support_set() -> Batch:
  return Batch(inputs_of(2, 6), np.array([2, 0, 1, 0, 2, 1], np.int32))


def initial(name: str) -> TransferParams:
  """With a head that is not zero."""
  # A seed at which the features tell the classes of the support set apart.
  return parameters(make(name).init, inputs_of(1, 2), seed=5)


def log_softmax(logits: np.ndarray) -> np.ndarray:
  highest = logits.max(-1, keepdims=True)
  return logits - highest - np.log(np.exp(logits - highest).sum(-1))[..., None]


@jax.jit
@jax.value_and_grad
def loss_over(
  meta_params: TransferParams, inputs, targets, choices
) -> jax.Array:
  """The mean of -log p of each class among the classes of its choice."""
  features = EMBEDDING.apply(meta_params.params, inputs)
  logits = features @ meta_params.head['kernel']
  logits += meta_params.head['bias'][None]
  chosen = jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
  among = jnp.where(choices, logits, -jnp.inf)
  return jnp.mean(jax.nn.logsumexp(among, axis=1) - chosen)


def assert_equal_trees(one, other, rtol=1e-10):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol, atol=1e-12), one, other
  )


@pytest.mark.parametrize('name', ['baseline', 'nearest_mean', 'transfer'])
def test_training_is_the_regression_of_all_classes(float64, name):
  tasks, meta_params = batches_of_classes(), initial(name)
  gradient, metrics = grad_of(name)(KEY, meta_params, tasks)
  targets = tasks.query.targets.reshape(-1)
  loss, expected = loss_over(
    meta_params,
    tasks.query.inputs.reshape(-1, 6),
    targets,
    np.ones((len(targets), CLASSES), bool),
  )
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-12)
  assert_equal_trees(gradient, expected)


def test_multi_task_compares_a_class_with_those_of_its_task(float64):
  tasks, meta_params = batches_of_classes(), initial('multi_task')
  # Three tasks of three classes; the third has no third class.
  num_tasks = 3
  assert meta_params.head['kernel'].shape == (FEATURES, num_tasks * WAYS)
  labels = tasks.query.targets.reshape(-1)
  places = labels % num_tasks * WAYS + labels // num_tasks
  gradient, metrics = grad_of('multi_task')(KEY, meta_params, tasks)
  loss, expected = loss_over(
    meta_params,
    tasks.query.inputs.reshape(-1, 6),
    places,
    places[:, None] // WAYS == np.arange(num_tasks * WAYS)[None] // WAYS,
  )
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-12)
  assert_equal_trees(gradient, expected)


@pytest.mark.parametrize('name', BASELINES)
def test_the_gradient_is_that_of_differences(float64, name):
  by_gradient, by_differences = slopes(
    make(name), initial(name), batches_of_classes()
  )
  np.testing.assert_allclose(by_gradient, by_differences, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize('name', BASELINES)
def test_training_does_not_look_at_a_support_set(float64, name):
  tasks, meta_params, grad = batches_of_classes(), initial(name), grad_of(name)
  other = tasks._replace(support=jax.tree.map(np.zeros_like, tasks.support))
  assert_equal_trees(
    grad(KEY, meta_params, tasks), grad(KEY, meta_params, other), rtol=0
  )


@pytest.mark.parametrize('name', ['baseline', 'multi_task'])
def test_a_new_head_is_that_of_numpy(float64, name):
  learner = make(name, inner_lr=0.3, num_steps=4)
  meta_params, support, queries = initial(name), support_set(), inputs_of(4, 6)

  @jax.jit
  def of(meta_params, support, queries):
    adapted, _ = learner.adapt(KEY, meta_params, support)
    return adapted, learner.predict(adapted, queries)

  adapted, predicted = of(meta_params, support, queries)
  features = np.asarray(embed(meta_params.params, support.inputs))
  kernel, bias = np.zeros((FEATURES, WAYS)), np.zeros(WAYS)
  labels = np.eye(WAYS)[support.targets]
  for _ in range(4):
    error = np.exp(log_softmax(features @ kernel + bias)) - labels
    kernel -= 0.3 * features.T @ error / len(features)
    bias -= 0.3 * error.mean(0)
  np.testing.assert_allclose(adapted.head['kernel'], kernel, rtol=1e-10)
  np.testing.assert_allclose(adapted.head['bias'], bias, rtol=1e-10)
  np.testing.assert_allclose(
    predicted,
    np.asarray(embed(meta_params.params, queries)) @ kernel + bias[None],
    rtol=1e-10,
  )


@functools.cache
def adaptation_of(name: str) -> SimpleNamespace:
  """Two hundred steps on the support set, and what is predicted for it."""
  options = {'inner_lr': 0.1, 'num_steps': 200} if name in BASELINES else {}
  learner = make(name, **options)
  meta_params, support = initial(name), support_set()

  @jax.jit
  def of(meta_params, support):
    adapted, adaptation = learner.adapt(KEY, meta_params, support)
    start = adaptation.after(0, adapted)
    before, after = (
      learner.predict(each, support.inputs) for each in (start, adapted)
    )
    return {
      'adapted': adapted, 'before': before, 'after': after,
      'loss': metajax.cross_entropy(after, support.targets),
    }  # fmt: skip

  found = jax.tree.map(np.asarray, of(meta_params, support))
  return SimpleNamespace(meta_params=meta_params, **found)


@pytest.mark.in_ci
@pytest.mark.parametrize('name', BASELINES)
def test_a_support_set_is_fitted(name):
  loss, metrics = adaptation_of(name).loss
  assert float(loss) < 0.9 * np.log(WAYS)
  assert float(metrics['accuracy']) > 0.8


@pytest.mark.parametrize('name', BASELINES)
def test_only_transfer_moves_the_embedding(name):
  found = adaptation_of(name)
  moved = [
    np.abs(a - b.astype(np.float32)).max() > 0
    for a, b in zip(
      jax.tree.leaves(found.adapted.params),
      jax.tree.leaves(found.meta_params.params),
      strict=True,
    )
  ]
  assert any(moved) == (name == 'transfer')
  assert found.adapted.head['kernel'].shape == (FEATURES, WAYS)


@pytest.mark.parametrize(
  'name', ['baseline', 'multi_task', 'nearest_mean', 'transfer']
)
def test_before_adaptation_all_classes_are_equally_likely(name):
  logits = adaptation_of(name).before
  np.testing.assert_array_equal(logits, np.tile(logits[:, :1], (1, WAYS)))


def test_nearest_mean_is_that_of_the_features(float64):
  learner, meta_params = make('nearest_mean'), initial('nearest_mean')
  prototypes = metajax.protonet(EMBEDDING, metajax.cross_entropy, WAYS)

  @jax.jit
  def both(meta_params, support, queries):
    adapted, _ = learner.adapt(KEY, meta_params, support)
    expected, _ = prototypes.adapt(KEY, meta_params.params, support)
    return (
      learner.predict(adapted, queries),
      prototypes.predict(expected, queries),
    )

  found, expected = both(meta_params, support_set(), inputs_of(4, 5))
  np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize('learn_scale', [False, True])
def test_cosines_are_those_of_numpy(float64, learn_scale):
  head = cosine_head(WAYS, 4.0, learn_scale)
  features = inputs_of(5, 5)
  params = jax.jit(head.init)(KEY, features)
  assert ('log_scale' in params) == learn_scale
  params['length'] = np.array([1.0, 0.5, 2.0])
  kernel = np.asarray(params['kernel'])
  expected = [
    [
      4.0 * length * feature @ column
      / np.linalg.norm(feature) / np.linalg.norm(column)
      for column, length in zip(kernel.T, (1.0, 0.5, 2.0), strict=True)
    ]
    for feature in features
  ]  # fmt: skip
  apply = jax.jit(head.apply)
  np.testing.assert_allclose(apply(params, features), expected, rtol=1e-8)
  np.testing.assert_allclose(apply(params, 10 * features), expected, rtol=1e-8)


def test_features_without_direction_have_a_finite_gradient():
  head = cosine_head(WAYS, 10.0)

  @jax.jit
  def slope(features):
    def loss(params, features):
      return jnp.sum(head.apply(params, features) ** 2)

    return jax.grad(loss, (0, 1))(head.init(KEY, features), features)

  leaves = jax.tree.leaves(slope(np.zeros((2, 4))))
  assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_a_linear_head_is_drawn_in_the_precision_of_its_features(float64):
  params = linear_head(2).init(KEY, np.zeros((1, 3)))
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
