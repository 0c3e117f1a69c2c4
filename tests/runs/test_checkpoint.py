"""Checkpoints hold a state to the bit, and notice whatever happens to bytes."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checkpoint_states import State, assert_equal, make_state

from metajax.runs.checkpoint import Checkpointer, CheckpointError


def save_steps(directory: Path, steps: list[int], **options: Any) -> None:
  with Checkpointer(directory, **options) as checkpoints:
    for step in steps:
      checkpoints.save(step, make_state(step), {'accuracy': step / 10})


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Steps 1, 2 and 3; tests damage a copy."""
  directory = tmp_path_factory.mktemp('saved')
  save_steps(directory, [1, 2, 3])
  return directory


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
  return Path(shutil.copytree(saved, tmp_path / 'copy'))


def test_every_kind_of_leaf_comes_back_as_it_was(tmp_path: Path) -> None:
  state = {
    'params': make_state(3),
    'keys': jax.random.split(jax.random.key(1, impl='rbg'), 4),
    'old_key': jax.random.PRNGKey(2),
    'narrow': jnp.asarray([1.5, jnp.nan, -0.0], jnp.bfloat16),
    'flags': jnp.asarray([True, False]),
    'empty': jnp.zeros((0, 3), jnp.int8),
    'weak': jnp.asarray(0.1),
    'weak_vector': jnp.full((3,), 0.1),
    'wide': np.asarray([1.0, 2**-50 + 1.0]),  # jax has no float64 here
    'large': np.asarray(2**40),
    'count': 7,
    'rate': 0.1,
    'done': True,
    'nothing': None,
    'empty_tree': {},
    'tuples': ((), [jnp.ones(2)]),
  }
  with Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(5, state)
    restored = checkpoints.restore(state)
  assert restored.step == 5
  assert restored.rejected == ()
  assert_equal(restored.state, state)
  assert isinstance(restored.state['params'], State)


def test_numpy_arrays_come_back_as_jax_arrays(tmp_path: Path) -> None:
  state = {'inputs': np.ones((2, 3), np.float32)}
  with Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(0, state)
    found = checkpoints.restore(state).state['inputs']
  assert isinstance(found, jax.Array)
  assert found.dtype == jnp.float32


@pytest.mark.parametrize('state', [None, {}, {'empty': jnp.zeros((0,))}])
def test_a_state_without_data(state: Any, tmp_path: Path) -> None:
  with Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(1, state)
    assert_equal(checkpoints.restore(state).state, state)


def test_shapes_alone_are_template_enough(saved: Path) -> None:
  template = jax.eval_shape(lambda: make_state(0))
  assert_equal(Checkpointer(saved).restore(template).state, make_state(3))


def test_the_restored_state_trains_on_bit_for_bit(tmp_path: Path) -> None:
  optimizer = optax.adam(0.1)

  @jax.jit
  def train(params: Any, state: Any, key: jax.Array) -> Any:
    key, noise = jax.random.split(key)
    gradient = params + jax.random.normal(noise, params.shape)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, key

  start = (jnp.ones(7), optimizer.init(jnp.ones(7)), jax.random.key(0))
  half = train(*train(*start))
  with Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(2, half)
    resumed = checkpoints.restore(start).state
  compiled = train._cache_size()
  assert_equal(train(*resumed), train(*half))
  assert train._cache_size() == compiled


def test_donated_and_overwritten_states_are_saved_as_they_were(
  tmp_path: Path,
) -> None:
  train = jax.jit(
    lambda tree: jax.tree.map(lambda x: -x, tree), donate_argnums=0
  )
  state = train({'weights': jnp.full((300_000,), -4.0)})
  pointer = state['weights'].unsafe_buffer_pointer()
  host = np.full((300_000,), 4.0, np.float32)
  with Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(1, {'device': state, 'host': host})
    host[:] = 5.0
    trained = train(state)
    assert state['weights'].is_deleted()
    # Holding a view instead of a copy would have kept the buffer from reuse.
    assert trained['weights'].unsafe_buffer_pointer() == pointer
    for _ in range(5):
      trained = train(trained)
    found = checkpoints.restore({'device': trained, 'host': host}).state
  assert set(np.asarray(found['device']['weights'])) == {4.0}
  assert set(np.asarray(found['host'])) == {4.0}


