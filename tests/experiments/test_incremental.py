"""Intents that arrive a few at a time: the binary."""

import json

import pytest

pytest.importorskip('tokenizers')

from experiments import incremental, text
from experiments.runner.errors import UsageError

TINY = {
  'classes': 4, 'classes_each': 2, 'shots': 2, 'queries': 2, 'sequences': 2,
  'learning_steps': 2,
}  # fmt: skip


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Workdirs of two runs, one of which has no means of classes.

  The other has learned a weight of its losses too.
  """
  folder = tmp_path_factory.mktemp('trained')
  for method, weight in (('protonet', 'learned'), ('maml', None)):
    text.run(
      text.Settings(
        algorithm=method, masked_words_weight=weight, steps=1,
        tasks_per_step=1, eval_tasks=2, validation_tasks=2, queries=2,
        train_queries=2, max_tokens=24,
        workdir=folder / method,
      )
    )  # fmt: skip
  return folder


def refusal(**settings):
  with pytest.raises(UsageError) as error:
    incremental.run(incremental.Settings(**TINY | settings))
  return str(error.value)


@pytest.mark.in_ci
def test_all_strategies_meet_the_same_classes(trained, tmp_path, capsys):
  settings = incremental.Settings(
    **TINY, run=trained / 'protonet', workdir=tmp_path / 'run'
  )
  assert incremental.run(settings) == 0
  outcome = json.loads((tmp_path / 'run' / 'result.json').read_text())
  assert outcome['protocol']['dataset'] == 'phrases'
  assert list(outcome['strategies']) == [
    'means', 'kept', 'averaged', 'relearnt', 'relearnt_on_all',
  ]  # fmt: skip
  for own in outcome['strategies'].values():
    assert len(own['accuracy']) == len(own['ci95']) == 2
    assert all(0 <= value <= 1 for value in own['accuracy'])
    assert own['accuracy_by_arrival'][0][1] == 0
    assert -1 <= own['forgetting'] <= 1
  assert (tmp_path / 'run' / 'incremental.png').read_bytes()[1:4] == b'PNG'
  page = (tmp_path / 'run' / 'report.html').read_text()
  assert 'relearnt on all, classes that have come 2: ' in page
  assert 'relearnt_on_all' in (tmp_path / 'run/incremental.md').read_text()
  assert '2 classes %' in capsys.readouterr().out
  # The same again is the same; another one is another comparison.
  assert incremental.run(settings) == 0
  again = json.loads((tmp_path / 'run' / 'result.json').read_text())
  assert again['strategies'] == outcome['strategies']
  with pytest.raises(UsageError, match='--shots was 2 and is 1'):
    incremental.run(settings.replace(shots=1))


@pytest.mark.in_ci
def test_runs_and_numbers_that_cannot_be_meant(trained, tmp_path):
  there = {'run': trained / 'protonet', 'workdir': tmp_path / 'run'}
  line = refusal(**there, classes=121, classes_each=11)
  assert '121 ways, but there are only 120 classes; ask for fewer' in line
  assert 'examples; ask for fewer' in refusal(
    **there | {'workdir': tmp_path / 'other'}, queries=59
  )
  line = refusal(run=trained / 'maml', workdir=tmp_path / 'run')
  assert 'with --algorithm=protonet' in line
  # What was refused has taken no place, nor trained anything.
  assert not (tmp_path / 'run').exists()


def test_what_is_wrong_is_said_before_anything_is_trained(tmp_path):
  workdir = tmp_path / 'run'
  line = refusal(classes=5, workdir=workdir)
  assert 'take a multiple of --classes_each' in line
  line = refusal(run=tmp_path, dataset='csv', workdir=workdir)
  assert line.startswith('--dataset: is csv, but --run says')
  assert 'no workdir of a run' in refusal(run=tmp_path, workdir=workdir)
  line = refusal(classes=121, classes_each=11, workdir=workdir)
  assert '121 ways, but there are only 120 classes; ask for fewer' in line
  line = refusal(adapt='lora', workdir=workdir)
  assert 'without --model_dir there are no weights' in line
  assert 'only with --model_dir' in refusal(rank=2, workdir=workdir)
  assert not workdir.exists()


def test_a_network_without_room_for_adapters_is_refused(tmp_path, model_dir):
  workdir = tmp_path / 'run'
  line = refusal(adapt='head', model_dir=model_dir, workdir=workdir)
  assert 'leaves nothing of the network to learn' in line
  record = text.Settings(
    algorithm='protonet', adapt='head', model_dir=model_dir
  ).given()
  (tmp_path / 'config.json').write_text(json.dumps(record))
  (tmp_path / 'result.json').write_text('{}')
  line = refusal(run=tmp_path, workdir=workdir)
  assert 'learned on fixed features' in line
  assert not workdir.exists()
