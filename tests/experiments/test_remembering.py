"""Whole runs of methods with a memory, and what they refuse, in one line."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments.control import EXPERIMENT, Settings
from experiments.runner.errors import UsageError
from metajax.control.indices import optimal_return

pytestmark = pytest.mark.in_ci

SMALL = {
  'steps': 2, 'tasks_per_step': 8, 'width': 4, 'eval_tasks': 300,
  'validation_tasks': 2, 'log_every': 1, 'checkpoint_every': 2,
}  # fmt: skip


@pytest.mark.parametrize('algorithm', ['rl2', 'rl2_attention'])
def test_a_bandit_is_tested_beside_all_that_is_known(algorithm, tmp_path):
  workdir = tmp_path / 'run'
  outcome = EXPERIMENT.run(
    Settings(
      environment='bandit',
      algorithm=algorithm,
      arms=3,
      episode_steps=6,
      workdir=str(workdir),
      **SMALL,
    )
  )
  assert outcome['protocol']['arms'] == 3
  baseline = outcome['baseline']
  assert set(baseline) == {
    f'{name}_{what}'
    for name in ('random', 'greedy', 'ucb1', 'thompson', 'index', 'optimum')
    for what in ('return', 'ci95')
  }
  best = optimal_return(3, 6)
  assert abs(baseline['optimum_return'] - best) < 2 * baseline['optimum_ci95']
  assert abs(baseline['random_return'] - 3) < 2 * baseline['random_ci95']
  # So small a memory has learned nothing in two steps.
  assert abs(outcome['test']['return'] - 3) < 3 * outcome['test']['ci95']
  saved = json.loads((workdir / 'result.json').read_text())
  assert saved['test']['return'] == outcome['test']['return']
  with Image.open(workdir / 'regret_by_pull.png') as image:
    assert np.asarray(image).std() > 1
  assert 'in a trial' in (workdir / 'report.html').read_text()


def test_a_trial_may_be_several_episodes():
  outcome = EXPERIMENT.run(
    Settings(
      environment='rooms',
      algorithm='rl2',
      episode_steps=5,
      trial_episodes=3,
      **SMALL | {'eval_tasks': 4},
    )
  )
  assert outcome['protocol']['trial_episodes'] == 3
  assert {'random_return', 'random_ci95'} == set(outcome['baseline'])


@pytest.mark.parametrize(
  ('given', 'setting', 'message'),
  [
    ({'arms': 1}, 'arms', 'a whole number from 2'),
    ({'episode_steps': 0}, 'episode_steps', 'a whole number from 1'),
    (
      {'environment': 'navigation'},
      'environment',
      'navigation has continuous actions; take an environment with discrete',
    ),
    ({'environment': 'rooms', 'arms': 3}, 'arms', 'is of a bandit; give'),
    (
      {'algorithm': 'maml', 'trial_episodes': 2},
      'trial_episodes',
      'no meaning for maml, which has no memory; rl2, rl2_attention have one',
    ),
    ({'discount': 0.5}, 'discount', 'its own; give --set=discount=...'),
    ({'surrogate': 'lvc'}, 'surrogate', 'which has a loss of its own'),
    ({'shots': 5}, 'shots', 'rl2, which sees no episode before those of its'),
    ({'train_shots': 5}, 'train_shots', 'which sees no episode before'),
    ({'set': 'shots=5'}, 'shots', 'which sees no episode before'),
    ({'inner_steps': 5}, 'inner_steps', 'by its memory, in no inner steps'),
    ({'eval_inner_steps': 5}, 'eval_inner_steps', 'in no inner steps'),
    ({'inner_batch': 5}, 'inner_batch', 'rl2, which takes no batches of the'),
    ({'set': 'eval_inner_batch=5'}, 'set', 'which takes no batches of'),
    ({'algorithm': 'maml', 'inner_batch': 5}, 'inner_batch', 'as reptile does'),
    ({'network': 'mlp'}, 'network', 'mlp cannot end in memory; gru, decoder'),
    ({'depth': 3}, 'depth', 'gru has no choice of it; decoder have'),
    ({'precision': 'bfloat16'}, 'precision', 'rl2 computes in float32'),
    ({'set': 'trace=2'}, 'set', 'trace must be from 0 to 1, got 2'),
  ],
)
def test_what_cannot_be_is_one_line(given, setting, message):
  with pytest.raises(UsageError, match=message) as error:
    EXPERIMENT.run(
      Settings(
        **{'environment': 'bandit', 'algorithm': 'rl2', **SMALL, **given}
      )
    )
  assert error.value.setting == setting
