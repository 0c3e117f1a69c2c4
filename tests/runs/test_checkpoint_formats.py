"""Checkpoints of every format are read for ever, and to the bit.

`checkpoints/format_1/` was written by the first version of metajax, and those
of later formats by the first that had them: three steps of MAML on sine waves,
three hidden units, and Adam. A new format gets one of its own.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.models import mlp
from metajax.runs.checkpoint import Checkpointer, CheckpointError
from metajax.tasks import sinusoid

FORMATS = Path(__file__).parent / 'checkpoints'
STEP = 3
# The bytes of every leaf, in hexadecimal digits, as they were when saved.
META_PARAMS = {
  'meta_params/Dense_0/bias': '08b6e63c6895ccbc8914ba3a',
  'meta_params/Dense_0/kernel': 'ba7cc3be589846bf6f7f02c0',
  'meta_params/head/bias': '3a42f43c',
  'meta_params/head/kernel': '3b35433e68a5d8be751f23bf',
}
GOLDEN = {
  'step': '03000000',
  **META_PARAMS,
  'optimizer_state/0/count': '03000000',
  'optimizer_state/0/mu/Dense_0/bias': '407605be5c5a0f3eb4e1dc3d',
  'optimizer_state/0/mu/Dense_0/kernel': 'e3e8f03ebf2e05bfcb7ed3be',
  'optimizer_state/0/mu/head/bias': '6c0114bf',
  'optimizer_state/0/mu/head/kernel': 'bfd443bf5fa3a8bf922c67c0',
  'optimizer_state/0/nu/Dense_0/bias': '9949733a8e84003bf40da43b',
  'optimizer_state/0/nu/Dense_0/kernel': '0b63563c56cfc43ca136363d',
  'optimizer_state/0/nu/head/bias': '860e663c',
  'optimizer_state/0/nu/head/kernel': 'c141103d7181eb3d017b563f',
  'key': 'bf28a00bbf5620f2',
  'skipped': '00000000',
  'skipped_in_a_row': '00000000',
}


def make_train() -> metajax.TrainStep:
  learner = metajax.maml(mlp([3], 1), metajax.mean_squared_error, 0.01, 1)
  return metajax.make_train_step(
    learner, optax.adam(1e-2), sinusoid(5, 5), tasks_per_step=2
  )


@pytest.fixture(scope='module')
def template() -> metajax.TrainState:
  return make_train().template()


def digits(tree: Any) -> dict[str, str]:
  """The bytes of every leaf by its path."""
  found = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    found[name] = np.asarray(leaf).tobytes().hex()
  return found


@pytest.mark.parametrize('directory', ['format_1', 'format_2'])
def test_every_format_is_read_to_the_bit(
  directory: str, template: metajax.TrainState
) -> None:
  found = Checkpointer(FORMATS / directory).restore(template)
  assert (found.step, found.rejected) == (STEP, ())
  assert digits(found.state) == GOLDEN
  assert found.metrics['accuracy'] == 0.5
  assert np.isnan(found.metrics['loss'])


# The format number.


def rewrite_manifest(step: Path, change: Callable[[dict], None]) -> None:
  """Changes a manifest as another version would have written it."""
  path = step / '_CHECKPOINT_METADATA'
  metadata = json.loads(path.read_text())
  custom = metadata['custom_metadata']
  manifest = json.loads(custom['manifest'])
  change(manifest)
  custom['manifest'] = json.dumps(manifest, sort_keys=True)
  custom['sha256'] = hashlib.sha256(custom['manifest'].encode()).hexdigest()
  path.write_text(json.dumps(metadata))


def manifest_of(step: Path) -> dict:
  metadata = json.loads((step / '_CHECKPOINT_METADATA').read_text())
  found = json.loads(metadata['custom_metadata']['manifest'])
  assert isinstance(found, dict)
  return found


@pytest.fixture
def copy(tmp_path: Path) -> Path:
  return Path(shutil.copytree(FORMATS / 'format_1', tmp_path / 'copy'))


def test_what_is_saved_says_its_format(tmp_path: Path) -> None:
  with Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(1, {'a': jnp.ones(2)})
  assert manifest_of(tmp_path / '1')['format'] == 2
  assert 'format' not in manifest_of(FORMATS / 'format_1' / str(STEP))


def test_fields_that_are_unknown_are_those_of_a_newer_version(
  template: metajax.TrainState, copy: Path
) -> None:
  def add(manifest: dict) -> None:
    manifest.update(format=2, written_by='metajax 9', notes={'a': [1]})
    manifest['leaves'][0]['colour'] = 'red'

  rewrite_manifest(copy / str(STEP), add)
  found = Checkpointer(copy).restore(template)
  assert found.rejected == ()
  assert digits(found.state) == GOLDEN


@pytest.mark.parametrize('only', [None, 'meta_params'])
@pytest.mark.parametrize('best', [False, True])
def test_a_newer_format_is_refused_and_not_passed_over(
  only: str | None, best: bool, template: metajax.TrainState, copy: Path
) -> None:
  shutil.copytree(copy / str(STEP), copy / '9')
  rewrite_manifest(copy / '9', lambda manifest: manifest.update(
    step=9, format=3, leaves='in another file'
  ))  # fmt: skip
  checkpoints = Checkpointer(copy, best_metric='accuracy')
  with pytest.raises(CheckpointError) as error:
    checkpoints.restore(template, only=only, best=best)
  assert str(error.value) == (
    f'step 9 in {copy} was saved in the checkpoint format 3, and this version'
    ' of metajax reads formats 1 to 2; upgrade metajax to read it'
  )
  # An older checkpoint is read by those who ask for it.
  assert checkpoints.restore(template, step=STEP).step == STEP


# A single field.


@pytest.mark.parametrize(
  'make_template',
  [
    lambda template: template,
    lambda template: template.meta_params,
    lambda template: template._replace(optimizer_state=object(), key=None),
    lambda template: {'meta_params': template.meta_params},
    lambda template: jax.tree.map(
      lambda leaf: np.zeros(leaf.shape, leaf.dtype), template.meta_params
    ),
  ],
  ids=['state', 'shapes', 'other optimizer', 'mapping', 'numbers'],
)
def test_one_field_is_restored_from_whatever_knows_its_shapes(
  make_template: Callable[[Any], Any], template: metajax.TrainState
) -> None:
  checkpoints = Checkpointer(FORMATS / 'format_1')
  found = checkpoints.restore(make_template(template), only='meta_params')
  assert (found.step, found.metrics['accuracy']) == (STEP, 0.5)
  assert jax.tree.structure(found.state) == jax.tree.structure(
    template.meta_params
  )
  assert digits({'meta_params': found.state}) == META_PARAMS


def test_a_field_may_be_a_leaf(template: metajax.TrainState) -> None:
  checkpoints = Checkpointer(FORMATS / 'format_1')
  assert int(checkpoints.restore(template, only='step').state) == STEP
  key = checkpoints.restore(jax.random.key(0), only='key').state
  assert digits({'key': key}) == {'key': GOLDEN['key']}


@pytest.mark.parametrize('whole', [True, False])
def test_a_field_of_the_same_name_within_is_told_apart(
  whole: bool, tmp_path: Path
) -> None:
  state = {'params': {'params': jnp.arange(3)}, 'rest': jnp.ones(2)}
  with Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(1, state)
    template = state if whole else state['params']
    found = checkpoints.restore(template, only='params').state
  assert found['params'].tolist() == [0, 1, 2]


def test_a_field_without_leaves(tmp_path: Path) -> None:
  state = {'meta_params': {}, 'step': jnp.zeros(())}
  with Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(1, state)
    assert checkpoints.restore(state, only='meta_params').state == {}


def test_a_field_that_was_not_saved_is_refused_with_those_that_were(
  template: metajax.TrainState,
) -> None:
  checkpoints = Checkpointer(FORMATS / 'format_1')
  with pytest.raises(CheckpointError) as error:
    checkpoints.restore(template, only='params')
  assert str(error.value) == (
    f'the state of step {STEP} in {FORMATS / "format_1"} has no field'
    " 'params'; only may be one of 'step', 'meta_params', 'optimizer_state',"
    " 'key', 'skipped', 'skipped_in_a_row'"
  )


def test_a_leaf_that_is_missing_in_a_field_is_named(
  template: metajax.TrainState,
) -> None:
  checkpoints = Checkpointer(FORMATS / 'format_1')
  params = dict(template.meta_params)
  head = params.pop('head')
  for changed, message in (
    ({**params, 'tail': head}, "not saved: 'meta_params/tail/bias'"),
    (
      params,
      "not expected: 'meta_params/head/bias', 'meta_params/head/kernel'",
    ),
    (
      {**params, 'head': {**head, 'bias': jnp.zeros(2)}},
      r"'meta_params/head/bias' was saved as float32\[1\], expected"
      r' float32\[2\]',
    ),
  ):
    for given in (changed, template._replace(meta_params=changed)):
      with pytest.raises(CheckpointError, match=message) as error:
        checkpoints.restore(given, only='meta_params')
      assert "'optimizer_state" not in str(error.value)


def test_a_flipped_byte_of_a_field_is_noticed(tmp_path: Path) -> None:
  def state(step: int) -> dict[str, jax.Array]:
    return {'meta_params': jnp.full(5, step), 'rest': jnp.arange(9)}

  with Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
  for path in (tmp_path / '2').rglob('*'):
    if path.is_file() and path.parent.name == 'd':
      data = bytearray(path.read_bytes())
      data[len(data) // 2] ^= 0x10
      path.write_bytes(data)
  found = Checkpointer(tmp_path).restore(state(0), only='meta_params')
  assert found.step == 1
  assert found.state.tolist() == [1] * 5
  assert found.rejected[0].startswith('step 2: ')


def test_the_checksums_of_a_field_are_verified_and_no_others(
  tmp_path: Path,
) -> None:
  """Damage to the optimiser's state does not take the parameters along."""
  for name, meta_params, rest in (('a', 1, 2), ('b', 1, 3), ('c', 4, 2)):
    state = {'meta_params': jnp.full(5, meta_params), 'rest': jnp.full(9, rest)}
    with Checkpointer(tmp_path / name) as checkpoints:
      checkpoints.save(1, state)
  # Orbax finds these in order, but they are not what the manifest says.
  manifest = (tmp_path / 'a' / '1' / '_CHECKPOINT_METADATA').read_bytes()
  for name in 'bc':
    path = tmp_path / name / '1' / '_CHECKPOINT_METADATA'
    path.write_bytes(manifest)
  found = Checkpointer(tmp_path / 'b').restore(state, only='meta_params')
  assert found.state.tolist() == [1] * 5
  with pytest.raises(CheckpointError, match='rest differs from its checksum'):
    Checkpointer(tmp_path / 'b').restore(state)
  with pytest.raises(
    CheckpointError, match='meta_params differs from its checksum'
  ):
    Checkpointer(tmp_path / 'c').restore(state, only='meta_params')


def test_who_reads_a_field_does_not_own_the_run(
  template: metajax.TrainState, copy: Path
) -> None:
  checkpoints = Checkpointer(copy)
  checkpoints.restore(template, only='meta_params')
  with pytest.raises(CheckpointError, match='already holds step 3'):
    checkpoints.save(1, {'a': jnp.ones(1)})


def test_a_restored_field_lies_where_its_template_does(tmp_path: Path) -> None:
  mesh = metajax.make_mesh({'task': 2}, jax.devices()[:2])
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('task'))
  state = {'meta_params': jnp.arange(4.0), 'rest': jnp.ones(1)}
  with Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(1, state)
    like = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=place)
    found = checkpoints.restore(like, only='meta_params').state
  assert found.sharding == place
  assert found.tolist() == [0, 1, 2, 3]
