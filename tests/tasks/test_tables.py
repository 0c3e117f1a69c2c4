"""Tables: the same cells from CSV and Parquet, by task; and what is wrong."""

import decimal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

from metajax.tasks import (
  DataError,
  Table,
  TableSplits,
  load_table,
  split_table_by_seed,
  standardise,
  table_tasks,
)

KEY = jax.random.key(0)


def write_csv(path: Path, text: str) -> Path:
  path = path / 'table.csv'
  path.write_bytes(text.encode())
  return path


def write_parquet(path: Path, columns: Any, names: Any = None) -> Path:
  path = path / 'table.parquet'
  table = pyarrow.table(columns) if names is None else pyarrow.table(
    columns, names
  )  # fmt: skip
  pyarrow.parquet.write_table(table, path)
  return path


def assert_same(a: Table, b: Table) -> None:
  for one, other in zip(a, b, strict=True):
    if isinstance(one, np.ndarray):
      assert (one.dtype, one.shape) == (other.dtype, other.shape)
      assert one.tobytes() == other.tobytes()
    else:
      assert one == other


def make_table(counts: list[int], num_targets: int = 1) -> Table:
  """Row i has the features i and -i."""
  tasks = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
  tasks = np.random.default_rng(0).permutation(tasks)  # not neighbours
  rows = np.arange(len(tasks), dtype=np.float32)[:, None]
  return Table(
    rows * np.float32([1, -1]),
    np.repeat(rows, num_targets, axis=1),
    tasks,
    tuple(f'task{number}' for number in range(len(counts))),
    ('x', 'minus x'),
    tuple(f'y{number}' for number in range(num_targets)),
  )


# What is read.


def test_a_csv_file_is_read_as_it_says(tmp_path: Path) -> None:
  path = write_csv(tmp_path, 'x,task,y,z\n1,b,0.5,4\n2,a,1e3,5\n3,b,-7,6\n')
  table = load_table(path)
  assert table.features.tolist() == [[1, 4], [2, 5], [3, 6]]
  assert table.targets.tolist() == [[0.5], [1000], [-7]]
  assert table.tasks.tolist() == [1, 0, 1]
  assert table.task_names == ('a', 'b')
  assert (table.feature_names, table.target_names) == (('x', 'z'), ('y',))
  assert table.features.dtype == table.targets.dtype == np.float32
  assert table.tasks.dtype == np.int32


def test_columns_are_those_that_were_asked_for_in_that_order(
  tmp_path: Path,
) -> None:
  path = write_csv(tmp_path, 'a,b,c,d,e\n1,2,3,4,text\n5,6,7,8,text\n')
  table = load_table(
    path, 'a', target_columns=('d', 'b'), feature_columns=['c']
  )
  assert table.targets.tolist() == [[4, 2], [8, 6]]
  assert table.features.tolist() == [[3], [7]]
  assert table.task_names == ('1', '5')
  assert load_table(path, 'a', 'b', ['c']).target_names == ('b',)


def test_csv_and_parquet_give_the_same_table_bit_for_bit(
  tmp_path: Path,
) -> None:
  draw = np.random.default_rng(0)
  numbers = draw.normal(size=(200, 3)) * 10.0 ** draw.integers(-9, 9, (200, 1))
  columns = {
    'task': pyarrow.array(draw.integers(-3, 12, 200)),
    'x': pyarrow.array(numbers[:, 0]),
    'single': pyarrow.array(numbers[:, 1].astype(np.float32)),
    'flag': pyarrow.array(draw.integers(0, 2, 200).astype(bool)),
    'count': pyarrow.array(draw.integers(-(2**60), 2**60, 200)),
    'price': pyarrow.array(
      [decimal.Decimal(f'{number:.4f}') for number in numbers[:, 2]],
      pyarrow.decimal128(20, 4),
    ),
    'y': pyarrow.array(numbers[:, 2]),
  }
  parquet = write_parquet(tmp_path, columns)
  pyarrow.csv.write_csv(pyarrow.table(columns), tmp_path / 'table.csv')
  table = load_table(parquet)
  assert_same(load_table(tmp_path / 'table.csv'), table)
  assert table.feature_names == ('x', 'single', 'flag', 'count', 'price')
  np.testing.assert_array_equal(table.features[:, 0], np.float32(numbers[:, 0]))
  assert table.task_names == tuple(map(str, range(-3, 12)))  # by size


