"""Runs in a store: tracked once, whatever stops them, and never lost by it.

Tests with MLflow and Weights & Biases run where these are: `.ci/run` makes an
environment of their own.
"""

import json
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

import metajax
from experiments.runner import tracking
from experiments.runner.errors import UsageError
from experiments.runner.interrupts import Interrupted
from experiments.runner.trackers import MLflow
from experiments.sinusoid import Settings
from metajax.runs.writers import read_json_lines

FLAGS = (
  '--eval_tasks=8', '--validation_tasks=4', '--tasks_per_step=2',
  '--log_every=5', '--checkpoint_every=10', '--width=4',
)  # fmt: skip

# These packages warn of themselves as they are imported.
quiet = pytest.mark.filterwarnings('ignore')


def test_addresses_are_checked_before_anything_is_read(monkeypatch):
  monkeypatch.setattr(tracking.importlib.util, 'find_spec', lambda name: name)
  for given, line in (
    ({'track_uri': 'sqlite:///x.db'}, '--track_uri: goes with --track=mlflow'),
    (
      {'track': 'wandb', 'track_uri': 'http://x'},
      '--track_uri: goes with --track=mlflow',
    ),
    (
      {'track': 'mlflow', 'track_uri': './mlruns'},
      '--track_uri=./mlruns: must be the address of a database or a server',
    ),
  ):
    with pytest.raises(UsageError) as refused:
      tracking.check(Settings(**given))
    assert str(refused.value).startswith(line)
  for uri in ('sqlite:////x/m.db', 'http://localhost:5000', None):
    tracking.check(Settings(track='mlflow', track_uri=uri))


@pytest.mark.parametrize('kind', ['mlflow', 'wandb'])
def test_without_the_package_it_is_named_and_nothing_is_trained(
  kind, launcher, tmp_path
):
  workdir = tmp_path / 'run'
  ended = launcher.run(
    'sinusoid', f'--track={kind}', f'--workdir={workdir}', without=kind
  )
  assert ended.code == 2
  assert ended.stderr == (
    f"--track: {kind} is not installed; pip install -e '.[track]' does it\n"
  )
  assert ended.stdout == ''
  assert not workdir.exists()


class Store:
  """Remembers what it was told; refuses what it is to refuse."""

  identity = 'abc'

  def __init__(self, refuses=()):
    self.refuses, self.told = set(refuses), []

  def _take(self, name, *given):
    self.told.append((name, *given))
    if name in self.refuses:
      raise OSError(f'no {name}')

  def begin(self, settings):
    self._take('begin', dict(settings))

  def write(self, step, metrics, *, anew=False):
    self._take('write', step, dict(metrics))

  def files(self, paths):
    self._take('files', [path.name for path in paths])

  def model(self, directory, name, digest):
    self._take('model', name)

  def end(self, status):
    self._take('end', status)


OUTCOME = {
  'steps': 10, 'tasks_per_second': None, 'training_seconds': 1.5,
  'parameters': 7, 'baseline': {'zero_mse': 4.0},
  'test': {'ci95': 0.25, 'metrics': {'mse': {'mean': 0.5, 'ci95': 0.25}}},
}  # fmt: skip


@pytest.fixture
def track(tmp_path, monkeypatch):
  """Tracks something in a store."""
  (tmp_path / 'metrics.jsonl').write_text(
    '{"step": 5, "time": 1.0, "loss": "NaN"}\n'
    '{"step": 10, "time": 2.0, "loss": 0.5}\n'
  )
  (tmp_path / 'curve.png').write_bytes(b'')
  (tmp_path / 'report.html').write_text('<html></html>')

  def with_store(store, settings=None):
    monkeypatch.setattr(tracking, 'MLflow', lambda *arguments: store)
    problem = SimpleNamespace(
      name='sinusoid-maml',
      protocol={'dataset': 'tfds:x'},
      settings=Settings(track='mlflow'),
    )
    return tracking.tracked(problem, tmp_path, settings or {'steps': 10})

  return with_store


