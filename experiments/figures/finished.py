"""What the pictures of every finished run share: curves, title, test tasks."""

import jax

from experiments.figures.charts import learning_curve, metric_by_step
from experiments.runner.loop import TEST_SEED, Finished
from metajax.base import PyTree, SampleTask, Task
from metajax.equality import Frozen, as_frozen
from metajax.inner import partition
from metajax.normalisation import predict_queries
from metajax.runs.evaluation import example_task
from metajax.runs.writers import read_json_lines

__all__ = [
  'draw_curves',
  'task_of_test',
  'tested',
  'title_of',
]


def draw_curves(run: Finished) -> None:
  """Draws the metric in training, and the metric at test by inner step."""
  metric = run.problem.metric
  suffix = f'_{metric.name}'
  # The strongest is the one to beat.
  name, baseline = min(
    (
      each
      for each in run.outcome['baseline'].items()
      if each[0].endswith(suffix) and each[1] is not None
    ),
    key=lambda each: metric.sort_key(each[1]),
    default=('', None),
  )
  label = f'{name.removesuffix(suffix)} baseline'
  records = run.workdir / 'metrics.jsonl'
  if records.exists():
    learning_curve(
      run.workdir / 'learning_curve.png',
      read_json_lines(records),
      metric,
      title_of(run),
      baseline,
      label,
    )
  if run.outcome['test'].get(f'{metric.name}_before', 0.0) is None:
    return  # the last step alone was judged
  metric_by_step(
    run.workdir / f'{metric.name}_by_inner_step.png',
    run.outcome['test'][f'{metric.name}_by_step'],
    run.outcome['test']['ci95_by_step'],
    metric,
    f'{title_of(run)}, {run.outcome["protocol"]["test_tasks"]} test tasks',
    baseline,
    label,
  )


def title_of(run: Finished) -> str:
  """Says in one line which method was tested on what."""
  protocol = run.outcome['protocol']
  ways = f'{protocol["ways"]}-way ' if 'ways' in protocol else ''
  evaluation = protocol.get('evaluation')
  return (
    f'{run.outcome["algorithm"]}, {protocol["dataset"]},'
    f' {ways}{protocol["shots"]}-shot'
    + (f', {evaluation}' if evaluation else '')
  )


def tested(
  run: Finished, sample: SampleTask, count: int
) -> list[tuple[Task, jax.Array]]:
  """Draws the first test tasks, with outputs after 0, 1, ... inner steps."""
  learner, normalisation, prepare = run.judge
  key = jax.random.key(TEST_SEED)

  @jax.jit
  def outputs(frozen: Frozen, meta_params: PyTree, task: Task) -> jax.Array:
    learner = frozen.made()
    adapted, adaptation = learner.adapt(key, meta_params, task.support)
    return jax.lax.map(
      lambda place: predict_queries(
        learner, partition.merge(place, adapted), task, normalisation
      ),
      adaptation.trajectory,
    )

  meta_params = prepare(run.meta_params)
  tasks = [task_of_test(sample, index) for index in range(count)]
  frozen = as_frozen(learner)
  return [(task, outputs(frozen, meta_params, task)) for task in tasks]


def task_of_test(sample: SampleTask, index: int) -> Task:
  """Draws the test task of this number."""
  return example_task(sample, jax.random.key(TEST_SEED), index)
