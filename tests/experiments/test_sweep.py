"""Sweeps: trials side by side, folds of training classes, and what is kept."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import REPOSITORY

from experiments import images, sinusoid, sweep
from experiments.data import images as data_sets
from experiments.data.samplers import Wanted
from experiments.runner.errors import UsageError
from experiments.runner.settings import said
from experiments.runner.trials import grouped, run_group

pytest.importorskip('optuna')

TINY = {
  'steps': 4, 'rungs': 2, 'tasks_per_step': 2, 'validation_tasks': 4,
  'width': 4, 'eval_inner_steps': 1, 'at_once': 2,
}  # fmt: skip


def classes_of(squares: Path, fold: str | None):
  """Classes of the test, and how many there are of training."""
  settings = images.Settings(
    dataset='npz', data_file=squares, fold=fold, ways=2,
    split_shares=(0.5, 0.25, 0.25),
  )  # fmt: skip
  loaded = data_sets.load(Wanted(settings, images.make_recipe(settings)))
  return set(loaded.test_classes.names), loaded.train_classes


def test_folds_are_of_training_classes_alone(squares):
  test, number = classes_of(squares, None)
  folds = [classes_of(squares, f'{part}/3') for part in (1, 2, 3)]
  names = [names for names, _ in folds]
  assert set().union(*names).isdisjoint(test)
  assert sum(map(len, names)) == len(set().union(*names)) == number
  assert all(len(names) + left == number for names, left in folds)
  with pytest.raises(UsageError, match='--fold: 6 classes of training cannot'):
    classes_of(squares, '1/7')
  for wrong in ('0/3', '4/3', '1/1', '1', 'x'):
    with pytest.raises(UsageError, match=f'--fold={wrong}: must be K/N'):
      images.Settings(fold=wrong)


@pytest.mark.in_ci
def test_trials_of_one_program_are_those_alone():
  given = sinusoid.Settings(
    **{name: x for name, x in TINY.items() if name not in ('rungs', 'at_once')}
  )
  trials = [
    {'inner_lr': 0.01, 'outer_lr': 1e-2, 'inner_steps': 1},
    {'inner_lr': 0.1, 'outer_lr': 1e-3, 'inner_steps': 1},
    {'inner_lr': 0.1, 'outer_lr': 1e-3, 'inner_steps': 2},
  ]
  groups = grouped(sinusoid.EXPERIMENT, given, trials)
  assert [group.members for group in groups] == [[0, 1], [2]]

  def scores(groups):
    return np.stack(
      [
        found.mean
        for group in groups
        for found in run_group(sinusoid.EXPERIMENT, group, [None], 2)
      ]
    )

  together = scores(groups[:1])
  for member in range(2):
    alone = scores(grouped(sinusoid.EXPERIMENT, given, [trials[member]]))
    np.testing.assert_allclose(together[:, member], alone[:, 0], rtol=1e-4)


@pytest.mark.in_ci
def test_what_is_pruned_stays_where_it_is():
  given = sinusoid.Settings(steps=4, tasks_per_step=2, validation_tasks=4)
  trials = [{'outer_lr': 1e-2}, {'outer_lr': 1e-3}]
  (group,) = grouped(sinusoid.EXPERIMENT, given, trials)
  steps = run_group(sinusoid.EXPERIMENT, group, [None], 2)
  first = next(steps).mean
  second = steps.send([1]).mean
  assert np.isfinite(first).all()
  assert np.isfinite(second).tolist() == [True, False]


@pytest.mark.in_ci
def test_a_sweep_of_images_ends_with_a_command(squares, tmp_path, capsys):
  workdir = tmp_path / 'sweep'
  settings = sweep.settings_of('images')(
    **TINY, search='outer_lr=log:1e-4:1e-2', trials=2, algorithm='protonet',
    dataset='npz', data_file=squares, ways=2, train_ways=2, queries=1, folds=2,
    split_shares=(0.5, 0.25, 0.25), workdir=workdir,
  )  # fmt: skip
  assert sweep.run(settings) == 0
  printed = capsys.readouterr().out
  assert printed.splitlines()[-1] == (
    f'python -m experiments.images --flagfile={workdir / "best.flags"}'
    f' --workdir={workdir / "best"}'
  )
  trials = json.loads((workdir / 'sweep.json').read_text())['trials']
  assert [each['state'] for each in trials] == ['complete'] * 2
  for each in trials:
    np.testing.assert_allclose(np.mean(each['by_fold']), each['value'])
  best = max(trials, key=lambda each: each['value'])['settings']['outer_lr']
  page = (workdir / 'report.html').read_text()
  assert 'best.flags' in page
  assert '--experiment=images' in page
  flags = (workdir / 'best.flags').read_text().splitlines()
  assert {f'--outer_lr={best}', '--ways=2'} <= set(flags)
  assert '--fold' not in ''.join(flags)
  for name in ('parallel.png', 'study.db'):
    assert (workdir / name).exists()
  with pytest.raises(UsageError, match='holds another study: --search was'):
    sweep.run(settings.replace(search='outer_lr=log:1e-4:1e-1'))


def command(workdir: Path, cache: str, *flags: str) -> list[str]:
  return [
    sys.executable, '-m', 'experiments.sweep', '--experiment=sinusoid', cache,
    '--search=outer_lr=log:1e-4:1e-2', f'--workdir={workdir}',
    *(f'--{name}={value}' for name, value in TINY.items()), *flags,
  ]  # fmt: skip


def trials_of(workdir: Path) -> dict[int, float]:
  """Numbers and values of the trials that have come to their end."""
  import optuna

  study = optuna.load_study(
    study_name='sweep', storage=f'sqlite:///{workdir / "study.db"}'
  )
  return {
    each.number: each.value
    for each in study.trials
    if each.state.name == 'COMPLETE'
  }


@pytest.mark.in_ci
def test_a_sweep_that_is_killed_loses_no_trial(own_cache, tmp_path):
  workdir, cache = tmp_path / 'sweep', own_cache()
  environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
  process = subprocess.Popen(
    command(workdir, cache, '--trials=300'), cwd=REPOSITORY, env=environment,
    stdout=subprocess.PIPE, text=True,
  )  # fmt: skip
  assert process.stdout is not None
  for line in process.stdout:
    if line.startswith('trial 3'):
      break
  process.send_signal(signal.SIGKILL)
  process.wait()
  process.stdout.close()
  before = trials_of(workdir)
  assert before
  total = len(before) + 4
  ended = subprocess.run(
    command(workdir, cache, f'--trials={total}', '--workers=2'),
    cwd=REPOSITORY, env=environment, capture_output=True, text=True,
  )  # fmt: skip
  assert ended.returncode == 0, ended
  found = json.loads((workdir / 'sweep.json').read_text())['trials']
  ended_states = [each['state'] for each in found]
  assert ended_states.count('running') == 0
  assert sum(each in ('complete', 'pruned') for each in ended_states) >= total
  values = {each['number']: each['value'] for each in found}
  assert before.items() <= values.items()


@pytest.mark.in_ci
def test_what_is_wrong_is_one_line_and_nothing_is_written(tmp_path, cache):
  workdir = tmp_path / 'sweep'
  ended = subprocess.run(
    [*command(workdir, cache), '--search=outer_lr=lgo:1:2'],
    cwd=REPOSITORY, env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True, text=True,
  )  # fmt: skip
  assert ended.returncode == 2
  assert ended.stderr.startswith('--search: at column 10, ')
  assert ended.stderr.count('\n') == 1
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'search': ''}, '--search: says what is tried'),
    ({'seeds': 3}, '--seeds: has no meaning for a sweep'),
    ({'rungs': 5}, '--rungs: are 5, and there are 4 steps'),
    ({'search': 'algorithm=scratch', 'steps': None}, 'needs no training'),
    ({'experiment': 'text'}, '--experiment=text: says which flags there are'),
  ],
)
def test_what_cannot_be_swept_is_refused(tmp_path, given, message):
  settings = sweep.settings_of('sinusoid')(
    **{**TINY, 'search': 'outer_lr=0.1:1', 'workdir': tmp_path / 'x', **given}
  )
  with pytest.raises(UsageError, match=message):
    sweep.run(settings)
  assert list(tmp_path.iterdir()) == []


def test_without_optuna_one_line_says_what_to_install(monkeypatch):
  monkeypatch.setattr(sweep.importlib.util, 'find_spec', lambda name: None)
  settings = sweep.settings_of('sinusoid')(**TINY)
  with pytest.raises(UsageError, match='--search: says what is tried'):
    sweep.run(settings)  # nothing is called wrong that was not given
  with pytest.raises(UsageError, match=r"install -e '\.\[sweep\]' does it"):
    sweep.run(settings.replace(search='outer_lr=0.1:1'))


@pytest.mark.parametrize(
  'name',
  [name for name in sweep._UNUSED if name in said(sweep.settings_of('images'))],
)
def test_what_help_leaves_out_is_refused(name):
  usual = sweep.settings_of('images')()
  object.__setattr__(usual, name, object())  # whatever it is
  with pytest.raises(UsageError, match=f'--{name}: has no meaning for a sweep'):
    sweep._checked(usual)


@pytest.mark.parametrize(
  ('arguments', 'name'),
  [
    (['--trials=2'], 'images'),
    (['--experiment=text', '--trials=2'], 'text'),
    (['--experiment', 'text', '--trials=2'], 'text'),
    (['-experiment', 'text'], 'text'),
    (['--experiment=nothing'], 'images'),  # which refuses it
  ],
)
def test_the_experiment_is_known_before_its_flags(arguments, name):
  assert sweep._named(arguments) == name


@pytest.mark.in_ci
def test_a_trial_that_is_refused_is_told_and_the_others_go_on(tmp_path, capsys):
  settings = sweep.settings_of('sinusoid')(
    **TINY, search='inner_lr=log:0.01:1,network=mlp|conv4', trials=4,
    workdir=tmp_path / 'x',
  )  # fmt: skip
  assert sweep.run(settings) == 0
  trials = json.loads((tmp_path / 'x' / 'sweep.json').read_text())['trials']
  states = {each['settings']['network']: each['state'] for each in trials}
  assert states == {'mlp': 'complete', 'conv4': 'fail'}
  assert 'conv4' in capsys.readouterr().out
