"""Exported programs: any number of examples, no metajax, the same answers."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from small_learners import examples_for, make_learner

import metajax
from metajax.algorithms.table import ALGORITHMS
from metajax.trained import LearnerError, export, exporting
from metajax.trained.portable import MANIFEST, digest_of

# Acting has no examples that could be given.
NAMES = sorted(
  name
  for name, row in ALGORITHMS.items()
  if row.head.kind not in ('words', 'memory')
)
QUICK = ['maml', 'protonet']
ANY = [
  name if name in QUICK else pytest.param(name, marks=pytest.mark.in_ci)
  for name in NAMES
]


def outputs(adapted, queries):
  return adapted.outputs(queries)


@pytest.mark.parametrize('name', ANY)
def test_what_is_exported_answers_as_the_library_does(name, tmp_path):
  learner = make_learner(name)
  export(learner, tmp_path / 'out', platforms=('cpu',))
  read = metajax.load(tmp_path / 'out')
  support, queries = examples_for(learner)
  sizes = [each['examples'] for each in read.manifest['programs']]
  # What has minibatches, or a step for each example, is for a number of them.
  counted = name == 'reptile' or ALGORITHMS[name].on_streams
  assert sizes == ([3] if counted else [None])
  here, there = (each.adapt(support) for each in (learner, read))
  expected = here.outputs(queries)
  assert np.abs(expected).max() > 0
  np.testing.assert_allclose(there.outputs(queries), expected, atol=1e-5)
  if not learner.classifies or sizes != [None]:
    return
  # Other numbers of examples, and fewer classes.
  fewer = {'b': support['class 1'][:1], 'a': support['class 0']}
  here, there = (each.adapt(fewer).predict(queries[:3])
                 for each in (learner, read))  # fmt: skip
  assert here.classes == ('b', 'a')
  np.testing.assert_allclose(here.probabilities.sum(axis=1), 1)
  if not learner.manifest['random']:
    np.testing.assert_allclose(
      there.probabilities, here.probabilities, atol=1e-5
    )


@pytest.mark.parametrize('name', ANY)
def test_one_query_alone_gets_the_same_answer_as_among_others(
  name,
):
  learner = make_learner(name)
  support, queries = examples_for(learner)
  adapted = learner.adapt(support)
  together = adapted.outputs(queries)
  alone = np.concatenate([adapted.outputs(each[None]) for each in queries])
  np.testing.assert_allclose(alone, together, atol=1e-5)


@pytest.mark.in_ci
def test_statistics_of_a_batch_are_those_of_the_support_set(tmp_path):
  learner = make_learner('maml', batch_norm=True)
  support, queries = examples_for(learner)
  adapted = learner.adapt(support)
  together = adapted.outputs(queries)
  alone = np.concatenate([adapted.outputs(each[None]) for each in queries])
  np.testing.assert_allclose(alone, together, atol=1e-5)
  export(learner, tmp_path / 'out', platforms=('cpu', 'cuda', 'tpu'))
  read = metajax.load(tmp_path / 'out')
  np.testing.assert_allclose(
    read.adapt(support).outputs(queries), together, atol=1e-5
  )


def test_weights_are_arguments_and_not_in_the_programs(tmp_path):
  manifest = export(make_learner('protonet'), tmp_path / 'out')
  sizes = {name: each['bytes'] for name, each in manifest['files'].items()}
  weights = (tmp_path / 'out' / 'weights.safetensors').read_bytes()
  kernel = weights[-64:]
  for name in ('adapt.jax', 'predict.jax'):
    assert kernel not in (tmp_path / 'out' / name).read_bytes()
  assert set(sizes) == {
    'adapt.jax', 'predict.jax', 'weights.safetensors', 'README.md',
    *(f'learner/{name}.py'
      for name in ('__init__', 'drift', 'examples', 'exported', 'learner',
                     'online')),
  }  # fmt: skip
  assert manifest['platforms'] == ['cpu', 'cuda', 'tpu']


def test_more_classes_where_the_method_leaves_a_choice(tmp_path):
  learner = make_learner('maml')
  with pytest.raises(LearnerError, match='5 classes, and this learner tells 3'):
    export(learner, tmp_path / 'out', ways=5)
  assert not (tmp_path / 'out').exists()


SCRIPT = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from learner import load
assert 'metajax' not in sys.modules
held = np.load(sys.argv[2])
adapted = load(sys.argv[1]).adapt((held['inputs'], held['labels'].tolist()))
np.save(sys.argv[3], adapted.outputs(held['queries']))
assert 'metajax' not in sys.modules and 'flax' not in sys.modules
"""


def run_alone(python, directory, learner, tmp_path, **environment):
  """What an exported learner says in a process that lacks metajax."""
  support, queries = examples_for(learner)
  inputs = np.concatenate(list(support.values()))
  labels = np.repeat(list(support), [len(x) for x in support.values()])
  np.savez(tmp_path / 'in.npz', inputs=inputs, labels=labels, queries=queries)
  found = subprocess.run(
    [*python, '-c', SCRIPT, directory, tmp_path / 'in.npz', tmp_path / 'o.npy'],
    capture_output=True, text=True, check=False, cwd=tmp_path,
    env={'PATH': os.environ['PATH'], 'JAX_PLATFORMS': 'cpu', **environment},
  )  # fmt: skip
  assert found.returncode == 0, found.stderr
  expected = learner.adapt((inputs, labels.tolist())).outputs(queries)
  np.testing.assert_allclose(np.load(tmp_path / 'o.npy'), expected, atol=1e-5)


