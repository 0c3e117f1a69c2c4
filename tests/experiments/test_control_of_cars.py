"""The car among the environments, which is an experiment of its own."""

import pytest

from experiments import control
from experiments.runner.errors import UsageError


@pytest.mark.in_ci
@pytest.mark.parametrize(
  'words', [['--environment=car'], ['--environment', 'car']]
)
def test_the_environment_car_is_the_experiment_of_cars(
  words, launcher, tmp_path
):
  ended = launcher.run(
    'control', '--rides=0', *words, '--shots=3', cwd=tmp_path
  )
  assert (ended.code, ended.stdout) == (2, ''), ended
  assert 'least squares needs 4 transitions' in ended.stderr
  assert ended.stderr.count('\n') == 1


@pytest.mark.in_ci
def test_a_flagfile_with_a_car_says_where_cars_are(launcher, tmp_path):
  (tmp_path / 'flags').write_text('--environment=car\n')
  ended = launcher.run('control', '--flagfile=flags', cwd=tmp_path)
  assert (ended.code, ended.stdout) == (2, ''), ended
  assert 'python -m experiments.car' in ended.stderr
  assert ended.stderr.count('\n') == 1


def test_from_python_it_says_where_cars_are():
  settings = control.Settings(environment='car')
  with pytest.raises(
    UsageError, match=r'^--environment: car is .*experiments\.car'
  ):
    control.make_problem(settings, control.make_recipe(settings))
