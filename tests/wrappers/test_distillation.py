"""Distillation: from the queries, from a teacher, and from both."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_draws import noise

import metajax
from metajax.base import Task
from metajax.models import mlp
from metajax.tasks import episodes, pad_task
from metajax.wrappers.distillation import TaughtParams, distil, divergence

KEY = jax.random.key(0)
WAYS = 3


def method(width: int) -> metajax.MetaLearner:
  return metajax.maml(mlp([width], WAYS), metajax.cross_entropy, 0.3, 1)


STUDENT, TEACHER = method(4), metajax.ensemble(method(8), 3)


def sampler():
  images = np.random.default_rng(0).integers(0, 256, (48, 3, 3), np.uint8)
  return episodes(images, np.arange(48) % 6, WAYS, 1, 4)


def drawn(num: int = 3) -> Task:
  return noise(num, WAYS, 1, 4)


@cache
def params_of(learner: metajax.MetaLearner, scale: float = 1.0):
  @jax.jit
  def draw(key):
    # It is kept for tests in either precision.
    params = learner.init(key, jnp.zeros((1, 3, 3, 1), jnp.float32))
    return jax.tree.map(lambda leaf: scale * leaf, params)

  return draw(jax.random.key(1))


def assert_close(one, other, rtol=1e-5, atol=1e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), one, other
  )


@pytest.mark.parametrize(
  ('teacher', 'student'), [((5, 1), (5, 3)), ((5, 3), (5, 1)), ((1, 3), (5, 3))]
)
def test_logits_of_other_classes_are_not_compared(teacher, student):
  with pytest.raises(ValueError, match='must score the same classes; got'):
    divergence(jnp.zeros(teacher), jnp.zeros(student), 2.0)


def test_divergence_is_that_of_numpy(float64):
  teacher, student = np.random.default_rng(0).normal(size=(2, 5, WAYS))
  p, q = (
    np.exp(logits / 3) / np.exp(logits / 3).sum(1, keepdims=True)
    for logits in (teacher, student)
  )
  expected = (p * np.log(p / q)).sum(1).mean()
  actual = jax.jit(divergence)(teacher, student, 3.0)
  np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.long
def test_without_weight_it_is_the_student_alone():
  learner = distil(
    STUDENT, TEACHER, params_of(TEACHER), metajax.cross_entropy, weight=0.0
  )
  params, tasks = params_of(STUDENT), drawn()
  gradient, metrics = jax.jit(learner.grad)(KEY, params, tasks)
  expected, alone = jax.jit(STUDENT.grad)(KEY, params, tasks)
  assert_close(gradient, expected)
  assert_close({name: metrics[name] for name in alone}, alone)
  assert metrics['divergence'] > 0


@pytest.mark.long
def test_the_gradient_is_that_of_the_mixture(float64):
  teacher = params_of(TEACHER, scale=3.0)
  learner = distil(
    STUDENT, TEACHER, teacher, metajax.cross_entropy,
    weight=0.3, temperature=2.0,
  )  # fmt: skip
  params, tasks = params_of(STUDENT), drawn(1)
  task = jax.tree.map(lambda leaf: leaf[0], tasks)

  def loss(params):
    taught, _ = TEACHER.adapt(KEY, teacher, task.support)
    adapted, _ = STUDENT.adapt(KEY, params, task.support)
    t = TEACHER.predict(taught, task.query.inputs)
    o = STUDENT.predict(adapted, task.query.inputs)
    hard = metajax.cross_entropy(o, task.query.targets)[0]
    return 0.7 * hard + 0.3 * 4 * divergence(t, o, 2.0)

  value, expected = jax.value_and_grad(loss)(params)
  gradient, metrics = jax.jit(learner.grad)(KEY, params, tasks)
  np.testing.assert_allclose(metrics['loss'], value, rtol=1e-5)
  assert_close(gradient, expected, rtol=1e-4)


@pytest.mark.in_ci
def test_what_is_learned_of_teaching_has_its_own_gradient(float64):
  teacher = params_of(TEACHER, scale=3.0)
  learner = distil(
    STUDENT, TEACHER, teacher, metajax.cross_entropy,
    weight='learned', temperature='learned',
  )  # fmt: skip
  tasks = drawn(2)
  start = TaughtParams(
    params_of(STUDENT), {'task': 0.3, 'teacher': -0.2, 'temperature': -1.5}
  )
  start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), start)
  grad = jax.jit(learner.grad)
  gradient, metrics = grad(KEY, start, tasks)
  for name, sign in (('task', 1), ('teacher', 1), ('temperature', -1)):
    ahead, behind = (
      grad(
        KEY,
        start._replace(
          teaching={**start.teaching, name: start.teaching[name] + step}
        ),
        tasks,
      )[1]['loss']
      for step in (1e-5, -1e-5)
    )
    slope = (ahead - behind) / 2e-5
    # The temperature goes against the student.
    np.testing.assert_allclose(gradient.teaching[name], sign * slope, 1e-6)
  heat = 1 + 19 / (1 + np.exp(1.5))
  np.testing.assert_allclose(metrics['temperature'], heat, 1e-9)
  np.testing.assert_allclose(metrics['task_weight'], np.exp(-0.3), 1e-9)
  begun = jax.jit(learner.init)(KEY, tasks.support.inputs[0])
  assert begun.teaching['task'] == begun.teaching['teacher'] == 0
  expected = np.log(3 / 16)
  np.testing.assert_allclose(begun.teaching['temperature'], expected, 1e-6)


def test_what_the_teacher_knows_is_an_argument():
  teacher = params_of(TEACHER)
  learner = distil(STUDENT, TEACHER, teacher, metajax.cross_entropy)
  held = {id(leaf) for leaf in jax.tree.leaves(learner)}
  assert {id(leaf) for leaf in jax.tree.leaves(teacher)} <= held


@pytest.mark.in_ci
def test_padding_teaches_nothing(float64):
  learner = distil(
    STUDENT, TEACHER, params_of(TEACHER, scale=3.0), metajax.cross_entropy,
    weight=1.0,
  )  # fmt: skip
  task = jax.tree.map(lambda leaf: leaf[0], drawn(1))
  padded = jax.jit(lambda: pad_task(task, WAYS, support=5, queries=17))()
  grad, params = jax.jit(learner.grad), params_of(STUDENT)
  gradients = [
    grad(KEY, params, jax.tree.map(lambda leaf: np.asarray(leaf)[None], each))
    for each in (task, padded)
  ]
  assert_close(*gradients)


@pytest.mark.in_ci
def test_a_student_comes_closer_to_its_teacher():
  learner = distil(
    STUDENT, TEACHER, params_of(TEACHER, scale=3.0), metajax.cross_entropy,
    weight=1.0, temperature=1.0,
  )  # fmt: skip
  train = metajax.make_train_step(
    learner, optax.adam(1e-2), sampler(), tasks_per_step=4, chunk_size=4
  )
  state, first = train.run(train.init(KEY), 1)
  _, last = train.run(state, 60)
  assert last['divergence'] < 0.8 * first['divergence']


def test_a_student_that_counts_its_steps_is_refused():
  student = metajax.maml_plus_plus(
    mlp([4], WAYS), metajax.cross_entropy, multi_step=3
  )
  learner = distil(student, TEACHER, params_of(TEACHER), metajax.cross_entropy)
  tasks = drawn()
  params = jax.eval_shape(student.init, KEY, tasks.support.inputs[0])
  with pytest.raises(
    ValueError, match='by step, which is int32; take a learner'
  ):
    jax.eval_shape(learner.grad, KEY, params, tasks)


def test_numbers_are_no_classes_to_distil():
  tasks = drawn()
  numbers = tasks._replace(
    query=tasks.query._replace(targets=np.zeros((3, WAYS * 4, 1), np.float32))
  )
  learner = distil(STUDENT, TEACHER, params_of(TEACHER), metajax.cross_entropy)
  with pytest.raises(ValueError, match='this method classifies'):
    jax.eval_shape(learner.grad, KEY, params_of(STUDENT), numbers)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'weight': 1.5}, "weight must be from 0 to 1, or 'learned'; got 1.5"),
    ({'weight': 'some'}, "or 'learned'; got some"),
    ({'temperature': 0.0}, "must be above 0, or 'learned'; got 0.0"),
    ({'temperature': float('inf')}, "or 'learned'; got inf"),
  ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    distil(STUDENT, TEACHER, (), metajax.cross_entropy, **options)