def test_it_runs_where_there_is_no_metajax(tmp_path):
  import flatbuffers
  import jax

  learner = make_learner('maml')
  export(learner, tmp_path / 'out')
  (tmp_path / 'packages').mkdir()
  site = Path(jax.__file__).parents[1]
  for name in ('jax', 'jaxlib', 'numpy', 'numpy.libs', 'ml_dtypes', 'scipy',
               'scipy.libs', 'opt_einsum'):  # fmt: skip
    if (site / name).exists():
      (tmp_path / 'packages' / name).symlink_to(site / name)
  (tmp_path / 'packages' / 'flatbuffers').symlink_to(
    Path(flatbuffers.__file__).parent
  )
  run_alone(
    [sys.executable, '-S'], tmp_path / 'out', learner, tmp_path,
    PYTHONPATH=str(tmp_path / 'packages'),
  )  # fmt: skip


@pytest.mark.in_ci
def test_it_runs_in_a_fresh_environment(tmp_path):
  import jax

  learner = make_learner('protonet')
  export(learner, tmp_path / 'out')
  venv.create(tmp_path / 'venv', with_pip=True)
  python = tmp_path / 'venv' / 'bin' / 'python'
  subprocess.run(
    [python, '-m', 'pip', 'install', '-q', f'jax=={jax.__version__}',
     'flatbuffers'],
    check=True,
  )  # fmt: skip
  run_alone([python], tmp_path / 'out', learner, tmp_path)


@pytest.fixture(scope='module')
def exported(tmp_path_factory) -> Path:
  directory = tmp_path_factory.mktemp('exported') / 'out'
  export(make_learner('protonet'), directory, platforms=('cpu',))
  return directory


@pytest.mark.parametrize(
  'name', ['adapt.jax', 'predict.jax', 'weights.safetensors', MANIFEST]
)
def test_a_changed_byte_is_noticed(exported, tmp_path, name):
  shutil.copytree(exported, tmp_path / 'out')
  path = tmp_path / 'out' / name
  data = bytearray(path.read_bytes())
  place = len(data) // 2
  data[place] ^= 1
  path.write_bytes(data)
  with pytest.raises(LearnerError) as error:
    metajax.load(tmp_path / 'out')
  assert name in str(error.value)
  assert '\n' not in str(error.value)


def test_what_is_missing_or_newer_is_one_line(exported, tmp_path):
  shutil.copytree(exported, tmp_path / 'out')
  (tmp_path / 'out' / 'adapt.jax').unlink()
  with pytest.raises(LearnerError, match=r'adapt\.jax is not readable'):
    metajax.load(tmp_path / 'out')
  path = tmp_path / 'out' / MANIFEST
  manifest = {**json.loads(path.read_text()), 'format': 99}
  path.write_text(json.dumps({**manifest, 'digest': digest_of(manifest)}))
  with pytest.raises(LearnerError, match='of format 99'):
    metajax.load(tmp_path / 'out')


MALFORMED = {
  'no files': lambda manifest: manifest.pop('files'),
  'no inputs': lambda manifest: manifest.pop('inputs'),
  'a list of files': lambda manifest: manifest.update(files=[1]),
  'other weights': lambda manifest: manifest['weights'].update(names=['x']),
  'temperature': lambda manifest: manifest.update(temperature=0.0),
  'elsewhere': lambda manifest: manifest['files'].update({'../x': {}}),
}


@pytest.mark.parametrize('case', MALFORMED)
def test_a_manifest_that_is_none_is_one_line(exported, tmp_path, case):
  copy = tmp_path / 'copy'
  shutil.copytree(exported, copy)
  manifest = json.loads((copy / MANIFEST).read_text())
  MALFORMED[case](manifest)
  manifest['digest'] = digest_of(manifest)
  (copy / MANIFEST).write_text(json.dumps(manifest))
  with pytest.raises(LearnerError, match=str(copy)) as error:
    metajax.load(copy)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'ways': 1}, 'two classes or more'),
    ({'platforms': ()}, 'some of cpu, cuda, tpu; got none'),
    ({'platforms': ('cpu', 'gpu')}, 'some of cpu, cuda, tpu; got cpu, gpu'),
  ],
)
def test_what_cannot_be_exported_leaves_nothing(tmp_path, options, message):
  with pytest.raises(LearnerError, match=message):
    export(make_learner('protonet'), tmp_path / 'out', **options)
  assert not list(tmp_path.iterdir())


def test_programs_that_cannot_be_written_are_one_line(tmp_path, monkeypatch):
  def refuse(*arguments):
    raise NotImplementedError('no such\noperation')

  monkeypatch.setattr(exporting, '_exported', refuse)
  with pytest.raises(LearnerError, match='NotImplementedError: no such opera'):
    export(make_learner('protonet'), tmp_path / 'out', platforms=('tpu',))
  assert not list(tmp_path.iterdir())


def test_a_directory_that_holds_something_is_left_alone(tmp_path):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'mine').write_text('kept')
  with pytest.raises(LearnerError, match='is there already'):
    export(make_learner('protonet'), tmp_path / 'out', platforms=('cpu',))
  assert [each.name for each in tmp_path.rglob('*')] == ['out', 'mine']


def test_what_is_exported_cannot_be_exported_again(exported, tmp_path):
  with pytest.raises(LearnerError, match='exported already'):
    export(metajax.load(exported), tmp_path / 'again')
