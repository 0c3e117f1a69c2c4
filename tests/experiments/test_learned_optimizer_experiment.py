"""The experiment that learns an optimiser: whole runs, and bad input."""

import json

import numpy as np
import pytest

from experiments import learned_optimizer
from experiments.runner.errors import UsageError
from metajax import learned

Settings = learned_optimizer.Settings
SMALL = {
  'optimizer': 'adam', 'horizon': 4, 'steps': 2, 'width': 4, 'shots': 8,
  'queries': 8, 'inner_batch': 4, 'tasks_per_step': 3, 'eval_tasks': 2,
  'validation_tasks': 2, 'places': 'unseen',
}  # fmt: skip


@pytest.mark.in_ci
@pytest.mark.parametrize('estimator', ['unrolled', 'pes'])
def test_a_run_leaves_weights_tables_and_pictures(estimator, tmp_path):
  given = Settings(**SMALL, estimator=estimator, workdir=str(tmp_path / 'run'))
  outcome = learned_optimizer.run(given)
  left = tmp_path / 'run'
  for name in ('unseen.png', 'report.html'):
    assert (left / name).stat().st_size > 100
  weights, kind = learned.load_weights(left / 'optimizer.safetensors')
  assert (kind, outcome['parameters']) == ('adam', 30)
  optimizer = learned.learned_adam(weights, 4)
  params = {'x': np.ones(3, np.float32)}
  updates, _ = optimizer.update(params, optimizer.init(params), params)
  assert np.linalg.norm(updates['x']) > 0
  found = json.loads((left / 'result.json').read_text())['comparison']
  assert set(found) == {'width 2', 'width 8'}
  for place in found.values():
    adam = place['adam']
    gap = place['learned']['validation']['mean'] - adam['validation']['mean']
    assert adam['difference']['validation']['mean'] == pytest.approx(gap)
    best = place['adam_best_for_each_task']['validation']['mean']
    assert best <= adam['validation']['mean'] + 1e-9
  (lines,) = outcome['tables'].values()
  assert [line[0] for line in lines] == ['network', 'width 2', 'width 8']
  assert lines[1][3] in (left / 'report.html').read_text()


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    ({'truncation': 3, 'estimator': 'pes'}, '--truncation: is 3, which does'),
    ({'truncation': 2}, '--truncation: is 2, but unrolled takes whole'),
    (
      {'scale': 0.5},
      '--scale: is 0.5, but unrolled perturbs nothing; leave it out, or take'
      ' --estimator=es or --estimator=pes',
    ),
    ({'num_pairs': 9}, '--num_pairs: is 9, but unrolled perturbs nothing'),
    (
      {'num_pairs': 9, 'estimator': 'pes'},
      '--num_pairs: is 9, but pes has one pair per task',
    ),
    (
      {'scale': 0.5, 'estimator': 'truncated'},
      '--scale: is 0.5, but truncated perturbs nothing',
    ),
    ({'tasks_per_step': 4}, '--tasks_per_step: is 4, which networks of three'),
    ({'inner_steps': 3}, '--inner_steps: is 3, but has no meaning'),
    ({'shots': 200}, '--shots: .*lower --shots or --queries'),
    ({'mesh': 'task:2'}, '--mesh: is task:2, but has no meaning'),
    ({'optimizer': 'sgd'}, '--optimizer=sgd: value should be one of'),
    ({'estimator': 'reinforce'}, '--estimator=reinforce: value should be'),
    ({'outer_lr': -1.0}, '--outer_lr=-1.0: must be a finite number > 0'),
    ({'scale': 0.0}, '--scale=0.0: must be a finite number > 0'),
    ({'horizon': 0}, '--horizon=0: must be a whole number from 1'),
  ],
)
def test_what_cannot_be_is_one_line(wrong, message, tmp_path):
  with pytest.raises(UsageError, match=message):
    learned_optimizer.run(
      Settings(**{**SMALL, **wrong}, workdir=str(tmp_path / 'run'))
    )
  assert not (tmp_path / 'run').exists()
