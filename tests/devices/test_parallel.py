"""Meta-gradients and evaluations on many devices are those of one."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from on_devices import KEY, TASKS, assert_close, long, mean_with_noise, mesh_of
from several_processes import LEARNER, in_pieces, make_train, network

import metajax
from metajax.adaptation.gradient_learner import gradient_learner
from metajax.base import Batch, MetaLearner, Task
from metajax.devices.mesh import make_mesh, put, shardings
from metajax.devices.parallel import data_parallel, microbatch
from metajax.estimators import backprop
from metajax.runs import evaluation
from metajax.tasks import sinusoid


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


NUM_TASKS = 24
SINUSOID = sinusoid(4, 4)
LEARNERS = {
  'maml': LEARNER,
  'anil': metajax.anil(network(), metajax.mean_squared_error, 0.01, 3),
  'learned rate': learned_rate(),
}


@cache
def drawn(name, dtype):
  """Keys, meta-parameters and tasks of a meta-gradient."""
  random = np.random.default_rng(0)
  inputs = random.uniform(-5.0, 5.0, (2, NUM_TASKS, 4, 1)).astype(dtype)
  heights = random.uniform(0.1, 5.0, (NUM_TASKS, 1, 1)).astype(dtype)
  tasks = Task(*(Batch(each, heights * np.sin(each)) for each in inputs))

  @jax.jit
  def start():
    params = LEARNERS[name].init(jax.random.key(1), inputs[0, 0])
    return jax.random.split(jax.random.key(2), NUM_TASKS), params

  return (*start(), tasks)


@cache
def on_one_device(name, dtype):
  gradient = jax.jit(LEARNERS[name].grad)(*drawn(name, dtype))
  return jax.tree.map(np.asarray, gradient)


@cache
def on_devices(name, model):
  return jax.jit(data_parallel(LEARNERS[name].grad, mesh_of(8, model)))


def agrees_with_one_device(name, grad, dtype, rtol):
  arguments = drawn(name, dtype)
  found = grad(*arguments)
  assert jax.tree.structure(found[0]) == jax.tree.structure(arguments[1])
  expected = on_one_device(name, dtype)
  for a, b in zip(found, expected, strict=True):  # gradient, then metrics
    assert_close(a, b, rtol)


def in_chunks():
  """On 8 devices, with 3 tasks each, of which one is left over."""
  return jax.jit(data_parallel(microbatch(LEARNER.grad, 2), mesh_of(8)))


@pytest.mark.parametrize('num_devices', [long(1), 2, long(4), 8])
def test_devices_agree_with_one_on_the_gradient_and_its_metrics(
  float64, num_devices
):
  grad = on_devices('maml', 1)
  if num_devices < 8:
    grad = jax.jit(data_parallel(LEARNER.grad, mesh_of(num_devices)))
  agrees_with_one_device('maml', grad, np.float64, 1e-12)


@pytest.mark.in_ci
def test_chunks_on_devices_agree_with_all_at_once_on_one(float64):
  agrees_with_one_device('maml', in_chunks(), np.float64, 1e-12)


@pytest.mark.in_ci
@pytest.mark.parametrize('name', ['anil', 'learned rate'])
def test_other_methods_agree_with_one_device_too(float64, name):
  agrees_with_one_device(name, on_devices(name, 1), np.float64, 1e-12)


@pytest.mark.in_ci
def test_devices_agree_with_one_in_single_precision():
  agrees_with_one_device('maml', in_chunks(), np.float32, 1e-6)


@pytest.mark.parametrize('one_key', [True, False])
def test_keys_stay_with_their_tasks_on_any_device(float64, one_key):
  tasks = np.arange(16.0)
  key = KEY if one_key else jax.random.split(KEY, 16)
  grad = microbatch(mean_with_noise, 2)
  found = jax.jit(data_parallel(grad, mesh_of(4)))(key, 2.0, tasks)
  assert_close(found, jax.jit(mean_with_noise)(key, 2.0, tasks), 1e-13)


def test_tasks_may_be_divided_over_an_axis_of_another_name(float64):
  mesh = make_mesh({'task': 2, 'data': 4})
  tasks = np.arange(12.0)
  grad = jax.jit(data_parallel(mean_with_noise, mesh, 'data'))
  found = grad(KEY, 2.0, tasks)
  assert_close(found, jax.jit(mean_with_noise)(KEY, 2.0, tasks), 1e-13)


# No gradient goes from a task to another. The derivative of what all devices
# share, taken inside of an inner loop, must not be summed over them.


def replaced(tasks, others, number):

  def change(leaf, other):
    leaf = leaf.copy()
    leaf[number] = other[number]
    return leaf

  return jax.tree.map(change, tasks, others)


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


@pytest.mark.in_ci
@cases
@pytest.mark.parametrize('number', [0, 5])
def test_another_task_changes_the_mean_by_its_own_share_alone(
  float64, name, model, number
):
  keys, params, tasks = drawn(name, np.float64)
  others = jax.tree.map(lambda leaf: 1.5 - leaf, tasks)
  grad = on_devices(name, model)
  before, _ = grad(keys, params, tasks)
  after, _ = grad(keys, params, replaced(tasks, others, number))
  of_tasks, of_others = (
    jax.tree.map(
      lambda leaf: np.asarray(leaf)[number], alone(name)(keys, params, each)
    )
    for each in (tasks, others)
  )
  # Relative to the gradients, of which this is a difference.
  jax.tree.map(
    lambda new, old, other, own: np.testing.assert_allclose(
      np.asarray(new) - np.asarray(old),
      (other - own) / NUM_TASKS,
      rtol=0,
      atol=1e-12 * max(np.abs(other).max(), np.abs(old).max()),
    ),
    after,
    before,
    of_others,
    of_tasks,
  )


@pytest.mark.in_ci
@cases
def test_the_mean_over_equal_tasks_is_the_gradient_of_one(float64, name, model):
  keys, params, tasks = drawn(name, np.float64)
  equal = jax.tree.map(lambda leaf: np.repeat(leaf[:1], NUM_TASKS, 0), tasks)
  found, _ = on_devices(name, model)(keys, params, equal)
  of_first = jax.tree.map(
    lambda leaf: np.asarray(leaf)[0], alone(name)(keys, params, tasks)
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
  params = drawn('maml', jax.dtypes.canonicalize_dtype(float).type)[1]
  return metajax.evaluate(
    LEARNER,
    metajax.mean_squared_error,
    params if meta_params is None else meta_params,
    SINUSOID,
    key=jax.random.key(3),
    num_tasks=21,  # which fill the last chunk on no number of devices
    chunk_size=chunk_size,
    mesh=mesh,
  )


@pytest.mark.in_ci
def test_devices_judge_every_task_as_one_does(float64):
  found = evaluated(mesh=mesh_of(8, model=2))
  assert found.values['loss'].shape == (21, 4)
  assert_close(found, evaluated(), 1e-12)


@pytest.mark.in_ci
def test_parameters_in_pieces_are_judged_as_they_are(float64):
  mesh = mesh_of(4)
  params = drawn('maml', np.float64)[1]
  pieces = put(params, shardings(params, mesh, in_pieces(mesh)))
  assert_close(evaluated(pieces, mesh), evaluated(params), 1e-12)


def test_only_one_program_of_an_evaluation_is_on_its_way(monkeypatch):
  """Two, on devices that share threads, can wait for each other for ever."""
  program, earlier, waiting = evaluation._program, [], []

  def noted(*made_for):
    compute = program(*made_for)

    def computed(*arguments):
      waiting.extend(
        not leaf.is_ready() for chunk in earlier for leaf in chunk.values()
      )
      earlier.append(compute(*arguments))
      return earlier[-1]

    return computed

  monkeypatch.setattr(evaluation, '_program', noted)
  evaluated(mesh=mesh_of(2), chunk_size=1)
  assert len(earlier) > 2
  assert not any(waiting)
