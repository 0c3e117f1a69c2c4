"""Queries of no class, as a run tells them from others."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runner.out_of_scope import with_rejection
from experiments.runner.problem import Judge
from metajax.adaptation.classes import one_step
from metajax.base import Batch, Learner, Task, Weighted

SETTINGS = SimpleNamespace(validation_tasks=30, eval_tasks=40)


def sample(key):
  """Inputs are sure of their class, but where they are of none."""
  class_key, noise_key = jax.random.split(key)
  classes = jax.random.randint(class_key, (8,), 0, 3)
  outside = jnp.arange(8) < 2
  noise = jax.random.uniform(noise_key, (8,), minval=-1, maxval=1)
  strength = jnp.where(outside, 0.2, 4.0) + 0.1 * noise
  inputs = strength[:, None] * jax.nn.one_hot(classes, 3)
  support = Batch(jnp.eye(3), jnp.arange(3))
  return Task(support, Batch(inputs, Weighted(classes, ~outside)))


def judge(scale=1.0):
  """A learner whose scores are its inputs."""
  return Judge(
    Learner(
      init=lambda key, inputs: jnp.ones(()),
      adapt=lambda key, params, support: (params, one_step(params, params)),
      predict=lambda adapted, inputs: scale * adapted * inputs,
    ),
    'transductive',
    lambda params: params,
  )


def found(judge, **samplers):
  problem = SimpleNamespace(settings=SETTINGS)
  samplers = {'validation': sample, 'test': sample, **samplers}
  return with_rejection(problem, judge, jnp.ones(()), **samplers)[
    'out_of_scope'
  ]


@pytest.mark.in_ci
def test_what_is_unsure_is_rejected():
  outcome = found(judge())
  assert outcome['auroc'] == {'mean': 1.0, 'ci95': 0.0}
  assert outcome['accuracy'] == {'mean': 1.0, 'ci95': 0.0}
  # A quarter of the queries is answered, though nothing is right.
  assert outcome['accuracy_of_accepting_all']['mean'] == 0.75
  # Probabilities of 0.33 to 0.4 on one side, of more than 0.95 on the other.
  assert 0.4 < outcome['threshold'] < 0.97


def test_the_threshold_is_that_of_validation():
  """Where tests are of another kind, it is wrong there."""

  def surer(key):
    task = sample(key)
    return task._replace(
      query=task.query._replace(inputs=9 * task.query.inputs)
    )

  outcome = found(judge(), test=surer)
  assert outcome['threshold'] == found(judge())['threshold']
  assert outcome['auroc']['mean'] == 1
  assert 0.75 <= outcome['accuracy']['mean'] < 0.95


def test_a_threshold_that_rejects_all_or_nothing_is_a_number():
  constant = judge(0.0)
  outcome = found(constant)
  assert outcome['auroc']['mean'] == 0.5
  assert outcome['threshold'] in (0.0, 1.01)
  assert np.isfinite(outcome['accuracy']['mean'])


def test_what_is_no_number_is_nothing():
  assert found(judge(jnp.nan)) is None


@pytest.mark.parametrize('kind', ['validation', 'test'])
def test_what_is_no_number_anywhere_is_nothing(kind):
  def broken(key):
    task = sample(key)
    inputs = task.query.inputs.at[0].set(jnp.nan)
    return task._replace(query=task.query._replace(inputs=inputs))

  assert found(judge(), **{kind: broken}) is None
