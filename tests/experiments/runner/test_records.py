"""Records in workdirs, whatever has happened to them: a line, never a trace."""

import json
import shutil

import pytest

from experiments import by_shots, compare, images, sinusoid
from experiments.runner import data_digest, runs
from experiments.runner.errors import UsageError
from experiments.runner.records import check_record, read_record

DAMAGED = {
  'a list': b'[]',
  'null': b'null',
  'a number': b'3',
  'deep': b'[' * 100_000,
  'NaN': b'{"steps": NaN}',
  'not UTF-8': b'{"\xff": 1}',
  'empty': b'',
  'truncated': b'{"steps": 1',
  'endless digits': b'{"steps": ' + b'9' * 5000 + b'}',
}
every_damage = pytest.mark.parametrize('content', DAMAGED.values(), ids=DAMAGED)


def refusal(call, *arguments):
  with pytest.raises(UsageError) as refused:
    call(*arguments)
  line = str(refused.value)
  assert '\n' not in line
  assert len(line) < 1000
  return line


@every_damage
def test_what_is_no_record_is_refused(content, tmp_path):
  path = tmp_path / 'config.json'
  path.write_bytes(content)
  line = refusal(read_record, path, 'workdir')
  assert line.startswith(f'--workdir: {path} is not readable (')


def test_a_directory_in_its_place_is_refused(tmp_path):
  assert '(no file)' in refusal(read_record, tmp_path, 'workdir')
  assert '(No such file' in refusal(read_record, tmp_path / 'x', 'workdir')


@pytest.mark.parametrize(
  'value', [None, 'x', True, [], {}, float('inf'), 10**400, 10**30, 1.5]
)
def test_a_value_of_another_type_is_refused(value, tmp_path):
  record = {'config': {'steps': value}}
  wanted = {'config.steps': (int,)}
  line = refusal(check_record, record, wanted, tmp_path, 'runs')
  assert 'is damaged: config.steps must be a whole number, got ' in line
  check_record({'config': {'steps': 3}}, wanted, tmp_path, 'runs')


@pytest.mark.parametrize('value', [1e308, -1e20, float('nan'), '1', 10**400])
def test_a_number_that_no_run_has_measured_is_refused(value, tmp_path):
  record, wanted = {'seconds': value}, {'seconds': (float,)}
  line = refusal(check_record, record, wanted, tmp_path, 'runs')
  assert 'seconds must be a finite number, got ' in line
  check_record({'seconds': 1e9}, wanted, tmp_path, 'runs')


@pytest.mark.in_ci
def test_a_run_whose_record_is_damaged_is_neither_resumed_nor_loaded(tmp_path):
  record = tmp_path / 'run' / 'config.json'
  (tmp_path / 'run' / 'checkpoints').mkdir(parents=True)
  given = sinusoid.Settings(workdir=tmp_path / 'run', resume=True, steps=1)
  for content, expected in (
    ('[]', '--workdir: .* is not readable'),
    ('{}', '--workdir: .* is damaged: algorithm must be a text, got nothing'),
    ('{"algorithm": "mam"}', '--workdir: .*/run holds a run with other sett'),
    ('{"algorithm": "maml", "data_digest": 3}', '.*: data_digest must be'),
  ):
    record.write_text(content)
    with pytest.raises(UsageError, match=expected):
      sinusoid.run(given)
  record.write_text('[]')
  loading = sinusoid.Settings(load=tmp_path / 'run', test_only=True)
  assert refusal(sinusoid.run, loading).startswith(f'--load: {record} is not')
  record.unlink()
  record.mkdir()
  assert '(no file)' in refusal(sinusoid.run, given)


# What comparisons read


def outcome(**changes):
  return {
    'protocol': {'ways': 5, 'shots': 1, 'evaluation': 'support'},
    'metric': {'name': 'accuracy', 'higher_is_better': True, 'unit': '%',
               'label': '', 'measure': None},
    'test': {'accuracy': 0.9, 'ci95': 0.01, 'accuracy_before': None},
    'tasks_per_second': None, 'config': {'tasks_per_step': 4},
    'training_seconds': 2.5, 'steps': 1000, 'parameters': 10,
  } | changes  # fmt: skip


