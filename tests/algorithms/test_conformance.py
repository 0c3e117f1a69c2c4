"""What every method of the table must do; a new row is tested with no change.

Networks and images are tiny, and no method is known here by name.
"""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from experiments.recipes import images, regression
from experiments.recipes.kinds import methods, published
from metajax import testing
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS, Algorithm
from metajax.base import (
  Batch,
  Head,
  Model,
  PyTree,
  SampleTask,
  Task,
  sample_tasks,
)
from metajax.models import conv4
from metajax.models.encoders import encoder
from metajax.normalisation import population, predict_queries
from metajax.tasks import classification, episodes, pad_task, sinusoid

WAYS, SHOTS, QUERIES = 3, 2, 4
CLASSES, EXAMPLES, SIDE = 6, 8, 4
BATCH = 12  # images, where a method trains on classes
KEY = jax.random.key(0)

# Those that read tokens, or act, which have tests of their own.
ON_TOKENS = {
  name
  for name, row in ALGORITHMS.items()
  if row.head.kind in ('words', 'memory')
}
# Without a recipe for images, either, but for those of regression alone.
ON_IMAGES = sorted(
  name
  for name in set(ALGORITHMS) - ON_TOKENS
  if name in methods(images) or name not in methods(regression)
)
ON_NUMBERS = sorted(methods(regression))
ONLY_ON_NUMBERS = sorted(set(ALGORITHMS) - ON_TOKENS - set(ON_IMAGES))
TRAINED = [name for name in ON_IMAGES if ALGORITHMS[name].weights]

# Where a key matters, another number of examples is another adaptation.
NOT_AT_RANDOM = [
  name for name in ON_IMAGES if not ALGORITHMS[name].adapts_at_random
]


def some_of(names: list[str]) -> pytest.MarkDecorator:
  """All methods, of which one in eleven is tried where time is short."""
  return pytest.mark.parametrize(
    'name',
    [
      name
      if name in ON_IMAGES[2::11]
      else pytest.param(name, marks=pytest.mark.long)
      for name in names
    ],
  )


every_method = some_of(ON_IMAGES)


@cache
def labelled_images() -> tuple[np.ndarray, np.ndarray]:
  """Every class is a random pattern; an example is it with some noise."""
  generator = np.random.default_rng(0)
  patterns = generator.integers(0, 200, (CLASSES, 1, SIDE, SIDE))
  noise = generator.integers(0, 56, (CLASSES, EXAMPLES, SIDE, SIDE))
  images = (patterns + noise).astype(np.uint8).reshape(-1, SIDE, SIDE)
  return images, np.repeat(np.arange(CLASSES), EXAMPLES)


@cache
def drawn(seed: int, num_tasks: int, trains_on: str = 'tasks') -> Task:
  """Tasks, drawn once: the sorting in it takes long to compile.

  A method that trains on classes is trained on batches of all of them, and
  adapts to tasks like any other.
  """
  sample = {
    'tasks': partial(episodes, ways=WAYS, shots=SHOTS, queries=QUERIES),
    'classes': partial(classification, batch_size=BATCH),
  }[trains_on](*labelled_images())
  draw = jax.jit(lambda key: sample_tasks(sample, key, num_tasks))
  return draw(jax.random.key(seed))


def one_of(tasks: Task, key: jax.Array) -> Task:
  index = jax.random.randint(key, (), 0, len(tasks.query.targets))
  return jax.tree.map(lambda leaf: leaf[index], tasks)


def sampler(tasks: Task) -> SampleTask:
  return jax.tree_util.Partial(one_of, tasks)


def recipe_on_images(name: str, ways: int, shots: int) -> Recipe:
  """The published setting; the default where there is none."""
  if name in methods(images):
    return published(images, name, ways, shots)
  return Recipe(images.NETWORK, ways=ways, shots=shots)


def network_of(name: str, recipe: Recipe, num_outputs: int) -> Model:
  """The network that a recipe names, with the head that the method wants."""
  head = ALGORITHMS[name].head
  if head.kind == 'none':
    return Model(lambda key, inputs: (), lambda params, inputs: inputs)
  return encoder(
    recipe.network, head, num_outputs, width=recipe.width, depth=recipe.depth
  )


def small(recipe: Recipe) -> Recipe:
  """The published setting, shrunk."""
  return recipe._replace(
    queries=QUERIES,
    train_ways=None,
    train_shots=None,
    train_queries=None,
    train_classes=CLASSES,
    inner_steps=min(recipe.inner_steps, 2),
    inner_batch=recipe.inner_batch and 4,
    outer_lr=max(recipe.outer_lr, 0.01),
    tasks_per_step=4,
    steps=1000,
  )


