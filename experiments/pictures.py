"""The pictures of a finished run."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import plots
from experiments.loop import TEST_SEED, Finished
from metajax.base import PyTree
from metajax.metrics import read_json_lines
from metajax.normalisation import predict_queries
from metajax.training import example_task


def draw_images(run: Finished) -> None:
  """Draws the curves, and one test task with its predictions."""
  _draw_curves(run)
  task, before, after = _one_task(run)
  plots.image_task(
    run.workdir / 'test_task.png',
    task.support.inputs,
    task.support.targets,
    task.query.inputs,
    task.query.targets,
    jnp.argmax(before, axis=-1),
    jnp.argmax(after, axis=-1),
    f'{_title(run)}: one test task',
  )


def draw_sinusoid(run: Finished) -> None:
  """Draws the curves, and one test wave before and after adaptation."""
  _draw_curves(run)
  task = example_task(run.problem.test, jax.random.key(TEST_SEED))
  meta_params = run.judge.prepare(run.meta_params)
  _, adaptation = run.judge.learner.adapt(
    jax.random.key(TEST_SEED), meta_params, task.support
  )
  order = np.argsort(task.query.inputs[:, 0])

  def curve(step: int) -> np.ndarray:
    adapted = jax.tree.map(lambda leaf: leaf[step], adaptation.trajectory)
    return np.asarray(
      run.judge.learner.predict(adapted, task.query.inputs)[order, 0]
    )

  last = len(adaptation.losses)
  plots.sinusoid_task(
    run.workdir / 'test_task.png',
    task.query.inputs[order, 0],
    task.query.targets[order, 0],
    task.support.inputs[:, 0],
    task.support.targets[:, 0],
    curve(0),
    {step: curve(step) for step in sorted({1, last}) if step <= last},
    f'{_title(run)}: one test task',
  )


def _draw_curves(run: Finished) -> None:
  metric = run.problem.metric
  name, baseline = next(iter(run.outcome['baseline'].items()))
  label = name.removesuffix(f'_{metric}').replace('_', ' ')
  records = run.workdir / 'metrics.jsonl'
  if records.exists():
    plots.learning_curve(
      run.workdir / 'learning_curve.png',
      read_json_lines(records),
      metric,
      _title(run),
      baseline,
      label,
    )
  plots.metric_by_step(
    run.workdir / f'{metric}_by_inner_step.png',
    run.outcome['test'][f'{metric}_by_step'],
    run.outcome['test']['ci95_by_step'],
    metric,
    f'{_title(run)}, {run.outcome["protocol"]["test_tasks"]} test tasks',
    baseline,
    label,
  )


def _title(run: Finished) -> str:
  protocol = run.outcome['protocol']
  ways = f'{protocol["ways"]}-way ' if 'ways' in protocol else ''
  evaluation = protocol.get('evaluation')
  return (
    f'{run.outcome["algorithm"]}, {protocol["dataset"]},'
    f' {ways}{protocol["shots"]}-shot'
    + (f', {evaluation}' if evaluation else '')
  )


def _one_task(run: Finished) -> tuple[PyTree, jax.Array, jax.Array]:
  """The first test task, and its outputs before and after adaptation."""
  task = example_task(run.problem.test, jax.random.key(TEST_SEED))
  meta_params = run.judge.prepare(run.meta_params)
  _, adaptation = run.judge.learner.adapt(
    jax.random.key(TEST_SEED), meta_params, task.support
  )

  def outputs(step: int) -> jax.Array:
    adapted = jax.tree.map(lambda leaf: leaf[step], adaptation.trajectory)
    return predict_queries(
      run.judge.learner, adapted, task, run.judge.normalisation
    )

  return task, outputs(0), outputs(-1)