@pytest.mark.parametrize(
  ('ids', 'names', 'tasks'),
  [
    (['10', '9', '10'], ('9', '10'), [1, 0, 1]),
    (['b', ' a', 'b '], ('a', 'b'), [1, 0, 1]),
    (['1', '01', '1'], ('01', '1'), [1, 0, 1]),
    (['2.0', '1.0', '2'], ('1', '2'), [1, 0, 1]),
    (['NA', 'nan', 'NA'], ('NA', 'nan'), [0, 1, 0]),
    (['1.5', 'v2', '1.5'], ('1.5', 'v2'), [0, 1, 0]),
    ([10, 9, 10], ('9', '10'), [1, 0, 1]),
    ([2.0, 1.0, 2.0], ('1', '2'), [1, 0, 1]),
    (
      pyarrow.array(['b', 'a', 'b']).dictionary_encode(),
      ('a', 'b'),
      [1, 0, 1],
    ),
    (
      [decimal.Decimal('2.00'), decimal.Decimal(1), decimal.Decimal(2)],
      ('1', '2'),
      [1, 0, 1],
    ),
  ],
)
def test_ids_are_text_or_integers(
  ids: Any, names: Any, tasks: Any, tmp_path: Path
) -> None:
  table = load_table(
    write_parquet(tmp_path, {'task': ids, 'x': [1, 2, 3], 'y': [0, 0, 0]})
  )
  assert table.task_names == names
  assert table.tasks.tolist() == tasks
  if isinstance(ids, list) and isinstance(ids[0], str):
    lines = [f'{name},1,2\n' for name in ids]
    path = write_csv(tmp_path, f'task,x,y\n{"".join(lines)}')
    assert load_table(path).task_names == names


@pytest.mark.parametrize(
  'text',
  [
    '\ufefftask,x,y\na,1,2\nb,1,0\n',
    'task,x,y\r\na,1,2\r\nb,1,0\r\n',
    '\n\ntask,x,y\n\na,1,2\n\nb,1,0\n\n',
    ' task ,x , y\n a, 1 ,2\nb ,+1,0',
    '"task","x","y"\n"a","1","2"\n"b",1.0,0e0\n',
    ',task,x,y\n0,a,1,2\n1,b,1,0\n',  # with the index of pandas
    'task,x,y,\na,1,2,\nb,1,0,\n',
    'task,x,y\na,TRUE,2\nb,True,0\n',
  ],
  ids=['mark', 'windows', 'empty lines', 'blanks', 'quotes', 'index', 'comma',
       'booleans'],
)  # fmt: skip
def test_what_does_not_matter_in_a_csv_file(text: str, tmp_path: Path) -> None:
  expected = Table(
    np.float32([[1], [1]]),
    np.float32([[2], [0]]),
    np.int32([0, 1]),
    ('a', 'b'),
    ('x',),
    ('y',),
  )
  assert_same(load_table(write_csv(tmp_path, text)), expected)


def test_kinds_of_columns_in_parquet(tmp_path: Path) -> None:
  decimals = [decimal.Decimal('0.1'), decimal.Decimal('-2.5')]
  path = write_parquet(tmp_path, {
    'task': ['a', 'b'], 'y': [True, False], '__index_level_0__': [7, 8],
    'x.y': pyarrow.array([1, 2], pyarrow.uint8()), 'd': decimals,
    'h': pyarrow.array(np.float16([0.5, 1.5])), 't': [' 1', '2'],
    'e': pyarrow.array(['3', '4']).dictionary_encode(),
    'l': pyarrow.array(['5', '6'], pyarrow.large_string()),
  })  # fmt: skip
  table = load_table(path)
  assert table.targets.tolist() == [[1], [0]]
  assert table.feature_names == ('x.y', 'd', 'h', 't', 'e', 'l')
  np.testing.assert_array_equal(
    table.features,
    np.float32([[1, 0.1, 0.5, 1, 3, 5], [2, -2.5, 1.5, 2, 4, 6]]),
  )


