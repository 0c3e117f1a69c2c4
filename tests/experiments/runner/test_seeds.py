"""Several seeds as one run: each is what it would be alone, and is reported."""

import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from experiments import images, sinusoid
from experiments.by_shots import Settings as ByShots
from experiments.by_shots import run as by_shots
from experiments.runner import loop, seeds
from experiments.runner.errors import UsageError
from experiments.runner.intervals import of_few
from experiments.runner.training import DivergenceError
from metajax.runs.evaluation import Evaluation
from metajax.runs.writers import read_json_lines

TINY = {
  'steps': 4, 'checkpoint_every': 2, 'log_every': 2, 'tasks_per_step': 2,
  'eval_tasks': 8, 'validation_tasks': 4, 'width': 4, 'eval_inner_steps': 1,
}  # fmt: skip
settings = partial(sinusoid.Settings, **TINY)


def evaluation(values):
  values = {'mse': jnp.asarray(values)}
  mean = {'mse': jnp.mean(values['mse'], 0)}
  return Evaluation(mean, mean, values)


def test_intervals_are_over_tasks_of_means_and_over_seeds():
  """By hand: two seeds, two tasks, one step."""
  each = {3: evaluation([[1.0], [3.0]]), 4: evaluation([[5.0], [5.0]])}
  found = seeds.over_seeds(each)
  np.testing.assert_allclose(found.mean.mean['mse'], [3.5])
  np.testing.assert_allclose(found.mean.values['mse'], [[3.0], [4.0]])
  np.testing.assert_allclose(found.mean.ci95['mse'], [1.96 * 0.5], rtol=1e-6)
  # Of 2 and 5, with the 97.5% quantile of Student's t of one degree.
  spread = math.sqrt(4.5)
  np.testing.assert_allclose(
    found.ci95['mse'], [12.7062047 * spread / math.sqrt(2)], rtol=1e-6
  )
  assert seeds.over_seeds({3: each[3]}).ci95 == {}


def test_what_seeds_have_no_meaning_for_is_refused(tmp_path):
  for given, message in (
    ({'mesh': 'task:1'}, '--seeds: several are divided .*; leave --mesh out'),
    ({'shard': ('task',)}, 'leave --shard out'),
    ({'dry_run': 'cpu'}, 'leave --dry_run out'),
    ({'distributed': 'auto'}, '--seeds: several are of one process'),
    ({'load': tmp_path, 'test_only': True}, '--load_seed tests one of them'),
    ({'algorithm': 'scratch'}, 'scratch needs no training; leave the flag'),
  ):
    if 'algorithm' in given:
      given |= {'steps': None}
    with pytest.raises(UsageError, match=message):
      sinusoid.run(settings(seeds=2, workdir=tmp_path / 'run', **given))
  with pytest.raises(UsageError, match='--load_seed: goes with --load'):
    sinusoid.run(settings(load_seed=2, workdir=tmp_path / 'run'))
  assert list(tmp_path.iterdir()) == []


@pytest.mark.in_ci
def test_seeds_of_images_on_the_host_are_refused(squares, tmp_path):
  given = images.Settings(
    seeds=2, dataset='npz', data_file=squares, images_on='host',
    workdir=tmp_path / 'run', ways=2,
  )  # fmt: skip
  with pytest.raises(UsageError, match='--images_on=device would put them'):
    images.run(given)
  assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope='module')
def several(tmp_path_factory):
  """A run of two seeds, and its workdir."""
  workdir = tmp_path_factory.mktemp('several') / 'run'
  return sinusoid.run(settings(seed=5, seeds=2, workdir=workdir)), workdir


def test_each_seed_is_the_run_that_it_would_be_alone(several):
  outcome, workdir = several
  alone = [sinusoid.run(settings(seed=seed)) for seed in (5, 6)]
  for found, wanted in zip(outcome['seeds'], alone, strict=True):
    assert found['seed'] == wanted['config']['seed']
    for name in ('mse', 'ci95'):
      np.testing.assert_allclose(found[name], wanted['test'][name], rtol=1e-5)
  test = outcome['test']
  means = [each['test']['mse'] for each in alone]
  np.testing.assert_allclose(test['mse'], np.mean(means), rtol=1e-5)
  half = of_few(np.array(means))
  np.testing.assert_allclose(test['ci95_over_seeds'], half, rtol=1e-3)
  np.testing.assert_allclose(test['ci95_over_seeds_by_step'][-1], half, 1e-3)
  assert outcome['parameters'] == alone[0]['parameters']
  assert outcome['config']['seeds'] == 2
  assert json.loads((workdir / 'result.json').read_text()) == outcome
  page = json.loads((workdir / 'report.json').read_text())
  assert page['seed'] == 5  # of the values in it
  np.testing.assert_allclose(
    np.mean(page['values']), outcome['seeds'][0]['mse'], rtol=1e-4
  )


