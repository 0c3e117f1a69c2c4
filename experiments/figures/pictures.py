"""The pictures of a finished run."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import plots
from experiments.runner.loop import TEST_SEED, Finished
from metajax.base import PADDING, PyTree, SampleTask, Task
from metajax.normalisation import predict_queries
from metajax.runs.evaluation import example_task
from metajax.runs.samplers import as_argument
from metajax.runs.writers import read_json_lines
from metajax.tasks import completion

_COMPLETED = 6  # images in the picture of a completion
_UNKNOWN = (0.55, 0.75, 0.95)  # the colour of pixels that are not known


def draw_images(run: Finished) -> None:
  """Draws the curves, and one test task with its predictions."""
  _draw_curves(run)
  ((task, outputs),) = _tested(run, run.problem.test, 1)
  # Not what only fills the task up.
  real, asked = (batch.targets != PADDING for batch in task)
  plots.image_task(
    run.workdir / 'test_task.png',
    _drawable(task.support.inputs)[real],
    task.support.targets[real],
    _drawable(task.query.inputs)[asked],
    task.query.targets[asked],
    jnp.argmax(outputs[0], axis=-1)[asked],
    jnp.argmax(outputs[-1], axis=-1)[asked],
    f'{_title(run)}: one test task',
  )


def _drawable(images: jax.Array) -> jax.Array:
  """Grey where the channels are not one colour or three."""
  if images.shape[-1] in (1, 3):
    return images
  return jnp.mean(images, axis=-1, keepdims=True)


def draw_sinusoid(run: Finished) -> None:
  """Draws the curves, and one test wave before and after adaptation."""
  _draw_curves(run)
  ((task, outputs),) = _tested(run, run.problem.test, 1)
  order = np.argsort(task.query.inputs[:, 0])
  curves = np.asarray(outputs)[:, order, 0]
  last = len(curves) - 1
  plots.sinusoid_task(
    run.workdir / 'test_task.png',
    task.query.inputs[order, 0],
    task.query.targets[order, 0],
    task.support.inputs[:, 0],
    task.support.targets[:, 0],
    curves[0],
    {step: curves[step] for step in sorted({1, last}) if step <= last},
    f'{_title(run)}: one test task',
  )


def draw_completion(run: Finished) -> None:
  """Draws the curves, and a few test images: known, completed, true."""
  _draw_curves(run)
  # All that is not known is asked for, so that images are whole.
  images = as_argument(run.problem.test).args[0]
  height, width = images.shape[1:3]
  shots = run.problem.recipe.shots
  whole = completion(images, shots, height * width - shots)
  rows = []
  for task, outputs in _tested(run, whole, _COMPLETED):
    known = on_grid(task.support.inputs, task.support.targets, height, width)
    true = known + on_grid(task.query.inputs, task.query.targets, height, width)
    guess = known + on_grid(
      task.query.inputs, jnp.clip(outputs[-1], 0, 1), height, width
    )
    is_known = on_grid(
      task.support.inputs, jnp.ones_like(task.support.targets), height, width
    )
    # Ink is dark, what is not known is coloured.
    given = jnp.where(is_known > 0, 1 - known, jnp.array(_UNKNOWN))
    rows.append([given, *(jnp.tile(1 - grey, 3) for grey in (guess, true))])
  plots.image_grid(
    run.workdir / 'completed.png',
    np.asarray(rows).swapaxes(0, 1),  # an image a column
    f'{_title(run)}: known, completed, true',
  )


def on_grid(
  places: jax.Array, values: jax.Array, height: int, width: int
) -> jax.Array:
  """Values at places from -1 to 1, as an image that is 0 elsewhere."""
  lengths = jnp.array([[height, width]])
  rows, columns = jnp.floor((places + 1) / 2 * lengths).astype(int).T
  return jnp.zeros((height, width, 1)).at[rows, columns].set(values)


def _draw_curves(run: Finished) -> None:
  metric = run.problem.metric
  name, baseline = next(iter(run.outcome['baseline'].items()))
  label = f'{name.removesuffix(f"_{metric}")} baseline'
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


def _tested(
  run: Finished, sample: SampleTask, count: int
) -> list[tuple[Task, jax.Array]]:
  """The first test tasks, and their outputs after 0, 1, ... inner steps."""
  learner, normalisation, prepare = run.judge
  key = jax.random.key(TEST_SEED)

  @jax.jit
  def outputs(meta_params: PyTree, task: Task) -> jax.Array:
    _, adaptation = learner.adapt(key, meta_params, task.support)
    return jax.lax.map(
      lambda adapted: predict_queries(learner, adapted, task, normalisation),
      adaptation.trajectory,
    )

  meta_params = prepare(run.meta_params)
  tasks = [example_task(sample, key, index) for index in range(count)]
  return [(task, outputs(meta_params, task)) for task in tasks]