# What is refused.


@pytest.mark.parametrize(
  ('text', 'options', 'message'),
  [
    ('', {}, 'the file is empty'),
    ('\n\n', {}, 'the file is empty'),
    ('task,x,y\n', {}, 'names of columns, but no rows'),
    (
      'Task,x,y\na,1,2\n',
      {},
      "no column 'task'; did you mean 'Task'? the columns are 'Task', 'x', 'y'",
    ),
    (
      'task,temperature,y\na,1,2\n',
      {'feature_columns': ['temprature']},
      "no column 'temprature'; did you mean 'temperature'? the columns are"
      " 'task', 'temperature', 'y'",
    ),
    ('task,x\na,1\n', {}, "no column 'y'; the columns are 'task', 'x'"),
    (
      'task,x,y\na,1,2\n',
      {'target_columns': ['y', 'task']},
      "column 'task' is asked for 2 times",
    ),
    (
      'task,x,y\na,1,2\n',
      {'feature_columns': ['x', 'y']},
      "column 'y' is asked for 2 times",
    ),
    ('task,x,y\na,1,2\n', {'target_columns': ()}, 'target_columns is empty'),
    ('task,y\na,1\n', {}, "no feature is left beside the task 'task' and the"),
    ('task,x,y\na,1,2\n', {'feature_columns': ()}, 'no feature is left'),
    ('task,x,x ,y\na,1,2,3\n', {}, "several columns of the name 'x'"),
    ('task,x,y\na,1,2\nb,one,2\n', {}, "row 3, column 'x': 'one' is not a n"),
    ('task,x,y\na,1,2\nb,0x10,2\n', {}, "row 3, column 'x': '0x10' is not"),
    ('task,x,y\na,true,2\nb,3,2\n', {}, "row 2, column 'x': 'true' is not"),
    ('task,x,y\n\na,1,2\n\nb,,2\n', {}, "row 5, column 'x': the cell is mis"),
    ('task,x,y\na,1,2\nb,1,NaN\n', {}, "row 3, column 'y': the cell is mis"),
    ('task,x,y\na,1,2\nb,1,NA\n', {}, "missing ('NA')"),
    ('task,x,y\na,1,2\nb,1,-inf\n', {}, "row 3, column 'y': the cell is inf"),
    ('task,x,y\na,1,1e99\n', {}, "row 2, column 'y': the cell is 1e+99, whic"),
    ('task,x,y\na,1,2\n ,1,2\n', {}, "row 3, column 'task': the cell is mis"),
    ('task,x,y\n1,1,2\n1.5,1,2\n', {}, "row 3, column 'task': 1.5 is no task"),
    ('task,x,y\n"a\nb",1,2\nc,d,2\n', {}, "row 4, column 'x': 'd' is not a n"),
    (f'task,x,y\na,1,2\n{"b" * 200_000},1,z\n', {}, "row 3, column 'y': 'z'"),
    (f'task,x,y\na,1,{"z" * 99}\n', {}, f"column 'y': '{'z' * 40}' is not"),
    ('task,x,y\na,1,2\nb,1\n', {}, 'row 3: the row has 2 cells, but the hea'),
    ('task,x,y\na,1,2\nb,1,2,3\n', {}, 'row 3: the row has 4 cells, but the'),
    ('task;x;y\na;1;2\n', {}, "'task;x;y'; separate names and cells by commas"),
  ],
)  # fmt: skip
def test_csv_files_that_are_refused(
  text: str, options: Any, message: str, tmp_path: Path
) -> None:
  path = write_csv(tmp_path, text)
  with pytest.raises(DataError) as error:
    load_table(path, **options)
  assert message in str(error.value)
  assert '\n' not in str(error.value)
  assert str(path) in str(error.value) or 'target_columns' in message


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'x': [1, None, 3]}, "row 2, column 'x': the cell is missing"),
    ({'x': [1.0, 2.0, np.nan]}, "row 3, column 'x': the cell is NaN"),
    ({'x': [np.inf, 2.0, 1.0]}, "row 1, column 'x': the cell is infinite"),
    ({'x': [None, None, None]}, "row 1, column 'x': the cell is missing"),
    ({'x': ['1', 'b', '2']}, "row 2, column 'x': 'b' is not a number"),
    ({'x': [1.7e9, 1.7e9 + 5, 1.7e9]}, "32 bits round them by up to 5"),
    ({'y': [10**9 + 1, 10**9, 10**9]}, "from 1000000000.0 to 1000000001.0"),
    ({'x': [[1], [2], [3]]}, "column 'x': its type list<"),
    ({'x': [b'a', b'b', b'c']}, "column 'x': its type binary"),
    ({'task': ['a', None, 'b']}, "row 2, column 'task': the cell is missing"),
    ({'task': [1.0, 2.5, 1.5]}, "row 2, column 'task': 2.5 is no task id"),
    ({'task': [1.0, np.inf, 1.0]}, "row 2, column 'task': inf is no task id"),
    ({'task': [1.0, np.nan, 1.0]}, "row 2, column 'task': the cell is missing"),
    ({'task': [True, False, True]}, "column 'task': its type bool is not one"),
  ],
)  # fmt: skip
def test_parquet_files_that_are_refused(
  changes: Any, message: str, tmp_path: Path
) -> None:
  columns = {'task': ['a', 'b', 'c'], 'x': [1, 2, 3], 'y': [1.0, 2.0, 3.0]}
  path = write_parquet(tmp_path, columns | changes)
  with pytest.raises(DataError) as error:
    load_table(path)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