def test_a_store_gets_settings_metrics_results_and_files(track, tmp_path):
  store = Store()
  with track(store, {'steps': 10, 'load': None}) as run:
    run.write(5, {'loss': 1.0})
    run.finish(OUTCOME)
  results = {
    'test/mse': 0.5, 'test/ci95': 0.25, 'baseline/zero_mse': 4.0,
    'training_seconds': 1.5, 'parameters': 7.0,
  }  # fmt: skip
  assert store.told == [
    ('begin', {'steps': 10}),
    ('write', 5, {'loss': 1.0}),
    ('write', 10, results),
    ('files', ['curve.png', 'metrics.jsonl', 'report.html']),
    ('end', 'FINISHED'),
  ]
  record = json.loads((tmp_path / 'tracking.json').read_text())
  assert record == {'mlflow': 'abc'}


def test_a_store_that_fails_loses_nothing(track):
  store = Store(refuses=['write'])

  def work():
    with track(store) as run:
      run.write(5, {'loss': 1.0})
      run.write(6, {'loss': 1.0})  # which is not even tried
      store.refuses.clear()
      run.finish(OUTCOME)

  with pytest.warns(UserWarning, match='mlflow could not take metrics'):
    work()
  written = [each[1] for each in store.told if each[0] == 'write']
  assert written == [5, 5, 10, 10]  # those of the workdir, and the results
  assert store.told[-1] == ('end', 'FINISHED')


def test_a_store_that_cannot_be_opened_is_a_warning(track):
  store = Store(refuses=['begin', 'end'])

  def work():
    with track(store) as run:
      run.write(5, {'loss': 1.0})
      run.finish(OUTCOME)

  with pytest.warns(UserWarning, match=r'not begin \(OSError: no begin\)'):
    work()
  assert [each[0] for each in store.told] == ['begin', 'begin']


@pytest.mark.parametrize(
  ('error', 'status'),
  [(Interrupted(signal.SIGINT, 5), 'KILLED'), (ValueError('x'), 'FAILED')],
)
def test_a_store_is_told_how_a_run_has_ended(track, error, status):
  store = Store()
  with pytest.raises(type(error)), track(store):
    raise error
  assert store.told[-1] == ('end', status)


@pytest.fixture
def mlflow_store(tmp_path):
  """A client of the store beside a workdir."""
  mlflow = pytest.importorskip('mlflow')
  uri = f'sqlite:///{tmp_path / "mlflow.db"}'
  return lambda: mlflow.MlflowClient(uri, uri), uri


def runs_of(client):
  experiments = [each.experiment_id for each in client.search_experiments()]
  return client.search_runs(experiments)


@quiet
@pytest.mark.in_ci
def test_a_killed_run_goes_on_as_the_same_run_of_mlflow(
  mlflow_store, launcher, tmp_path, cache
):
  make_client, _ = mlflow_store
  workdir = tmp_path / 'run'
  command = (
    'sinusoid',
    '--track=mlflow',
    f'--workdir={workdir}',
    *FLAGS,
    cache,
  )
  run = launcher.start(*command, '--steps=2000')
  checkpoints = workdir / 'checkpoints'
  run.until(
    lambda: (
      checkpoints.is_dir()
      and any(path.name.isdigit() for path in checkpoints.iterdir())
    )
  )
  run.kill()
  assert run.wait().code == -signal.SIGKILL
  (before,) = runs_of(make_client())
  assert before.info.status == 'RUNNING'
  ended = launcher.run(*command, '--steps=200', '--resume')
  if 'is at step' in ended.stderr:  # it was faster than the kill
    ended = launcher.run(*command, '--steps=2000', '--resume')
  assert (ended.code, ended.stderr) == (0, '')
  client = make_client()
  (after,) = runs_of(client)
  assert after.info.run_id == before.info.run_id
  assert after.info.status == 'FINISHED'
  assert after.data.params['algorithm'] == 'maml'
  # Every step once. (The loss is a mean since the last dispatch, which a resume
  # begins anew.)
  lines = read_json_lines(workdir / 'metrics.jsonl')
  for name in ('loss', 'validation/mse'):
    found = {each['step']: each[name] for each in lines if name in each}
    history = client.get_metric_history(after.info.run_id, name)
    assert [each.step for each in history] == sorted(found)
    for each in history if name != 'loss' else ():
      assert each.value == pytest.approx(found[each.step])
  kept = {each.path for each in client.list_artifacts(after.info.run_id)}
  assert {path.name for path in workdir.glob('*.png')} <= kept
  assert {'result.json', 'config.json', 'metrics.jsonl'} <= kept