@pytest.mark.parametrize(
  'changes',
  [
    {'protocol': 3},
    {'metric': None},
    {'metric': {}},
    {'metric': {'name': 'x', 'color': 'red'}},
    {'test': []},
    {'test': {'accuracy': 'x', 'ci95': 0.01, 'accuracy_before': 0.2}},
    {'test': {'accuracy': 0.5, 'ci95': 10**400, 'accuracy_before': 0.2}},
    {'tasks_per_second': 'fast'},
    {'config': {}},
    {'steps': -0.5},
    {'parameters': None},
  ],
)
def test_a_result_that_lacks_something_is_refused(changes, tmp_path):
  path = tmp_path / 'result.json'
  path.write_text(json.dumps(outcome()))
  assert runs.read(tmp_path)['steps'] == 1000
  path.write_text(json.dumps(outcome(**changes)))
  assert refusal(runs.read, tmp_path).startswith(
    f'--workdir: {path} is damaged'
  )


@pytest.mark.parametrize(
  ('name', 'content', 'expected'),
  [
    ('config.json', '3', 'config.json is not readable'),
    ('plan.json', '{"maml": "x"}', 'plan.json is damaged: maml must be'),
    ('plan.json', 'null', 'plan.json is not readable'),
    ('maml/result.json', '{}', 'result.json is damaged: config.tasks_per_step'),
  ],
)
def test_a_comparison_with_a_damaged_file_is_refused(
  name, content, expected, tmp_path
):
  given = compare.Settings(methods=('maml',), workdir=tmp_path)
  runs.claim(tmp_path, given)
  (tmp_path / name).parent.mkdir(exist_ok=True)
  (tmp_path / name).write_text(content)
  line = refusal(compare.run, given)
  assert line.startswith('--workdir: ')
  assert expected in line


def test_a_comparison_takes_no_directory_of_something_else(tmp_path):
  given = compare.Settings(methods=('maml',), workdir=tmp_path)
  (tmp_path / 'thesis.txt').write_text('mine')
  assert 'is not empty and holds no run' in refusal(runs.claim, tmp_path, given)
  assert [each.name for each in tmp_path.iterdir()] == ['thesis.txt']
  # Nor that of a run, whatever its settings are.
  run = tmp_path / 'run'
  run.mkdir()
  record = compare.Settings().given() | {'algorithm': 'maml'}
  (run / 'config.json').write_text(json.dumps(record))
  assert 'something else, with --algorithm' in refusal(runs.claim, run, given)
  # What a process that was killed has left is nothing else; it may go on.
  begun = tmp_path / 'begun'
  begun.mkdir()
  (begun / 'config.json.partial').write_text('{')
  runs.claim(begun, given)
  (begun / 'maml').mkdir()
  runs.claim(begun, given)


def test_methods_that_have_seen_other_data_are_not_in_one_table(tmp_path):
  given = compare.Settings(dataset='npz', data_file='mine.npz')
  same = data_digest.SameData()
  for name, found in (('a', 'old'), ('b', 'old'), ('c', 'new')):
    config = {'tasks_per_step': 4, data_digest.DIGEST: {'test': found}}
    (tmp_path / name).mkdir()
    (tmp_path / name / 'result.json').write_text(
      json.dumps(outcome(config=config))
    )
  for name in 'ab':
    compare._read(given, tmp_path / name, same)
  line = refusal(compare._read, given, tmp_path / 'c', same)
  assert line.startswith(f'--data_file: the test data of {tmp_path}/a and of')


def test_a_run_with_a_damaged_record_is_not_tested_by_shots(tmp_path):
  run = tmp_path / 'run'
  run.mkdir()
  (run / 'result.json').write_text('{}')
  given = by_shots.Settings(runs=(str(run),), workdir=tmp_path / 'tested')
  good = images.Settings().given() | {'ways': 5, 'steps': 0}
  for changes, expected in (
    ({'ways': 'x'}, 'ways must be a whole number'),
    ({'steps': None}, 'steps must be a whole number'),
    ({'algorithm': ['maml']}, '--algorithm'),
    ({'plugin': 5}, '--plugin=5: must be a list of texts'),
    ({'dataset': 3}, 'dataset must be a text'),
    ({'inner_lr': 'x'}, '--inner_lr=x: must be a finite number'),
    (
      {'data_digest': []},
      'data_digest must be an object or null or nothing, got []',
    ),
  ):
    (run / 'config.json').write_text(json.dumps(good | changes))
    line = refusal(by_shots.run, given)
    assert line.startswith(f'--runs: {run}/config.json')
    assert expected in line
  shutil.rmtree(run)
  assert 'is no workdir of a run' in refusal(by_shots.run, given)
  assert not (tmp_path / 'tested').exists()
