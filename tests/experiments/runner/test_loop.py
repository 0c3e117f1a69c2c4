"""A run from its beginning to its end, and what stops it."""

import signal

import pytest

from experiments import images, sinusoid
from experiments.runner import experiment, loop, runs
from experiments.runner.errors import UsageError
from experiments.runner.interrupts import Interrupted, stop_at_once
from metajax.objectives import cross_entropy

SMALL = {'tasks_per_step': 1, 'eval_tasks': 2, 'validation_tasks': 2}


def test_what_does_not_fit_is_refused_before_the_workdir_is_touched(tmp_path):
  given = sinusoid.Settings(**SMALL, workdir=tmp_path / 'run')
  problem = sinusoid.make_problem(given, sinusoid.make_recipe(given))
  problem = problem._replace(objective=cross_entropy)
  with pytest.raises(UsageError, match=r'--algorithm: maml: .*:'):
    loop.train_and_test(problem, tmp_path / 'run')
  assert list(tmp_path.iterdir()) == []


@pytest.mark.in_ci
def test_no_failure_to_write_a_page_loses_the_result(tmp_path):
  given = sinusoid.Settings(**SMALL, steps=1, workdir=tmp_path / 'run')
  problem = sinusoid.make_problem(given, sinusoid.make_recipe(given))

  def fail(finished):
    assert (finished.workdir / 'result.json').exists()
    raise KeyError('a mistake')

  problem = problem._replace(report=fail)
  with pytest.warns(
    UserWarning, match=r"no report.html, KeyError: 'a mistake'"
  ):
    outcome = loop.train_and_test(problem, tmp_path / 'run')
  assert outcome['steps'] == 1
  # Without a workdir there is nobody to read one.
  problem = problem._replace(settings=given.replace(workdir=None))
  assert loop.train_and_test(problem, tmp_path / 'other')['steps'] == 1


@pytest.mark.in_ci
def test_a_run_that_is_killed_before_its_learner_is_kept_is_not_done(
  tmp_path, monkeypatch
):
  given = sinusoid.Settings(**SMALL, steps=1, workdir=tmp_path / 'run')

  def stop(*arguments):
    raise KeyboardInterrupt

  with monkeypatch.context() as killed:
    killed.setattr(loop, 'keep', stop)
    with pytest.raises(KeyboardInterrupt):
      sinusoid.run(given)
  assert not runs.is_done(tmp_path / 'run')
  sinusoid.run(given.replace(resume=True))
  assert runs.is_done(tmp_path / 'run')
  assert (tmp_path / 'run' / 'learner.json').exists()


def test_a_run_that_is_stopped_says_what_is_kept():
  saved = str(Interrupted(signal.SIGINT, 3))
  assert saved.endswith('saved step 3; the same command with --resume goes on')
  lost = Interrupted(signal.SIGINT, 3, kept=False)
  assert str(lost) == (
    'SIGINT: stopped; nothing is kept of a run without a workdir'
  )
  with pytest.raises(Interrupted, match='nothing is kept'):
    stop_at_once(kept=False)(signal.SIGTERM, None)
  with pytest.raises(Interrupted, match='stopped at once; the same command'):
    stop_at_once(kept=True)(signal.SIGTERM, None)


@pytest.mark.parametrize('name', ['shots', 'queries'])
def test_what_does_not_fit_into_memory_says_what_to_lower(name):
  given = images.Settings(
    **SMALL, algorithm='pixels', **{name: 2_000_000_000}, evaluation='support'
  )
  with pytest.raises(UsageError, match=rf'--{name}: is 2000000000, and tasks.*'
                     'do not fit into memory .*; lower --ways'):  # fmt: skip
    images.run(given)


def test_other_failures_stay_what_they_are():
  recipe = images.make_recipe(images.Settings())
  with pytest.raises(KeyError, match='x'), experiment._within_memory(recipe):
    raise KeyError('x')
