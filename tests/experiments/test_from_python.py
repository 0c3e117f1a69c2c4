"""Experiments as functions: called any number of times, touching nothing."""

import json
import os
import sys
import threading

import jax
import pytest
from absl import flags
from processes import TINY

from experiments import images, sinusoid
from experiments.runner.errors import UsageError

SMALL = {
  'tasks_per_step': 1, 'eval_tasks': 8, 'validation_tasks': 4, 'log_every': 1,
  'steps': 2, 'checkpoint_every': 2,
}  # fmt: skip


def untimed(outcome: dict) -> dict:
  """What does not depend on when and where it ran."""
  timed = {'tasks_per_second', 'seconds_to_first_step', 'training_seconds'}
  kept = {name: value for name, value in outcome.items() if name not in timed}
  of_place = {'workdir', 'cache_dir'}
  kept['config'] = {
    name: value
    for name, value in outcome['config'].items()
    if name not in of_place
  }
  return kept


@pytest.mark.in_ci
def test_a_run_gives_the_same_whenever_it_is_called(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  cache = jax.config.jax_compilation_cache_dir
  given = sinusoid.Settings(**SMALL, algorithm='r2d2')
  first = sinusoid.run(given)
  # Libraries set something of the environment where they are first used.
  before = sys.argv[:], dict(os.environ)
  second = sinusoid.run(given)
  assert untimed(first) == untimed(second)
  assert first['test']['mse'] > 0
  assert set(first['test']['metrics']) == {'loss', 'mse'}
  # Nothing is left, and nothing was touched.
  assert list(tmp_path.iterdir()) == []
  assert (sys.argv, dict(os.environ)) == before
  assert 'algorithm' not in flags.FLAGS
  assert jax.config.jax_compilation_cache_dir == cache


@pytest.mark.in_ci
def test_it_is_what_the_binary_finds(launcher, cache, tmp_path):
  command = [each for each in TINY if 'tasks_per_step' not in each]
  from_shell = launcher.succeed(
    'sinusoid', *command, cache, '--tasks_per_step=1', '--steps=2',
    '--checkpoint_every=2', '--algorithm=r2d2', f'--workdir={tmp_path / "a"}',
  )  # fmt: skip
  from_python = sinusoid.run(
    sinusoid.Settings(**SMALL, algorithm='r2d2', workdir=tmp_path / 'b')
  )
  assert untimed(from_python) == untimed(from_shell)
  found = json.loads((tmp_path / 'b' / 'result.json').read_text())
  assert found == from_python
  names = [
    {each.name for each in (tmp_path / place).iterdir()} for place in 'ab'
  ]
  assert names[0] == names[1]


@pytest.mark.in_ci
def test_images_from_python_with_every_metric_and_its_interval(squares):
  outcome = images.run(
    images.Settings(
      **SMALL, dataset='npz', data_file=str(squares), algorithm='protonet',
      network='mlp', width=4, ways=2,
      train_ways=2, queries=2, train_queries=2, set={'evaluation': 'support'},
    )
  )  # fmt: skip
  metrics = outcome['test']['metrics']
  assert set(metrics) == {'loss', 'accuracy', 'macro_f1', 'ece', 'nll'}
  assert metrics['accuracy']['mean'] == outcome['test']['accuracy']
  assert all(each['ci95'] >= 0 for each in metrics.values())
  assert metrics['nll']['mean'] == pytest.approx(metrics['loss']['mean'])
  assert outcome['metric']['name'] == 'accuracy'
  assert outcome['metric']['higher_is_better'] is True
  assert outcome['config']['network'] == 'mlp'


@pytest.mark.in_ci
def test_a_run_in_another_thread_needs_no_signals():
  outcomes = []
  given = sinusoid.Settings(**(SMALL | {'steps': 1}), algorithm='r2d2')
  thread = threading.Thread(target=lambda: outcomes.append(sinusoid.run(given)))
  thread.start()
  thread.join()
  assert outcomes[0]['steps'] == 1


def test_misuse_raises_what_the_binary_prints(tmp_path):
  (tmp_path / 'thesis.tex').write_text('precious')
  with pytest.raises(UsageError, match=r'--workdir: .* is not empty and holds'):
    sinusoid.run(sinusoid.Settings(workdir=tmp_path))
  with pytest.raises(UsageError, match='--num_processes: goes with --distrib'):
    sinusoid.run(sinusoid.Settings(num_processes=2))


def test_other_processes_are_not_waited_for():
  with pytest.raises(UsageError, match='--distributed: the processes are join'):
    sinusoid.run(sinusoid.Settings(distributed='localhost:1'))


def test_settings_of_another_experiment_are_refused():
  with pytest.raises(TypeError, match=r'sinusoid.run wants its own Setting'):
    sinusoid.run(images.Settings())
  with pytest.raises(UsageError, match='--resume: needs --workdir'):
    sinusoid.run(sinusoid.Settings(resume=True))
