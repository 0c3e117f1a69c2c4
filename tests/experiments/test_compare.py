"""Comparisons of methods, as small as they can be."""

import json

import pytest

from experiments.compare import Row, markdown

SMALL = (
  '--dataset=sinusoid', '--minutes_each=0.005', '--eval_tasks=8',
  '--validation_tasks=4',
)  # fmt: skip


def test_a_comparison_goes_on_with_the_methods_that_are_left(
  launcher, cache, tmp_path
):
  workdir = tmp_path / 'run'
  flags = (*SMALL, cache, f'--workdir={workdir}')
  ended = launcher.run('compare', *flags, '--methods=scratch')
  assert ended.code == 0, ended
  done = (workdir / 'scratch' / 'result.json').stat().st_mtime_ns
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
  assert '| maml |' in (workdir / 'compare.md').read_text()
  assert (workdir / 'compare.png').read_bytes()[1:4] == b'PNG'
  # What is another comparison has to have another directory.
  ended = launcher.run('compare', *flags, '--shots=7')
  assert ended.code == 2
  assert '--shots was 1 and is 7' in ended.stderr


@pytest.mark.long
def test_a_method_that_fails_is_named_and_the_others_go_on(
  launcher, cache, tmp_path
):
  workdir = tmp_path / 'run'
  (workdir / 'maml').mkdir(parents=True)
  (workdir / 'maml' / 'not_ours').write_text('something else')
  ended = launcher.run(
    'compare', *SMALL, cache, f'--workdir={workdir}', '--methods=maml,scratch',
  )  # fmt: skip
  assert ended.code == 1
  assert ended.stderr.startswith('maml: exit code 2: --workdir: ')
  found = json.loads((workdir / 'compare.json').read_text())
  assert list(found['failed']) == ['maml']
  assert [row['method'] for row in found['rows']] == ['scratch']


def test_an_unknown_method_is_refused(launcher, tmp_path):
  ended = launcher.run(
    'compare', '--methods=mamml', f'--workdir={tmp_path}/run'
  )
  assert ended.code == 2
  assert ended.stderr.startswith("--methods: 'mamml' is no method for strokes")
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('metric', ['accuracy', 'mse'])
def test_the_best_method_is_the_first_of_the_table(metric):
  row = Row(
    'maml', 5, 1, 'transductive', metric, 0.9, 0.01, 0.2, 60, 100, 0.5, 10
  )
  other = row._replace(method='other', value=0.8, seconds_per_step=1.0)
  lines = markdown([other, row]).splitlines()[2:]
  names = [line.split(' | ')[0].strip('| ') for line in lines]
  assert names == (
    ['maml', 'other'] if metric == 'accuracy' else ['other', 'maml']
  )
  (slower,) = (line for line in lines if 'other' in line)
  assert '2.00' in slower  # twice the time of MAML
