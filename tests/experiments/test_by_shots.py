"""Trained runs, tested again from other numbers of examples."""

import json
import shutil

import pytest
from processes import TINY_IMAGES

from experiments import by_shots, images

FLAGS = ('--shots=2', '--queries=1', '--eval_tasks=4')


@pytest.fixture(scope='module')
def trained(launcher, cache, npz, tmp_path_factory):
  """Workdirs of a run that was trained, and of one that needs no training."""
  directory = tmp_path_factory.mktemp('trained')
  for method, flags in {
    'maml': (
      '--network=mlp',
      '--depth=1',
      '--steps=2',
      '--outer_schedule=cosine',
    ),
    'pixels': (),
  }.items():
    ended = launcher.run(
      'images', *TINY_IMAGES, *npz, cache, f'--algorithm={method}',
      f'--workdir={directory / method}', *flags,
    )  # fmt: skip
    assert ended.code == 0, ended
  return [directory / 'maml', directory / 'pixels']


def runs(directories):
  return f'--runs={",".join(map(str, directories))}'


@pytest.mark.in_ci
def test_every_run_is_tested_from_every_number_of_examples(
  trained, launcher, cache, tmp_path
):
  flags = (*FLAGS, cache, runs(trained), f'--workdir={tmp_path}/run')
  ended = launcher.run('by_shots', *flags)
  assert ended.code == 0, ended
  found = json.loads((tmp_path / 'run' / 'by_shots.json').read_text())
  assert (found['ways'], found['test_tasks'], found['failed']) == (2, 4, {})
  assert [(row['run'], row['shots']) for row in found['rows']] == [
    ('maml', 2), ('pixels', 2),
  ]  # fmt: skip
  one = tmp_path / 'run' / 'maml' / '2_shots' / 'result.json'
  outcome = json.loads(one.read_text())
  assert (outcome['protocol']['shots'], outcome['steps']) == (2, 0)
  assert outcome['config']['load'] == str(trained[0])
  assert outcome['test']['accuracy'] == found['rows'][0]['accuracy']
  assert '| maml |' in (tmp_path / 'run' / 'by_shots.md').read_text()
  assert (tmp_path / 'run' / 'by_shots.png').read_bytes()[1:4] == b'PNG'
  page = (tmp_path / 'run' / 'report.html').read_text()
  assert 'maml/report.html' in page
  # A second start tests nothing again.
  done = one.stat().st_mtime_ns
  assert launcher.run('by_shots', *flags).code == 0
  assert one.stat().st_mtime_ns == done
  # What was found for other queries is not what is asked for.
  ended = launcher.run('by_shots', *flags, '--queries=2')
  assert ended.code == 2
  assert '--queries was 1 and is 2' in ended.stderr


@pytest.mark.in_ci
def test_a_run_that_fails_is_named_and_the_others_go_on(
  trained, launcher, cache, tmp_path
):
  broken = tmp_path / 'broken'
  shutil.copytree(trained[0], broken)
  shutil.rmtree(broken / 'checkpoints')
  (broken / 'checkpoints').mkdir()
  ended = launcher.run(
    'by_shots', *FLAGS, cache, runs([broken, trained[1]]),
    f'--workdir={tmp_path}/run',
  )  # fmt: skip
  assert ended.code == 1, ended
  assert ended.stderr.startswith('broken, 2 examples per class: exit code 2: ')
  found = json.loads((tmp_path / 'run' / 'by_shots.json').read_text())
  assert list(found['failed']) == ['broken, 2 examples per class']
  assert [row['run'] for row in found['rows']] == ['pixels']


def test_what_was_trained_is_loaded_though_its_checkpoints_are_gone(tmp_path):
  """It fails then; it is not trained anew."""
  settings = by_shots.Settings()
  config = images.Settings().given() | {'ways': 5, 'steps': 3}
  of_test = by_shots._settings_of(settings, tmp_path, config, 2)
  assert (of_test.load, of_test.test_only) == (str(tmp_path), True)
  config |= {'steps': 0, 'algorithm': 'pixels', 'width': 64}
  of_test = by_shots._settings_of(settings, tmp_path, config, 2)
  assert (of_test.load, of_test.test_only) == (None, False)


def test_the_table_has_a_line_for_every_run_and_the_best_first():
  rows = [
    by_shots.Tested('transfer', 1, 0.7, 0.02),
    by_shots.Tested('maml', 1, 0.9, 0.01),
    by_shots.Tested('maml', 5, 0.95, 0.01),
  ]
  sign = '\N{PLUS-MINUS SIGN}'
  assert by_shots.table(rows) == [
    ['run', '1-shot %', '5-shot %'],
    ['maml', f'90.0 {sign} 1.0', f'95.0 {sign} 1.0'],
    ['transfer', f'70.0 {sign} 2.0', ''],
  ]


@pytest.mark.in_ci
def test_what_cannot_be_compared_is_refused(trained, launcher, cache, tmp_path):
  def complaint(*flags):
    ended = launcher.run('by_shots', cache, f'--workdir={tmp_path}/run', *flags)
    assert ended.code == 2, ended
    assert not (tmp_path / 'run').exists()
    return ended.stderr

  assert complaint().startswith('--runs: names no run')
  nowhere = tmp_path / 'nowhere'
  assert 'nowhere is no workdir of a run' in complaint(runs([nowhere]))
  assert complaint(runs(trained), '--shots=1,none').startswith(
    "--shots: '1,none' must be whole numbers"
  )
  assert 'two are called maml' in complaint(runs([trained[0], trained[0]]))
  other = tmp_path / 'other'
  other.mkdir()
  config = json.loads((trained[0] / 'config.json').read_text())
  (other / 'config.json').write_text(json.dumps(config | {'ways': 3}))
  assert 'has not come to its end' in complaint(runs([other]))
  (other / 'result.json').write_text('{}')
  assert '--ways is 2 and 3' in complaint(runs([trained[0], other]))
