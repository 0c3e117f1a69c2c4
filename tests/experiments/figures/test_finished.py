"""The pictures of finished runs, each of a method that learns nothing."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import assert_nothing_is_cut, pixels

from experiments.data.samplers import Classes
from experiments.figures import finished, images, regression, texts
from experiments.runner.loop import Finished
from experiments.runner.problem import Judge
from metajax.adaptation.classes import one_step
from metajax.base import Batch, Learner, Task, Weighted
from metajax.equality import EqualPartial, Frozen
from metajax.metric import ACCURACY, MEAN_SQUARED_ERROR
from metajax.tasks import completion, device_tasks, episode_places, sinusoid


def finished_run(workdir, sample, num_outputs, metric, protocol=None):
  def adapt(key, meta_params, support):
    return meta_params, one_step(0 * meta_params, meta_params)

  learner = Learner(
    init=lambda key, inputs: jnp.ones(num_outputs),
    adapt=adapt,
    predict=lambda adapted, inputs: jnp.broadcast_to(
      adapted, (len(inputs), num_outputs)
    ),
  )
  return Finished(
    problem=SimpleNamespace(
      metric=metric,
      test=sample,
      recipe=SimpleNamespace(shots=10),
      protocol=protocol or {},
    ),
    judge=Judge(learner, 'transductive', lambda params: params),
    meta_params=jnp.ones(num_outputs),
    outcome={
      'algorithm': 'nothing',
      'protocol': {'dataset': 'made up', 'shots': 10, 'test_tasks': 4},
      'baseline': {f'zero_{metric.name}': 0.3, 'zero_ci95': 0.1},
      'test': {
        f'{metric.name}_by_step': [0.5, 0.4],
        'ci95_by_step': [0.1, 0.1],
      },
    },
    workdir=workdir,
  )


def table(key):
  """Two targets of five numbers."""

  def draw(key):
    inputs = jax.random.normal(key, (12, 5))
    return Batch(inputs, inputs[:, :2])

  support, query = jax.random.split(key)
  return Task(draw(support), draw(query))


def classes(key):
  """Three classes, one of which only fills the task up."""

  def draw(key):
    return Batch(
      jax.random.uniform(key, (6, 8, 8, 2)),
      Weighted(jnp.array([0, 1, 0, 1, 2, 0]), jnp.array([1, 1, 1, 1, 0, 1])),
    )

  support, query = jax.random.split(key)
  return Task(draw(support), draw(query))


DRAWN = [
  (regression.draw_sinusoid, sinusoid(10, 20), 1, 'test_task'),
  (regression.draw_table, table, 2, 'test_task'),
  (regression.draw_table, table, 4, 'test_task'),  # two targets, two variances
  (
    regression.draw_completion,
    completion(np.zeros((7, 6, 6), np.float32), 10, 10),
    1,
    'completed',
  ),
  (images.draw_images, classes, 3, 'test_task'),
]


@pytest.mark.in_ci
@pytest.mark.parametrize(('draw', 'sample', 'num_outputs', 'name'), DRAWN)
def test_a_run_has_its_pictures(tmp_path, draw, sample, num_outputs, name):
  metric = ACCURACY if draw is images.draw_images else MEAN_SQUARED_ERROR
  draw(finished_run(tmp_path, sample, num_outputs, metric))
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
    [f'{name}.png', f'{metric.name}_by_inner_step.png']
  )
  for path in tmp_path.iterdir():
    assert_nothing_is_cut(pixels(path))


def test_a_learning_curve_is_drawn_of_what_was_recorded(tmp_path):
  run = finished_run(tmp_path, table, 2, MEAN_SQUARED_ERROR)
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "mse": 0.5}\n')
  run.outcome['baseline'].clear()
  finished.draw_curves(run)
  assert (tmp_path / 'learning_curve.png').exists()


def test_the_strongest_baseline_is_the_one_that_is_drawn(tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(
    finished,
    'metric_by_step',
    lambda *arguments, over_seeds: drawn.append(arguments[-2:]),
  )
  for metric, name in ((ACCURACY, 'great'), (MEAN_SQUARED_ERROR, 'small')):
    run = finished_run(tmp_path, table, 2, metric)
    values = {'small': 0.2, 'great': 0.9, 'none': None}
    run.outcome['baseline'] = {
      f'{each}_{metric.name}': value for each, value in values.items()
    }
    finished.draw_curves(run)
    assert drawn.pop() == (values[name], f'{name} baseline')


@pytest.mark.parametrize('names', ['size', ['size', 'price'], None])
def test_the_protocol_may_name_the_targets(tmp_path, monkeypatch, names):
  made = []
  monkeypatch.setattr(
    regression, 'table_task', lambda *arguments: made.append(arguments)
  )
  protocol = {'targets': names} if names else None
  regression.draw_table(
    finished_run(tmp_path, table, 2, MEAN_SQUARED_ERROR, protocol)
  )
  ((_, true, before, after, steps, given, title),) = made
  assert given == (['size'] if names == 'size' else names)
  assert true.shape == before.shape == after.shape == (12, 2)
  assert steps == 1
  assert title == 'nothing, made up, 10-shot: one test task'


@pytest.mark.in_ci
def test_the_texts_of_a_test_task_are_those_of_its_tokens(
  tmp_path, monkeypatch
):
  """So are the names of their classes; weights may be frozen."""
  labels = np.repeat(np.arange(6), 3)
  places = episode_places(labels, 3, 1, 2)
  run = finished_run(
    tmp_path, device_tasks(np.arange(18)[:, None], places), 3, ACCURACY
  )
  learner = run.judge.learner
  frozen = Frozen(EqualPartial(_on, learner), jnp.ones(()))
  run = run._replace(judge=run.judge._replace(learner=frozen))
  drawn, draw = {}, texts.text_task

  def watched(*given, **named):
    drawn.update(named, all=given)
    return draw(*given, **named)

  monkeypatch.setattr(texts, 'text_task', watched)
  texts.draw_texts(
    run,
    Classes(
      device_tasks(np.arange(18), places), tuple(f'text {n}' for n in range(18))
    ),
    Classes(
      device_tasks(labels, places), tuple(f'class {n}' for n in range(6))
    ),
  )
  task = finished.task_of_test(run.problem.test, 0)
  _, support, known, queries, *_ = drawn['all']
  assert support == [f'text {n}' for n in task.support.inputs[:, 0]]
  assert queries == [f'text {n}' for n in task.query.inputs[:, 0]]
  for text, label in zip(support, known, strict=True):
    number = int(text.removeprefix('text ')) // 3
    assert drawn['class_names'][int(label)] == f'class {number}'
  assert_nothing_is_cut(pixels(tmp_path / 'test_task.png'))


def _on(learner, arrays):
  return learner._replace(
    predict=lambda adapted, inputs: arrays * learner.predict(adapted, inputs)
  )


@pytest.mark.in_ci
def test_the_classes_of_a_test_task_are_called_by_their_names(
  tmp_path, monkeypatch
):
  """The names are those of the very classes whose images are drawn."""
  names = tuple(f'class {number}' for number in range(6))
  labels = np.repeat(np.arange(6), 3)
  pixels_of = np.full((18, 4, 4), 10, np.uint8) * labels[:, None, None]
  places = episode_places(labels, 3, 1, 2)
  run = finished_run(
    tmp_path, device_tasks(pixels_of.astype(np.uint8), places), 3, ACCURACY
  )
  drawn, draw = {}, images.image_task

  def watched(*given, **named):
    drawn.update(named, all=given)
    return draw(*given, **named)

  monkeypatch.setattr(images, 'image_task', watched)
  classes = device_tasks(labels.astype(np.int32), places), names
  images.draw_images(run, classes)
  _, support, known, *_ = drawn['all']
  for image, label in zip(support, known, strict=True):
    number = round(float(image[0, 0, 0]) * 25.5)
    assert drawn['class_names'][int(label)] == f'class {number}'
