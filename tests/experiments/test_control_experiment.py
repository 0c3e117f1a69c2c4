"""Acting: whole runs as small as they can be, and what is refused."""

import json
import sys
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from processes import TINY

from experiments.control import EXPERIMENT, Settings, make_problem, make_recipe
from experiments.recipes import control as kind
from experiments.recipes.kinds import methods
from experiments.runner import report
from experiments.runner.errors import UsageError
from experiments.runner.training import DivergenceError
from metajax.algorithms.table import ALGORITHMS
from metajax.control import Navigation
from metajax.runs.skipped_steps import SkippedSteps

SMALL = (
  *TINY, '--width=8', '--shots=3', '--queries=3', '--episode_steps=6',
  '--tasks_per_step=2',
)  # fmt: skip


def small(**given):
  sizes = {
    'width': 8, 'shots': 3, 'queries': 3, 'episode_steps': 6,
    'tasks_per_step': 2, 'eval_tasks': 4,
  }  # fmt: skip
  return Settings(**sizes | given)


def problem(**given):
  settings = small(**given)
  return make_problem(settings, make_recipe(settings))


def refused(**given):
  """The one line that is said of settings that cannot be meant."""
  with pytest.raises(UsageError) as no:
    problem(**given)
  assert '\n' not in str(no.value)
  return no.value.setting, str(no.value)


@pytest.mark.in_ci
def test_a_run_acts_and_is_compared_with_who_does_not_learn(
  launcher, cache, tmp_path
):
  workdir = tmp_path / 'run'
  ended = launcher.run(
    'control', *SMALL, cache, '--steps=2', '--checkpoint_every=2',
    f'--workdir={workdir}',
  )  # fmt: skip
  assert (ended.code, ended.stderr) == (0, ''), ended
  outcome = json.loads((workdir / 'result.json').read_text())
  assert (outcome['dataset'], outcome['algorithm']) == ('navigation', 'maml')
  assert len(outcome['test']['return_by_step']) == 2
  baseline = outcome['baseline']
  assert baseline['nothing_return'] < baseline['oracle_return'] < 0
  assert outcome['protocol']['surrogate'] == 'dice'
  for name in ('learning_curve', 'return_by_inner_step', 'test_tasks'):
    with Image.open(workdir / f'{name}.png') as image:
      assert np.asarray(image.convert('L')).std() > 5
  page = (workdir / 'report.html').read_text()
  assert 'the way of one episode, and the goal' in page
  assert 'nothing' in page
  for binary in ('predict', 'export'):
    told = launcher.run(binary, f'--run={workdir}', f'--output={tmp_path}/o')
    assert told.code == 2
    assert told.stderr.count('\n') == 1


@pytest.mark.in_ci
@pytest.mark.parametrize('outer', ['ppo', 'trpo'])
def test_outer_steps_on_recorded_episodes(outer):
  outcome = EXPERIMENT.run(small(outer=outer, steps=1, eval_inner_steps=1))
  assert outcome['skipped_steps'] == 0
  assert outcome['protocol']['surrogate'] == 'likelihood_ratio'
  assert np.isfinite(outcome['test']['return'])


@pytest.mark.in_ci
@pytest.mark.parametrize('environment', ['rooms', 'maze', 'cartpole'])
def test_environments_of_gymnax(environment):
  pytest.importorskip('gymnax')
  outcome = EXPERIMENT.run(small(environment=environment, steps=1))
  assert outcome['skipped_steps'] == 0
  assert np.isfinite(outcome['baseline']['random_return'])


@pytest.mark.parametrize('algorithm', methods(kind))
def test_every_method_of_the_kind_fits_the_tasks(algorithm):
  """By shapes alone; a run of each takes too long here."""
  remembers = ALGORITHMS[algorithm].head.kind == 'memory'
  environment = 'bandit' if remembers else 'navigation'
  shots = None if remembers else 3
  made = problem(algorithm=algorithm, environment=environment, shots=shots)
  learner = made.meta_learner()
  task = jax.eval_shape(made.train, jax.random.key(0))
  tasks = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), task
  )
  key = jax.random.key(0)
  params = jax.eval_shape(learner.init, key, task.support.inputs)
  _, metrics = jax.eval_shape(learner.grad, key, params, tasks)
  assert 'return' in metrics


def test_an_environment_that_is_not_there():
  setting, text = refused(environment='navigaton')
  assert setting == 'environment'
  assert "there is no 'navigaton'; there are navigation, rooms" in text
  assert 'MODULE:NAME; did you mean navigation?' in text
  assert 'bandit, car, MODULE:NAME' in text
  setting, text = refused(environment='my_worlds.Mine')
  assert text.endswith('has a colon before its name: my_worlds:Mine')
  setting, text = refused(environment='no_such_module:World')
  assert setting == 'environment'
  assert 'cannot be imported (ModuleNotFoundError' in text


@pytest.mark.parametrize('network', ['conv4', 'resnet12'])
def test_a_network_that_cannot_read_observations(network):
  setting, text = refused(network=network, width=None)
  assert setting == 'network'
  assert (
    f'{network} cannot read observations of navigation, of shape [2]' in text
  )


