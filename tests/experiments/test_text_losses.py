"""Runs on texts that learn from more than the task."""

import json
import re

import jax
import numpy as np
import pytest

pytest.importorskip('tokenizers')

from small_texts import begun, given, save_small_transformer

from experiments import text
from experiments.runner.errors import UsageError
from experiments.runner.judging import make_judge
from experiments.runner.loop import recorded
from experiments.runner.teacher import load_teacher
from experiments.runner.workdir import open_workdir
from metajax.base import sample_tasks
from metajax.equality import as_frozen
from metajax.models.pretrained import TransformerConfig
from metajax.tasks import phrase_tokenizer


def gradient(settings, **changes):
  """What a method is trained by, and its arguments."""
  settings = settings.replace(**changes)
  problem = text.make_problem(settings, text.make_recipe(settings))

  def grad(learner, key):
    tasks = sample_tasks(problem.train, key, 1)
    made = learner.made()
    params = made.init(key, tasks.support.inputs[0])
    return made.grad(key, params, tasks)

  return grad, as_frozen(problem.meta_learner()), jax.random.key(0)


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
@pytest.mark.parametrize('pretrained', [False, True])
def test_words_are_scored_as_the_settings_say(tmp_path, pretrained):
  settings = given(
    tmp_path, algorithm='protonet', masked_words_weight=0.1, max_tokens=16
  )
  words = len(phrase_tokenizer().words)
  form = {'width': 8, 'depth': 1}
  if pretrained:
    save_small_transformer(
      tmp_path / 'model', TransformerConfig('gpt2', words, 8, 1, 2, 8, 16)
    )
    form = {'model_dir': tmp_path / 'model'}

  def traced(**changes):
    grad, *arguments = gradient(settings, **form, **changes)
    return str(jax.make_jaxpr(grad)(*arguments))

  halved = traced(precision='bfloat16')
  # Nothing else is as wide as there are words.
  assert re.search(r'bf16\[\d+,\d+,2\d\d\] = dot_general', halved)
  # Blocks of both are computed again, and not those of the features alone.
  alone, both = (
    traced(rematerialise=True, masked_words_weight=weight).count('remat')
    for weight in (None, 0.1)
  )
  assert alone < both


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


@pytest.mark.in_ci
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
  jax.eval_shape(*gradient(student))
  if algorithm != 'maml':
    jax.eval_shape(*gradient(student, train_ways=10))
    return
  with pytest.raises(UsageError, match='has an output for each') as caught:
    gradient(student, train_ways=10)
  assert caught.value.setting == 'train_ways'


@pytest.mark.in_ci
def test_a_teacher_that_has_learned_on_is_refused(tmp_path):
  first = given(tmp_path, algorithm='protonet', width=8, depth=1)
  begun(first)
  student = first.replace(teacher=tmp_path / 'run', workdir=tmp_path / 'own')
  begun(student)

  def reopened():
    problem = text.make_problem(student, text.make_recipe(student))
    on = student.replace(resume=True)
    open_workdir(tmp_path / 'own', on, recorded(problem)).release()

  reopened()
  begun(first.replace(seed=1), step=1)
  with pytest.raises(UsageError, match=r'at step 1, .* it at step 0') as caught:
    reopened()
  assert caught.value.setting == 'teacher'
  # An older record does not say.
  path = tmp_path / 'own' / 'config.json'
  fields = json.loads(path.read_text())
  del fields['teacher_digest']
  path.write_text(json.dumps(fields))
  reopened()


@pytest.mark.in_ci
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
    ({'distil_weight': 0.3}, 'distil_weight'),
    ({'distil_temperature': 'learned'}, 'distil_temperature'),
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