class Case(NamedTuple):
  """A row of the table, made small."""

  row: Algorithm
  recipe: Recipe
  learner: metajax.MetaLearner


def make_case(name: str, objective=metajax.cross_entropy) -> Case:
  row = ALGORITHMS[name]
  recipe = small(recipe_on_images(name, WAYS, SHOTS))
  model = testing.small_network(row.head, recipe.ways)
  return Case(row, recipe, row.make(model, objective, recipe))


def assert_close(a: PyTree, b: PyTree, rtol: float, atol: float) -> None:
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), a, b
  )


# One meta-gradient, in double precision.


@cache
def double_tasks(trains_on: str = 'tasks') -> Task:
  tasks = drawn(0, 5, trains_on)
  as_double = partial(jnp.asarray, dtype=jnp.float64)
  return Task(
    *(Batch(as_double(batch.inputs), batch.targets) for batch in tasks)
  )


@cache
def trial_of(name: str) -> testing.Trial:
  case = make_case(name)
  return testing.make_trial(
    case.learner,
    tasks=double_tasks(),
    trained_on=double_tasks(case.row.trains_on),
    key=KEY,
  )


@every_method
def test_the_gradient_has_the_structure_of_the_meta_parameters(float64, name):
  testing.check_structure(trial_of(name))


@every_method
def test_the_gradient_is_finite_and_not_zero(float64, name):
  testing.check_finite(trial_of(name))


@every_method
def test_metrics_are_finite_scalars_with_the_names_of_the_objective(
  float64, name
):
  more = ALGORITHMS[name].more_metrics
  testing.check_metrics(trial_of(name), more=more)
  assert set(trial_of(name).metrics) == {'loss', 'accuracy', *more}


@pytest.mark.long
@every_method
def test_the_same_without_jit(float64, name):
  testing.check_without_jit(trial_of(name))


@pytest.mark.long
@every_method
@pytest.mark.parametrize('chunk_size', [1, 2])
def test_the_same_in_microbatches(float64, name, chunk_size):
  testing.check_microbatches(trial_of(name), chunk_size)


@every_method
def test_the_same_key_gives_the_same_bits(float64, name):
  testing.check_same_key(trial_of(name))


@every_method
def test_another_key_changes_what_is_random_and_nothing_else(float64, name):
  at_random = ALGORITHMS[name].adapts_at_random
  testing.check_other_key(trial_of(name), adapts_at_random=at_random)


@every_method
def test_the_trajectory_runs_from_before_to_what_is_adapted(float64, name):
  case = make_case(name)
  descends = case.row.adapts_by_gradient
  testing.check_trajectory(
    trial_of(name),
    num_steps=case.recipe.inner_steps if descends else None,
    weights=case.row.weights if descends else None,
  )


@every_method
def test_labels_are_not_known_before_adaptation(float64, name):
  testing.check_before_adaptation(trial_of(name))


@every_method
def test_a_gradient_and_an_adaptation_are_traced_once(float64, name):
  testing.check_one_trace(trial_of(name))


@pytest.mark.long
@pytest.mark.parametrize('name', ONLY_ON_NUMBERS)
def test_what_is_for_regression_alone_passes_every_check(name):
  row, recipe = ALGORITHMS[name], published(regression, name)
  model = testing.small_network(row.head, 1)
  objective = metajax.mean_squared_error
  testing.check_method(
    row.make(model, objective, recipe),
    objective=objective,
    tasks=sample_tasks(sinusoid(4, 5), KEY, 3),
    adapts_at_random=row.adapts_at_random,
  )


@pytest.mark.in_ci
@some_of(NOT_AT_RANDOM)
def test_what_fills_a_task_up_is_not_learned_from(float64, name):
  learner, meta_params = make_case(name).learner, trial_of(name).meta_params
  task = trial_of(name).task(0)
  # All of it, but one class.
  few = Task(
    *(
      jax.tree.map(lambda leaf: leaf[np.asarray(batch.targets) < 2], batch)  # noqa: B023
      for batch in task
    )
  )
  padded = pad_task(few, WAYS, support=WAYS * SHOTS, queries=WAYS * QUERIES)

  @jax.jit
  def outputs(support: Batch) -> jax.Array:
    adapted, _ = learner.adapt(KEY, meta_params, support)
    return learner.predict(adapted, few.query.inputs)

  assert_close(outputs(padded.support), outputs(few.support), 1e-7, 1e-9)


