"""Tasks of random functions: what they promise."""

import jax
import jax.numpy as jnp
import pytest

from metajax.tasks import synthetic_tables


@pytest.mark.parametrize('classes', [False, True])
def test_tasks_differ_and_are_finite(classes):
  sample = synthetic_tables(4, 10, 30, classes=classes)
  tasks = jax.vmap(sample)(jax.random.split(jax.random.key(0), 200))
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tasks))
  assert tasks.query.inputs.shape == (200, 30, 4)
  assert 0.8 < float(tasks.query.inputs.std()) < 1.2
  if not classes:
    assert 0.8 < float(tasks.query.targets.std()) < 1.5
    return
  ones = tasks.support.targets.sum(axis=1)
  assert (ones >= 1).all()
  assert (ones <= 9).all()
  # The rarer class is drawn to have a share of 0.1 to 0.5.
  assert 0.25 < float(tasks.query.targets.mean()) < 0.35


def test_targets_follow_from_the_columns():
  """Least squares on many rows of a task explain part of most of them."""
  sample = synthetic_tables(3, 200, 200)

  def explained(key):
    task = sample(key)
    weights, *_ = jnp.linalg.lstsq(task.support.inputs, task.support.targets)
    left = task.query.targets - task.query.inputs @ weights
    return 1 - jnp.var(left) / jnp.var(task.query.targets)

  shares = jax.vmap(explained)(jax.random.split(jax.random.key(0), 50))
  assert float(jnp.median(shares)) > 0.2


@pytest.mark.parametrize('sizes', [(0, 2, 2), (2, 1, 2), (2, 2, 0)])
def test_sizes_that_are_refused(sizes):
  with pytest.raises(ValueError, match='num_features and queries must'):
    synthetic_tables(*sizes, classes=True)