def test_metrics_are_restored(tmp_path: Path) -> None:
  metrics = {'accuracy': 0.1, 'loss': jnp.float32(2.5), 'nan': float('nan')}
  with Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(1, {}, metrics)
    found = checkpoints.restore({}).metrics
  assert found['accuracy'] == 0.1
  assert found['loss'] == 2.5
  assert np.isnan(found['nan'])


@pytest.mark.parametrize(
  ('mode', 'kept', 'best'), [('max', [2, 5, 6], 2), ('min', [3, 5, 6], 3)]
)
def test_keeps_the_last_few_and_the_best(
  mode: Any, kept: list[int], best: int, tmp_path: Path
) -> None:
  nan = float('nan')
  accuracies = {1: 0.3, 2: 0.9, 3: 0.1, 4: nan, 5: 0.5, 6: None}

  def checkpointer() -> Checkpointer:
    return Checkpointer(
      tmp_path, keep_last=2, best_metric='accuracy', best_mode=mode
    )

  for step, accuracy in accuracies.items():
    # A new one each time: what is best must be known from the disk alone.
    with checkpointer() as checkpoints:
      metrics = {} if accuracy is None else {'accuracy': accuracy}
      checkpoints.save(step, make_state(step), metrics)
  assert checkpointer().steps() == kept
  assert checkpointer().restore(make_state(0)).step == 6
  found = checkpointer().restore(make_state(0), best=True)
  assert found.step == best
  assert_equal(found.state, make_state(best))


def test_the_next_best_is_restored_when_the_best_is_damaged(copy: Path) -> None:
  destroy(copy / '3')
  checkpoints = Checkpointer(copy, best_metric='accuracy')
  found = checkpoints.restore(make_state(0), best=True)
  assert found.step == 2
  assert found.rejected[0].startswith('step 3: ')


def test_best_without_that_metric(saved: Path) -> None:
  checkpoints = Checkpointer(saved, best_metric='loss')
  with pytest.raises(CheckpointError, match="has the metric 'loss'"):
    checkpoints.restore(make_state(0), best=True)


def test_restores_the_step_that_was_asked_for(copy: Path) -> None:
  checkpoints = Checkpointer(copy)
  assert_equal(checkpoints.restore(make_state(0), step=2).state, make_state(2))
  with pytest.raises(CheckpointError, match=r'of step 7.*1, 2, 3'):
    checkpoints.restore(make_state(0), step=7)
  destroy(copy / '2')
  with pytest.raises(CheckpointError, match='step 2: '):
    checkpoints.restore(make_state(0), step=2)


def flip(position: float) -> Callable[[Path], None]:
  def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    if data:
      data[int(position * (len(data) - 1))] ^= 0x10
      path.write_bytes(data)

  return damage


