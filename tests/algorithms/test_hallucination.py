"""Examples that are made up, in front of different learners."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_draws import at, classes, parameters

import metajax
from metajax.algorithms.hallucination import (
  Generator,
  identity,
  noisy_copies,
)
from metajax.base import Task
from metajax.models import mlp
from metajax.precision import drawn_like_inputs
from metajax.testing import slopes

WAYS = 3
EMBEDDING = drawn_like_inputs(mlp([6], 4))
PROTONET = metajax.protonet(identity, metajax.cross_entropy, WAYS)
MAML = metajax.maml(
  drawn_like_inputs(mlp([], WAYS)), metajax.cross_entropy, 0.1, 2
)
KEY = jax.random.key(0)


def random_tasks(num: int) -> Task:
  return classes(num, WAYS, WAYS, 5)


def make(base, num_extra=3, generator=None):
  return metajax.hallucinate(
    EMBEDDING,
    metajax.cross_entropy,
    base,
    # Wide enough that no layer is zero for an example: there it has a kink.
    generator or noisy_copies(32),
    num_extra,
  )


def draw(learner, tasks: Task):
  return parameters(learner.init, tasks.support.inputs[0])


@pytest.mark.in_ci
@pytest.mark.parametrize('base', [PROTONET, MAML], ids=['protonet', 'maml'])
def test_the_meta_gradient_equals_central_differences(float64, base):
  tasks = random_tasks(3)
  learner = make(base)
  found = slopes(learner, draw(learner, tasks), tasks)
  np.testing.assert_allclose(*found, rtol=1e-5)


COPIES = Generator(
  init=lambda key, features: (),
  generate=lambda key, params, features: features,
)


@pytest.mark.in_ci
@pytest.mark.parametrize(
  ('num_extra', 'generator'), [(0, noisy_copies(8)), (3, COPIES)],
  ids=['nothing', 'copies'],
)  # fmt: skip
def test_nothing_new_and_nothing_but_copies_change_no_mean(
  float64, num_extra, generator
):
  tasks = random_tasks(3)
  learner = make(PROTONET, num_extra, generator)
  meta_params = draw(learner, tasks)
  gradient, metrics = jax.jit(learner.grad)(KEY, meta_params, tasks)
  plain = metajax.protonet(EMBEDDING, metajax.cross_entropy, WAYS)
  expected, base_metrics = jax.jit(plain.grad)(KEY, meta_params.params, tasks)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13),
    (gradient.params, metrics),
    (expected, base_metrics),
  )


def test_an_example_is_made_for_the_class_of_its_seed():
  """One that is three times its seed makes the mean twice that."""
  tripled = Generator(
    init=lambda key, features: (),
    generate=lambda key, params, features: 3 * features,
  )
  tasks = random_tasks(1)
  learner = make(PROTONET, 1, tripled)
  meta_params = draw(learner, tasks)
  support = at(tasks.support, 0)
  adapted, _ = jax.jit(learner.adapt)(KEY, meta_params, support)
  features = jax.jit(EMBEDDING.apply)(meta_params.params, support.inputs)
  np.testing.assert_allclose(
    np.asarray(adapted.learner.means)[support.targets],
    2 * np.asarray(features),
    rtol=1e-5,
  )


def test_a_new_generator_makes_all_but_copies():
  features = np.random.default_rng(0).normal(size=(50, 16))
  generator = noisy_copies(32)
  params = jax.jit(generator.init)(KEY, features)
  generate = jax.jit(generator.generate)
  made, again = (
    np.asarray(generate(jax.random.key(seed), params, features))
    for seed in range(2)
  )
  change = np.linalg.norm(made - features) / np.linalg.norm(features)
  assert 0 < change < 0.2
  assert np.abs(again - made).max() > 0


def test_the_trajectory_is_that_of_the_learner_behind():
  tasks = random_tasks(1)
  learner = make(MAML)
  meta_params = draw(learner, tasks)
  support = at(tasks.support, 0)
  adapted, adaptation = jax.jit(learner.adapt)(KEY, meta_params, support)
  first, last = (adaptation.after(step, adapted) for step in (0, -1))
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float32)),
    first,
    meta_params,
  )
  jax.tree.map(np.testing.assert_array_equal, last, adapted)
  assert adaptation.losses.shape == (2,)


def test_a_negative_number_of_examples_is_refused():
  with pytest.raises(ValueError, match='num_extra must be 0 or more, got -1'):
    make(PROTONET, -1)


def test_a_learner_that_counts_its_steps_is_refused():
  tasks = random_tasks(1)
  learner = make(
    metajax.maml_plus_plus(mlp([], WAYS), metajax.cross_entropy, multi_step=3)
  )
  with pytest.raises(ValueError, match='take a learner that keeps no count'):
    learner.grad(KEY, draw(learner, tasks), tasks)


@pytest.mark.in_ci
def test_a_learner_that_takes_a_key_trains_with_it():
  """In its inner steps, and for the loss on the queries."""
  calls = []

  def apply(params, inputs, key=None):
    calls.append(key is not None)
    return inputs @ params

  head = metajax.Model(lambda key, inputs: jnp.zeros((2, 2)), apply)
  base = metajax.maml(head, metajax.cross_entropy, 0.1, 1)
  learner = metajax.hallucinate(
    mlp([], 2), metajax.cross_entropy, base, noisy_copies(4)
  )
  batch = metajax.Batch(jnp.ones((1, 2, 3)), jnp.array([[0, 1]]))
  params = learner.init(jax.random.key(0), batch.inputs[0])
  calls.clear()
  jax.eval_shape(
    learner.grad, jax.random.key(0), params, metajax.Task(batch, batch)
  )
  assert all(calls)