@pytest.mark.in_ci
@some_of(ON_IMAGES)
@pytest.mark.parametrize(
  'evaluation', ['transductive', 'support', 'population']
)
def test_a_query_sees_the_others_where_the_test_is_transductive(
  name, evaluation
):
  """On a network that shows them: it normalises by the batch."""
  row, sees_others = ALGORITHMS[name], evaluation == 'transductive'
  if row.on_streams:
    pytest.skip('its examples are each by itself, without a batch')
  if row.weights is None and evaluation != 'support':
    pytest.skip('it has no weights to measure a population with, or to share')
  recipe = small(recipe_on_images(name, WAYS, SHOTS))
  model = conv4(WAYS, width=8)

  def make(model: Model) -> metajax.MetaLearner:
    return row.make(model, metajax.cross_entropy, recipe)

  task = jax.tree.map(lambda leaf: leaf[0], drawn(0, 5))
  learner = make(model)
  meta_params = jax.jit(learner.init)(KEY, task.support.inputs)
  if evaluation == 'population':
    learner = population(make, model)
    weights = row.weights(meta_params)
    meta_params = meta_params, model.measure(weights, task.query.inputs)
    evaluation = 'transductive'

  @jax.jit
  def outputs(queries: jax.Array) -> jax.Array:
    adapted, _ = learner.adapt(KEY, meta_params, task.support)
    changed = task._replace(query=task.query._replace(inputs=queries))
    return predict_queries(learner, adapted, changed, evaluation)

  queries = task.query.inputs
  before, after = outputs(queries), outputs(queries.at[1:].set(queries[:-1]))
  assert (after[0] != before[0]).any() == sees_others
  assert (after[1:] != before[1:]).any()


# One training.


class Training(NamedTuple):
  """What some training did, judged on the same tasks before and after."""

  before: metajax.Evaluation
  after: metajax.Evaluation
  state: metajax.TrainState
  traces: list[int]  # of the objective, after the first of each kind, and last


@cache
def training_of(name: str) -> Training:
  traces = []

  def counting(outputs, targets):
    traces.append(1)
    return metajax.cross_entropy(outputs, targets)

  case = make_case(name, counting)
  train = metajax.make_train_step(
    case.learner,
    case.row.optimizer(case.recipe),
    sampler(drawn(1, 1000, case.row.trains_on)),
    tasks_per_step=case.recipe.tasks_per_step,
  )
  judge = partial(
    metajax.evaluate,
    case.learner,
    counting,
    sample=sampler(drawn(2, 400)),
    key=jax.random.key(1),
    num_tasks=96,
    chunk_size=32,
  )
  state = train.init(KEY)
  before = judge(meta_params=state.meta_params)
  state, _ = train.run(state, 1)
  counted = [len(traces)]
  for num_steps in (9, 15, 15):
    state, _ = train.run(state, num_steps)
  after = judge(meta_params=state.meta_params)
  return Training(before, after, state, [*counted, len(traces)])


@some_of(ON_IMAGES)
def test_new_data_and_new_parameters_need_no_second_trace(name):
  first, last = training_of(name).traces
  assert first == last > 0


@some_of(ON_IMAGES)
def test_forty_steps_are_taken_and_none_is_skipped(name):
  state = training_of(name).state
  assert (int(state.step), int(state.skipped)) == (40, 0)


@some_of(TRAINED)
def test_training_lowers_the_loss(name):
  before, after = training_of(name).before, training_of(name).after
  assert after.mean['loss'][-1] < before.mean['loss'][-1]


def knows_labels(values: jax.Array) -> bool:
  """Whether accuracies `[tasks]` are not by chance, at 99.9%."""
  values = np.asarray(values, np.float64)
  half = 3.29 * values.std(ddof=1) / np.sqrt(len(values))
  return bool(abs(values.mean() - 1 / WAYS) > half + 1e-6)


@some_of(ON_IMAGES)
def test_no_label_is_known_before_adaptation(name):
  for evaluation in training_of(name)[:2]:
    assert not knows_labels(evaluation.values['accuracy'][:, 0])


def leaking(key: jax.Array) -> Task:
  """Tasks that always number the same classes in the same order."""
  images, _ = labelled_images()
  by_class = jnp.asarray(images, jnp.float32).reshape(
    CLASSES, EXAMPLES, SIDE, SIDE, 1
  )
  chosen = jax.random.permutation(key, EXAMPLES)[: SHOTS + QUERIES]
  inputs = by_class[:WAYS, chosen] / 255

  def batch(part: jax.Array) -> Batch:
    targets = jnp.repeat(jnp.arange(WAYS), part.shape[1])
    return Batch(part.reshape(-1, SIDE, SIDE, 1), targets)

  return Task(batch(inputs[:, :SHOTS]), batch(inputs[:, SHOTS:]))


@pytest.mark.in_ci
def test_labels_that_leak_would_be_found():
  case = make_case('maml')
  train = metajax.make_train_step(
    case.learner,
    case.row.optimizer(case.recipe),
    leaking,
    tasks_per_step=4,
  )
  state, _ = train.run(train.init(KEY), 40)
  evaluation = metajax.evaluate(
    case.learner,
    metajax.cross_entropy,
    state.meta_params,
    leaking,
    key=KEY,
    num_tasks=96,
    chunk_size=32,
  )
  assert knows_labels(evaluation.values['accuracy'][:, 0])


