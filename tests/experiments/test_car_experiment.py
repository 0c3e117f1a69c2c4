"""Whole runs on cars, as small as they can be; and what is refused."""

import json
import re

import jax
import numpy as np
import pytest
from PIL import Image
from processes import TINY

import metajax
from experiments import car
from experiments.data.car_rides import Rides, in_closed_loop, measured
from experiments.runner.errors import UsageError
from experiments.runner.seeds import check_problem
from metajax.tasks.car_driving import Planner, Ride, make_track


@pytest.fixture(scope='module')
def workdir(launcher, cache, tmp_path_factory):
  """Of what the user types."""
  workdir = tmp_path_factory.mktemp('car') / 'run'
  ended = launcher.run(
    'car', *TINY, cache, '--steps=2', '--checkpoint_every=2', '--rides=2',
    '--shots=5', '--queries=5', '--train_queries=5', '--width=8',
    '--horizon=2', f'--workdir={workdir}',
  )  # fmt: skip
  assert (ended.code, ended.stderr) == (0, ''), ended
  (workdir / 'printed.txt').write_text(ended.stdout)
  return workdir


@pytest.mark.in_ci
def test_a_run_predicts_and_drives(workdir):
  outcome = json.loads((workdir / 'result.json').read_text())
  assert outcome['dataset'] == 'car'
  baseline = outcome['baseline']
  assert 0.05 < baseline['zero_mse'] < 2
  assert baseline['identified_mse'] < baseline['middle_car_mse'] / 3
  rides = outcome['closed_loop']
  assert set(rides) == {
    'before adaptation', 'adapted', 'middle of all cars', 'textbook tyres',
    'identified', 'true car',
  }  # fmt: skip
  for each in rides.values():
    assert 0 < each['lateral_error'] <= each['largest'] <= 4
  printed = (workdir / 'printed.txt').read_text()
  assert 'identified baseline' in printed
  assert re.search(r'│ true car +│ +\d\.\d{3} │ +± +\d\.\d{3} │', printed)
  for name in ('learning_curve', 'test_task', 'trajectories', 'track'):
    with Image.open(workdir / f'{name}.png') as image:
      assert np.asarray(image.convert('L')).std() > 5
  with Image.open(workdir / 'track.gif') as image:
    assert image.n_frames > 1  # of a car that is soon off the road
  assert (
    'predicted against true values of' in (workdir / 'report.html').read_text()
  )


@pytest.mark.in_ci
def test_what_has_been_learned_is_used_in_units_of_the_car(workdir):
  learner = metajax.load(workdir)
  rng = np.random.default_rng(0)
  inputs = np.stack(
    [rng.uniform(8, 16, 6), *rng.normal(size=(2, 6)), *np.zeros((2, 6))], 1
  )
  changes = np.tile([[0.1, 0.0, 0.02]], (6, 1))
  task = learner.adapt((inputs[:5], changes[:5]))
  said = task.predict(inputs[5:]).values
  assert np.asarray(said).shape == (1, 3)
  assert np.isfinite(said).all()


def test_a_car_that_leaves_the_road_counts_as_at_its_edge():
  states = np.zeros((2, 90, 6))
  distances = np.full((2, 90), -0.5)
  on_road = np.ones((2, 90), bool)
  on_road[1, 45:] = False
  ride = Ride(states, np.zeros((2, 90, 2)), distances, on_road)
  foretold = states[:, :30] + np.array([3.0, 4.0, 0, 0, 0, 0])
  rides = Rides(
    make_track(), Planner(), {'true car': ride}, {'true car': foretold}
  )
  found = measured(rides)['true car']
  assert found['lateral_error'] == pytest.approx((0.5 + (0.5 + 4) / 2) / 2)
  assert found['largest'] == pytest.approx((0.5 + 4) / 2)
  assert found['left_the_road'] == 0.5
  assert found['foretold_error'] == pytest.approx(5)


def test_of_one_car_there_is_no_interval():
  states = np.zeros((1, 90, 6))
  on_road = np.ones((1, 90), bool)
  one = Ride(states, np.zeros((1, 90, 2)), np.zeros((1, 90)), on_road)
  rides = Rides(
    make_track(), Planner(), {'true car': one}, {'true car': states[:, :30]}
  )
  found = in_closed_loop(rides)
  assert found['closed_loop']['true car']['ci95'] is None
  assert found['tables'] == {
    'in closed loop, unseen cars: 1': [
      ['driven by', 'm from the middle', '95% interval', 'm after 3 s foretold',
       'left the road %'],
      ['true car', '0.000', '', '0.00', '0'],
    ]
  }  # fmt: skip


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ({'mass': '-1,2000'}, 'must be two numbers above 0'),
    ({'mass': '0,2000'}, 'must be two numbers above 0'),
    ({'mass': '2000,1000'}, 'the smaller first'),
    ({'grip': '0.5'}, 'must be two numbers'),
    ({'steering_ratio': 'a,b'}, 'must be two numbers'),
    ({'noise': -0.1}, 'must be a number from 0 to 1'),
    ({'track_speed': 40.0}, 'must be a number from 6 to 18'),
    ({'horizon': 0}, 'must be a whole number from 2'),
    ({'rides': -1}, 'must be a whole number from 0'),
  ],
)
def test_a_setting_that_makes_no_sense_is_refused(flags, message):
  (name,) = flags
  with pytest.raises(UsageError, match=f'^--{name}=.*{message}'):
    car.Settings(**flags)


def test_several_seeds_do_not_drive():
  settings = car.Settings(seeds=2, steps=1)
  problem = car.make_problem(settings, car.make_recipe(settings))
  with pytest.raises(UsageError, match=r'^--seeds: .* or give --rides=0$'):
    check_problem(problem)
  settings = settings.replace(rides=0)
  check_problem(car.make_problem(settings, car.make_recipe(settings)))


def test_too_few_transitions_for_least_squares_are_refused():
  settings = car.Settings(shots=3)
  with pytest.raises(UsageError, match=r'shots.* is 3, but .* needs 4 transi'):
    car.make_problem(settings, car.make_recipe(settings))


def test_tasks_are_drawn_from_the_ranges_that_are_set():
  settings = car.Settings(mass='1234,1234', noise=0.0)
  problem = car.make_problem(settings, car.make_recipe(settings))
  assert problem.protocol['noise'] == 0
  sampler = problem.test.func  # an `EqualPartial`, of the ranges
  assert '1234' in repr(sampler.args)
  shape = jax.eval_shape(problem.train, jax.random.key(0)).support.inputs.shape
  assert shape == (16, 5)