def test_gymnax_that_is_not_installed(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gymnax', None)
  setting, text = refused(environment='maze')
  assert setting == 'environment'
  assert "pip install 'metajax[control]'" in text


@pytest.fixture
def own(monkeypatch):
  """Registers an environment of the user's by a name."""

  def register(environment):
    module = SimpleNamespace(Mine=environment)
    monkeypatch.setitem(sys.modules, 'my_worlds', module)
    return 'my_worlds:Mine'

  return register


class _Host(Navigation):
  """Computes with NumPy."""

  name = 'host'

  def step(self, key, state, action, goal):
    return super().step(key, np.asarray(state), np.asarray(action), goal)


class _Undefined(Navigation):
  """Half of the tasks have rewards that are no numbers."""

  name = 'undefined'

  def draw_parameters(self, key):
    return jax.random.uniform(key, (2,), minval=-0.5, maxval=0.5)

  def step(self, key, state, action, goal):
    place, state, reward, ended, info = super().step(key, state, action, goal)
    return place, state, jnp.where(goal[0] > 0, reward, jnp.nan), ended, info


def test_an_environment_that_is_not_pure_jax(own):
  setting, text = refused(environment=own(_Host))
  assert setting == 'environment'
  assert 'host: step cannot be traced by JAX' in text


def test_an_environment_that_cannot_be_made(own):
  class Needs:
    def __init__(self, something):
      pass

  assert 'cannot be made' in refused(environment=own(Needs))[1]
  assert 'has no reset' in refused(environment=own(SimpleNamespace()))[1]


def test_ones_own_environment_draws_parameters_of_tasks(own):
  made = problem(environment=own(_Undefined))
  goals = [
    made.test(jax.random.key(seed)).query.inputs.parameters[0]
    for seed in (0, 1)
  ]
  assert not np.allclose(*goals)
  assert made.protocol['tasks_differ_in'] == 'parameters'


@pytest.mark.parametrize(
  ('draw', 'text'),
  [
    (lambda self, key: 1 / 0, 'cannot be traced by JAX (ZeroDivisionError'),
    (lambda self, key: 'text', 'cannot be traced by JAX (TypeError'),
    (lambda self, key: None, 'with what draw_parameters returns, navigation'),
    (lambda self, key: {'a': jnp.zeros(2)}, 'with what draw_parameters'),
    (3, 'must be a function of a key'),
  ],
)
def test_parameters_of_tasks_that_cannot_be(own, draw, text):
  world = type('World', (Navigation,), {'draw_parameters': draw})
  setting, told = refused(environment=own(world))
  assert setting == 'environment'
  assert text in told


@pytest.mark.parametrize('steps', ['long', 0, -1, None, float('inf')])
def test_an_episode_of_no_length(own, steps):
  usual = SimpleNamespace(max_steps_in_episode=steps)
  world = type('World', (Navigation,), {'default_params': usual})
  setting, told = refused(environment=own(world))
  assert setting == 'environment'
  assert f'max_steps_in_episode={steps!r}' in told


def test_an_environment_that_leaves_when_it_is_made(own):
  assert 'SystemExit: 3' in refused(environment=own(lambda: sys.exit(3)))[1]


@pytest.mark.in_ci
def test_test_tasks_without_a_return_are_counted(own, tmp_path, capsys):
  settings = small(
    environment=own(_Undefined), steps=1, workdir=str(tmp_path / 'run')
  )
  with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter('always')
    outcome = EXPERIMENT.run(settings)
  texts = [str(each.message) for each in told]
  assert any('test tasks have a return that is no number' in t for t in texts)
  assert outcome['test']['return'] is None  # and no mean of the others
  report.show(problem(environment=settings.environment), outcome)
  assert ' nan ' in capsys.readouterr().out


class _Boundless(Navigation):
  """No task has a reward that is a number."""

  name = 'boundless'

  def step(self, key, state, action, goal):
    place, state, _, ended, info = super().step(key, state, action, goal)
    return place, state, jnp.nan, ended, info


@pytest.mark.in_ci
def test_rewards_that_are_no_numbers_are_what_a_run_ends_by(own):
  with (
    pytest.warns(SkippedSteps, match='steps were skipped'),
    pytest.raises(DivergenceError) as end,
  ):
    EXPERIMENT.run(small(environment=own(_Boundless), steps=2))
  assert str(end.value).endswith(
    'the cause is --environment=my_worlds:Mine, whose rewards are no finite'
    ' numbers in 24 of 24 episodes before adaptation'
  )
  made = problem()
  key = jax.random.key(0)
  params = made.meta_learner().init(key, made.train(key).support.inputs)
  assert made.why_diverged(made, params) is None


@pytest.mark.parametrize('outer', ['ppo', 'trpo'])
def test_a_surrogate_that_cannot_be_asked_again(outer):
  setting, text = refused(outer=outer, surrogate='lvc')
  assert setting == 'surrogate'
  assert f"--outer={outer} cannot use the surrogate 'lvc'" in text
  assert 'likelihood_ratio, clipped can' in text


def test_a_method_that_does_not_adapt_differentiably():
  setting, text = refused(outer='trpo', algorithm='reptile')
  assert setting == 'outer'
  assert 'maml, fomaml, meta_sgd' in text
  assert refused(outer='ppo', inner_steps=2)[0] == 'inner_steps'
  setting, text = refused(outer='trpo', outer_lr=0.1)
  assert setting == 'outer_lr'
  assert 'goes as far as its trust region' in text
  for outer in ('ppo', 'trpo'):
    setting, _ = refused(outer=outer, outer_schedule='cosine')
    assert setting == 'outer_schedule'
  assert refused(outer='ppo', mesh='task:2')[0] == 'mesh'


def test_causality_is_of_dice():
  assert problem().protocol['causality'] == 0.9
  assert problem(surrogate='dice').protocol['causality'] == 1
  assert problem(surrogate='lvc').protocol['causality'] == 1
  assert problem(causality=0.5).protocol['causality'] == 0.5
  setting, text = refused(surrogate='lvc', causality=0.5)
  assert setting == 'causality'
  assert 'only dice discounts it' in text
