"""What the pictures of every finished run share: curves, title, test tasks."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.figures.charts import learning_curve, metric_by_step
from experiments.runner.loop import TEST_SEED, Finished
from experiments.runner.over_tasks import tested_on
from metajax.base import SampleTask, Task
from metajax.equality import Frozen
from metajax.runs.evaluation import example_outputs, example_task
from metajax.runs.writers import read_json_lines

__all__ = [
  'draw_curves',
  'of_task',
  'outputs_of',
  'seeds_of',
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
    f'{title_of(run)}, {tested_on(run.outcome["protocol"])}',
    baseline,
    label,
    over_seeds=run.outcome['test'].get('ci95_over_seeds_by_step'),
  )


def title_of(run: Finished, shown: str | None = None) -> str:
  """Says in one line which method was tested on what.

  Args:
    run: that is finished.
    shown: what a picture shows of the predictions of a run; of several seeds
      they are those of the first.
  """
  protocol = run.outcome['protocol']
  ways = f'{protocol["ways"]}-way ' if 'ways' in protocol else ''
  shots = protocol['shots']
  evaluation = protocol.get('evaluation')
  seeds = seeds_of(run)
  parts = [
    run.outcome['algorithm'],
    protocol['dataset'],
    f'{ways}{shots}-shot' if ways or shots else None,  # a memory has neither
    evaluation,
    f'{len(seeds)} seeds' if seeds and shown is None else None,
    f'seed {seeds[0]}' if seeds and shown is not None else None,
  ]
  title = ', '.join(filter(None, parts))
  return title if shown is None else f'{title}: {shown}'


def seeds_of(run: Finished) -> list[int]:
  """The seeds of several that have not given up; of a single one none.

  What is predicted for test tasks is of the first of them.
  """
  return [
    each['seed']
    for each in run.outcome.get('seeds', ())
    if 'gave_up_at_step' not in each
  ]


def tested(
  run: Finished, sample: SampleTask, count: int
) -> list[tuple[Task, Any]]:
  """Draws the first test tasks, with outputs after 0, 1, ... inner steps."""
  _, outputs = outputs_of(run, sample, range(count))
  return [
    (task_of_test(sample, index), of_task(outputs, index))
    for index in range(count)
  ]


def of_task(outputs: Any, place: int) -> Any:
  """The outputs of one task, leaves `[steps + 1, queries, ...]`."""
  return jax.tree.map(lambda leaf: leaf[place], outputs)


def outputs_of(
  run: Finished, sample: SampleTask, indices: Sequence[int]
) -> tuple[Any, Any]:
  """Predicts the queries of test tasks, as the test has.

  Args:
    run: whose method it is.
    sample: draws the tasks.
    indices: their numbers.

  Returns:
    Targets, leaves `[tasks, queries, ...]`, and outputs, leaves `[tasks,
    steps + 1, queries, ...]` after 0, 1, ... inner steps.
  """
  alone = jax.process_count() == 1  # others are not here to help
  if run.ready is not None and sample is run.problem.test and alone:
    learner, meta_params, sample, normalisation = run.ready
    mesh = run.problem.mesh
  else:
    learner, normalisation, prepare = run.judge
    meta_params, mesh = prepare(run.meta_params), None
  targets, outputs = example_outputs(
    learner,
    meta_params,
    sample,
    key=jax.random.key(TEST_SEED),
    indices=indices,
    normalisation=normalisation,
    # Of a large network all steps of several tasks may be too much at once.
    chunk_size=1 if isinstance(learner, Frozen) else 4,
    mesh=mesh,
  )
  return targets, jax.tree.map(np.asarray, outputs)


def task_of_test(sample: SampleTask, index: int) -> Task:
  """Draws the test task of this number."""
  return example_task(sample, jax.random.key(TEST_SEED), index)
