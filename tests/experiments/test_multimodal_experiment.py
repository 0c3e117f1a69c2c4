"""Runs on images and texts: a result for each kind of task, resumes."""

import json

import numpy as np
import pytest

from experiments import multimodal
from experiments.data.multimodal import TASKS, shares_of
from experiments.figures.multimodal import modal_task
from experiments.runner.errors import UsageError
from metajax.base import Batch, Task

SMALL = {
  'tasks_per_step': 1, 'eval_tasks': 4, 'validation_tasks': 2, 'log_every': 2,
  'steps': 4, 'checkpoint_every': 2, 'queries': 2, 'train_queries': 2,
  'width': 8,
}  # fmt: skip


def given(**settings) -> multimodal.Settings:
  return multimodal.Settings(**{**SMALL, **settings})


@pytest.mark.in_ci
def test_every_kind_of_task_has_a_result_and_a_picture(tmp_path):
  outcome = multimodal.run(given(workdir=tmp_path / 'run'))
  headline, *others = TASKS
  assert outcome['protocol']['dataset'] == headline
  assert list(outcome['besides']) == others
  for found in (outcome['test'], *outcome['besides'].values()):
    assert 0 <= found['accuracy'] <= 1
  files = {path.name for path in (tmp_path / 'run').iterdir()}
  assert {f'test_task_{name}.png' for name in TASKS} <= files
  assert 'validation_by_task.png' in files
  page = (tmp_path / 'run' / 'report.html').read_text()
  for name in others:
    assert f'Asked for: {name.replace("_", " ")}' in page
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  validated = json.loads(lines[-1])
  assert {f'validation/{name}/accuracy' for name in others} <= set(validated)


@pytest.mark.in_ci
def test_a_run_goes_on_as_if_it_had_not_been_stopped(tmp_path):
  kept = {'algorithm': 'maml', 'tasks': 'images,texts_to_images:2'}
  whole = multimodal.run(given(**kept))
  workdir = tmp_path / 'run'
  multimodal.run(given(**kept, steps=2, workdir=workdir))
  resumed = multimodal.run(given(**kept, workdir=workdir, resume=True))
  assert resumed['steps'] == 4
  assert resumed['test'] == whole['test']
  assert resumed['besides'] == whole['besides']


def test_shares_are_read():
  found = shares_of(given(tasks='images:0.5, texts'))
  assert found == {'images': 0.5, 'texts': 1.0}
  assert shares_of(given()) == dict.fromkeys(TASKS, 1.0)


@pytest.mark.parametrize(
  ('tasks', 'message'),
  [
    ('', 'names none; it is of texts_to_images'),
    ('sounds', "there is no 'sounds'; it is of texts_to_images"),
    ('images,images:2', 'images is there twice'),
    ('images:0', 'a share is a number above 0'),
    ('images:inf', 'a share is a number above 0'),
    ('images:nan', 'a share is a number above 0'),
    ('images:many', 'a share is a number above 0'),
    ('images:', 'a share is a number above 0'),
  ],
)
def test_shares_that_are_none_are_refused(tasks, message):
  with pytest.raises(UsageError, match=message):
    shares_of(given(tasks=tasks))


@pytest.mark.parametrize('support', ['images', 'texts'])
def test_a_task_is_drawn(tmp_path, support):
  inputs = {
    'images': np.zeros((4, 28, 28, 1), np.float32),
    'texts': np.array([[1, 2, -1]] * 4),
  }
  query = 'texts' if support == 'images' else 'images'
  labels = np.array([0, 0, 1, 1])
  task = Task(
    Batch({support: inputs[support]}, labels),
    Batch({query: inputs[query]}, labels),
  )
  modal_task(tmp_path / 'task.png', task, np.array([0, 1, 1, 1]), 'a task')
  assert (tmp_path / 'task.png').stat().st_size > 1000
