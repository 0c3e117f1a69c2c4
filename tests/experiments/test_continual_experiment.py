"""Classes that come in a stream: the binary, what it refuses, and its parts."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
import metajax.testing
from experiments import continual
from experiments.data import continual as data
from experiments.data.continual import Part
from experiments.runner import runs, streams
from experiments.runner import stream_learners as learners
from experiments.runner.errors import UsageError
from metajax.adaptation.heads import linear_head
from metajax.base import Batch
from metajax.trained import LearnerError

TINY = {
  'classes': 4, 'shots': 2, 'queries': 2, 'repetitions': 2, 'steps': 2,
  'pretraining_steps': 2, 'width': 4, 'memory': 3, 'stream_classes': 2,
  'remembered': 4, 'stream_shots': 2,
}  # fmt: skip


def refusal(**settings):
  with pytest.raises(UsageError) as error:
    continual.run(continual.Settings(**TINY | settings))
  assert '\n' not in str(error.value)
  return str(error.value)


@pytest.mark.in_ci
def test_all_methods_meet_the_same_streams_and_go_on(tmp_path, capsys):
  settings = continual.Settings(
    **TINY, protocol='text', workdir=tmp_path / 'run'
  )
  assert continual.run(settings) == 0
  outcome = json.loads((tmp_path / 'run' / 'result.json').read_text())
  assert list(outcome['methods']) == list(learners.METHODS)
  for own in outcome['methods'].values():
    assert len(own['accuracy']) == len(own['ci95']) == 1
    assert 0 <= own['accuracy'][0] <= 1
  on_validation = outcome['drift']['calibrated_on']['validation']
  assert 0 <= on_validation['false_alarms'] <= 1
  assert (tmp_path / 'run' / 'continual.png').read_bytes()[1:4] == b'PNG'
  assert 'everything' in (tmp_path / 'run' / 'report.html').read_text()
  assert 'of unknown classes' in ' '.join(capsys.readouterr().out.split())
  # The same command reads what there is.
  files = sorted((tmp_path / 'run' / 'met').iterdir())
  times = [file.stat().st_mtime_ns for file in files]
  assert continual.run(settings) == 0
  assert times == [file.stat().st_mtime_ns for file in files]
  with pytest.raises(UsageError, match='--shots was 2 and is 3'):
    continual.run(settings.replace(shots=3))
  with pytest.raises(LearnerError, match='compares methods on one stream'):
    metajax.load(tmp_path / 'run')
  files[0].write_text('{')
  with pytest.raises(UsageError, match='is not readable'):
    continual.run(settings)
  files[0].unlink()
  (tmp_path / 'run' / 'learned' / 'oml.npz').write_bytes(b'PK')
  with pytest.raises(UsageError, match='is damaged'):
    continual.run(settings)


@pytest.mark.parametrize(
  ('settings', 'text'),
  [
    ({'protocol': 'text', 'classes': 1000}, 'there are 120 test classes'),
    ({'protocol': 'text', 'shots': 5000}, 'there are 60 examples'),
    ({'protocol': 'omniglot'}, 'data_dir'),
    ({'dataset': 'clinc150'}, '--protocol=text alone'),
    ({'data_dir': '/tmp'}, 'no meaning for --protocol=stream'),
    ({'methods': ()}, 'is empty'),
    ({'methods': ('means', 'oml', 'means')}, 'names means twice'),
    (
      {'protocol': 'text', 'stream_classes': 1000},
      '--stream_classes: is 1000, but there are 360 classes of training',
    ),
    (
      {'protocol': 'text', 'stream_shots': 18},
      '--stream_shots: is 18, but there are 17 examples of each',
    ),
    ({'protocol': 'text', 'moves': '('}, 'is no regular expression (missing )'),
    ({'moves': '('}, '--moves=(: is no regular expression'),
    ({'order': '/nope'}, '--order: /nope: there is no such file'),
    ({'order': '/'}, '--order: /: Is a directory'),
    ({'protocol': 'text', 'moves': 'nothing'}, "'nothing' selects none"),
    ({'protocol': 'omniglot', 'data_dir': '/nowhere'}, 'no Omniglot'),
  ],
)
def test_what_cannot_be_is_one_line(settings, text, tmp_path):
  assert text in refusal(workdir=tmp_path / 'run', **settings)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('name', 'value', 'text'),
  [
    ('protocol', 'streams', 'should be one of'),
    ('methods', 'oml,sgd', 'must be a list of oml'),
    ('classes', 1, 'classes'),
    ('repetitions', 1, 'repetitions'),
  ],
)
def test_what_is_not_there_is_said_with_what_is(name, value, text):
  with pytest.raises(UsageError, match=text):
    continual.Settings(**{name: value})


@pytest.mark.parametrize(
  ('lines', 'text'),
  [
    ('', 'names 0 classes'),
    ('home/start-heater', 'names 1 classes'),
    ('nothing/such\nhome/start-heater', "no test class 'nothing/such'"),
    ('home/start-heater\nhome/start-heater', 'twice'),
    ('home/start-heater\nhome/describe-heater', 'is 4, but'),
  ],
)
def test_an_order_that_is_none_is_one_line(lines, text, tmp_path):
  path = tmp_path / 'order.txt'
  path.write_text(lines)
  found = refusal(protocol='text', order=path, workdir=tmp_path / 'run')
  assert text in found
  assert not (tmp_path / 'run').exists()


@pytest.fixture(scope='module')
def begun(tmp_path_factory):
  """The settings of a stream that has ended."""
  workdir = tmp_path_factory.mktemp('begun') / 'run'
  settings = continual.Settings(
    **TINY, protocol='text', methods=('pixels', 'means'), workdir=workdir
  )
  assert continual.run(settings) == 0
  return settings


@pytest.mark.in_ci
@pytest.mark.parametrize(
  'text',
  [
    '', '[]', '{}', 'NaN', '{"accuracy": [', 'null',
    '{"accuracy": ["a"], "ci95": [1], "on_stream": [1], "rate": null,'
    ' "keeps": "", "seconds": 1}',
    '{"accuracy": [1], "ci95": [1], "on_stream": [], "rate": null,'
    ' "keeps": "", "seconds": 1}',
  ],
)  # fmt: skip
def test_a_damaged_record_of_a_method_is_one_line(begun, text):
  path = begun.workdir + '/met/means.json'
  with open(path, encoding='utf-8') as file:
    right = file.read()
  try:
    with open(path, 'w', encoding='utf-8') as file:
      file.write(text)
    with pytest.raises(UsageError, match=r'means\.json is') as error:
      continual.run(begun)
  finally:
    with open(path, 'w', encoding='utf-8') as file:
      file.write(right)
  assert '\n' not in str(error.value)


@pytest.mark.in_ci
def test_features_that_are_no_numbers_are_one_line(begun):
  path = begun.workdir + '/learned/pretrained.npz'
  with np.load(path) as arrays:
    right = dict(arrays)
  spoiled = {**right, 'leaf0': np.full_like(right['leaf0'], np.nan)}
  try:
    np.savez(path, **spoiled)
    with pytest.raises(UsageError, match='no finite numbers'):
      continual.run(begun)
  finally:
    np.savez(path, **right)


@pytest.mark.in_ci
def test_two_processes_are_not_in_one_workdir(begun):
  with (
    runs.alone(Path(begun.workdir)),
    pytest.raises(UsageError, match='is in use by another run'),
  ):
    continual.run(begun)
  assert continual.run(begun) == 0


@pytest.mark.in_ci
@pytest.mark.filterwarnings('ignore:.*steps were skipped')
def test_what_diverges_before_the_stream_is_said(tmp_path, capsys):
  given = TINY | {'protocol': 'text', 'methods': ('oml',)}
  with pytest.raises(UsageError, match='pretrained has learned features'):
    continual.run(
      continual.Settings(
        **given | {'methods': ('means',)}, outer_lr=1e30, workdir=tmp_path / 'a'
      )
    )
  ended = continual.run(
    continual.Settings(**given, inner_lr=1e30, workdir=tmp_path / 'b')
  )
  assert ended == 1
  assert '2 outer steps were not finite' in capsys.readouterr().err
  outcome = json.loads((tmp_path / 'b' / 'result.json').read_text())
  assert outcome['training_seconds']['oml']['skipped'] == 2


def test_outputs_that_are_no_numbers_are_right_nowhere():
  outputs = jnp.array([[[1.0, 0.0]], [[0.0, jnp.nan]]])
  assert streams.told(outputs) == 0.5
  assert streams.told(jnp.full((2, 3, 2), jnp.nan)) == 0


def test_a_memory_has_room_for_all_that_come_at_most():
  settings = continual.Settings(**TINY | {'memory': 2**31 - 1})
  assert continual._course(settings, part(), [2, 4], 0).memory == 8


def part(classes=6, each=5):
  values = np.arange(classes * each, dtype=np.float32)
  return Part(values.reshape(classes, each, 1), tuple('abcdef')[:classes])


def test_a_course_has_each_example_once_and_in_the_stream_or_to_judge():
  settings = continual.Settings(**TINY | {'shots': 3})
  course = continual._course(settings, part(), [2, 4], 0)
  assert course.support.shape == (4, 3, 1)
  assert course.query.shape == (4, 2, 1)
  every = np.concatenate([course.support.ravel(), course.query.ravel()])
  assert len(set(every)) == 20
  # All of a class are of one.
  assert (course.support // 5 == course.support[:, :1] // 5).all()
  other = continual._course(settings, part(), [2, 4], 1)
  assert (course.support != other.support).any()


def test_an_order_is_kept():
  order = np.array([3, 0, 5, 1])
  settings = continual.Settings(**TINY)
  course = continual._course(settings, part(), [4], 0, order)
  np.testing.assert_array_equal(course.support[:, 0, 0] // 5, order)


def test_a_memory_keeps_so_many_each_as_likely_and_none_that_has_yet_to_come():
  def kept(key):
    memory = learners.empty(4)
    for place in range(10):
      memory = learners.keep(
        jax.random.fold_in(key, place), memory, jnp.int32(place)
      )
    return memory

  keys = jax.random.split(jax.random.key(0), 2000)
  places = np.asarray(jax.jit(jax.vmap(kept))(keys).places)
  assert all(len(set(row)) == 4 for row in places)
  shares = np.bincount(places.ravel(), minlength=10) / len(places)
  np.testing.assert_allclose(shares, 0.4, atol=0.05)


def test_only_what_has_come_is_recalled():
  memory = learners.empty(100)
  for place in range(3):
    memory = learners.keep(jax.random.key(place), memory, jnp.int32(place))
  drawn = np.asarray(learners.recall(jax.random.key(0), memory, 200))
  assert set(drawn) == {0, 1, 2}


@pytest.mark.in_ci
def test_a_head_that_is_learned_is_what_oml_adapts():
  model = metajax.testing.small_network(metajax.base.Head('features', 5))
  learner = metajax.oml(model, metajax.cross_entropy, 3, 6, 0.2)
  inputs = jax.random.uniform(jax.random.key(1), (3, 4, 4, 4, 1))
  params = learner.init(jax.random.key(0), inputs[0])
  support = Batch(inputs.reshape(12, 4, 4, 1), jnp.repeat(jnp.arange(3), 4))
  adapted, _ = learner.adapt(jax.random.key(0), params, support)
  features = streams.features_of(model, params.params, np.asarray(inputs), 1)
  head = linear_head(3).init(jax.random.key(0), features[0])
  ours = streams._learn_head(head, features, support.targets.reshape(3, 4), 0.2)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    ours,
    adapted.head,
  )


def test_images_have_an_axis_of_channels_and_classes_as_many_examples():
  images = np.zeros((7, 4, 4), np.uint8)
  labels = np.array([0, 1, 0, 1, 0, 1, 1])
  found = data._by_class(images, labels, ('a', 'b'), 20)
  assert found.inputs.shape == (2, 3, 4, 4, 1)