# Wrappers around any method, as shapes only.


def check_wrapped(learner: metajax.MetaLearner, trained_on: Task) -> None:
  """A meta-gradient, and predictions for a task, traced and not computed."""
  task = jax.tree.map(lambda leaf: leaf[0], drawn(0, 5))

  def everything(
    trained_on: Task, task: Task
  ) -> tuple[PyTree, PyTree, jax.Array]:
    meta_params = learner.init(KEY, task.support.inputs)
    gradient, _ = learner.grad(KEY, meta_params, trained_on)
    adapted, _ = learner.adapt(KEY, meta_params, task.support)
    outputs = learner.predict(adapted, task.query.inputs)
    return meta_params, gradient, outputs

  meta_params, gradient, outputs = jax.eval_shape(everything, trained_on, task)
  assert jax.tree.structure(meta_params) == jax.tree.structure(gradient)
  assert outputs.shape == (WAYS * QUERIES, WAYS)


@pytest.mark.in_ci
@every_method
def test_any_method_can_be_in_an_ensemble_and_chosen_for_a_task(name):
  case = make_case(name)
  trained_on = drawn(0, 5, case.row.trains_on)
  check_wrapped(
    metajax.ensemble(case.learner, 2, 'stacked', num_classes=WAYS), trained_on
  )
  either = [make_case('pixels').learner, case.learner]
  check_wrapped(metajax.select(either, metajax.cross_entropy, WAYS), trained_on)


# The published settings, as shapes only.


def check_shapes(name, recipe, objective, outputs, support, query) -> None:
  """A whole outer step, traced and not computed."""
  row = ALGORITHMS[name]
  model = network_of(name, recipe, outputs)
  learner = row.make(model, objective, recipe)
  optimizer = row.optimizer(recipe)
  tasks = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype),
    Task(support, query),
  )

  def step(tasks: Task) -> tuple[PyTree, PyTree]:
    meta_params = learner.init(KEY, support.inputs)
    gradient, _ = learner.grad(KEY, meta_params, tasks)
    updates, _ = optimizer.update(
      gradient, optimizer.init(meta_params), meta_params
    )
    return meta_params, updates

  meta_params, updates = jax.eval_shape(step, tasks)
  shapes = [
    [leaf.shape for leaf in jax.tree.leaves(tree)]
    for tree in (meta_params, updates)
  ]
  assert shapes[0] == shapes[1]


@pytest.mark.in_ci
@every_method
def test_the_published_setting_on_images_fits_together(name):
  if ALGORITHMS[name].on_streams:
    pytest.skip('it has none on images: a network there normalises by a batch')
  ways = 20
  recipe = recipe_on_images(name, ways, 1)

  def batch(each: int) -> Batch:
    return Batch(np.zeros((ways * each, 28, 28, 1), np.float32),
                 np.repeat(np.arange(ways, dtype=np.int32), each))  # fmt: skip

  objective = metajax.cross_entropy
  support, queries = batch(1), batch(recipe.queries)
  if ALGORITHMS[name].trains_on == 'classes':
    recipe = recipe._replace(train_classes=200)
    support = queries = batch(1)
  check_shapes(name, recipe, objective, ways, support, queries)


NETWORKS = sorted(
  {
    recipe_on_images(name, WAYS, SHOTS).network
    for name in ON_IMAGES
    if ALGORITHMS[name].head.kind != 'none'
  }
)


@pytest.mark.in_ci
@pytest.mark.parametrize('name', NETWORKS)
def test_a_network_with_the_statistics_of_a_batch_is_as_on_that_batch(name):
  model = encoder(name, Head('outputs'), WAYS, width=4)
  if model.measure is None:
    pytest.skip('it has no statistics')
  inputs = jax.random.uniform(KEY, (6, 28, 28, 1))
  params = model.init(KEY, inputs)
  frozen = model.freeze(model.measure(params, inputs))
  assert_close(
    frozen.apply(params, inputs), model.apply(params, inputs), 1e-4, 1e-5
  )


@pytest.mark.in_ci
@pytest.mark.parametrize('name', ON_NUMBERS)
def test_the_published_setting_on_the_sinusoid_fits_together(name):
  recipe = published(regression, name)

  def batch(examples: int) -> Batch:
    x = np.zeros((examples, 1), np.float32)
    return Batch(x, x)

  objective = metajax.mean_squared_error
  check_shapes(name, recipe, objective, 1, batch(recipe.shots), batch(5))
