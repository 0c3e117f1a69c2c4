"""Runs on texts that learn from more than the task."""

import json

import jax
import numpy as np
import pytest

pytest.importorskip('tokenizers')

from small_texts import begun, given

from experiments import text
from experiments.runner.errors import UsageError
from experiments.runner.problem import make_judge
from experiments.runner.teacher import load_teacher
from metajax.base import sample_tasks
from metajax.equality import as_frozen


@pytest.mark.in_ci
@pytest.mark.parametrize('weight', [0.1, 'learned'])
def test_words_are_learned_beside_the_task(tmp_path, model_dir, weight):
  settings = given(
    tmp_path, algorithm='protonet', masked_words_weight=weight, width=8, depth=1
  )
  text.run(settings)
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  first = json.loads(lines[0])
  assert abs(first['auxiliary_loss'] - np.log(273)) < 1
  # Of a pretrained one of BERT's family there are words to be masked.
  masked = settings.replace(
    model_dir=model_dir, width=None, depth=None, workdir=tmp_path / 'masked'
  )
  with pytest.raises(UsageError, match=r'has no token \[MASK\]') as caught:
    text.run(masked)
  assert caught.value.setting == 'masked_words_weight'


@pytest.mark.in_ci
def test_a_run_learns_from_another(tmp_path):
  first = given(tmp_path, algorithm='protonet', width=16, depth=1)
  text.run(first)
  student = first.replace(
    workdir=tmp_path / 'student', width=8, teacher=tmp_path / 'run',
    distil_weight='learned', distil_temperature='learned',
  )  # fmt: skip
  outcome = text.run(student)
  lines = (tmp_path / 'student' / 'metrics.jsonl').read_text().splitlines()
  assert {'divergence', 'temperature', 'teacher_weight'} <= {
    *json.loads(lines[0])
  }
  assert outcome['skipped_steps'] == 0
  for changed, message in (
    ({'max_tokens': 16}, 'has learned on other tokens'),
    ({'algorithm': 'multi_task', 'train_queries': None}, 'adapts to tasks'),
    ({'teacher': tmp_path / 'none'}, 'is not readable'),
    ({'masked_words_weight': 0.1}, 'goes without --masked_words_weight'),
  ):
    other = student.replace(workdir=tmp_path / 'other', **changed)
    with pytest.raises(UsageError, match=message) as caught:
      text.run(other)
    assert caught.value.setting == 'teacher'


def taught(settings, **changes):
  """The shapes of the gradient that a student is trained by."""
  problem = text.make_problem(
    settings := settings.replace(**changes), text.make_recipe(settings)
  )
  learner = problem.meta_learner()

  def grad(learner, key):
    tasks = sample_tasks(problem.train, key, 1)
    made = learner.made()
    params = made.init(key, tasks.support.inputs[0])
    return made.grad(key, params, tasks)

  return jax.eval_shape(grad, as_frozen(learner), jax.random.key(0))


@pytest.mark.parametrize(
  ('algorithm', 'changes'),
  [
    ('protonet', {'train_ways': 7}),
    ('transfer', {'train_queries': None, 'batch_size': 8}),
    ('maml', {}),
  ],
)
def test_a_teacher_knows_as_many_classes_as_its_student_trains_on(
  tmp_path, algorithm, changes
):
  shared = given(tmp_path, width=8, depth=1)
  begun(shared.replace(algorithm=algorithm, **changes))
  student = shared.replace(
    algorithm='protonet', workdir=None, teacher=tmp_path / 'run', train_shots=3
  )
  taught(student)
  if algorithm != 'maml':
    taught(student, train_ways=10)
    return
  with pytest.raises(UsageError, match='has an output for each') as caught:
    taught(student, train_ways=10)
  assert caught.value.setting == 'train_ways'


def test_a_teacher_is_as_it_is_tested(tmp_path):
  settings = given(
    tmp_path, algorithm='reptile', width=8, depth=1, inner_steps=1,
    set='eval_inner_steps=2,inner_batch=3,eval_inner_batch=4',
  )  # fmt: skip
  problem = begun(settings)
  teacher = load_teacher(tmp_path / 'run', problem, problem.recipe)
  recipe = problem.recipe._replace(shots=problem.recipe.train_shots)
  expected = make_judge(problem._replace(recipe=recipe)).learner
  assert teacher.learner == expected


@pytest.mark.parametrize(
  ('settings', 'blamed'),
  [
    ({'masked_words_weight': 0}, 'masked_words_weight'),
    ({'masked_words_weight': 'much'}, 'masked_words_weight'),
    ({'masked_words_weight': 0.1, 'algorithm': 'scratch', 'steps': None},
     'masked_words_weight'),
    ({'batch_size': 4}, 'batch_size'),
    ({'train_ways': 10}, 'train_ways'),
    ({'train_ways': 1, 'algorithm': 'protonet'}, 'train_ways'),
    ({'train_ways': 999, 'algorithm': 'protonet'}, 'train_ways=999'),
    ({'ways': 999, 'algorithm': 'protonet'}, 'ways=999'),
    ({'algorithm': 'transfer'}, 'train_queries'),
  ],
)  # fmt: skip
def test_sizes_and_losses_that_cannot_be_meant_are_refused(
  tmp_path, settings, blamed
):
  with pytest.raises(UsageError) as caught:
    text.run(given(tmp_path, **settings))
  assert caught.value.setting == blamed
