"""Matching networks against NumPy, with and without full context."""

import functools

import jax
import numpy as np
import pytest
from numpy_draws import at, parameters, stacked

import metajax
from metajax.base import Batch, Task, Weighted
from metajax.models import mlp
from metajax.testing import slopes

WAYS, KEY = 3, jax.random.key(0)
# Wide enough that no example is without features, and so without direction.
EMBEDDING = mlp([32], 4)
embed = jax.jit(EMBEDDING.apply)
SUPPORT = np.array([2, 0, 1, 0, 2])

both_kinds = pytest.mark.parametrize('full_context', [False, True])


def batch(seed: int, targets=SUPPORT) -> Batch:
  inputs = np.random.default_rng(seed).normal(size=(len(targets), 5))
  return Batch(inputs, np.asarray(targets, np.int32))


@functools.cache
def make(full_context=False, ways=WAYS, **options):
  learner = metajax.matchingnet(
    EMBEDDING,
    metajax.cross_entropy,
    ways,
    full_context=full_context,
    num_steps=2,
    **options,
  )
  # At other seeds a difference may step over a kink of the embedding.
  return learner, parameters(learner.init, batch(0).inputs, seed=1)


@functools.cache
def compiled(learner):
  """Predictions before the support set and after it."""

  @jax.jit
  def of(params, support, queries):
    adapted, adaptation = learner.adapt(KEY, params, support)
    before = adaptation.after(0, adapted)
    return [learner.predict(each, queries) for each in (before, adapted)]

  return of


def logits(learner, params, support: Batch, queries) -> np.ndarray:
  return np.asarray(compiled(learner)(params, support, queries)[1])


def attended(g: np.ndarray, f: np.ndarray, scale: float) -> np.ndarray:
  """The probabilities of the paper's equation, in NumPy."""
  g = g / np.linalg.norm(g, axis=1, keepdims=True)
  f = f / np.linalg.norm(f, axis=1, keepdims=True)
  weights = np.exp(scale * f @ g.T)
  weights = weights / weights.sum(1, keepdims=True)
  return weights @ np.eye(WAYS)[SUPPORT]


@pytest.mark.parametrize('scale', [1.0, 10.0])
def test_predictions_are_attention_weighted_labels(float64, scale):
  learner, params = make(scale=scale)
  support, queries = batch(0), batch(1).inputs
  g, f = (
    np.asarray(embed(params.params, each)) for each in (support.inputs, queries)
  )
  expected = attended(g, f, scale)
  found = np.exp(logits(learner, params, support, queries))
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_allclose(found.sum(1), np.ones(len(queries)), rtol=1e-12)


def lstm(params, cell, seen):
  sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
  i, f, o, g = np.split(seen @ np.asarray(params.kernel) + params.bias, 4)
  cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
  return cell, sigmoid(o) * np.tanh(cell)


@pytest.mark.long
def test_full_context_embeddings_are_those_of_the_paper(float64):
  learner, params = make(full_context=True)
  support, queries = batch(0), batch(1).inputs
  x = np.asarray(embed(params.params, support.inputs))
  g = x.copy()
  for direction, order in (
    (params.context.forward, range(5)),
    (params.context.backward, range(4, -1, -1)),
  ):
    cell = hidden = np.zeros(4)
    for i in order:
      cell, hidden = lstm(direction, cell, np.r_[x[i], hidden])
      g[i] += hidden
  f = []
  for query in np.asarray(embed(params.params, queries)):
    cell = hidden = np.zeros(4)
    for _ in range(2):
      weights = np.exp(g @ hidden)
      read = weights @ g / weights.sum()
      cell, hidden = lstm(
        params.context.attention, cell, np.r_[query, hidden, read]
      )
      hidden = hidden + query
    f.append(hidden)
  np.testing.assert_allclose(
    np.exp(logits(learner, params, support, queries)),
    attended(g, np.array(f), 1.0),
    rtol=1e-6,
  )


@pytest.mark.in_ci
@both_kinds
def test_the_meta_gradient_is_that_of_differences(float64, full_context):
  learner, params = make(full_context)
  tasks = stacked(Task(batch(0), batch(1)), Task(batch(2), batch(3)))
  by_gradient, by_differences = slopes(learner, params, tasks)
  np.testing.assert_allclose(by_gradient, by_differences, rtol=1e-5, atol=1e-9)


@both_kinds
def test_before_the_support_set_all_classes_are_equally_likely(
  float64, full_context
):
  learner, params = make(full_context)
  outputs, _ = compiled(learner)(params, batch(0), batch(1).inputs)
  np.testing.assert_allclose(outputs, np.full((5, WAYS), -np.log(WAYS)))


def test_only_full_context_sees_the_order_of_the_support_set(float64):
  order = np.array([3, 4, 0, 1, 2])
  support, queries = batch(0), batch(1).inputs
  turned = at(support, order)
  for full_context in (False, True):
    learner, params = make(full_context)
    change = np.abs(
      logits(learner, params, support, queries)
      - logits(learner, params, turned, queries)
    ).max()
    assert (change > 1e-6) == full_context


@both_kinds
def test_a_query_does_not_see_the_others(float64, full_context):
  learner, params = make(full_context)
  queries = batch(1).inputs
  others = queries + (np.arange(5) > 0)[:, None]
  np.testing.assert_array_equal(
    logits(learner, params, batch(0), queries)[0],
    logits(learner, params, batch(0), others)[0],
  )


@both_kinds
def test_padding_and_classes_that_are_not_there_change_nothing(
  float64, full_context
):
  targets = np.array([1, 0, 1, 0])
  small = batch(0, targets)
  more = np.array([0, 1, 1, 2, 3])
  classes, weights = np.int32([1, 0, 2, 1, 0]), np.array([1.0, 1, 0, 1, 1])
  padded = Batch(small.inputs[more], Weighted(classes, weights))
  queries = batch(1).inputs
  learner, params = make(full_context, ways=2)
  expected = logits(learner, params, small, queries)
  learner, params = make(full_context)
  found = logits(learner, params, padded, queries)
  np.testing.assert_allclose(found[:, :2], expected, rtol=1e-9)
  assert (found[:, 2] < -1e29).all()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'num_classes': 0}, 'num_classes must be 1 or more, got 0'),
    ({'num_steps': 0}, 'num_steps must be 1 or more, got 0'),
    ({'scale': 0.0}, 'scale must be above 0, got 0.0'),
  ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    metajax.matchingnet(
      EMBEDDING, metajax.cross_entropy, **{'num_classes': WAYS, **options}
    )
