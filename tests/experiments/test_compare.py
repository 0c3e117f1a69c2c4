"""Comparisons of methods, as small as they can be."""

import json
import os
import signal

import pytest

from experiments import compare
from experiments.runner import compared
from experiments.runner.compared import Compared
from experiments.runner.errors import UsageError
from experiments.runner.runs import FailedError, claim
from metajax.metric import ACCURACY, MEAN_SQUARED_ERROR

SMALL = (
  '--dataset=sinusoid', '--minutes_each=0.005', '--eval_tasks=8',
  '--validation_tasks=4',
)  # fmt: skip


@pytest.mark.in_ci
def test_a_comparison_goes_on_with_the_methods_that_are_left(
  launcher, cache, tmp_path
):
  workdir = tmp_path / 'run'
  flags = (*SMALL, cache, f'--workdir={workdir}')
  ended = launcher.run('compare', *flags, '--methods=scratch')
  assert ended.code == 0, ended
  done = (workdir / 'scratch' / 'result.json').stat().st_mtime_ns
  # What is left of a pilot that was stopped has measured nothing.
  (workdir / 'pilots' / 'maml').mkdir(parents=True)
  (workdir / 'pilots' / 'maml' / 'config.json').write_text('{}')
  ended = launcher.run('compare', *flags, '--methods=scratch,maml')
  assert ended.code == 0, ended
  assert (workdir / 'scratch' / 'result.json').stat().st_mtime_ns == done
  found = json.loads((workdir / 'compare.json').read_text())
  assert found['failed'] == {}
  scratch, maml = found['rows']
  assert (scratch['method'], scratch['steps']) == ('scratch', 0)
  assert maml['method'] == 'maml'
  assert (
    maml['steps'] == json.loads((workdir / 'plan.json').read_text())['maml']
  )
  # A run of a fifth of a second or so: enough steps to have been measured.
  assert 0 < maml['train_seconds'] < 5
  assert maml['parameters'] == 2 * 40 + 40 * 41 + 41
  assert maml['seconds_per_step'] > 0
  assert maml['mse'] > 0 < maml['ci95']
  assert scratch['curve'] == []
  seconds, last = maml['curve'][-1]
  assert seconds == pytest.approx(maml['train_seconds'])
  assert last > 0
  assert '| maml |' in (workdir / 'compare.md').read_text()
  assert (workdir / 'compare.png').read_bytes()[1:4] == b'PNG'
  page = (workdir / 'report.html').read_text()
  assert './maml/report.html' in page
  assert (workdir / 'maml' / 'report.html').exists()
  # What is another comparison has to have another directory.
  ended = launcher.run('compare', *flags, '--shots=7')
  assert ended.code == 2
  assert '--shots was 1 and is 7' in ended.stderr


@pytest.mark.long
def test_a_method_that_fails_is_named_and_the_others_go_on(
  launcher, cache, tmp_path
):
  workdir = tmp_path / 'run'
  claim(
    workdir,
    compare.Settings(
      dataset='sinusoid', minutes_each=0.005, eval_tasks=8, validation_tasks=4
    ),
  )
  (workdir / 'maml').mkdir()
  (workdir / 'maml' / 'not_ours').write_text('something else')
  ended = launcher.run(
    'compare', *SMALL, cache, f'--workdir={workdir}', '--methods=maml,scratch',
  )  # fmt: skip
  assert ended.code == 1
  assert ended.stderr.startswith('maml: exit code 2: --workdir: ')
  found = json.loads((workdir / 'compare.json').read_text())
  assert list(found['failed']) == ['maml']
  assert [row['method'] for row in found['rows']] == ['scratch']


@pytest.mark.long
def test_a_comparison_that_is_stopped_stops_its_run(launcher, cache, tmp_path):
  run = launcher.start(
    'compare', *SMALL, cache, f'--workdir={tmp_path}/run', '--methods=maml',
  )  # fmt: skip
  lock = tmp_path / 'run' / 'pilots' / 'maml' / '.lock'
  owner = run.until(lambda: lock.exists() and lock.read_text().split()[1:2])
  run.kill(signal.SIGTERM)
  assert run.wait().code == 128 + signal.SIGTERM
  with pytest.raises(ProcessLookupError):
    os.kill(int(owner[0]), 0)


@pytest.mark.in_ci
def test_a_comparison_that_was_killed_waits_for_the_run_that_outlived_it(
  launcher, cache, tmp_path
):
  flags = (
    *SMALL, '--minutes_each=0.05', cache, f'--workdir={tmp_path}/run',
    '--methods=maml',
  )  # fmt: skip
  first = launcher.start('compare', *flags)
  lock = tmp_path / 'run' / 'maml' / '.lock'
  first.until(lambda: lock.exists() and lock.read_text())
  first.kill(signal.SIGKILL)
  first.wait()
  ended = launcher.run('compare', *flags)
  assert ended.code == 0, ended
  assert 'waiting for another run in' in ended.stdout
  found = json.loads((tmp_path / 'run' / 'compare.json').read_text())
  assert found['failed'] == {}
  assert [row['method'] for row in found['rows']] == ['maml']