def zero(path: Path) -> None:
  data = path.read_bytes()
  start = max(0, len(data) // 2 - 2048)
  path.write_bytes(
    (data[:start] + bytes(4096) + data[start + 4096 :])[: len(data)]
  )


def truncate(path: Path) -> None:
  os.truncate(path, path.stat().st_size // 2)


def files(step: Path) -> list[Path]:
  return sorted(path for path in step.rglob('*') if path.is_file())


def destroy(step: Path) -> None:
  for path in files(step):
    zero(path)


@pytest.mark.parametrize(
  'damage',
  [flip(0.0), flip(0.1), flip(0.5), flip(0.9), flip(1.0), zero, truncate,
   Path.unlink],
  ids=['first', 'tenth', 'middle', 'late', 'last', 'zeros', 'truncated',
       'deleted'],
)  # fmt: skip
def test_damage_to_any_file_never_changes_the_state(
  damage: Callable[[Path], None], copy: Path
) -> None:
  rejections = 0
  for path in files(copy / '3'):
    intact = path.read_bytes()
    damage(path)
    found = Checkpointer(copy).restore(make_state(0))
    # Some bytes do not matter to orbax; those that do must be noticed.
    assert_equal(found.state, make_state(found.step))
    assert found.step == (2 if found.rejected else 3), path
    for line in found.rejected:
      assert line.startswith('step 3: ')
      assert '\n' not in line
    rejections += bool(found.rejected)
    path.write_bytes(intact)
  assert rejections >= 3  # the metadata, the index and the data at least
  assert Checkpointer(copy).restore(make_state(0)).step == 3


@pytest.mark.parametrize('damage', [flip(0.5), zero, truncate, Path.unlink])
def test_damaged_data_walks_back(
  damage: Callable[[Path], None], copy: Path
) -> None:
  for path in files(copy / '3') + files(copy / '2'):
    if path.parent.name == 'd':
      damage(path)
  found = Checkpointer(copy).restore(make_state(0))
  assert found.step == 1
  assert_equal(found.state, make_state(1))
  assert [line.split(':')[0] for line in found.rejected] == ['step 3', 'step 2']


def test_arrays_that_orbax_finds_in_order_are_checked(copy: Path) -> None:
  manifest = (copy / '3' / '_CHECKPOINT_METADATA').read_bytes()
  shutil.rmtree(copy / '3')
  shutil.copytree(copy / '2', copy / '3')
  (copy / '3' / '_CHECKPOINT_METADATA').write_bytes(manifest)
  found = Checkpointer(copy).restore(make_state(0))
  assert found.step == 2
  assert found.rejected == ('step 3: params/body differs from its checksum',)


def test_the_manifest_is_checked_too(copy: Path) -> None:
  path = copy / '3' / '_CHECKPOINT_METADATA'
  text = path.read_text()
  assert '0.3' in text
  path.write_text(text.replace('0.3', '0.9'))
  json.loads(path.read_text())
  found = Checkpointer(copy).restore(make_state(0))
  assert found.rejected == ('step 3: its manifest differs from its checksum',)


def test_a_renamed_checkpoint_is_not_taken_for_another_step(copy: Path) -> None:
  (copy / '3').rename(copy / '8')
  found = Checkpointer(copy).restore(make_state(0))
  assert found.step == 2
  assert found.rejected == ('step 8: its manifest is that of step 3',)


def test_all_damaged_lists_every_one(copy: Path) -> None:
  for step in '123':
    destroy(copy / step)
  with pytest.raises(CheckpointError) as error:
    Checkpointer(copy).restore(make_state(0))
  message = str(error.value)
  assert str(copy) in message
  assert all(f'step {step}: ' in message for step in '123')
  assert '\n' not in message


def test_no_checkpoint_names_the_directory(tmp_path: Path) -> None:
  missing = tmp_path / 'missing'
  with pytest.raises(CheckpointError, match=f'no checkpoint in {missing};'):
    Checkpointer(missing).restore({})
  assert not missing.exists()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      lambda state: state._replace(
        params={**state.params, 'body': jnp.ones(3)}
      ),
      r"leaf 'params/body' was saved as float32\[5000\], expected float32\[3\]",
    ),
    (
      lambda state: state._replace(
        params={**state.params, 'body': jnp.ones(5000, jnp.bfloat16)}
      ),
      r'saved as float32\[5000\], expected bfloat16\[5000\]',
    ),
    (
      lambda state: state._replace(key=jax.random.key(0, impl='rbg')),
      r"leaf 'key' was saved as key<fry>\[\], expected key<rbg>\[\]",
    ),
    (
      lambda state: state._replace(key=7),
      r"leaf 'key' was saved as key<fry>\[\], expected int\[\]",
    ),
    (
      lambda state: state._replace(params={'body': state.params['body'],
                                           'tail': jnp.ones(1)}),
      "not saved: 'params/tail'; .*expected: 'params/head/kernel'",
    ),
  ],
)  # fmt: skip
def test_a_template_that_does_not_fit(
  change: Callable[[State], Any], message: str, saved: Path
) -> None:
  with pytest.raises(CheckpointError, match=message) as error:
    Checkpointer(saved).restore(change(make_state(0)))
  assert 'step 3' in str(error.value)


