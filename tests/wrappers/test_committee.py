"""Learners of different kinds together: what weights do, and what fits them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax.adaptation.classes import one_step
from metajax.base import Batch, MetaLearner, Task, Weighted
from metajax.models import mlp
from metajax.wrappers.committee import committee, fit_weights, stack_numbers
from metajax.wrappers.distillation import distil
from metajax.wrappers.selection import select

KEY = jax.random.key(0)


def saying(predict) -> MetaLearner:
  """A learner that needs no support set."""

  def adapt(key, meta_params, support):
    return (), one_step((), ())

  return MetaLearner(
    lambda key, inputs: (), adapt, lambda adapted, inputs: predict(inputs),
    lambda key, params, tasks: ((), {}),
  )  # fmt: skip


def sample(key, classes=False):
  """y = x, or whether x is above 0."""
  x = jax.random.normal(key, (20, 1))
  y = (x[:, 0] > 0).astype(jnp.int32) if classes else x
  return Task(Batch(x[:10], y[:10]), Batch(x[10:], y[10:]))


RIGHT = saying(lambda x: x)
WRONG = saying(lambda x: -x)
NONE = saying(lambda x: jnp.nan * x)


@pytest.mark.parametrize('classes', [None, 3])
def test_all_weight_on_one_learner_is_that_learner_to_the_bit(classes):
  if classes is None:
    loss, support = metajax.mean_squared_error, sample(KEY).support
    heads = 1
  else:
    loss, heads = metajax.cross_entropy, 3
    support = Batch(sample(KEY).support.inputs, jnp.arange(10) % 3)
  learners = [
    metajax.maml(mlp([8], heads), loss, 0.1, 2),
    metajax.r2d2(mlp([8], 8), loss, classes),
    metajax.in_context(mlp([8], 8), loss, classes, width=8, depth=1),
  ]
  for place, learner in enumerate(learners):
    weights = [float(place == own) for own in range(3)]
    together = committee(learners, weights, classes)
    params = together.init(KEY, support.inputs)
    adapted, _ = together.adapt(KEY, params, support)
    alone, _ = learner.adapt(KEY, params[place], support)
    np.testing.assert_array_equal(
      together.predict(adapted, support.inputs),
      learner.predict(alone, support.inputs),
    )


def test_a_learner_without_weight_says_nothing():
  together = committee([RIGHT, NONE, WRONG], [3, 0, 1])
  adapted, _ = together.adapt(KEY, ((), (), ()), sample(KEY).support)
  x = jnp.ones((2, 1))
  np.testing.assert_allclose(together.predict(adapted, x), 0.5 * x)


def test_stacking_finds_the_mixture_that_is_right():
  """Of 2x and -2x it is three quarters and a quarter that make x."""
  learners = [saying(lambda x: 2 * x), saying(lambda x: -2 * x)]
  together = committee(learners, 'stacked')
  adapted, _ = together.adapt(KEY, ((), ()), sample(KEY).support)
  np.testing.assert_allclose(adapted.weights, [0.75, 0.25], atol=1e-3)


def test_weights_of_validation_never_see_a_query_of_the_test():
  weights = fit_weights([RIGHT, WRONG], [(), ()], sample, key=KEY, num_tasks=4)
  assert float(weights[0]) > 0.99
  # Support sets alone decide what is stacked: other queries change nothing.
  task = sample(KEY)
  together = committee([RIGHT, WRONG], 'stacked')
  one, _ = together.adapt(KEY, ((), ()), task.support)
  assert float(one.weights[0]) > 0.99
  changed = task.support._replace(targets=-task.support.targets)
  other, _ = together.adapt(KEY, ((), ()), changed)
  assert float(other.weights[1]) > 0.99


def test_padding_has_no_weight_in_stacking():
  targets = jnp.array([[1.0], [1.0], [9.0]])
  outputs = jnp.stack([jnp.ones((3, 1)), jnp.full((3, 1), 9.0)])
  weighted = Weighted(targets, jnp.array([1.0, 1.0, 0.0]))
  assert float(stack_numbers(outputs, weighted)[0]) > 0.99


def test_one_learner_that_is_far_off_does_not_hide_which_other_is_best():
  noise = np.random.default_rng(0).normal(size=(3, 50))
  errors = jnp.asarray(noise * [[0.1], [1.0], [100.0]], jnp.float32)
  weights = stack_numbers(errors, jnp.zeros(50))
  # Those of two learners are what calculus says, and the third has no say.
  one, both, other = (
    float(jnp.vdot(errors[i], errors[j])) for i, j in ((0, 0), (0, 1), (1, 1))
  )
  share = np.clip((other - both) / (one + other - 2 * both), 0, 1)
  np.testing.assert_allclose(weights, [share, 1 - share, 0], atol=5e-3)


@pytest.mark.parametrize('classes', [None, 2])
def test_a_learner_that_says_no_number_gets_no_weight(classes):
  def predict(x):
    return x if classes is None else jnp.concatenate([-9 * x, 9 * x], axis=1)

  task = sample(KEY, classes is not None)
  learners = [saying(lambda x: jnp.nan * predict(x)), saying(predict)]
  together = committee(learners, 'stacked', classes)
  adapted, _ = together.adapt(KEY, ((), ()), task.support)
  np.testing.assert_allclose(adapted.weights, [0, 1], atol=1e-6)
  x = task.query.inputs
  found = jax.nn.softmax(together.predict(adapted, x))
  np.testing.assert_allclose(found, jax.nn.softmax(predict(x)), atol=1e-5)
  none = committee([learners[0]] * 2, 'stacked', classes)
  adapted, _ = none.adapt(KEY, ((), ()), task.support)
  assert jnp.isnan(none.predict(adapted, x)).all()


def test_classes_vote_by_weight():
  def first(place):
    return saying(
      lambda x: jnp.broadcast_to(4.0 * jax.nn.one_hot(place, 3), (len(x), 3))
    )

  learners = [first(0), first(1), first(1)]
  support = Batch(jnp.ones((6, 1)), jnp.arange(6) % 3)
  for weights, wins in (([1, 1, 1], 1), ([5, 2, 2], 0)):
    together = committee(learners, weights, 3, votes=True)
    adapted, _ = together.adapt(KEY, ((),) * 3, support)
    outputs = together.predict(adapted, support.inputs)
    assert (outputs.argmax(-1) == wins).all()
    np.testing.assert_allclose(jnp.exp(outputs).sum(-1), 1, rtol=1e-5)


def test_the_choice_of_a_task_is_the_known_best():
  task = sample(KEY)
  chooser = select([WRONG, RIGHT], metajax.mean_squared_error, num_folds=5)
  for sign, best in ((1, 1), (-1, 0)):
    support = task.support._replace(targets=sign * task.support.targets)
    adapted, _ = chooser.adapt(KEY, ((), ()), support)
    assert int(adapted.choice) == best


@pytest.mark.in_ci
def test_a_student_learns_tables_of_classes_and_numbers_are_refused():
  draw = metajax.tasks.synthetic_tables(3, 8, 8, classes=True)
  tasks = jax.vmap(draw)(jax.random.split(KEY, 3))
  teacher, student = (
    metajax.maml(mlp([width], 2), metajax.cross_entropy, 0.1, 1)
    for width in (16, 4)
  )
  known = teacher.init(KEY, tasks.support.inputs[0])
  taught = distil(student, teacher, known, metajax.cross_entropy)
  params = taught.init(KEY, tasks.support.inputs[0])
  _, metrics = taught.grad(KEY, params, tasks)
  assert jnp.isfinite(metrics['divergence'])
  numbers = tasks._replace(
    query=tasks.query._replace(targets=tasks.query.inputs[..., :1])
  )
  with pytest.raises(ValueError, match='wants integer classes'):
    taught.grad(KEY, params, numbers)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (([],), 'needs a learner'),
    (([RIGHT], [1, 2]), 'must be 1 numbers from 0'),
    (([RIGHT, WRONG], [1, -1]), 'must be 2 numbers from 0'),
    (([RIGHT, WRONG], [0, 0]), 'of which one is above'),
    (([RIGHT], 'best'), "'alike' or 'stacked'"),
  ],
)
def test_what_is_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    committee(*arguments)
  with pytest.raises(ValueError, match='numbers do not vote'):
    committee([RIGHT], votes=True)


@pytest.mark.parametrize(
  'weights', [[np.inf, 1], [np.nan, 1], [[1], [2]], ['a', 'b'], None, 5]
)
def test_weights_that_are_no_shares_are_refused(weights):
  with pytest.raises(ValueError, match='weights must be') as told:
    committee([RIGHT, WRONG], weights)
  assert '\n' not in str(told.value)


def test_large_weights_and_arrays_are_shares_too():
  for weights in ([1e308, 1e308], np.array([0.5, 0.5])):
    learner = committee([RIGHT, WRONG], weights)
    adapted, _ = learner.adapt(KEY, ((), ()), sample(KEY).support)
    assert adapted.weights.tolist() == [0.5, 0.5]


def test_weights_are_fitted_to_a_task_or_more():
  with pytest.raises(ValueError, match='num_tasks must be 1 or more'):
    fit_weights([RIGHT, WRONG], [(), ()], sample, key=KEY, num_tasks=0)
