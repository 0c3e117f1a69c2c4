"""Sinusoid regression.

  python -m experiments.sinusoid

meta-trains MAML on sine waves from 10 points each, tests it on 1000 new ones,
and prints the mean squared error before adaptation and after each of 10 inner
steps. It takes about a minute on two CPU cores. See docs/results.md for what
it prints. From fewer than 10 points there are as many inner steps at test as in
training; some tasks would diverge in more of them.

The workdir receives `result.json`, `metrics.jsonl`, `tensorboard/`,
`checkpoints/`, and pictures: `learning_curve.png`, `mse_by_inner_step.png`,
`test_task.png` (the true curve, the points, the prediction before and after).
"""

import sys
from typing import Any

from experiments.runner import cluster, options
from experiments.runner.options import FLAGS
from metajax.algorithms.table import ALGORITHMS


def define_flags() -> None:
  """Defines the flags; this experiment has none of its own."""
  options.define_flags(
    (name for name, row in ALGORITHMS.items() if row.sinusoid),
    evaluations=[],
  )
  cluster.define_flags()


def main() -> int:
  """Runs the experiment that the flags describe."""
  published = ALGORITHMS[FLAGS.algorithm].sinusoid
  assert published is not None  # --algorithm takes no other
  recipe = options.with_overrides(published)
  if recipe.shots < published.shots and FLAGS.eval_inner_steps is None:
    recipe = recipe._replace(eval_inner_steps=recipe.inner_steps)
  cluster.connect()
  cluster.divide_cpu(recipe.tasks_per_step)
  cluster.single_thread()
  from experiments.figures import regression
  from experiments.runner import loop
  from experiments.runner.problem import Problem
  from metajax.metric import MEAN_SQUARED_ERROR
  from metajax.objectives import mean_squared_error
  from metajax.precision import with_precision
  from metajax.tasks import sinusoid

  train_shots = recipe.train_shots or recipe.shots
  tested = sinusoid(recipe.shots, recipe.queries)
  problem = Problem(
    algorithm=ALGORITHMS[FLAGS.algorithm],
    recipe=recipe,
    objective=mean_squared_error,
    model=with_precision(recipe.network(1), FLAGS.precision),
    train=sinusoid(train_shots, recipe.train_queries or recipe.queries),
    validation=tested,
    test=tested,
    metric=MEAN_SQUARED_ERROR,
    protocol={
      'dataset': 'sinusoid',
      'shots': recipe.shots,
      'queries': recipe.queries,
      'test_tasks': FLAGS.eval_tasks,
      'test_seed': loop.TEST_SEED,
      'precision': FLAGS.precision,
      'amplitude': 'U(0.1, 5)',
      'phase': 'U(0, pi)',
      'x': 'U(-5, 5)',
    },
  )
  name = f'sinusoid-{FLAGS.algorithm}-{recipe.shots}shot-seed{FLAGS.seed}'
  return loop.run(problem, name, _baseline(problem), regression.draw_sinusoid)


def _baseline(problem: Any) -> Any:
  """The error of predicting zero, on the very same test tasks."""

  def measure() -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    from experiments.runner.loop import TEST_SEED
    from metajax import Model, evaluate, maml

    zero = Model(
      init=lambda key, inputs: jnp.zeros(()),
      apply=lambda params, inputs: params * inputs,
    )
    evaluation = evaluate(
      maml(zero, problem.objective, num_steps=0),
      problem.objective,
      jnp.zeros(()),
      problem.test,
      key=jax.random.key(TEST_SEED),
      num_tasks=FLAGS.eval_tasks,
    )
    return {'zero_mse': float(evaluation.mean['mse'][0])}

  return measure


if __name__ == '__main__':
  define_flags()
  sys.exit(cluster.run(main))
