"""Cross-validation inside a support set, and what it chooses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax.base import (
  Adaptation,
  Batch,
  MetaLearner,
  Model,
  Task,
  Weighted,
)
from metajax.models import mlp
from metajax.wrappers.selection import held_out, select

KEY = jax.random.key(0)
WAYS = 3


def support_set(shots: int = 2) -> Batch:
  """Classes in no order; the first number of an input is its index."""
  order = np.random.default_rng(0).permutation(WAYS * shots)
  targets = np.repeat(np.arange(WAYS, dtype=np.int32), shots)[order]
  return Batch(np.arange(WAYS * shots, dtype=np.float32)[:, None], targets)


def remembering() -> MetaLearner:
  """Outputs the sum of the numbers of all support examples that it saw."""

  def adapt(key, meta_params, support):
    total = jnp.sum(support.inputs)
    return total, Adaptation(jnp.zeros(0), jnp.stack([jnp.zeros(()), total]))

  def predict(adapted, inputs):
    return jnp.broadcast_to(adapted, (len(inputs), WAYS)) + 0 * inputs

  def grad(key, meta_params, tasks):
    return (), {}

  return MetaLearner(lambda key, inputs: (), adapt, predict, grad)


@pytest.mark.parametrize(
  ('num_classes', 'num_folds', 'left_out'),
  [(WAYS, None, WAYS), (WAYS, 6, 1), (None, None, 1), (None, 3, 2)],
)
def test_every_example_is_judged_by_who_has_not_seen_it(
  num_classes, num_folds, left_out
):
  support = support_set()
  total = support.inputs.sum()
  outputs, targets = jax.jit(
    lambda support: held_out(
      remembering(), KEY, (), support, num_classes, num_folds
    )
  )(support)
  assert outputs.shape == (6, WAYS)
  np.testing.assert_array_equal(np.sort(targets), np.sort(support.targets))
  missing = total - np.asarray(outputs)[:, 0].reshape(-1, left_out)
  # Every fold misses the sum of its own examples, and they are all examples.
  assert (missing == missing[:, :1]).all()
  assert missing[:, 0].sum() == total
  if num_classes and not num_folds:
    assert (np.sort(np.reshape(targets, (-1, WAYS))) == np.arange(WAYS)).all()


def test_no_class_is_emptied_where_tasks_are_filled_up():
  """Two classes of two examples, in the shape of four classes of two."""
  targets = np.array([1, 0, 0, 1, 1, 0, 0, 1])
  real = np.array([1, 1, 0, 1, 0, 1, 0, 0], bool)
  support = Batch(
    np.arange(8, dtype=np.float32)[:, None], Weighted(targets, real)
  )
  _, held = jax.jit(
    lambda support: held_out(remembering(), KEY, (), support, 4)
  )(support)
  for values, weights in zip(
    *(np.reshape(leaf, (2, 4)) for leaf in held), strict=True
  ):
    assert sorted(values[weights]) == [0, 1]


def two_classes(by_angle: bool) -> Task:
  """Classes that differ by direction, or by length."""
  generator = np.random.default_rng(0)
  targets = generator.permutation(np.arange(16) % 2)
  targets = np.concatenate([np.arange(8) % 2, targets])
  sign = np.where(targets == 1, 1.0, -1.0)
  noise = 0.1 * generator.normal(size=(24, 2))
  clean = np.array([1.0, 0.0] if by_angle else [0.0, 1.0])
  inputs = (clean * sign[:, None] + noise).astype(np.float32)
  return Task(Batch(inputs[:8], targets[:8]), Batch(inputs[8:], targets[8:]))


def seeing(coordinate: int) -> MetaLearner:
  """Class means of one coordinate."""
  model = Model(
    init=lambda key, inputs: (),
    apply=lambda params, inputs: inputs[:, coordinate, None],
  )
  return metajax.protonet(model, metajax.cross_entropy, 2)


@pytest.mark.parametrize('by_angle', [True, False])
def test_the_learner_that_can_is_chosen_for_each_task(by_angle):
  learner = select([seeing(0), seeing(1)], metajax.cross_entropy, 2)
  task = two_classes(by_angle)
  meta_params = learner.init(KEY, task.support.inputs)
  adapted, adaptation = jax.jit(learner.adapt)(KEY, meta_params, task.support)
  assert int(adapted.choice) == (0 if by_angle else 1)
  predict = jax.jit(learner.predict)
  outputs = np.asarray(predict(adapted, task.query.inputs))
  np.testing.assert_array_equal(outputs.argmax(1), task.query.targets)
  before = jax.tree.map(lambda leaf: np.asarray(leaf)[0], adaptation.trajectory)
  logits = np.asarray(predict(before, task.query.inputs))
  np.testing.assert_array_equal(logits[:, 0], logits[:, 1])


@pytest.mark.long
def test_learners_of_other_methods_and_widths_train_as_by_themselves():
  objective = metajax.mean_squared_error
  members = [
    metajax.maml(mlp([4], 1), objective, 0.01, 1),
    metajax.reptile(mlp([6, 6], 1), objective, num_steps=3),
  ]
  learner = select(members, objective, num_folds=5)
  tasks = jax.vmap(metajax.tasks.sinusoid(5, 5))(jax.random.split(KEY))
  meta_params = learner.init(KEY, tasks.support.inputs[0])
  gradients, metrics = jax.jit(learner.grad)(KEY, meta_params, tasks)
  for member, params, gradient in zip(
    members, meta_params, gradients, strict=True
  ):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
      gradient,
      jax.jit(member.grad)(KEY, params, tasks)[0],
    )
  assert set(metrics) == {'loss', 'mse'}
  evaluation = metajax.evaluate(
    learner, objective, meta_params, metajax.tasks.sinusoid(5, 5),
    key=KEY, num_tasks=4,
  )  # fmt: skip
  assert evaluation.mean['mse'].shape == (2,)


@pytest.mark.parametrize(
  ('shots', 'options', 'message'),
  [
    (1, {'num_classes': WAYS}, '2 shots or more; there are 3 support examples'),
    (2, {'num_classes': WAYS, 'num_folds': 4}, 'divide the 6 support.*got 4'),
    (2, {'num_folds': 1}, '2 or more and divide the 6 support.*got 1'),
    (2, {'num_folds': 0}, '2 or more and divide the 6 support.*got 0'),
  ],
)
def test_a_support_set_that_cannot_be_divided_is_refused(
  shots, options, message
):
  learner = select([remembering()], metajax.cross_entropy, **options)
  with pytest.raises(ValueError, match=message):
    learner.adapt(KEY, ((),), support_set(shots))


def test_no_learners_are_refused():
  with pytest.raises(ValueError, match='needs a learner'):
    select([], metajax.cross_entropy)
