"""ProtoMAML between prototypical networks and MAML."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_draws import at, classes, parameters

import metajax
from metajax.base import Task, Weighted
from metajax.models import mlp
from metajax.precision import drawn_like_inputs
from metajax.testing import slopes

WAYS, RATE, STEPS = 3, 0.1, 2
EMBEDDING = drawn_like_inputs(mlp([6], 4))
KEY = jax.random.key(0)


def random_tasks(num: int) -> Task:
  return classes(num, WAYS, 6, 5)


def draw(tasks: Task):
  return parameters(EMBEDDING.init, tasks.support.inputs[0])


def make(num_steps: int):
  return metajax.protomaml(
    EMBEDDING, metajax.cross_entropy, WAYS, RATE, num_steps
  )


def assert_close(a, b):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), a, b
  )


def test_without_steps_it_is_a_prototypical_network(float64):
  tasks = random_tasks(3)
  params = draw(tasks)
  protonet = metajax.protonet(EMBEDDING, metajax.cross_entropy, WAYS)
  assert_close(
    jax.jit(make(0).grad)(KEY, params, tasks),
    jax.jit(protonet.grad)(KEY, params, tasks),
  )


def by_hand(params, tasks: Task):
  """The mean query loss, without metajax."""

  def embed(params, inputs):
    hidden = inputs @ params['Dense_0']['kernel'] + params['Dense_0']['bias']
    return (
      jax.nn.relu(hidden) @ params['head']['kernel'] + params['head']['bias']
    )

  def loss(everything, batch):
    params, weights, bias = everything
    logits = embed(params, batch.inputs) @ weights + bias
    chosen = jax.nn.log_softmax(logits)[jnp.arange(len(logits)), batch.targets]
    return -jnp.mean(chosen)

  def of_task(support, query):
    features = embed(params, support.inputs)
    means = (features[:3] + features[3:]) / 2  # targets are 0, 1, 2, 0, 1, 2
    everything = params, 2 * means.T, -jnp.sum(means**2, axis=1)
    for _ in range(STEPS):
      slope = jax.grad(loss)(everything, support)
      everything = jax.tree.map(lambda p, g: p - RATE * g, everything, slope)
    return loss(everything, query)

  return jnp.mean(jax.vmap(of_task)(*tasks))


@pytest.mark.in_ci
def test_it_equals_the_same_written_by_hand(float64):
  tasks = random_tasks(2)
  params = draw(tasks)
  gradient, metrics = jax.jit(make(STEPS).grad)(KEY, params, tasks)
  with jax.numpy_rank_promotion('allow'):
    value, expected = jax.jit(
      jax.value_and_grad(lambda params: by_hand(params, tasks))
    )(params)
  assert_close(metrics['loss'], value)
  assert_close(gradient, expected)


@pytest.mark.in_ci
def test_the_meta_gradient_equals_central_differences(float64):
  tasks = random_tasks(3)
  found = slopes(make(STEPS), draw(tasks), tasks)
  np.testing.assert_allclose(*found, rtol=1e-5)


def test_first_nothing_then_prototypes_then_steps(float64):
  tasks = random_tasks(1)
  params, learner = draw(tasks), make(STEPS)
  protonet = metajax.protonet(EMBEDDING, metajax.cross_entropy, WAYS)

  @jax.jit
  def of(params, support, queries):
    adapted, adaptation = learner.adapt(KEY, params, support)
    first, second = (
      learner.predict(adaptation.after(step, adapted), queries)
      for step in range(2)
    )
    adapted, _ = protonet.adapt(KEY, params, support)
    distances = protonet.predict(adapted, queries)
    return adaptation, first, jax.nn.softmax(second), jax.nn.softmax(distances)

  adaptation, first, second, expected = of(
    params, at(tasks.support, 0), tasks.query.inputs[0]
  )
  np.testing.assert_array_equal(first, np.zeros((5, WAYS)))
  assert len(adaptation.trajectory.bias) == STEPS + 2
  assert adaptation.losses.shape == (STEPS + 1,)
  np.testing.assert_allclose(np.asarray(adaptation.losses)[0], np.log(WAYS))
  assert_close(second, expected)


def test_a_class_that_the_task_does_not_have_is_never_predicted(float64):
  tasks = random_tasks(1)
  support, learner = at(tasks.support, 0), make(STEPS)

  @jax.jit
  def of(params, support, queries):
    adapted, _ = learner.adapt(KEY, params, support)
    logits = learner.predict(adapted, queries)
    return logits, jax.nn.softmax(logits)

  without = Weighted(support.targets, support.targets != 2)
  logits, shares = of(
    draw(tasks), support._replace(targets=without), tasks.query.inputs[0]
  )
  assert np.isfinite(logits).all()
  assert np.asarray(shares)[:, 2].max() == 0


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ((0,), 'num_classes must be 1 or more, got 0'),
    ((WAYS, 0.0), 'inner_lr must be above 0, got 0.0'),
    ((WAYS, 0.1, -1), 'num_steps must be 0 or more, got -1'),
  ],
)
def test_what_cannot_be_meant_is_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    metajax.protomaml(EMBEDDING, metajax.cross_entropy, *settings)