def test_columns_far_from_zero_that_lose_nothing(tmp_path: Path) -> None:
  constant, years = [1.7e9 + 1] * 3, [1.6e9, 1.65e9, 1.7e9]
  columns = {'task': ['a', 'b', 'c'], 'x': constant, 'y': years}
  table = load_table(write_parquet(tmp_path, columns))
  np.testing.assert_allclose(table.targets[:, 0], years, rtol=1e-7)


def test_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
  arrays = [pyarrow.array([1]) for _ in range(4)]
  path = write_parquet(tmp_path, arrays, ['task', 'x', 'x', 'y'])
  with pytest.raises(DataError, match="several columns of the name 'x'"):
    load_table(path)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
  with pytest.raises(DataError, match=r'missing\.csv: there is no such file'):
    load_table(tmp_path / 'missing.csv')
  with pytest.raises(DataError, match=r'is a directory; name a file that ends'):
    load_table(tmp_path)
  (tmp_path / 'table.xlsx').write_bytes(b'PK')
  with pytest.raises(DataError, match=r'\.csv or \.parquet, and this one.*xls'):
    load_table(tmp_path / 'table.xlsx')
  (tmp_path / 'table.parquet').write_bytes(b'')
  with pytest.raises(DataError, match='cannot be read'):
    load_table(tmp_path / 'table.parquet')
  (tmp_path / 'table.csv').write_bytes(b'task,x,y\na,1,2\n\xff\xfe,1,2\n')
  with pytest.raises(DataError, match=r'cannot be read .*utf-8') as error:
    load_table(tmp_path / 'table.csv')
  assert '\n' not in str(error.value)


def test_a_target_in_words_is_told_how_classes_are_written(
  tmp_path: Path,
) -> None:
  path = write_csv(tmp_path, 'task,x,y\n1,2,yes\n2,3,no\n')
  with pytest.raises(
    DataError, match=r"'yes' is not a number; .* write one of them as 1 and"
  ):
    load_table(path)
  path = write_csv(tmp_path, 'task,x,y\n1,yes,1\n2,no,0\n')
  with pytest.raises(DataError, match='mend the cell, or leave the column out'):
    load_table(path)


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
  path = write_parquet(tmp_path, {'task': [1], 'x': [1], 'y': [1]})
  path.write_bytes(path.read_bytes()[:-40])
  with pytest.raises(DataError, match='cannot be read'):
    load_table(path)


