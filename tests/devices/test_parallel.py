"""Microbatches: weights of chunks, keys, edges. (Every method goes through
the conformance test; here the gradient is one that can be read.) Then the same
gradients, and training with them, on many devices.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from several_processes import (
  LEARNER,
  NUM_STEPS,
  in_pieces,
  make_train,
  network,
  on_the_host,
  start,
)

import metajax
from metajax.algorithms.maml import gradient_learner
from metajax.base import MetaLearner, map_tasks
from metajax.devices import parallel
from metajax.devices.collectives import collectives
from metajax.devices.mesh import (
  Rule,
  by_path,
  make_mesh,
  put,
  replicated,
  shardings,
)
from metajax.devices.parallel import (
  choose_chunk_size,
  data_parallel,
  microbatch,
)
from metajax.estimators import backprop
from metajax.models import mlp
from metajax.runs import evaluation
from metajax.runs.checkpoint import Checkpointer
from metajax.tasks import sinusoid


def long(value):
  """A case that `pytest -m long` runs."""
  return pytest.param(value, marks=pytest.mark.long)


TASKS = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
KEY = jax.random.key(0)


def mean_with_noise(key, meta_params, tasks):
  """A mean over tasks of the task plus noise from the key of the task."""

  def of_task(key, task):
    return meta_params * task + jax.random.normal(key)

  values = map_tasks(of_task, key, tasks)
  return {'gradient': jnp.mean(values)}, {'largest': jnp.mean(values**2)}


@pytest.mark.parametrize('chunk_size', [1, 2, 3, 4, 6, 7, 8, 100])
def test_every_chunk_size_gives_the_same_mean_and_the_same_keys(
  float64, chunk_size
):
  plain = mean_with_noise(KEY, 2.0, TASKS)
  chunked = microbatch(mean_with_noise, chunk_size)(KEY, 2.0, TASKS)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), chunked, plain
  )


def test_keys_given_one_per_task_stay_with_their_tasks(float64):
  keys = jax.random.split(jax.random.key(1), len(TASKS))
  plain, _ = mean_with_noise(keys, 2.0, TASKS)
  chunked, _ = microbatch(mean_with_noise, 3)(keys, 2.0, TASKS)
  np.testing.assert_allclose(chunked['gradient'], plain['gradient'], rtol=1e-12)


def test_microbatches_of_microbatches_are_microbatches(float64):
  plain, _ = mean_with_noise(KEY, 2.0, TASKS)
  nested, _ = microbatch(microbatch(mean_with_noise, 2), 5)(KEY, 2.0, TASKS)
  np.testing.assert_allclose(nested['gradient'], plain['gradient'], rtol=1e-12)


def test_one_chunk_at_a_time_is_in_flight():
  sizes = []

  def grad(key, meta_params, tasks):
    sizes.append(len(tasks))
    return mean_with_noise(key, meta_params, tasks)

  microbatch(grad, 3)(KEY, 2.0, TASKS)
  assert set(sizes) == {3, 1}


@pytest.mark.parametrize('chunk_size', [0, -2, 1.5, 'all'])
def test_a_chunk_of_no_tasks_is_refused(chunk_size):
  with pytest.raises(
    ValueError, match=f"'auto' or a number from 1, got {chunk_size!r}"
  ):
    microbatch(mean_with_noise, chunk_size)


# The automatic size, whatever work a chunk has to be worth (it is measured).


@pytest.fixture(params=[1e8, 2e9])
def on_cpu(monkeypatch, request):
  """As on a CPU that wants so much work in a chunk."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  monkeypatch.setattr(parallel, '_FLOPS_PER_CHUNK', request.param)


