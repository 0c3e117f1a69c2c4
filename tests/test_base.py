"""Keys of tasks, batches of tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.base import (
  Batch,
  Task,
  as_key,
  map_tasks,
  num_tasks,
  sample_tasks,
  task_keys,
)


def random_task(key: jax.Array) -> Task:
  support_key, query_key = jax.random.split(key)
  return Task(
    Batch(jax.random.normal(support_key, (3, 2)), jnp.arange(3)),
    Batch(jax.random.normal(query_key, (4, 2)), jnp.arange(4)),
  )


def test_the_key_of_a_task_depends_on_the_key_and_the_index_alone():
  key = jax.random.key(3)
  few, many = task_keys(key, 2), task_keys(key, 5)
  assert (few == many[:2]).all()
  assert many[4] == jax.random.fold_in(key, 4)
  assert len({tuple(data) for data in jax.random.key_data(many).tolist()}) == 5


def test_keys_that_are_one_per_task_already_are_kept():
  keys = jax.random.split(jax.random.key(0), 3)
  assert (task_keys(keys, 3) == keys).all()


@pytest.mark.parametrize('number', [1, 2, 3])
def test_old_style_keys_draw_the_same(number):
  """Two words of a key are not the keys of two tasks."""
  old, new = jax.random.PRNGKey(7), jax.random.key(7)
  assert jnp.array_equal(as_key(old), new)
  assert jnp.array_equal(task_keys(old, number), task_keys(new, number))
  one_a_task = jax.random.split(old, number)
  assert jnp.array_equal(
    task_keys(one_a_task, number), jax.random.split(new, number)
  )
  traced = jax.jit(lambda key: jax.random.key_data(as_key(key)))(old)
  assert jnp.array_equal(traced, old)


@pytest.mark.parametrize(
  'key',
  [
    0, None, 1.5, np.int32(3), np.zeros(2, np.int32), np.zeros(2, np.float32),
    np.zeros(3, np.uint32), np.zeros((), np.uint32), [1, 2], 'seed',
  ],
)  # fmt: skip
def test_what_is_no_key_is_refused(key):
  with pytest.raises(ValueError, match=r'use jax.random.key\(seed\) for a key'):
    task_keys(key, 2)


def test_a_wrong_number_of_keys_is_refused():
  with pytest.raises(ValueError, match='got 3 keys for 4 tasks'):
    task_keys(jax.random.split(jax.random.key(0), 3), 4)


def test_num_tasks_is_the_common_leading_axis():
  assert num_tasks({'a': np.zeros((4, 2)), 'b': np.zeros(4)}) == 4


@pytest.mark.parametrize(
  'tasks', [(), {'a': np.zeros(3), 'b': np.zeros(4)}, np.float32(0)]
)
def test_num_tasks_refuses_leaves_without_a_common_axis(tasks):
  with pytest.raises(ValueError, match='one common leading axis'):
    num_tasks(tasks)


def test_sampled_tasks_do_not_depend_on_how_many_are_drawn():
  key = jax.random.key(1)
  few = sample_tasks(random_task, key, 2)
  many = sample_tasks(random_task, key, 5)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:2]), few, many)
  assert num_tasks(many) == 5
  assert len(np.unique(many.query.inputs[:, 0, 0])) == 5


def test_map_tasks_equals_a_loop_over_tasks():
  key = jax.random.key(2)
  tasks = sample_tasks(random_task, key, 3)

  def function(key: jax.Array, task: Task) -> jax.Array:
    return jax.random.normal(key) + jnp.sum(task.query.inputs)

  mapped = map_tasks(function, key, tasks)
  for i in range(3):
    task = jax.tree.map(lambda leaf, i=i: leaf[i], tasks)
    alone = function(jax.random.fold_in(key, i), task)
    np.testing.assert_allclose(mapped[i], alone, rtol=1e-6)