@pytest.mark.parametrize('leaf', ['text', object(), np.asarray(['a'])])
def test_what_is_not_a_number_is_refused(leaf: Any, tmp_path: Path) -> None:
  with pytest.raises(CheckpointError, match=r"leaf 'a/0'.*dtype"):
    Checkpointer(tmp_path / 'new').save(0, {'a': [leaf]})
  assert not (tmp_path / 'new').exists()


def test_training_on_after_walking_back_replaces_what_was_bad(
  copy: Path,
) -> None:
  destroy(copy / '3')
  with Checkpointer(copy) as checkpoints:
    assert checkpoints.restore(make_state(0)).step == 2
    assert checkpoints.steps() == [1, 2, 3]  # kept as evidence until then
    checkpoints.save(3, make_state(30))
    checkpoints.wait()
    found = checkpoints.restore(make_state(0))
  assert found.step == 3
  assert found.rejected == ()
  assert_equal(found.state, make_state(30))
  assert len(os.listdir(copy)) == 3


def test_going_back_drops_the_later_steps_after_the_next_save(
  copy: Path,
) -> None:
  with Checkpointer(copy) as checkpoints:
    checkpoints.restore(make_state(0), step=1)
    assert checkpoints.steps() == [1, 2, 3]
    checkpoints.save(2, make_state(20))
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2]
    assert_equal(checkpoints.restore(make_state(0)).state, make_state(20))


def test_the_restored_step_can_be_saved_again(copy: Path) -> None:
  for _ in range(2):
    with Checkpointer(copy) as checkpoints:
      state = checkpoints.restore(make_state(0)).state
      checkpoints.save(3, state)
      checkpoints.wait()
      assert checkpoints.steps() == [1, 2, 3]
  assert_equal(Checkpointer(copy).restore(make_state(0)).state, make_state(3))


def test_another_run_is_not_overwritten(copy: Path) -> None:
  checkpoints = Checkpointer(copy)
  with pytest.raises(CheckpointError, match='already holds step 3'):
    checkpoints.save(1, make_state(9))
  checkpoints.save(4, make_state(4))
  checkpoints.wait()
  assert checkpoints.steps() == [2, 3, 4]


@pytest.mark.parametrize('started', [False, True])
def test_a_save_that_a_signal_breaks_off_at_its_start_is_none(
  started: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  start = threading.Thread.start

  def broken(self: threading.Thread) -> None:
    if self.name != 'metajax-checkpoint' or started:
      start(self)
    if self.name == 'metajax-checkpoint':
      raise KeyboardInterrupt

  checkpoints = Checkpointer(tmp_path)
  checkpoints.save(1, {'x': np.float32(1)})
  with monkeypatch.context() as patch:
    patch.setattr(threading.Thread, 'start', broken)
    with pytest.raises(KeyboardInterrupt), checkpoints:
      checkpoints.save(2, {'x': np.float32(2)})
  assert checkpoints.steps() == [1]
  checkpoints.save(3, {'x': np.float32(3)})
  checkpoints.close()
  assert checkpoints.steps() == [1, 3]


def test_what_a_killed_save_leaves_does_not_count(copy: Path) -> None:
  (copy / '3').rename(copy / '3.orbax-checkpoint-tmp')
  (copy / '1').rename(copy / '1.deleted')
  (copy / 'notes').mkdir()
  with Checkpointer(copy) as checkpoints:
    assert checkpoints.steps() == [2]
    assert checkpoints.restore(make_state(0)).rejected == ()
    checkpoints.save(3, make_state(3))
  assert sorted(os.listdir(copy)) == ['2', '3', 'notes']


@pytest.mark.parametrize(
  'options', [{'keep_last': 0}, {'best_mode': 'largest'}]
)
def test_options_out_of_range(options: Any, tmp_path: Path) -> None:
  with pytest.raises(ValueError, match=next(iter(options))):
    Checkpointer(tmp_path, **options)


def test_arguments_that_contradict_each_other(saved: Path) -> None:
  with pytest.raises(ValueError, match='not both'):
    Checkpointer(saved, best_metric='a').restore({}, step=1, best=True)
  with pytest.raises(ValueError, match='best_metric'):
    Checkpointer(saved).restore({}, best=True)
  with pytest.raises(ValueError, match='0 or more'):
    Checkpointer(saved).save(-1, {})
