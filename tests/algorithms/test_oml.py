"""OML and ANML: the exact meta-gradient on a stream, and what moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax.adaptation.heads import TransferParams, linear_head, with_head
from metajax.algorithms.anml import gated
from metajax.base import Batch, Head, Model, Task
from metajax.inner import partition
from metajax.testing import small_network

KEY = jax.random.key(0)
CLASSES, RATE = 6, 0.3
FEATURES = small_network(Head('features', 5))


def stream_task(number=4, queries=7):
  keys = jax.random.split(KEY, 3)
  inputs = jax.random.uniform(keys[0], (number + queries, 4, 4, 1), jnp.float64)
  targets = jnp.concatenate(
    [
      jnp.array([1, 1, 3, 3, 5])[:number],
      jax.random.randint(keys[1], (queries,), 0, CLASSES),
    ]
  ).astype(jnp.int32)
  return Task(
    Batch(inputs[:number], targets[:number]),
    Batch(inputs[number:], targets[number:]),
  )


def learned(method=metajax.oml, **options):
  learner = method(FEATURES, metajax.cross_entropy, 3, CLASSES, RATE, **options)
  meta_params = learner.init(KEY, stream_task().support.inputs)
  # A head as it is after some training; zeros have no gradient for features.
  head = jax.tree.map(
    lambda leaf: jax.random.normal(KEY, leaf.shape, jnp.float64),
    meta_params.head,
  )
  return learner, meta_params._replace(head=head)


def batched(task):
  return jax.tree.map(lambda leaf: leaf[None], task)


def by_hand(meta_params, task):
  """The loss of OML, in a loop of NumPy's kind."""
  features = FEATURES.apply(meta_params.params, task.support.inputs)
  kernel, bias = meta_params.head['kernel'], meta_params.head['bias']
  comes = jnp.isin(jnp.arange(CLASSES), task.support.targets)
  kernel, bias = jnp.where(comes, 0, kernel), jnp.where(comes, 0, bias)
  for x, y in zip(features, task.support.targets, strict=True):
    error = jax.nn.softmax(x @ kernel + bias) - jax.nn.one_hot(y, CLASSES)
    kernel = kernel - RATE * x[:, None] * error[None]
    bias = bias - RATE * error
  outputs = FEATURES.apply(meta_params.params, task.query.inputs) @ kernel
  return metajax.cross_entropy(outputs + bias[None], task.query.targets)[0]


@pytest.mark.in_ci
def test_its_loss_and_gradient_are_those_of_a_loop(float64):
  learner, meta_params = learned()
  task = stream_task()
  gradient, metrics = jax.jit(learner.grad)(KEY, meta_params, batched(task))
  loss, expected = jax.value_and_grad(by_hand)(meta_params, task)
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-12)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13),
    gradient,
    expected,
  )


def test_its_gradient_is_that_of_central_differences(float64):
  learner, meta_params = learned()
  task, step = batched(stream_task()), 1e-5
  grad = jax.jit(learner.grad)
  gradient, _ = grad(KEY, meta_params, task)
  direction = jax.tree.map(
    lambda leaf: jax.random.normal(KEY, leaf.shape, leaf.dtype), meta_params
  )

  def loss(size):
    there = jax.tree.map(lambda a, b: a + size * b, meta_params, direction)
    return grad(KEY, there, task)[1]['loss']

  slope = (loss(step) - loss(-step)) / (2 * step)
  along = sum(
    jnp.vdot(a, b)
    for a, b in zip(
      jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True
    )
  )
  np.testing.assert_allclose(along, slope, rtol=1e-7)


@pytest.mark.in_ci
def test_on_a_stream_of_one_example_it_is_anil(float64):
  learner, meta_params = learned()
  task = stream_task(number=1)
  # ANIL's start has zeros for that class already, as OML's has.
  start = jax.tree.map(lambda leaf: leaf.at[..., 1].set(0), meta_params.head)
  meta_params = meta_params._replace(head=start)
  whole = with_head(FEATURES, linear_head(CLASSES))
  # The features end in a layer called `head`, too, which is to stay.
  anil = metajax.maml(
    whole, metajax.cross_entropy, RATE, 1, adapts=partition.matching('^head/')
  )
  ours, metrics = learner.grad(KEY, meta_params, batched(task))
  theirs, others = anil.grad(KEY, meta_params, batched(task))
  np.testing.assert_allclose(metrics['loss'], others['loss'], rtol=1e-12)
  # The zeros of OML are set, so its start has no gradient there.
  without = jax.tree.map(lambda leaf: leaf.at[..., 1].set(0), theirs.head)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14),
    ours,
    TransferParams(theirs.params, without),
  )


@pytest.mark.in_ci
@pytest.mark.parametrize(
  ('method', 'moves', 'still'),
  [
    (metajax.oml, '^params/', ['head']),
    (metajax.oml, '^head/', ['params']),
    (metajax.anml, '^params/gate/', ['params/prediction', 'head']),
  ],
)
def test_the_outer_step_moves_what_is_said(float64, method, moves, still):
  learner, meta_params = learned(method, moves=moves)
  gradient, _ = learner.grad(KEY, meta_params, batched(stream_task()))
  sizes = partition.map_with_path(
    lambda path, leaf: (path, float(jnp.abs(leaf).max())), gradient
  )
  for path, size in jax.tree.leaves(
    sizes, is_leaf=lambda leaf: isinstance(leaf, tuple) and len(leaf) == 2
    and isinstance(leaf[0], str)
  ):  # fmt: skip
    stays = any(path.startswith(each) for each in still)
    assert (size == 0) == stays, path


def test_everything_that_adapts_is_a_head_of_zeros_and_the_stream(float64):
  learner, meta_params = learned()
  task = stream_task()
  support = Batch(task.support.inputs, jnp.array([0, 0, 1, 1], jnp.int32))
  adapted, adaptation = learner.adapt(KEY, meta_params, support)
  assert adapted.params is meta_params.params
  before = adaptation.after(0, adapted)
  assert not np.asarray(learner.predict(before, task.query.inputs)).any()
  assert adapted.head['kernel'].shape == (5, 3)
  assert np.asarray(adapted.head['kernel']).any()


def test_a_gate_that_is_open_changes_nothing_but_the_scale(float64):
  def closed(key, inputs):
    del key, inputs
    return ()

  half = Model(closed, lambda params, inputs: jnp.zeros((len(inputs), 5)))
  model = gated(FEATURES, half)
  inputs = stream_task().query.inputs
  params = model.init(KEY, inputs)
  np.testing.assert_allclose(
    model.apply(params, inputs),
    FEATURES.apply(params.prediction, inputs) / 2,
    rtol=1e-12,
  )


def test_a_pattern_that_selects_nothing_is_refused(float64):
  learner, meta_params = learned(moves='neuromodulator')
  with pytest.raises(ValueError, match='selects none of the parameters'):
    learner.grad(KEY, meta_params, batched(stream_task()))