# Splits.


def test_tasks_are_divided_by_the_hash_of_seed_and_name() -> None:
  table = make_table([3] * 10)
  splits = split_table_by_seed(table, seed=1)
  # sorted(names, key=lambda n: sha256(f'1\n{n}'.encode()).digest())
  order = tuple(f'task{number}' for number in [0, 5, 6, 4, 8, 2, 7, 3, 1, 9])
  assert splits.train.task_names == order[:6]
  assert splits.validation.task_names == order[6:8]
  assert splits.test.task_names == order[8:]
  for part in splits:
    assert part.features.shape == (3 * len(part.task_names), 2)
    for row, task in zip(part.features, part.tasks, strict=True):
      name = table.task_names[table.tasks[int(row[0])]]
      assert part.task_names[task] == name
    assert (np.diff(part.features[:, 0]) > 0).all()
  assert split_table_by_seed(table, seed=2).train.task_names != order[:6]


@pytest.mark.parametrize(
  ('number', 'fractions', 'sizes'),
  [
    (3, {}, (1, 1, 1)),
    (4, {}, (2, 1, 1)),
    (10, {'train': 0.98, 'validation': 0.01}, (8, 1, 1)),
    (10, {'train': 0.01, 'validation': 0.98}, (1, 8, 1)),
    (20, {'train': 0.5, 'validation': 0.25}, (10, 5, 5)),
  ],
)
def test_every_part_has_a_task(number: int, fractions: Any, sizes: Any) -> None:
  splits = split_table_by_seed(make_table([2] * number), 0, **fractions)
  assert tuple(len(part.task_names) for part in splits) == sizes


@pytest.mark.parametrize(
  ('number', 'fractions', 'message'),
  [
    (2, {}, "of 2 tasks \\('task0', 'task1'\\) cannot be split"),
    (5, {'train': 0.8}, 'train=0.8 and validation=0.2'),
    (5, {'train': 0}, 'train=0 and'),
    (5, {'validation': float('nan')}, 'validation=nan'),
  ],
)
def test_splits_that_are_refused(
  number: int, fractions: Any, message: str
) -> None:
  with pytest.raises(DataError, match=message):
    split_table_by_seed(make_table([2] * number), 0, **fractions)


# Standardisation.


def test_standardisation_knows_the_training_rows_alone() -> None:
  def part(features: Any, targets: Any) -> Table:
    rows = len(features)
    return Table(
      np.float32(features), np.float32(targets), np.zeros(rows, np.int32),
      ('a',), ('x', 'constant'), ('y',),
    )  # fmt: skip

  splits, statistics = standardise(
    TableSplits(
      part([[1, 0.1], [2, 0.1], [6, 0.1]], [[10], [20], [60]]),
      part([[3, 0.1]], [[30]]),
      part([[1000, 2.1]], [[-10]]),
    )
  )
  # The mean of 1, 2, 6 is 3, the variance (4 + 1 + 9) / 3.
  deviation = (14 / 3) ** 0.5
  constant = float(np.float32(0.1))
  assert statistics.feature_mean.tolist() == [3, constant]
  np.testing.assert_allclose(statistics.feature_deviation, [deviation, 1])
  np.testing.assert_allclose(statistics.target_mean, [30])
  np.testing.assert_allclose(statistics.target_deviation, [10 * deviation])
  np.testing.assert_allclose(
    splits.train.features[:, 0], np.array([-2, -1, 3]) / deviation, rtol=1e-6
  )
  assert splits.train.features[:, 1].tolist() == [0, 0, 0]
  assert splits.validation.features.tolist() == [[0, 0]]
  np.testing.assert_allclose(
    splits.test.features, [[997 / deviation, 2]], rtol=1e-6
  )
  np.testing.assert_allclose(splits.test.targets, [[-4 / deviation]], rtol=1e-6)
  assert splits.train.features.dtype == splits.test.targets.dtype == np.float32


# Sampling.


