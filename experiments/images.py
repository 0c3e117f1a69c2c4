"""Few-shot image classification.

  python -m experiments.images

meta-trains MAML (second order, 5-way 1-shot) on procedural handwriting, tests
it on held-out classes, and prints a table: accuracy before adaptation and
after each inner step, with its 95% interval, next to the pixel baseline. It
takes about two minutes on two CPU cores and needs no download. See
docs/results.md for what it and the following commands print, and for how long
they take:

  python -m experiments.images --dataset=omniglot --data_dir=DIR --rotate
  python -m experiments.images --algorithm=protonet --dataset=omniglot ...
  python -m experiments.images --dataset=npz --data_file=mine.npz
  python -m experiments.images --dataset=folder --data_dir=DIR --image_size=84

The workdir receives `result.json`, `metrics.jsonl`, `tensorboard/`,
`checkpoints/`, and pictures: `learning_curve.png`,
`accuracy_by_inner_step.png`, `test_task.png`.
"""

import sys
from typing import Any

from experiments.data import images as image_data
from experiments.runner import cluster, options
from experiments.runner.options import FLAGS, UsageError
from metajax.algorithms.recipes import Recipe
from metajax.algorithms.table import ALGORITHMS


def define_flags() -> None:
  """Defines what this experiment has beyond the shared flags."""
  options.define_flags(
    (name for name, row in ALGORITHMS.items() if row.images),
    ['transductive', 'support', 'population'],
  )
  cluster.define_flags()
  image_data.define_flags()
  for name, text in (
    ('ways', 'classes per test task'),
    ('train_ways', 'classes per training task'),
  ):
    options.define_count(
      name, None, f'{text} [default: the recipe]', at_least=2
    )
  options.define_count(
    'min_ways', None, 'tasks have from so many classes to --ways, and are'
    ' filled up to these [default: all have the same]', at_least=2,
  )  # fmt: skip
  options.define_count(
    'min_shots', None, 'the same of support examples per class'
  )
  options.define_count(
    'batch_size', None, 'images per step of methods that train on all classes'
    ' at once [default: the recipe]',
  )  # fmt: skip
  options.define_count('width', 64, 'channels of every convolution')


def make_recipe() -> Recipe:
  """The published recipe for these ways and shots, as the flags change it."""
  row = ALGORITHMS[FLAGS.algorithm]
  assert row.images is not None  # --algorithm takes no other
  recipe = row.images(FLAGS.ways or 5, FLAGS.shots or 1)
  if FLAGS.dataset == 'strokes':
    recipe = recipe._replace(steps=recipe.short_steps)
  if row.weights is None and FLAGS.evaluation == 'population':
    raise UsageError(
      'evaluation', f'{FLAGS.algorithm} has no weights to measure a'
      ' population with; use transductive or support'
    )  # fmt: skip
  recipe = options.with_overrides(recipe)
  if row.adapts_by_gradient and recipe.train_ways not in (None, recipe.ways):
    raise UsageError(
      'train_ways', f'is {recipe.train_ways}, but {FLAGS.algorithm} has an'
      f' output for each class, so only --ways={recipe.ways} is allowed'
    )  # fmt: skip
  _refuse_other_training(row.trains_on)
  return recipe


def _refuse_other_training(trains_on: str) -> None:
  """Refuses flags of the kind of training that the method does not have."""
  on_classes = ('batch_size',)
  on_tasks = ('train_ways', 'train_shots', 'train_queries')
  for name in on_tasks if trains_on == 'classes' else on_classes:
    if FLAGS[name].value is not None:
      raise UsageError(
        name, f'is {FLAGS[name].value}, but has no meaning for'
        f' {FLAGS.algorithm}, which trains on {trains_on}'
      )  # fmt: skip


def main() -> int:
  """Runs the experiment that the flags describe."""
  recipe = make_recipe()
  cluster.connect()
  cluster.divide_cpu(recipe.tasks_per_step)
  data = image_data.load(recipe)
  recipe = recipe._replace(train_classes=data.train_classes)
  from experiments.figures import images
  from experiments.runner import loop
  from experiments.runner.problem import Problem
  from metajax.metric import ACCURACY
  from metajax.objectives import cross_entropy
  from metajax.precision import with_precision

  train_ways, _, _ = image_data.sizes(recipe, training=True)
  model = with_precision(
    recipe.network(train_ways, width=FLAGS.width), FLAGS.precision
  )
  _check_size(model, data.train)
  problem = Problem(
    algorithm=ALGORITHMS[FLAGS.algorithm],
    recipe=recipe,
    objective=cross_entropy,
    model=model,
    train=data.train,
    validation=data.validation,
    test=data.test,
    metric=ACCURACY,
    protocol={
      'dataset': FLAGS.dataset,
      'ways': recipe.ways,
      'shots': recipe.shots,
      'queries_per_class': recipe.queries,
      'evaluation': recipe.evaluation,
      'test_tasks': FLAGS.eval_tasks,
      'test_seed': loop.TEST_SEED,
      'precision': FLAGS.precision,
      **{
        name: FLAGS[name].value
        for name in ('min_ways', 'min_shots')
        if FLAGS[name].value is not None
      },
      **data.protocol,
    },
  )
  name = (
    f'{image_data.file_name()}-{FLAGS.algorithm}-{recipe.ways}way-{recipe.shots}shot'
    f'-seed{FLAGS.seed}'
  )
  return loop.run(problem, name, _baseline(problem), images.draw_images)


def _check_size(model: Any, sample: Any) -> None:
  """Checks that the network can take images of this size."""
  import jax

  def outputs(key: Any) -> Any:
    inputs = sample(key).support.inputs
    return model.apply(model.init(key, inputs), inputs)

  try:
    jax.eval_shape(outputs, jax.random.key(0))
  except ValueError as error:
    flag = 'data_file' if FLAGS.data_file else 'dataset'
    raise UsageError(flag, f'{FLAGS[flag].value}: {error}') from error


def _baseline(problem: Any) -> Any:
  """Nearest class mean in pixel space, on the very same test tasks."""

  def measure() -> dict[str, float]:
    import jax

    from experiments.runner.loop import TEST_SEED
    from metajax import evaluate, nearest_class_mean

    evaluation = evaluate(
      nearest_class_mean(problem.objective, problem.recipe.ways),
      problem.objective,
      (),
      problem.test,
      key=jax.random.key(TEST_SEED),
      num_tasks=FLAGS.eval_tasks,
    )
    return {
      'pixel_accuracy': float(evaluation.mean['accuracy'][-1]),
      'pixel_ci95': float(evaluation.ci95['accuracy'][-1]),
    }

  return measure


if __name__ == '__main__':
  define_flags()
  sys.exit(cluster.run(main))