def test_flags_of_images_are_refused_for_the_sinusoid(launcher):
  ended = launcher.run('compare', '--dataset=sinusoid', '--data_dir=x')
  assert ended.code == 2
  assert ended.stderr.startswith('--data_dir: is x, but has no meaning for')


def outcome(**changes) -> dict:
  """What `result.json` of a run holds, as far as a comparison reads it."""
  return {
    'protocol': {'ways': 5, 'shots': 1, 'evaluation': 'support'},
    'test': {'accuracy': 0.9, 'ci95': 0.01, 'accuracy_before': 0.2},
    'tasks_per_second': 40.0,
    'config': {'tasks_per_step': 4},
    'training_seconds': 2.5,
    'steps': 1000,
    'parameters': 10,
  } | changes


def test_the_seconds_of_a_run_that_was_stopped_are_those_of_all_its_steps(
  tmp_path,
):
  row = compared.row_of('maml', outcome(), tmp_path / 'pilot')
  assert row.seconds_per_step == 0.1
  assert row.train_seconds == 100.0
  # A run that had only its test left has measured nothing; its pilot has.
  pilot = tmp_path / 'pilots' / 'maml'
  pilot.mkdir(parents=True)
  (pilot / 'result.json').write_text(json.dumps(outcome(tasks_per_second=20)))
  row = compared.row_of('maml', outcome(tasks_per_second=None), pilot)
  assert row.seconds_per_step == 0.2
  assert row.train_seconds == 200.0


def test_a_method_without_training_takes_no_time(tmp_path):
  row = compared.row_of(
    'pixels',
    outcome(tasks_per_second=None, training_seconds=0.0, steps=0),
    tmp_path / 'pilot',
  )
  assert row.seconds_per_step is None
  assert row.train_seconds == 0


def test_the_curve_ends_where_the_dot_is(tmp_path):
  """In seconds of training, without compilation and validation."""
  lines = [
    {'step': 500, 'time': 71.0, 'validation/accuracy': 0.5},
    {'step': 500, 'time': 71.0, 'loss': 1.0},
    {'step': 1000, 'time': 140.0, 'validation/accuracy': 0.8},
  ]
  (tmp_path / 'maml').mkdir()
  (tmp_path / 'maml' / 'metrics.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in lines)
  )
  row = compared.row_of('maml', outcome(), tmp_path / 'pilot')
  assert compared.curve_of(tmp_path / 'maml', row) == [
    (50.0, 0.5),
    (100.0, 0.8),
  ]


def test_a_curve_that_is_damaged_is_one_line(tmp_path):
  row = compared.row_of('maml', outcome(), tmp_path / 'pilot')
  for damaged in ('3\n3\n', '{"step": 1, "validation/accuracy": []}\n'):
    (tmp_path / 'metrics.jsonl').write_text(damaged)
    with pytest.raises(UsageError, match=r'--workdir: .* is damaged'):
      compared.curve_of(tmp_path, row)


def test_a_test_that_came_to_no_number_is_a_method_that_failed(tmp_path):
  test = {'mse': None, 'ci95': None, 'mse_before': 3.0}
  with pytest.raises(FailedError, match='mse at test is not finite'):
    compared.row_of('maml', outcome(test=test), tmp_path / 'pilot')


def test_no_methods_are_refused(launcher, tmp_path):
  ended = launcher.run('compare', '--methods=', f'--workdir={tmp_path}/run')
  assert ended.code == 2
  assert ended.stderr.startswith('--methods: names no method')
  assert not (tmp_path / 'run').exists()


def test_an_unknown_method_is_refused(launcher, tmp_path):
  ended = launcher.run(
    'compare', '--methods=mamml', f'--workdir={tmp_path}/run'
  )
  assert ended.code == 2
  assert ended.stderr.startswith("--methods: 'mamml' is no method for strokes")
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('metric', [ACCURACY, MEAN_SQUARED_ERROR])
def test_the_best_method_is_the_first_of_the_table(metric):
  row = Compared(
    'maml', 5, 1, 'transductive', metric, 0.9, 0.01, 0.2, 60, 100, 0.5, 10
  )
  other = row._replace(method='other', value=0.8, seconds_per_step=1.0)
  _, *lines = compared.table([other, row])
  names = [line[0] for line in lines]
  assert names == (
    ['maml', 'other'] if metric is ACCURACY else ['other', 'maml']
  )
  (slower,) = (line for line in lines if line[0] == 'other')
  assert '2.00' in slower  # twice the time of MAML