def test_support_and_queries_are_different_rows_of_one_task() -> None:
  table = make_table([7, 9, 12], num_targets=2)
  sample = jax.jit(jax.vmap(table_tasks(table, shots=3, queries=4)))
  tasks = sample(jax.random.split(KEY, 500))
  assert tasks.support.inputs.shape == (500, 3, 2)
  assert tasks.query.targets.shape == (500, 4, 2)
  inputs = np.concatenate([tasks.support.inputs, tasks.query.inputs], axis=1)
  targets = np.concatenate([tasks.support.targets, tasks.query.targets], axis=1)
  np.testing.assert_array_equal(inputs[..., 0], -inputs[..., 1])
  np.testing.assert_array_equal(inputs[..., 0], targets[..., 0])
  rows = inputs[..., 0].astype(int)
  assert all(len(set(row)) == 7 for row in rows)
  assert (np.ptp(table.tasks[rows], axis=1) == 0).all()


def test_tasks_are_uniform_and_so_are_rows_within_them() -> None:
  table = make_table([5, 40, 5])
  sample = jax.jit(jax.vmap(table_tasks(table, shots=2, queries=3)))
  tasks = sample(jax.random.split(KEY, 6000))
  rows = np.asarray(tasks.support.inputs[:, :, 0]).astype(int)
  drawn = np.bincount(table.tasks[rows[:, 0]], minlength=3)
  # Four standard deviations of a count of 6000 draws with probability 1/3.
  assert np.abs(drawn - 2000).max() < 4 * (6000 * 2 / 9) ** 0.5
  counts = np.bincount(rows.reshape(-1), minlength=50)
  expected = np.where(table.tasks == 1, 2000 * 2 / 40, 2000 * 2 / 5)
  assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_rows_are_an_argument_and_one_trace_serves_all_keys() -> None:
  sample = table_tasks(make_table([4, 5, 6]), 2, 2)
  traces = []

  @jax.jit
  def draw(sample: Any, key: jax.Array) -> Any:
    traces.append(1)
    return sample(key)

  first = draw(sample, KEY)
  draw(sample, jax.random.key(1))
  other = jax.tree.map(lambda leaf: leaf * 2, sample.args[0])
  changed = jax.tree_util.Partial(sample.func, other, *sample.args[1:])
  assert len(traces) == 1
  np.testing.assert_array_equal(
    draw(changed, KEY).support.inputs, 2 * first.support.inputs
  )
  assert len(jax.tree.leaves(sample)) == 5
  jaxpr = jax.make_jaxpr(lambda sample, key: sample(key))(sample, KEY)
  assert not any(jnp.size(constant) > 4 for constant in jaxpr.consts)


def test_tasks_with_too_few_rows_are_named() -> None:
  table = make_table([9, 4, 9, 3])
  with pytest.raises(DataError) as error:
    table_tasks(table, shots=2, queries=3)
  assert str(error.value) == (
    "shots=2 and queries=3: task 'task3' has 3 rows (and 1 more have too few)"
    ', but 5 are needed; ask for fewer, or leave such tasks out'
  )
  with pytest.raises(DataError, match='queries=0: must be 1 or more'):
    table_tasks(table, shots=1, queries=0)


def test_a_parquet_file_that_unpacks_to_too_much_is_refused(tmp_path):
  """A constant column takes next to nothing in the file."""
  rows = 2**17
  path = write_parquet(
    tmp_path, [np.zeros(rows, np.int32), *[np.ones(rows, np.float32)] * 2],
    ['task', 'x', 'y'],
  )  # fmt: skip
  with pytest.raises(DataError, match='unpacks to 2 MiB, more than the 1 that'):
    load_table(path, max_unpacked_mebibytes=1)
  assert len(load_table(path, max_unpacked_mebibytes=2).features) == rows


def test_an_order_of_one_value_is_refused(tmp_path):
  path = write_csv(tmp_path, 't,when,x,y\n0,7,1,2\n0,7,3,4\n1,7,5,7\n')
  with pytest.raises(DataError, match='says nothing of their order'):
    load_table(path, 't', ['y'], order_column='when')
