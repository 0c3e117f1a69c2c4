"""Training on many devices, with whole parameters and with pieces."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from on_devices import KEY, assert_close, long, mean_with_noise, mesh_of
from several_processes import (
  NUM_STEPS,
  in_pieces,
  make_train,
  network,
  on_the_host,
  start,
)

from metajax.devices.collectives import collectives
from metajax.devices.mesh import Rule, by_path, make_mesh, replicated
from metajax.devices.parallel import data_parallel
from metajax.runs.checkpoint import Checkpointer
from metajax.tasks import sinusoid


def along_outputs(mesh):
  """The rule that divides every layer over the axis `model`."""
  return by_path(
    mesh,
    [
      ('head.*kernel', PartitionSpec('model', None)),
      ('Dense.*kernel', PartitionSpec(None, 'model')),
      ('Dense.*bias', PartitionSpec('model')),
    ],
  )


class Layout(NamedTuple):
  """Devices, and how the state lies on them."""

  num_devices: int
  model: int = 1  # of them along the axis of that name
  rule: Callable[[Mesh], Rule] = lambda mesh: replicated

  def make_train(self, **options):
    mesh = mesh_of(self.num_devices, self.model)
    return make_train(mesh, self.rule(mesh), **options)


LAYOUTS = {
  '1': Layout(1),
  '2': Layout(2),
  '4': Layout(4),
  '8': Layout(8),
  '4 x 2': Layout(8, 2, along_outputs),
  'in pieces': Layout(8, 1, in_pieces),
}


@cache
def train_of(layout):
  return LAYOUTS[layout].make_train()


def trained(train, dtype):
  """Parameters, their two moments in the optimiser, and metrics."""
  begun = start(train)
  before = on_the_host(begun.meta_params)
  state, metrics = train.run(begun, NUM_STEPS)
  assert int(state.step) == NUM_STEPS
  lies_as_wanted(state, train.template())
  adam = state.optimizer_state[0]
  found = [
    on_the_host(tree) for tree in (state.meta_params, adam.mu, adam.nu, metrics)
  ]
  after = found[0]
  assert {leaf.dtype for leaf in after.values()} == {np.dtype(dtype)}
  assert all(np.abs(after[path] - before[path]).max() > 1e-3 for path in after)
  return found


def lies_as_wanted(state, template):
  for leaf, like in zip(
    jax.tree.leaves(state), jax.tree.leaves(template), strict=True
  ):
    if like.sharding is not None:
      assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)


@cache
def trained_on_one(dtype):
  return trained(make_train(), dtype)


def trains_to_the_same(layout, dtype, rtol):
  found = trained(train_of(layout), dtype)
  for a, b in zip(found, trained_on_one(dtype), strict=True):
    assert_close(a, b, rtol)


@pytest.mark.in_ci
@pytest.mark.parametrize(
  'layout',
  [
    'in pieces',
    pytest.param('4 x 2', marks=pytest.mark.in_ci),
    *map(long, '1248'),
  ],
)
def test_training_on_devices_leads_to_what_one_comes_to(float64, layout):
  trains_to_the_same(layout, jnp.float64, 1e-12)


@pytest.mark.long
def test_it_does_in_single_precision():
  trains_to_the_same('8', jnp.float32, 1e-6)


@pytest.mark.in_ci
def test_the_same_seed_on_the_same_devices_leads_to_the_same_bits(float64):
  ends = [
    on_the_host(train.run(start(train), NUM_STEPS)[0])
    for train in (train_of('8'), LAYOUTS['8'].make_train())
  ]
  for path, leaf in ends[0].items():
    assert ends[1][path].tobytes() == leaf.tobytes(), path


@pytest.mark.parametrize('layout', ['4 x 2', 'in pieces'])
def test_a_device_holds_its_piece_of_parameters_and_moments(float64, layout):
  train = train_of(layout)
  state = start(train)
  for tree in (
    state.meta_params, state.optimizer_state[0].mu, state.optimizer_state[0].nu
  ):  # fmt: skip
    piece = tree['Dense_0']['kernel'].addressable_data(0)
    assert piece.shape == ((1, 4) if layout == '4 x 2' else (1, 1))


def exchanges_of(layout, **options):
  program = LAYOUTS[layout].make_train(**options).lower().compile()
  return collectives(program.as_text())


@pytest.mark.in_ci
def test_a_step_is_one_all_reduce_whatever_the_number_of_tasks():
  (few,) = exchanges_of('8', tasks_per_step=16, chunk_size=1)
  (many,) = exchanges_of('8', tasks_per_step=32, chunk_size=1)
  assert few == many
  assert (few.op, few.inside_loop) == ('all-reduce', False)
  params = jax.eval_shape(
    lambda: network().init(jax.random.key(0), np.zeros((1, 1), np.float32))
  )
  of_params = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
  of_metrics = few.bytes - of_params
  assert 0 < of_metrics <= 4 * len(('loss', 'mse'))


@pytest.mark.in_ci
def test_pieces_are_gathered_before_the_loops_of_a_step():
  found = exchanges_of('in pieces', tasks_per_step=16, chunk_size=1)
  assert 'all-gather' in {each.op for each in found}
  assert not any(each.inside_loop for each in found)


# Programs are compiled once.


@pytest.fixture
def compiled():
  """Names of programs, in the order in which they are compiled."""
  names = []

  def note(event, duration, fun_name=None, **rest):
    if event == '/jax/core/compile/backend_compile_duration':
      names.append(str(fun_name))

  jax.monitoring.register_event_duration_secs_listener(note)
  yield names
  jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.in_ci
def test_dispatches_of_any_size_run_one_program(tmp_path, compiled):
  traced = []

  def sample(key):
    traced.append(key)
    return sinusoid(4, 4)(key)

  train = LAYOUTS['in pieces'].make_train(sample=sample)
  state = start(train)
  before = len(traced)
  state, _ = train.run(state, 1)
  assert len(traced) == before + 1
  assert 'jit(run)' in compiled
  compiled.clear()
  for number in (3, 1, 7):
    state, _ = train.run(state, number)
  with Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(12, state)
    restored = checkpoints.restore(train.template()).state
  state, _ = train.run(restored, 2)
  assert state.step == 14
  assert len(traced) == before + 1
  assert 'jit(run)' not in compiled


def test_a_mesh_with_a_second_axis_needs_no_jit(float64):
  grad = data_parallel(mean_with_noise, make_mesh({'task': 4, 'model': 2}))
  tasks = np.arange(8.0)
  plain, _ = jax.jit(mean_with_noise)(KEY, 2.0, tasks)
  divided, _ = grad(KEY, 2.0, tasks)
  np.testing.assert_allclose(divided['gradient'], plain['gradient'], rtol=1e-12)
