"""Tasks of tables: what comes first in time, and two classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.tasks import DataError, Table, load_table, table_tasks, task_of

ROWS = 60


def table(targets=None, order=True):
  """Two tasks, whose only feature is when a row was, from the last to first."""
  time = np.arange(ROWS, dtype=np.float32)[::-1]
  if targets is None:
    targets = (np.arange(ROWS) % 7 == 0).astype(np.float32)
  return Table(
    time[:, None], np.float32(targets)[:, None], np.int32(np.arange(ROWS) % 2),
    ('a', 'b'), ('time',), ('y',), np.int32(time) if order else None,
  )  # fmt: skip


def drawn(sample, number=100):
  return jax.vmap(sample)(jax.random.split(jax.random.key(0), number))


def test_the_first_rows_are_the_support_set_and_the_rest_is_later():
  sample = table_tasks(table(), 6, 5, support='first')
  tasks = drawn(sample)
  keys = jax.random.split(jax.random.key(0), 100)
  of = jax.vmap(lambda key: task_of(sample, key))(keys)
  for number, task in enumerate(of):
    first = np.asarray(tasks.support.inputs[number, :, 0])
    # Task 0 has the rows of odd times.
    np.testing.assert_array_equal(first, np.arange(6) * 2 + (1 - int(task)))
    assert tasks.query.inputs[number].min() > first.max()
    assert len(set(tasks.query.inputs[number, :, 0].tolist())) == 5
  assert set(of.tolist()) == {0, 1}


def test_a_window_is_of_neighbours_and_queries_are_later():
  tasks = drawn(table_tasks(table(), 6, 5, support='window'))
  steps = jnp.diff(tasks.support.inputs[..., 0], axis=1)
  assert (steps == 2).all()
  ends = tasks.support.inputs[:, -1, 0]
  assert (tasks.query.inputs.min(axis=(1, 2)) > ends).all()
  assert len(set(ends.tolist())) > 10


@pytest.mark.parametrize('shots', [2, 3, 20])
def test_a_support_set_has_both_classes_and_rows_are_drawn_once(shots):
  tasks = drawn(table_tasks(table(), shots, 8, classes=True), 200)
  ones = tasks.support.targets.sum(axis=1)
  assert tasks.support.targets.dtype == jnp.int32
  assert (ones >= 1).all()
  assert (ones < shots).all()
  rows = jnp.concatenate([tasks.support.inputs, tasks.query.inputs], axis=1)
  assert all(len(set(each[:, 0].tolist())) == shots + 8 for each in rows)
  both = jnp.concatenate([tasks.support.targets, tasks.query.targets], axis=1)
  # The target of a row is its own.
  is_one = (ROWS - 1 - rows[..., 0]) % 7 == 0
  np.testing.assert_array_equal(both, is_one)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'targets': np.arange(ROWS) % 3, 'classes': True}, 'has 3 values .*two'),
    ({'targets': np.ones(ROWS), 'classes': True}, 'has 1 values'),
    ({'targets': np.arange(ROWS) % 2, 'classes': True}, "task 'a' .*one class"),
    (
      {
        'targets': np.arange(ROWS) < 4,
        'classes': True,
        'support': 'first',
      },
      'the first 4 of the rows of task .* one class; .*more --shots',
    ),
    ({'support': 'window', 'classes': True}, 'is for numbers'),
    ({'order': False, 'support': 'first'}, 'needs a column'),
    ({'support': 'last'}, 'support must be one of random, first, window'),
    ({'queries': 27}, 'has 30 rows'),
  ],
)
def test_what_cannot_be_a_task_is_one_line(changes, message):
  own = {x: changes.pop(x) for x in ('targets', 'order') if x in changes}
  given = {'shots': 4, 'queries': 5} | changes
  with pytest.raises(DataError, match=message) as refused:
    table_tasks(table(**own), **given)
  assert '\n' not in str(refused.value)


@pytest.mark.parametrize(
  ('cells', 'order'),
  [
    (['1260759144', '1260759145', '1260759143'], [1, 2, 0]),
    (['2026-02-01', '2026-01-31', '2026-02-01'], [1, 0, 1]),
    (['0.5', '-1', '1e3'], [1, 0, 2]),
  ],
)
def test_an_order_is_read_exactly(cells, order, tmp_path):
  path = tmp_path / 'a.csv'
  lines = [f'u,{cell},{number},1' for number, cell in enumerate(cells)]
  path.write_text('\n'.join(['task,when,x,y', *lines]) + '\n')
  found = load_table(path, order_column='when')
  assert found.feature_names == ('x',)
  np.testing.assert_array_equal(found.order, order)


@pytest.mark.parametrize(
  ('cells', 'column', 'message'),
  [
    (['soon', '1'], 'when', "row 2, .*'soon' is neither a number nor a date"),
    (['2026-01-31', '31/1/26'], 'when', "'31/1/26' cannot be sorted among"),
    (['1', '2'], 'whan', "no column 'whan'; did you mean 'when'"),
    (['1', '2'], 'y', "column 'y' is asked for 2 times"),
    (['1', 'nan'], 'when', 'missing'),
  ],
)
def test_an_order_that_is_none_is_one_line(cells, column, message, tmp_path):
  path = tmp_path / 'a.csv'
  lines = [f'u,{cell},{number},1' for number, cell in enumerate(cells)]
  path.write_text('\n'.join(['task,when,x,y', *lines]) + '\n')
  with pytest.raises(DataError, match=message):
    load_table(path, feature_columns=['x'], order_column=column)
