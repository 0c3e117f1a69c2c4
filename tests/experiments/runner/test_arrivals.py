"""Classes that arrive a few at a time."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runner.arrivals import (
  STRATEGIES,
  Stream,
  accuracies,
  forgetting,
  sort_by_class,
)
from metajax.base import Batch, Model, Task
from metajax.equality import as_frozen

# Two classes at an arrival, which a plane of features tells apart by angle.
CLASSES, SHOTS, QUERIES = 6, 3, 4
MODEL = as_frozen(
  Model(
    lambda key, inputs: {'kernel': jnp.eye(2)},
    lambda params, inputs: inputs @ params['kernel'],
  )
)


def draw(number, each, random):
  angles = 2 * np.pi * np.arange(number) / number
  centres = 3 * np.stack([np.cos(angles), np.sin(angles)], -1)
  noise = 0.3 * random.standard_normal((number, each, 2))
  return jnp.asarray(centres[:, None] + noise, jnp.float32)


@pytest.fixture(scope='module')
def stream():
  random = np.random.default_rng(0)
  return Stream(
    draw(CLASSES, SHOTS, random), draw(CLASSES, QUERIES, random), each=2
  )


def found(strategy, stream, rate=0.05):
  start = {'kernel': jnp.eye(2)}
  return accuracies(strategy, MODEL, start, stream, rate, steps=3)


@pytest.mark.in_ci
@pytest.mark.parametrize('strategy', STRATEGIES)
def test_what_has_come_is_told_apart_and_what_comes_later_is_not_seen(
  strategy, stream
):
  before = found(strategy, stream, 1e-3)
  assert before.shape == (3, 3)
  assert (np.triu(before, 1) == 0).all()
  assert before[-1].mean() > 0.9
  # Other examples of the last arrival change the last row alone.
  other = stream._replace(support=stream.support.at[4:].multiply(-5.0))
  after = found(strategy, other, 1e-3)
  np.testing.assert_array_equal(after[:2], before[:2])
  assert (after[2] != before[2]).any()


@pytest.mark.in_ci
def test_what_learns_on_new_examples_alone_forgets(stream):
  # Classes that look like those before them.
  twice = Stream(*(jnp.tile(x[:3], (2, 1, 1)) for x in stream[:2]), each=3)
  forgotten = {
    name: forgetting(found(name, twice, rate=0.3))
    for name in ('relearnt', 'relearnt_on_all')
  }
  assert forgotten['relearnt'] == 1
  assert forgotten['relearnt_on_all'] < 1


def test_forgetting_is_the_fall_from_the_best_of_all_arrivals_but_the_last():
  one = np.array([[0.9, 0, 0], [0.5, 0.8, 0], [0.6, 0.7, 0.9]])
  rising = np.array([[0.5, 0], [0.75, 1.0]])
  assert forgetting(one) == pytest.approx((0.3 + 0.1) / 2)
  # What gets better is forgetting below 0.
  assert forgetting(np.stack([rising, rising])).tolist() == [-0.25, -0.25]


def test_a_task_is_sorted_by_the_numbers_of_its_classes():
  targets = jnp.array([2, 0, 1, 1, 0, 2])
  batch = Batch(10 * targets[:, None] + jnp.arange(6)[:, None], targets)
  sorted_by = sort_by_class(Task(batch, batch), each=1)
  assert sorted_by.support[..., 0].tolist() == [[1, 4], [12, 13], [20, 25]]
  assert sorted_by.query.shape == (3, 2, 1)