def test_metrics_are_those_of_all_seeds_and_their_mean(several):
  records = read_json_lines(several[1] / 'metrics.jsonl')
  for record in records:
    prefix = 'validation/' if 'validation/mse' in record else ''
    each = [record[f'{prefix}seed_{seed}/mse'] for seed in (5, 6)]
    np.testing.assert_allclose(record[f'{prefix}mse'], np.mean(each), rtol=1e-5)
  assert 'validation/mse_ci95_over_seeds' in records[-1]


@pytest.mark.in_ci
def test_what_is_kept_for_use_is_the_first_seed_with_its_own_result(several):
  outcome, workdir = several
  first = {name: outcome['seeds'][0][name] for name in ('mse', 'ci95', 'seed')}
  assert first['mse'] != outcome['test']['mse']  # which is of all
  assert metajax.load(workdir).manifest['test'] == first


@pytest.mark.in_ci
def test_a_resume_of_seeds_changes_nothing(several, tmp_path):
  short = settings(seed=5, seeds=2, workdir=tmp_path / 'run')
  sinusoid.run(short.replace(steps=2))
  resumed = sinusoid.run(short.replace(resume=True))
  assert resumed['test'] == several[0]['test']
  assert resumed['seeds'] == several[0]['seeds']
  with pytest.raises(UsageError, match='--seeds was 2 and is 3'):
    sinusoid.run(short.replace(resume=True, seeds=3))


@pytest.mark.in_ci
def test_one_of_the_seeds_is_loaded(several, tmp_path):
  outcome, workdir = several
  test = settings(load=workdir, load_seed=6, test_only=True)
  loaded = sinusoid.run(test)['test']['mse']
  np.testing.assert_allclose(loaded, outcome['seeds'][1]['mse'], rtol=1e-5)
  for load_seed in (None, 7):
    with pytest.raises(UsageError, match='the seeds 5 to 6; name one of them'):
      sinusoid.run(test.replace(load_seed=load_seed))
  alone = tmp_path / 'alone'
  sinusoid.run(settings(workdir=alone))
  with pytest.raises(UsageError, match='has one seed; leave the flag out'):
    sinusoid.run(test.replace(load=alone, load_seed=0))


@pytest.mark.in_ci
def test_seeds_begin_at_what_is_loaded(several):
  given = settings(load=several[1], load_seed=6, seeds=2, outer_lr=1e-12)
  outcome = sinusoid.run(given)
  for each in outcome['seeds']:
    wanted = several[0]['seeds'][1]['mse']
    np.testing.assert_allclose(each['mse'], wanted, rtol=1e-4)


def with_gaps(wave, probability, key):
  task = wave(key)
  missing = jax.random.uniform(jax.random.fold_in(key, 0)) < probability
  targets = jnp.where(missing, jnp.nan, task.query.targets)
  return task._replace(query=task.query._replace(targets=targets))


def problem_with_gaps(given, probability):
  problem = sinusoid.make_problem(given, sinusoid.make_recipe(given))
  return problem._replace(
    train=jax.tree_util.Partial(
      partial(with_gaps, problem.train), jnp.float32(probability)
    )
  )


@pytest.mark.in_ci
@pytest.mark.filterwarnings('ignore::metajax.SkippedSteps')
def test_a_seed_that_gives_up_is_reported_and_left_out(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(loop, '_check_fit', lambda problem: None)
  given = settings(seeds=6, steps=3, workdir=tmp_path / 'run')
  problem = problem_with_gaps(given, 0.8)
  outcome = loop.train_and_test(problem, tmp_path / 'run')
  lost = [each for each in outcome['seeds'] if 'gave_up_at_step' in each]
  kept = [each['mse'] for each in outcome['seeds'] if each not in lost]
  assert len(lost) > 0 < len(kept)
  printed = capsys.readouterr().out
  for each in lost:
    assert (each['mse'], each['gave_up_at_step']) == (None, 3)
    assert f'seed {each["seed"]}: the meta-gradient was not finite' in printed
  np.testing.assert_allclose(outcome['test']['mse'], np.mean(kept), rtol=1e-5)
  assert outcome['skipped_steps'] >= 3 * len(lost)
  with pytest.raises(DivergenceError, match='in a row for every seed'):
    loop.train_and_test(problem_with_gaps(given, 1.0), tmp_path / 'other')


@pytest.mark.in_ci
def test_by_shots_wants_runs_of_one_seed(squares, tmp_path):
  run = tmp_path / 'several'
  images.run(
    images.Settings(
      seeds=2, dataset='npz', data_file=squares, workdir=run, steps=1,
      eval_tasks=2, validation_tasks=2, tasks_per_step=1, width=4, ways=2,
      inner_steps=1, eval_inner_steps=1,
    )
  )  # fmt: skip
  with pytest.raises(
    UsageError, match='is of several seeds; name a run of one'
  ):
    by_shots(ByShots(runs=(str(run),), workdir=str(tmp_path / 'by')))
