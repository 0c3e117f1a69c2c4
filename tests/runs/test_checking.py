"""What is refused before training: one line that says what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.base import Adaptation, Batch, Learner, Task, Weighted
from metajax.models import mlp
from metajax.runs.checking import check
from metajax.tasks import episodes, sinusoid

FEATURES = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
CLASSES = np.arange(60) % 10
SINUSOID = sinusoid(3, 3)
REGRESSION = metajax.maml(mlp([4], 1), metajax.mean_squared_error, 0.1, 1)


def classifier(outputs: int, objective=metajax.cross_entropy):
  return metajax.maml(mlp([4], outputs), objective, 0.1, 1)


def ways(number: int):
  return episodes(FEATURES, CLASSES, ways=number, shots=1, queries=2)


def with_targets(make, sample=SINUSOID):
  """The tasks of a sampler with other targets."""

  def drawn(key):
    return Task(
      *(batch._replace(targets=make(batch.targets)) for batch in sample(key))
    )

  return drawn


@pytest.mark.parametrize(
  ('learner', 'objective', 'sample'),
  [
    (REGRESSION, metajax.mean_squared_error, SINUSOID),
    (classifier(5), metajax.cross_entropy, ways(5)),
    (classifier(5), metajax.cross_entropy, ways(3)),  # outputs left over
    (
      metajax.protonet(mlp([], 4), metajax.cross_entropy, 5),
      metajax.cross_entropy,
      ways(5),
    ),
    (
      REGRESSION,
      metajax.mean_squared_error,
      with_targets(
        lambda targets: Weighted(
          targets.at[0].set(jnp.nan), jnp.array([0.0, 1, 1])
        )
      ),
    ),
    (
      Learner(*REGRESSION[:3]),
      lambda outputs, targets: jnp.mean(jnp.abs(outputs - targets)),
      SINUSOID,
    ),
  ],
)
def test_what_fits_is_accepted(learner, objective, sample):
  assert check(learner, objective, sample) is None


@pytest.mark.in_ci
@pytest.mark.parametrize(
  'learner',
  [classifier(5), metajax.protonet(mlp([], 4), metajax.cross_entropy, 5)],
)
def test_more_ways_than_outputs(learner):
  message = (
    'tasks have classes from 0 to 9 as targets, 10 ways, but the learner has 5'
    ' outputs, for classes from 0 to 4'
  )
  with pytest.raises(ValueError, match=message):
    check(learner, metajax.cross_entropy, ways(10))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda targets: targets + 1, 'from 1 to 5'),
    (lambda targets: 2 * (targets % 2) - 1, 'from -1 to 1'),
    (lambda targets: targets.astype(jnp.float32), 'integer classes'),
    (lambda targets: targets[:, None], 'logits'),
    (lambda targets: jax.nn.one_hot(targets, 5), 'logits'),
  ],
)
def test_targets_that_are_no_classes(change, message):
  with pytest.raises(ValueError, match=message) as error:
    check(classifier(5), metajax.cross_entropy, with_targets(change, ways(5)))
  assert '\n' not in str(error.value)


def test_targets_that_an_objective_of_ones_own_understands():
  """Integers need not be classes, if the objective has a loss for them."""

  def hinge(outputs, targets):
    return jnp.mean(jnp.maximum(0, 1 - outputs[:, 0] * targets))

  signs = with_targets(lambda targets: 2 * (targets % 2) - 1, ways(5))
  check(classifier(1, hinge), hinge, signs)


def test_targets_that_are_not_finite():
  broken = with_targets(lambda targets: targets.at[0].set(jnp.inf))
  with pytest.raises(ValueError, match='targets that are not finite'):
    check(REGRESSION, metajax.mean_squared_error, broken)


@pytest.mark.parametrize(
  ('objective', 'message'),
  [
    (lambda outputs, targets: outputs - targets, 'must be a floating-point'),
    (lambda outputs, targets: 1, 'must be a floating-point'),
    (lambda outputs, targets: (jnp.mean(outputs), 1.0), 'dict of metrics'),
    (
      lambda outputs, targets: (jnp.mean(outputs), {'skipped': jnp.mean(1.0)}),
      "'skipped', a name that training uses itself",
    ),
    (
      lambda outputs, targets: (jnp.mean(outputs), {'error': outputs}),
      "'error' of the objective <lambda> must be a scalar",
    ),
    (lambda outputs, targets: jnp.mean(outputs) / targets.nothing, 'nothing'),
  ],
)
def test_objectives_of_wrong_form(objective, message):
  for learner in (
    REGRESSION,  # what the query loss is compared with
    metajax.maml(mlp([4], 1), objective, 0.1, 1),  # what is adapted by
  ):
    with pytest.raises(ValueError, match=message):
      check(learner, objective, SINUSOID)


@pytest.mark.parametrize(
  ('sample', 'message'),
  [
    (lambda key: tuple(SINUSOID(key)), r'Task\(support, query\); got tuple'),
    (lambda key: SINUSOID(key).support, 'got Batch'),
    (
      lambda key: Task(
        Batch(jnp.zeros((3, 1)), jnp.zeros((4, 1))), SINUSOID(key).query
      ),
      'the support set must have leaves with one common axis',
    ),
    (
      lambda key: Task(
        SINUSOID(key).support, Batch(jnp.zeros((0, 1)), jnp.zeros((0, 1)))
      ),
      'the query set must have',
    ),
    (
      lambda key: Task(
        SINUSOID(key).support, Batch(jnp.zeros((3, 2)), jnp.zeros((3, 1)))
      ),
      '^predict: ',
    ),
    (lambda key, step: SINUSOID(key), '^sample: .*step'),
  ],
)
def test_samplers_of_wrong_form(sample, message):
  with pytest.raises(ValueError, match=message):
    check(REGRESSION, metajax.mean_squared_error, sample)


def adapting(change) -> Learner:
  """A learner whose `adapt` returns something else."""

  def adapt(key, meta_params, support):
    return change(*REGRESSION.adapt(key, meta_params, support))

  return Learner(REGRESSION.init, adapt, REGRESSION.predict)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda adapted, adaptation: adapted, 'adapt must return'),
    (lambda adapted, adaptation: (adapted, adaptation.losses), 'adapt must re'),
    (
      lambda adapted, adaptation: (
        adapted,
        Adaptation(jnp.mean(adaptation.losses), adaptation.trajectory),
      ),
      r'losses of an Adaptation must be \[steps\]',
    ),
    (
      lambda adapted, adaptation: (
        adapted,
        Adaptation(adaptation.losses, adapted),
      ),
      'after 0, 1, ... steps: expected float32 of shape',
    ),
    (
      lambda adapted, adaptation: (
        adapted,
        Adaptation(adaptation.losses, jax.tree.leaves(adaptation.trajectory)),
      ),
      'after 0, 1, ... steps',
    ),
    (
      lambda adapted, adaptation: (
        adapted,
        Adaptation(
          adaptation.losses,
          jax.tree.map(lambda leaf: leaf[1:], adaptation.trajectory),
        ),
      ),
      'after 0, 1, ... steps',
    ),
  ],
)
def test_an_adaptation_of_wrong_form(change, message):
  with pytest.raises(ValueError, match=message):
    check(adapting(change), metajax.mean_squared_error, SINUSOID)
  whole = metajax.MetaLearner(*adapting(change), REGRESSION.grad)
  with pytest.raises(ValueError, match=message):
    metajax.make_train_step(whole, optax.sgd(0.1), SINUSOID, tasks_per_step=1)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda gradient, metrics: gradient, r'\(meta_gradient, metrics\)'),
    (
      lambda gradient, metrics: (jax.tree.leaves(gradient), metrics),
      'that is like the meta-parameters: expected shape',
    ),
    (
      lambda gradient, metrics: (gradient, {'loss': jnp.zeros(2)}),
      'metrics as a dict of scalars',
    ),
    (
      lambda gradient, metrics: (gradient, {'skipped': jnp.zeros(())}),
      "'skipped', a name that training uses",
    ),
  ],
)
def test_a_meta_gradient_of_wrong_form(change, message):
  def grad(key, meta_params, tasks):
    return change(*REGRESSION.grad(key, meta_params, tasks))

  learner = REGRESSION._replace(grad=grad)
  with pytest.raises(ValueError, match=message):
    check(learner, metajax.mean_squared_error, SINUSOID)
  train = metajax.make_train_step(
    learner, optax.sgd(0.1), SINUSOID, tasks_per_step=1
  )
  with pytest.raises(ValueError, match=message):
    train.run(train.init(jax.random.key(0)), 1)


def test_an_error_says_where_it_was_met_and_what_it_follows_from():
  model = mlp([4], 2)
  learner = metajax.maml(model, metajax.mean_squared_error, 0.1, 1)
  with pytest.raises(ValueError, match=r'^adapt: mean_squared_error') as error:
    check(learner, metajax.mean_squared_error, SINUSOID)
  assert isinstance(error.value.__cause__, ValueError)


def test_nothing_but_the_targets_is_computed():
  """Inputs that cost more than any machine has are shapes, and stay so."""
  big = 10**7

  def sample(key):
    batch = Batch(jnp.zeros((big, big)), jnp.zeros((big,), int))
    return Task(batch, batch)._replace(
      query=Batch(batch.inputs, jax.random.randint(key, (big,), 0, 2))
    )

  class Linear:
    @staticmethod
    def adapt(key, meta_params, support):
      logits = support.inputs @ meta_params
      loss, grad = jax.value_and_grad(
        lambda w: metajax.cross_entropy(support.inputs @ w, support.targets)[0]
      )(meta_params)
      del logits
      new = meta_params - grad
      return new, Adaptation(loss[None], jnp.stack([meta_params, new]))

  learner = Learner(
    lambda key, inputs: jnp.zeros((inputs.shape[-1], 2)),
    Linear.adapt,
    lambda adapted, inputs: inputs @ adapted,
  )
  check(learner, metajax.cross_entropy, sample)


def test_training_on_what_is_not_adapted_to():
  """Groups of tasks, to which nobody adapts, are no reason to refuse."""
  model = metajax.Model(
    lambda key, inputs: jnp.ones(inputs.shape[1:]),
    lambda params, inputs: inputs * params[None],  # of two axes only
  )
  learner = metajax.maml(model, metajax.mean_squared_error, 0.1, 1)
  metajax.make_train_step(
    metajax.hardest(learner, metajax.mean_squared_error),
    optax.sgd(0.1),
    metajax.candidates(SINUSOID, 2),
    tasks_per_step=1,
  )


@pytest.mark.parametrize('weights', [[-1.0, 1, 1], [jnp.nan, 1, 1]])
def test_weights_that_are_none(weights):
  broken = with_targets(lambda t: Weighted(t, jnp.array(weights)))
  with pytest.raises(ValueError, match='weights that are below 0'):
    check(REGRESSION, metajax.mean_squared_error, broken)


def test_an_error_in_code_of_ones_own_says_where():
  def sample(key):
    return undefined_name  # noqa: F821

  with pytest.raises(ValueError, match=r'line \d+ of test_checking.py'):
    check(REGRESSION, metajax.mean_squared_error, sample)


@pytest.mark.parametrize('optimizer', [optax.adam, 1e-3, None])
def test_what_is_no_optimiser_is_refused(optimizer):
  with pytest.raises(ValueError, match='optimizer must be an optimiser of opt'):
    metajax.make_train_step(REGRESSION, optimizer, SINUSOID, tasks_per_step=1)


def test_what_is_no_function_is_refused():
  with pytest.raises(ValueError, match='sample must be a function; got Task'):
    check(REGRESSION, metajax.mean_squared_error, SINUSOID(jax.random.key(0)))
  with pytest.raises(ValueError, match='objective must be a function; got str'):
    check(REGRESSION, 'mse', SINUSOID)