@pytest.fixture
def all_work_is_little(monkeypatch):
  """As on a CPU on which nothing but memory limits a chunk."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  monkeypatch.setattr(parallel, '_FLOPS_PER_CHUNK', 1e15)


def multiply(key, meta_params, tasks):
  """A product for each task."""
  products = map_tasks(lambda key, task: task @ meta_params, key, tasks)
  return jnp.mean(products, 0), {}


def regression(num_tasks, num_examples=10):
  """MAML with a small network: estimator, key, meta-parameters and tasks."""
  learner = metajax.maml(mlp([40, 40], 1), metajax.mean_squared_error)
  tasks = metajax.sample_tasks(
    sinusoid(num_examples, num_examples), KEY, num_tasks
  )
  params = learner.init(jax.random.key(1), tasks.support.inputs[0])
  return learner.grad, jax.random.key(2), params, tasks


def memory_of(grad, key, params, tasks, size):
  """Bytes of temporaries of so many tasks."""
  chunk = jax.tree.map(lambda leaf: leaf[:size], tasks)
  compiled = jax.jit(grad).lower(key, params, chunk).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.usefixtures('on_cpu')
def test_tiny_tasks_are_computed_together_and_expensive_ones_alone():
  assert choose_chunk_size(*regression(25)) == 25
  expensive = jnp.zeros((4, 2048, 1024))  # 4.3 GFLOP each
  assert choose_chunk_size(multiply, KEY, expensive[0, :1024], expensive) == 1


def test_an_accelerator_takes_all_tasks(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  expensive = jnp.zeros((4, 2048, 1024))
  size = choose_chunk_size(
    multiply, KEY, expensive[0, :1024], expensive, memory=2**40
  )
  assert size == 4


@pytest.mark.usefixtures('all_work_is_little')
@pytest.mark.parametrize('total', [7, 12])
def test_a_chunk_fits_into_memory_and_divides_the_tasks(total):
  problem = regression(total, num_examples=500)
  whole = memory_of(*problem, total)
  sizes = []
  for memory in (2 * whole, whole // 3, whole // 6, 1):
    size = choose_chunk_size(*problem, memory=memory)
    assert total % size == 0
    assert size == 1 or memory_of(*problem, size) <= memory
    sizes.append(size)
  assert sizes[0] == total
  assert sizes == sorted(sizes, reverse=True)
  assert total == 7 or 1 < sizes[1] < total
  assert sizes[-1] == 1


@pytest.mark.usefixtures('all_work_is_little')
def test_chunks_of_automatic_size_give_the_same_gradient(float64, monkeypatch):
  grad, key, params, tasks = regression(12, num_examples=500)
  params, tasks = jax.tree.map(
    lambda leaf: leaf.astype(jnp.float64), (params, tasks)
  )
  limit = memory_of(grad, key, params, tasks, 12) // 3
  monkeypatch.setattr(parallel, '_device_memory', lambda: 2 * limit)
  size = choose_chunk_size(grad, key, params, tasks)
  assert 1 < size < 12
  compiled = jax.jit(microbatch(grad, 'auto')).lower(key, params, tasks)
  assert compiled.compile().memory_analysis().temp_size_in_bytes < 2 * limit
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13),
    compiled.compile()(key, params, tasks),
    jax.jit(grad)(key, params, tasks),
  )


# Many devices.


def mesh_of(num_devices, model=1):
  """The first few devices, along the axis of tasks or along both."""
  axes = {'task': num_devices // model} | (
    {'model': model} if model > 1 else {}
  )
  return make_mesh(axes, jax.devices()[:num_devices])


def assert_close(found, expected, rtol):
  """Trees agree, relative to the largest number in them."""
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))

  def compare(path, a, b):
    assert a.dtype == b.dtype
    np.testing.assert_allclose(
      a, b, rtol=0, atol=rtol * largest, err_msg=jax.tree_util.keystr(path)
    )

  jax.tree.map_with_path(compare, found, expected)


def learned_rate():
  """MAML whose rate is one more number that all tasks share."""

  def learner(rate):
    return gradient_learner(network(), metajax.mean_squared_error, rate, 3)

  def init(key, inputs):
    start = network().init(key, inputs)
    return {'start': start, 'rate': jnp.asarray(0.01, inputs.dtype)}

  def adapt(key, meta_params, support):
    return learner(meta_params['rate']).adapt(
      key, meta_params['start'], support
    )

  result = metajax.Learner(init, adapt, network().apply)
  return MetaLearner(*result, backprop(result, metajax.mean_squared_error))


LEARNERS = {
  'maml': LEARNER,
  'anil': metajax.anil(network(), metajax.mean_squared_error, 0.01, 3),
  'learned rate': learned_rate(),
}


@cache
def drawn(name, num_tasks, dtype):
  """Keys, meta-parameters and tasks of a meta-gradient."""
  tasks = metajax.sample_tasks(sinusoid(4, 4), KEY, num_tasks)
  tasks = jax.tree.map(lambda leaf: leaf.astype(dtype), tasks)
  params = LEARNERS[name].init(jax.random.key(1), tasks.support.inputs[0])
  return jax.random.split(jax.random.key(2), num_tasks), params, tasks


@cache
def on_one_device(name, num_tasks, dtype):
  return jax.jit(LEARNERS[name].grad)(*drawn(name, num_tasks, dtype))


def agrees_with_one_device(name, grad, num_devices, dtype, rtol):
  arguments = drawn(name, 24, dtype)
  found = jax.jit(data_parallel(grad, mesh_of(num_devices)))(*arguments)
  assert jax.tree.structure(found[0]) == jax.tree.structure(arguments[1])
  expected = on_one_device(name, 24, dtype)
  for a, b in zip(found, expected, strict=True):  # gradient, then metrics
    assert_close(a, b, rtol)


@pytest.mark.parametrize('num_devices', [long(1), 2, long(4), 8])
def test_devices_agree_with_one_on_the_gradient_and_its_metrics(
  float64, num_devices
):
  agrees_with_one_device('maml', LEARNER.grad, num_devices, jnp.float64, 1e-12)


def test_chunks_on_devices_agree_with_all_at_once_on_one(float64):
  grad = microbatch(LEARNER.grad, 2)  # of 8 devices each has a rest of 1
  agrees_with_one_device('maml', grad, 8, jnp.float64, 1e-12)


@pytest.mark.parametrize('name', ['anil', 'learned rate'])
def test_other_methods_agree_with_one_device_too(float64, name):
  grad = LEARNERS[name].grad
  agrees_with_one_device(name, grad, 8, jnp.float64, 1e-12)


def test_devices_agree_with_one_in_single_precision():
  grad = microbatch(LEARNER.grad, 2)
  agrees_with_one_device('maml', grad, 8, jnp.float32, 1e-6)


@pytest.mark.parametrize('one_key', [True, False])
def test_keys_stay_with_their_tasks_on_any_device(float64, one_key):
  tasks = jnp.arange(16.0)
  key = KEY if one_key else jax.random.split(KEY, 16)
  grad = microbatch(mean_with_noise, 2)
  found = jax.jit(data_parallel(grad, mesh_of(4)))(key, 2.0, tasks)
  assert_close(found, mean_with_noise(key, 2.0, tasks), 1e-13)


def test_tasks_may_be_divided_over_an_axis_of_another_name(float64):
  mesh = make_mesh({'task': 2, 'data': 4})
  tasks = jnp.arange(12.0)
  grad = jax.jit(data_parallel(mean_with_noise, mesh, 'data'))
  found = grad(KEY, 2.0, tasks)
  assert_close(found, mean_with_noise(KEY, 2.0, tasks), 1e-13)


# No gradient goes from a task to another. The derivative of what all devices
# share, taken inside of an inner loop, must not be summed over them.


def replaced(tasks, others, number):
  return jax.tree.map(
    lambda leaf, other: leaf.at[number].set(other[number]), tasks, others
  )


@cache
def on_devices(name, model):
  return jax.jit(data_parallel(LEARNERS[name].grad, mesh_of(8, model)))


@cache
def alone(name):
  """The meta-gradient of each task by itself, on one device."""

  def of_task(key, params, task):
    return LEARNERS[name].grad(
      key[None], params, jax.tree.map(lambda leaf: leaf[None], task)
    )[0]

  return jax.jit(jax.vmap(of_task, (0, None, 0)))


cases = pytest.mark.parametrize(
  ('name', 'model'), [('maml', 1), ('learned rate', 2)]
)


@cases
@pytest.mark.parametrize('number', [0, 5])
def test_another_task_changes_the_mean_by_its_own_share_alone(
  float64, name, model, number
):
  keys, params, tasks = drawn(name, 8, jnp.float64)
  others = jax.tree.map(lambda leaf: 1.5 - leaf, tasks)
  grad = on_devices(name, model)
  before, _ = grad(keys, params, tasks)
  after, _ = grad(keys, params, replaced(tasks, others, number))
  of_tasks, of_others = (
    jax.tree.map(lambda leaf: leaf[number], alone(name)(keys, params, each))
    for each in (tasks, others)
  )
  # Relative to the gradients, of which this is a difference.
  jax.tree.map(
    lambda new, old, other, own: np.testing.assert_allclose(
      new - old,
      (other - own) / 8,
      rtol=0,
      atol=1e-12 * max(np.abs(other).max(), np.abs(old).max()),
    ),
    after,
    before,
    of_others,
    of_tasks,
  )


@cases
def test_the_mean_over_equal_tasks_is_the_gradient_of_one(float64, name, model):
  keys, params, tasks = drawn(name, 8, jnp.float64)
  equal = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], 8, 0), tasks)
  found, _ = on_devices(name, model)(keys, params, equal)
  of_first = jax.tree.map(
    lambda leaf: leaf[0], alone(name)(keys, params, tasks)
  )
  assert_close(found, of_first, 1e-12)


# What is refused.


def test_tasks_that_devices_cannot_share_are_refused_by_number():
  grad = data_parallel(mean_with_noise, mesh_of(8))
  with pytest.raises(
    ValueError,
    match="7 tasks cannot be divided over the 8 devices of the axis 'task'",
  ):
    grad(KEY, 2.0, TASKS)


def test_tasks_per_step_that_devices_cannot_share_are_refused_at_once():
  with pytest.raises(
    ValueError, match=r'6 tasks per step .* the 4 devices .* multiple of 4'
  ):
    make_train(mesh_of(4), tasks_per_step=6)


@pytest.mark.parametrize(
  'use',
  [
    lambda mesh: data_parallel(mean_with_noise, mesh),
    lambda mesh: make_train(mesh),
    lambda mesh: evaluated(mesh=mesh),
  ],
)
def test_a_mesh_without_an_axis_of_tasks_is_refused(use):
  with pytest.raises(
    ValueError, match="the mesh has no axis 'task'; it has model"
  ):
    use(make_mesh({'model': 8}))


# Evaluation.


def evaluated(meta_params=None, mesh=None, chunk_size=2):
  params = drawn('maml', 2, jnp.zeros(()).dtype)[1]
  return metajax.evaluate(
    LEARNER,
    metajax.mean_squared_error,
    params if meta_params is None else meta_params,
    sinusoid(4, 4),
    key=jax.random.key(3),
    num_tasks=21,  # which fill the last chunk on no number of devices
    chunk_size=chunk_size,
    mesh=mesh,
  )


def test_devices_judge_every_task_as_one_does(float64):
  found = evaluated(mesh=mesh_of(8, model=2))
  assert found.values['loss'].shape == (21, 4)
  assert_close(found, evaluated(), 1e-12)


def test_parameters_in_pieces_are_judged_as_they_are(float64):
  mesh = mesh_of(4)
  params = drawn('maml', 2, jnp.float64)[1]
  pieces = put(params, shardings(params, mesh, in_pieces(mesh)))
  assert_close(evaluated(pieces, mesh), evaluated(params), 1e-12)


# Training.


def test_only_one_program_of_an_evaluation_is_on_its_way(monkeypatch):
  """Two, on devices that share threads, can wait for each other for ever."""
  compute, earlier, waiting = evaluation._evaluate_chunk, [], []

  def noted(*arguments):
    waiting.extend(
      not leaf.is_ready() for chunk in earlier for leaf in chunk.values()
    )
    earlier.append(compute(*arguments))
    return earlier[-1]

  monkeypatch.setattr(evaluation, '_evaluate_chunk', noted)
  evaluated(mesh=mesh_of(2), chunk_size=1)
  assert len(earlier) > 2
  assert not any(waiting)


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
  found = trained(LAYOUTS[layout].make_train(), dtype)
  for a, b in zip(found, trained_on_one(dtype), strict=True):
    assert_close(a, b, rtol)


@pytest.mark.parametrize(
  'layout',
  [long(name) if name in ('1', '2', '4') else name for name in LAYOUTS],
)
def test_training_on_devices_leads_to_what_one_comes_to(float64, layout):
  trains_to_the_same(layout, jnp.float64, 1e-12)


@pytest.mark.long
def test_it_does_in_single_precision():
  trains_to_the_same('8', jnp.float32, 1e-6)


def test_the_same_seed_on_the_same_devices_leads_to_the_same_bits():
  ends = []
  for _ in range(2):
    train = LAYOUTS['8'].make_train()
    ends.append(on_the_host(train.run(start(train), NUM_STEPS)[0]))
  for path, leaf in ends[0].items():
    assert ends[1][path].tobytes() == leaf.tobytes(), path


@pytest.mark.parametrize('layout', ['4 x 2', 'in pieces'])
def test_a_device_holds_its_piece_of_parameters_and_moments(layout):
  train = LAYOUTS[layout].make_train()
  state = start(train)
  for tree in (
    state.meta_params, state.optimizer_state[0].mu, state.optimizer_state[0].nu
  ):  # fmt: skip
    piece = tree['Dense_0']['kernel'].addressable_data(0)
    assert piece.shape == ((1, 4) if layout == '4 x 2' else (1, 1))


def exchanges_of(layout, **options):
  program = LAYOUTS[layout].make_train(**options).lower().compile()
  return collectives(program.as_text())


def test_a_step_is_one_all_reduce_whatever_the_number_of_tasks():
  (few,) = exchanges_of('8', tasks_per_step=16, chunk_size=1)
  (many,) = exchanges_of('8', tasks_per_step=32, chunk_size=1)
  assert few == many
  assert (few.op, few.inside_loop) == ('all-reduce', False)
  params = jax.eval_shape(
    lambda: network().init(jax.random.key(0), jnp.zeros((1, 1)))
  )
  of_params = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
  of_metrics = few.bytes - of_params
  assert 0 < of_metrics <= 4 * len(('loss', 'mse'))


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
  tasks = jnp.arange(8.0)
  plain, _ = mean_with_noise(KEY, 2.0, tasks)
  divided, _ = grad(KEY, 2.0, tasks)
  np.testing.assert_allclose(divided['gradient'], plain['gradient'], rtol=1e-12)
