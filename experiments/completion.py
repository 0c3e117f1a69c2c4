"""Image completion: a few pixels are known, the others are predicted.

  python -m experiments.completion

meta-trains an attentive neural process on procedural handwriting, every image
a regression from the place of a pixel to its intensity, tests it on images of
held-out classes, and prints the mean squared error with its 95% interval,
beside that of the mean of the known pixels. Other methods and images:

  python -m experiments.completion --algorithm=cnp
  python -m experiments.completion --dataset=omniglot --data_dir=DIR --shots=50

Images are those of experiments.images, colours averaged to grey. Methods are
those of experiments.sinusoid. The workdir receives `result.json`,
`metrics.jsonl`, `tensorboard/`, `checkpoints/`, and pictures:
`learning_curve.png`, `mse_by_inner_step.png`, `completed.png`.
"""

import sys
from typing import Any

from experiments.data import images as image_data
from experiments.runner import cluster, options
from experiments.runner.options import FLAGS, UsageError
from metajax.algorithms.recipes import Recipe
from metajax.algorithms.table import ALGORITHMS

# Images that are drawn once, and of which the pixels are drawn then.
_TRAIN_IMAGES, _TEST_IMAGES = 2**14, 2**10


def define_flags() -> None:
  """Defines what this experiment has beyond the shared flags."""
  options.define_flags(
    (name for name, row in ALGORITHMS.items() if row.sinusoid),
    evaluations=[],
    algorithm='anp',
  )
  cluster.define_flags()
  image_data.define_flags()


def make_recipe() -> Recipe:
  """That of the sinusoid with more examples and fewer steps, and the flags."""
  regression = ALGORITHMS[FLAGS.algorithm].sinusoid
  assert regression is not None  # --algorithm takes no other
  return options.with_overrides(
    regression._replace(
      shots=100,
      queries=200,
      train_queries=200,
      eval_inner_steps=regression.inner_steps,
      steps=regression.steps and 10_000,
      log_every=50,
      checkpoint_every=1000,
    )
  )


def main() -> int:
  """Runs the experiment that the flags describe."""
  recipe = make_recipe()
  if FLAGS.images_on == 'host':
    raise UsageError('images_on', 'completion has its images on the device')
  cluster.connect()
  cluster.divide_cpu(recipe.tasks_per_step)
  # The least task that all data sets have: what is drawn for its images.
  data = image_data.load(
    Recipe(recipe.network, ways=2, tasks_per_step=recipe.tasks_per_step)
  )
  from experiments.figures import pictures
  from experiments.runner import loop
  from experiments.runner.problem import Problem
  from metajax.objectives import mean_squared_error
  from metajax.precision import with_precision

  problem = Problem(
    algorithm=ALGORITHMS[FLAGS.algorithm],
    recipe=recipe,
    objective=mean_squared_error,
    model=with_precision(recipe.network(1), FLAGS.precision),
    train=_completion(
      data.train,
      recipe.train_shots or recipe.shots,
      recipe.train_queries or recipe.queries,
      _TRAIN_IMAGES,
    ),
    validation=_completion(data.validation, recipe.shots, recipe.queries),
    test=_completion(data.test, recipe.shots, recipe.queries),
    metric='mse',
    protocol={
      'dataset': FLAGS.dataset,
      'shots': recipe.shots,
      'queries': recipe.queries,
      'test_tasks': FLAGS.eval_tasks,
      'test_seed': loop.TEST_SEED,
      'precision': FLAGS.precision,
      'intensity': 'from 0 to 1',
      **data.protocol,
    },
  )
  name = (
    f'completion-{image_data.file_name()}-{FLAGS.algorithm}-{recipe.shots}shot'
    f'-seed{FLAGS.seed}'
  )
  return loop.run(problem, name, _baseline(problem), pictures.draw_completion)


def _completion(
  sample: Any, shots: int, queries: int, count: int = _TEST_IMAGES
) -> Any:
  """Completes images that a sampler of classification tasks draws."""
  import jax
  import jax.numpy as jnp

  from metajax.base import sample_tasks
  from metajax.runs.samplers import as_argument
  from metajax.tasks import completion

  @jax.jit
  def draw(sample: Any) -> Any:
    tasks = sample_tasks(sample, jax.random.key(0), count // 4)
    images = jnp.concatenate([tasks.support.inputs, tasks.query.inputs], axis=1)
    return jnp.mean(images.reshape(-1, *images.shape[2:]), axis=-1)

  try:
    return completion(draw(as_argument(sample)), shots, queries)
  except ValueError as error:
    raise UsageError('shots', str(error)) from error


def _baseline(problem: Any) -> Any:
  """The error of the mean of the known pixels, on the very same tasks."""

  def measure() -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    from experiments.runner.loop import TEST_SEED
    from metajax import Learner, evaluate
    from metajax.adaptation.classes import one_step

    def adapt(key: Any, meta_params: Any, support: Any) -> Any:
      mean = jnp.mean(support.targets, axis=0)
      return mean, one_step(jnp.zeros_like(mean), mean)

    mean = Learner(
      init=lambda key, inputs: (),
      adapt=adapt,
      predict=lambda mean, inputs: jnp.broadcast_to(
        mean, (len(inputs), len(mean))
      ),
    )
    evaluation = evaluate(
      mean,
      problem.objective,
      (),
      problem.test,
      key=jax.random.key(TEST_SEED),
      num_tasks=FLAGS.eval_tasks,
    )
    return {'mean_mse': float(evaluation.mean['mse'][-1])}

  return measure


if __name__ == '__main__':
  define_flags()
  sys.exit(cluster.run(main))
