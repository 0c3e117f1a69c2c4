"""Several processes that train as one, and checkpoints that outlive a mesh."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import several_processes
from several_processes import (
  NUM_STEPS,
  in_pieces,
  make_train,
  on_the_host,
  start,
)

from metajax.devices import distributed
from metajax.devices.mesh import make_mesh
from metajax.runs.checkpoint import Checkpointer

REPOSITORY = Path(__file__).resolve().parents[2]
# Seconds until processes are given up; many times what they take.
PATIENCE = 240
# What JAX finds a cluster by, if the tests run on one.
OF_CLUSTERS = re.compile(
  r'(SLURM|OMPI|PMI|TPU|CLOUD_TPU|MEGASCALE|KUBERNETES|JAX)_'
)


class Seen(NamedTuple):
  """What a process has left behind."""

  facts: dict[str, Any]
  states: dict[str, dict[str, np.ndarray]]  # by name, then by path


def environment():
  """Makes that of a process with one device that compiles what we compile."""
  inherited = {
    name: value
    for name, value in os.environ.items()
    if not OF_CLUSTERS.match(name)
  }
  config = jax.config
  return inherited | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '1',
    'JAX_NUMPY_RANK_PROMOTION': 'raise',
    'JAX_COMPILATION_CACHE_DIR': config.jax_compilation_cache_dir,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': str(
      config.jax_persistent_cache_min_compile_time_secs
    ),
    'PYTHONPATH': str(REPOSITORY),
  }


def free_port():
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    return listener.getsockname()[1]


def run_processes(number: int, folder: Path) -> list[Seen]:
  """Runs several processes to their end; none outlives it."""
  coordinator = f'127.0.0.1:{free_port()}'
  processes = [
    launch(folder / f'{index}.log', folder, coordinator, number, index)
    for index in range(number)
  ]
  codes = ended(processes)
  logs = [(folder / f'{index}.log').read_text() for index in range(number)]
  assert codes == [0] * number, '\n\n'.join(logs)
  return [read(folder, index) for index in range(number)]


def ended(processes: list[subprocess.Popen]) -> list[int | None]:
  """Exit codes; after a failure or too long a time the others are killed."""
  deadline = time.monotonic() + PATIENCE
  codes: list[int | None] = [None] * len(processes)
  try:
    while None in codes and not any(codes) and time.monotonic() < deadline:
      time.sleep(0.05)
      codes = [process.poll() for process in processes]
  finally:
    for process in processes:
      process.kill()
      process.wait()
  return codes


def launch(log: Path, *arguments) -> subprocess.Popen:
  with log.open('w') as output:
    return subprocess.Popen(
      [sys.executable, several_processes.__file__, *map(str, arguments)],
      stdout=output,
      stderr=subprocess.STDOUT,
      env=environment(),
      cwd=log.parent,
    )


def read(folder: Path, index: int) -> Seen:
  facts = json.loads((folder / f'{index}.json').read_text())
  states: dict[str, dict[str, np.ndarray]] = {}
  with np.load(folder / f'{index}.npz') as arrays:
    for name, array in arrays.items():
      state, _, path = name.partition('/')
      states.setdefault(state, {})[path] = array
  return Seen(facts, states)


@pytest.fixture(scope='module')
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
  """A single process with a single device: its checkpoints, and its state."""
  folder = tmp_path_factory.mktemp('one')
  with jax.enable_x64(True), Checkpointer(folder) as checkpoints:
    train = make_train()
    state, metrics = train.run(start(train), NUM_STEPS)
    checkpoints.save(NUM_STEPS, state, metrics)
    return folder, on_the_host(state)


@pytest.fixture(
  scope='module',
  params=[
    pytest.param(2, marks=pytest.mark.in_ci),
    pytest.param(4, marks=pytest.mark.long),
  ],
)
def several(
  request: pytest.FixtureRequest,
  tmp_path_factory: pytest.TempPathFactory,
  one: tuple[Path, Any],
) -> tuple[Path, list[Seen]]:
  """Some processes with a device each: where they wrote, and what."""
  folder = tmp_path_factory.mktemp('several')
  (folder / 'one').symlink_to(one[0])
  return folder, run_processes(request.param, folder)


def assert_same_bits(found, expected):
  assert found.keys() == expected.keys()
  for path, leaf in expected.items():
    assert found[path].dtype == leaf.dtype, path
    assert found[path].tobytes() == leaf.tobytes(), path


# Several processes.


@pytest.mark.in_ci
def test_processes_train_to_what_one_trains_to(one, several):
  _, expected = one
  for process in several[1]:
    trained = process.states['trained']
    assert trained.keys() == expected.keys()
    for path, leaf in expected.items():
      assert trained[path].dtype == leaf.dtype
      np.testing.assert_allclose(
        trained[path], leaf, rtol=1e-12, atol=1e-14, err_msg=path
      )


@pytest.mark.in_ci
def test_all_processes_come_to_the_same_bits(several):
  first, *rest = several[1]
  for other in rest:
    assert_same_bits(other.states['trained'], first.states['trained'])
    assert other.facts['metrics'] == first.facts['metrics']


def test_each_has_a_device_and_a_piece_of_every_array(several):
  processes = several[1]
  for process in processes:
    assert process.facts['devices'] == [1, len(processes)]
    assert process.facts['piece'] == [1, 8 // len(processes)]


def test_all_hear_what_each_has_to_say(several):
  processes = several[1]
  for index, process in enumerate(processes):
    facts = process.facts
    assert (facts['process'], facts['processes']) == (index, len(processes))
    assert facts['is_primary'] == (index == 0)
    assert facts['agreed'] == 'as process 0 says'
    assert facts['collected'] == [
      {'process': each, 'text': 'é' * (10 * each)}
      for each in range(len(processes))
    ]
    assert facts['gathered number'] == index


def test_what_several_have_saved_one_restores_bit_by_bit(float64, several):
  folder, processes = several
  train = make_train()
  restored = Checkpointer(folder / 'several').restore(train.template())
  assert (restored.step, restored.rejected) == (NUM_STEPS, ())
  assert restored.metrics == processes[0].facts['metrics']
  for process in processes:
    assert_same_bits(on_the_host(restored.state), process.states['trained'])


def test_what_one_has_saved_several_restore_bit_by_bit(one, several):
  for process in several[1]:
    assert_same_bits(process.states['of one'], one[1])


def test_several_go_on_from_a_checkpoint_as_if_nothing_had_been(several):
  for process in several[1]:
    states = process.states
    assert_same_bits(states['restored'], states['trained'])
    assert_same_bits(states['resumed'], states['went on'])
    assert states['resumed']['.step'] == NUM_STEPS + 1


@pytest.mark.in_ci
@pytest.mark.parametrize('several', [2], indirect=True)
def test_that_a_process_is_gone_is_told_from_other_errors(several):
  assert several[1][0].facts['lost'] == [True, False]


# Checkpoints and meshes.


@cache
def train_on(num_devices):
  if num_devices == 1:
    return make_train()
  mesh = make_mesh({'task': num_devices})
  return make_train(mesh, in_pieces(mesh))


@pytest.mark.in_ci
@pytest.mark.parametrize('saved_on', [1, 8])
def test_a_checkpoint_does_not_depend_on_the_devices_it_is_of(
  tmp_path, saved_on
):
  train, other = train_on(saved_on), train_on(9 - saved_on)
  state, _ = train.run(start(train), 2)
  saved = on_the_host(state)
  with Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(2, state)
    restored = checkpoints.restore(other.template()).state
  assert_same_bits(on_the_host(restored), saved)
  expected = start(other)
  for leaf, like in zip(
    jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True
  ):
    assert leaf.sharding.is_equivalent_to(like.sharding, like.ndim)


# One process.


def test_a_single_process_speaks_with_itself():
  assert distributed.is_primary()
  assert distributed.collect({'a': 1}) == [{'a': 1}]
  assert distributed.agree([1, 'b']) == [1, 'b']
  divided = start(make_train(make_mesh({'task': 8}))).meta_params
  of_device = jnp.asarray([0, 1])
  for leaf in (3, 'name', np.arange(2), of_device, divided['head']['bias']):
    assert distributed.gather(leaf) is leaf
  assert not distributed.is_lost_connection(RuntimeError('UNAVAILABLE'))


@pytest.mark.parametrize(
  'address',
  [
    'localhost', 'localhost:', ':1234', 'localhost:http', 'localhost:-1',
    'localhost:0', 'localhost:65536', '',
  ],
)  # fmt: skip
def test_an_address_without_host_or_port_is_refused(address):
  message = f'host:port with a port from 1 to 65535, got {address!r}'
  with pytest.raises(ValueError, match=re.escape(message)):
    distributed.initialize(address, 2, 0)


@pytest.mark.parametrize('process_id', [-1, 2, 7])
def test_a_number_that_no_process_has_is_refused(process_id):
  with pytest.raises(
    ValueError, match=f'process_id must be from 0 to 1, got {process_id}'
  ):
    distributed.initialize('localhost:1234', 2, process_id)


@pytest.mark.parametrize(
  'rest',
  [{}, {'num_processes': 2}, {'process_id': 0}],
)
def test_a_coordinator_alone_is_refused(rest):
  with pytest.raises(
    ValueError, match='a coordinator goes with num_processes and process_id'
  ):
    distributed.initialize('localhost:1234', **rest)


@pytest.mark.parametrize('rest', [{'num_processes': 2}, {'process_id': 0}])
def test_numbers_without_a_coordinator_are_refused(rest):
  with pytest.raises(ValueError, match='go with a coordinator'):
    distributed.initialize(**rest)


def test_a_coordinator_that_does_not_answer_is_named():
  port = free_port()
  begun = time.monotonic()
  with pytest.raises(
    distributed.ClusterError,
    match=rf'127\.0\.0\.1:{port} did not answer within 1 s.*process 0',
  ):
    distributed.initialize(f'127.0.0.1:{port}', 2, 1, timeout=1)
  assert time.monotonic() - begun < 10


def test_where_there_is_no_cluster_it_says_what_to_name(tmp_path):
  assert ended([launch(tmp_path / 'log')]) == [1]
  last = (tmp_path / 'log').read_text().strip().splitlines()[-1]
  assert re.search(
    'ClusterError: no cluster found .*; name the coordinator, the number of'
    ' processes and which one this is$',
    last,
  )