@quiet
@pytest.mark.in_ci
def test_a_test_that_is_made_again_takes_the_place_of_the_first(
  mlflow_store, tmp_path
):
  make_client, uri = mlflow_store

  def write(step, accuracy):
    identity = runs_of(make_client())[0].info.run_id if step else None
    store = MLflow(uri, tmp_path, 'group', 'run', identity)
    store.begin({})
    store.write(20, {'loss': 1.0})
    store.write(step or 20, {'test/accuracy': accuracy}, anew=True)
    (found,) = runs_of(make_client())
    history = make_client().get_metric_history(
      found.info.run_id, 'test/accuracy'
    )
    return found.data.metrics, len(history)

  assert write(0, 0.5) == ({'loss': 1.0, 'test/accuracy': 0.5}, 1)
  assert write(20, 0.5)[1] == 1  # nothing is new
  assert write(20, 0.75) == ({'loss': 1.0, 'test/accuracy': 0.75}, 2)
  # Such as of the best checkpoint in place of the last.
  assert write(10, 0.25)[0]['test/accuracy'] == 0.25


@quiet
@pytest.mark.in_ci
def test_the_registered_model_predicts_as_the_run_does(
  mlflow_store, launcher, tmp_path, cache, npz
):
  make_client, uri = mlflow_store
  workdir = tmp_path / 'run'
  command = (
    'images', '--track=mlflow', f'--workdir={workdir}', *npz, cache, '--ways=2',
    *FLAGS, '--train_ways=2', '--queries=2', '--train_queries=2',
    '--network=mlp', '--depth=1', '--steps=10', '--algorithm=protonet',
  )  # fmt: skip
  ended = launcher.run(*command)
  assert (ended.code, ended.stderr) == (0, '')
  assert max(map(len, ended.stdout.splitlines())) <= 80
  (model,) = make_client().search_registered_models()
  assert model.name == 'npz-protonet-2way-1shot-seed0'
  # A resume of what is done registers nothing again.
  ended = launcher.run(*command, '--resume')
  assert (ended.code, ended.stderr) == (0, '')
  query = f"name='{model.name}'"
  (version,) = make_client().search_model_versions(query)
  assert version.version in (1, '1')
  import mlflow

  before = mlflow.get_tracking_uri()
  mlflow.set_tracking_uri(uri)
  try:
    served = mlflow.pyfunc.load_model(f'models:/{model.name}/1')
  finally:
    mlflow.set_tracking_uri(before)
  with np.load(npz[1].partition('=')[2]) as held:
    images = held['images']
  support = {'one': images[:2], 'other': images[6:8]}
  found = served.predict({'support': support, 'queries': images[2:5]})
  expected = metajax.load(workdir).adapt(support).predict(images[2:5])
  assert found['labels'] == expected.labels
  np.testing.assert_allclose(
    found['probabilities'], expected.probabilities, atol=1e-5
  )
  with pytest.raises(Exception, match='support and queries'):
    served.predict({'support': support})


@quiet
@pytest.mark.in_ci
def test_a_store_that_cannot_be_written_does_not_lose_the_run(
  mlflow_store, launcher, tmp_path, cache
):
  workdir = tmp_path / 'run'
  (tmp_path / 'file').write_text('no directory')
  ended = launcher.run(
    'sinusoid', '--track=mlflow', f'--workdir={workdir}', *FLAGS, cache,
    '--steps=10', f'--track_uri=sqlite:///{tmp_path}/file/mlflow.db',
  )  # fmt: skip
  assert ended.code == 0
  warned = ended.stderr.splitlines()
  assert warned
  assert all(line.startswith('warning: mlflow could not') for line in warned)
  assert (workdir / 'result.json').exists()


@quiet
@pytest.mark.in_ci
def test_a_run_of_wandb_is_in_files_of_the_workdir(launcher, tmp_path, cache):
  pytest.importorskip('wandb')
  workdir = tmp_path / 'run'
  command = ('sinusoid', '--track=wandb', f'--workdir={workdir}', *FLAGS, cache)
  for flags in (['--steps=10'], ['--steps=20', '--resume']):
    ended = launcher.run(*command, *flags)
    assert (ended.code, ended.stderr) == (0, '')
  identity = json.loads((workdir / 'tracking.json').read_text())['wandb']
  folders = os.listdir(workdir / 'wandb')
  offline = [name for name in folders if name.startswith('offline-run-')]
  assert len(offline) == 2
  assert all(name.endswith(identity) for name in offline)
