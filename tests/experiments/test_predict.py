"""From finished runs to predictions for files of one's own."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import metajax
from experiments import export, images, predict, tables, text
from experiments.runner.errors import UsageError
from metajax.trained import LearnerError

SMALL = {
  'steps': 2, 'eval_tasks': 6, 'validation_tasks': 3, 'tasks_per_step': 2,
  'shots': 2, 'queries': 2, 'train_queries': 2, 'ways': 2, 'train_ways': 2,
}  # fmt: skip


@pytest.fixture(scope='module')
def of_images(tmp_path_factory, squares) -> Path:
  """A run on a user's grey images, of prototypes."""
  workdir = tmp_path_factory.mktemp('images') / 'run'
  images.run(
    images.Settings(
      dataset='npz', data_file=str(squares), algorithm='protonet', width=4,
      network='conv4', workdir=str(workdir), **SMALL,
    )
  )  # fmt: skip
  return workdir


@pytest.fixture(scope='module')
def files(tmp_path_factory, squares) -> Path:
  """Images of two classes as files: `support/` and `queries/`."""
  root = tmp_path_factory.mktemp('files')
  with np.load(squares) as held:
    pixels, labels = held['images'], held['labels']
  for name in ('sign 0', 'sign 5'):
    own = pixels[labels == name]
    for index, each in enumerate(own):
      folder = root / ('support' if index < 3 else 'queries')
      folder = folder / name if index < 3 else folder
      folder.mkdir(parents=True, exist_ok=True)
      PIL.Image.fromarray(each).save(folder / f'{name} {index}.png')
  return root


def predicted(capsys, **settings) -> str:
  assert predict.run(predict.Settings(**settings)) == 0
  return capsys.readouterr().out


def rows_of(path: Path) -> list[dict[str, str]]:
  with path.open(encoding='utf-8') as file:
    return list(csv.DictReader(file))


def test_three_lines_of_python_know_all_that_the_run_knew(of_images, squares):
  learner = metajax.load(of_images)
  with np.load(squares) as held:
    pixels, labels = held['images'], held['labels']
  own = {name: pixels[labels == name] for name in ('sign 0', 'sign 5')}
  adapted = learner.adapt({name: each[:3] for name, each in own.items()})
  found = adapted.predict(
    np.concatenate([own['sign 0'][3:], own['sign 5'][3:]])
  )
  assert found.labels == ['sign 0'] * 3 + ['sign 5'] * 3
  assert repr(adapted) == (
    'Adapted(TrainedLearner(protonet on images) to 6 examples, of sign 0, sign'
    ' 5)'
  )
  np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)


def test_files_become_predictions(of_images, files, tmp_path, capsys):
  output = tmp_path / 'out' / 'predictions.csv'
  given = {'support': str(files / 'support'), 'queries': str(files / 'queries')}
  said = predicted(capsys, run=str(of_images), output=str(output), **given)
  *lines, path = said.splitlines()  # which may be as long as it is
  assert path == str(output)
  assert max(map(len, lines)) <= 80
  assert 'each query by itself' in said
  rows = rows_of(output)
  assert [row['class'] for row in rows] == ['sign 0'] * 3 + ['sign 5'] * 3
  assert rows[0]['query'] == 'sign 0 3.png'
  assert float(rows[0]['p(sign 0)']) > 0.5
  # Nothing of one query depends on the others.
  alone = tmp_path / 'alone.csv'
  predicted(
    capsys, run=str(of_images), support=given['support'], output=str(alone),
    queries=str(files / 'queries' / 'sign 5 4.png'),
  )  # fmt: skip
  assert rows_of(alone)[0] == rows[4]


@pytest.mark.in_ci
def test_what_is_exported_predicts_the_same(of_images, files, tmp_path, capsys):
  settings = export.Settings(
    run=str(of_images), output=str(tmp_path / 'model'), platforms=('cpu',)
  )
  assert export.run(settings) == 0
  assert 'any number of examples, of 2 classes' in capsys.readouterr().out
  found = []
  for run in (of_images, tmp_path / 'model'):
    output = tmp_path / f'{run.name}.csv'
    predicted(
      capsys, run=str(run), support=str(files / 'support'),
      queries=str(files / 'queries'), output=str(output),
    )  # fmt: skip
    found.append(rows_of(output))
  assert found[0] == found[1]
  output = str(tmp_path / 'again')
  with pytest.raises(UsageError, match='exported already'):
    export.run(
      settings.replace(run=settings.output, output=str(tmp_path / 'x'))
    )
  with pytest.raises(UsageError, match='is there already'):
    export.run(settings)


def test_the_result_says_how_sure_the_learner_is(of_images):
  found = json.loads((of_images / 'result.json').read_text())['calibration']
  assert found['normalisation'] == 'population'
  assert found['validation_tasks'] == 3
  assert found['test_tasks'] == 6
  assert 0 <= found['expected_calibration_error'] <= 1
  assert sum(found['bins']['share']) == pytest.approx(1)
  manifest = metajax.load(of_images).manifest
  assert manifest['temperature'] == found['temperature']
  assert manifest['calibrated']
  served = {name: found[name] for name in ('accuracy', 'ci95', 'normalisation')}
  assert manifest['served'] == served
  # It was fitted where queries share other statistics.
  manifest = metajax.load(of_images, normalisation='support').manifest
  assert manifest['temperature'] == 1
  assert not manifest['calibrated']
  assert manifest['served'] == {}


def test_other_classes_and_statistics_than_the_run_had(of_images, squares):
  learner = metajax.load(of_images, normalisation='support')
  with np.load(squares) as held:
    pixels, labels = held['images'], held['labels']
  own = {f'sign {i}': pixels[labels == f'sign {i}'] for i in range(4)}
  adapted = learner.adapt({name: each[:3] for name, each in own.items()})
  found = adapted.predict(pixels[labels == 'sign 2'][3:])
  assert found.probabilities.shape == (3, 4)
  one = adapted.predict(pixels[labels == 'sign 2'][3:4])
  np.testing.assert_allclose(
    one.probabilities[0], found.probabilities[0], atol=1e-5
  )
  with pytest.raises(LearnerError, match='normalisation is one of'):
    metajax.load(of_images, normalisation='none')


REFUSED = {
  'no support': ({'support': None}, 'support', 'is not given'),
  'one class': ({'support': 'one'}, 'support', 'of 1 class'),
  'no such folder': ({'support': 'nowhere'}, 'support', 'no such'),
  'other size': ({'queries': 'large'}, 'queries', r'got \[1, 20, 20, 1\]'),
  'coloured': ({'queries': 'red'}, 'queries', 'is coloured'),
  'damaged': ({'queries': 'broken'}, 'queries', r'cannot be read.*\)$'),
  'text': ({'support': 'text.csv'}, 'support', 'a folder of folders'),
  'output': ({'output': 'text.csv'}, 'output', 'is there already'),
  'transformer': ({'model_dir': 'one'}, 'run', 'leave model_dir out'),
  'a long path': ({'queries': 'x/' * 2048}, 'queries', 'up to 4095 bytes'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_is_one_line(of_images, files, tmp_path, case):
  shutil.copytree(files / 'support' / 'sign 0', tmp_path / 'one' / 'sign 0')
  for name, image in {
    'large': PIL.Image.new('L', (20, 20)),
    'red': PIL.Image.new('RGB', (16, 16), (255, 0, 0)),
  }.items():
    (tmp_path / name).mkdir()
    image.save(tmp_path / name / '1.png')
  (tmp_path / 'broken').mkdir()
  (tmp_path / 'broken' / '1.png').write_bytes(b'no image')
  (tmp_path / 'text.csv').write_text('text,label\na,b\n')
  changes, setting, message = REFUSED[case]
  given = {
    'run': str(of_images),
    'support': str(files / 'support'),
    'queries': str(files / 'queries'),
    **{
      name: value and str(tmp_path / value) for name, value in changes.items()
    },
  }
  with pytest.raises(UsageError, match=message) as error:
    predict.run(predict.Settings(**given))
  assert error.value.setting == setting
  assert '\n' not in str(error.value)


def test_a_run_that_keeps_no_learner_says_why(tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  (tmp_path / 'result.json').write_text('{"not_kept": "it flies"}')
  with pytest.raises(
    LearnerError, match=r'keeps no learner for use: it flies$'
  ):
    metajax.load(tmp_path)


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ('{"problem": "cleaning"}', 'keeps no learner for use; what it found is'),
    ('{"resume": false}', 'or of an older format; of that --resume'),
    ('damaged', 'or of an older format'),
  ],
)
def test_only_what_has_resume_is_told_of_it(config, message, tmp_path):
  (tmp_path / 'config.json').write_text(config)
  (tmp_path / 'result.json').write_text('{}')
  with pytest.raises(LearnerError, match=message):
    metajax.load(tmp_path)


def test_runs_that_cannot_be_loaded_say_why(of_images, tmp_path):
  with pytest.raises(LearnerError, match='no such directory'):
    metajax.load(tmp_path / 'none')
  with pytest.raises(LearnerError, match='neither a run nor'):
    metajax.load(tmp_path)
  copy = tmp_path / 'copy'
  shutil.copytree(of_images, copy)
  with pytest.raises(LearnerError, match=r'holds some; give one .*/copy$'):
    metajax.load(tmp_path)
  (copy / 'learner.json').rename(copy / 'kept')
  with pytest.raises(LearnerError, match='of an older format'):
    metajax.load(copy)
  (copy / 'result.json').unlink()
  with pytest.raises(LearnerError, match='no run that has come to its end'):
    metajax.load(copy)
  (copy / 'study.db').touch()
  with pytest.raises(LearnerError, match='search of settings, which keeps no'):
    metajax.load(copy)
  (copy / 'study.db').unlink()
  (copy / 'kept').rename(copy / 'learner.json')
  record = json.loads((copy / 'learner.json').read_text())
  for changes, message in (
    ({'experiment': 'os'}, 'names no experiment'),
    ({'format': 9}, 'of format 9'),
    ({'temperature': 'warm'}, 'temperature must be a finite number'),
    ({'support': {}}, 'support.inputs.shape must be a list'),
    ({'temperature': 0.1}, 'is not as it was written; bring it back, or'),
    ({'experiment': 'experiments.figures'}, 'keeps no learners for use'),
    ({'experiment': 'experiments.multimodal'}, 'keeps no learners for use'),
  ):
    (copy / 'learner.json').write_text(json.dumps({**record, **changes}))
    with pytest.raises(LearnerError, match=message):
      metajax.load(copy)
  (copy / 'learner.json').write_text('{')
  with pytest.raises(LearnerError, match='is damaged'):
    metajax.load(copy)


def test_a_learner_with_a_changed_byte_is_refused(of_images, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(of_images, copy)
  data = max(
    (copy / 'learner').rglob('*'), key=lambda path: path.stat().st_size
  )
  held = bytearray(data.read_bytes())
  held[len(held) // 2] ^= 1
  data.write_bytes(held)
  with pytest.raises(LearnerError, match='no good checkpoint'):
    metajax.load(copy)


@pytest.mark.in_ci
def test_a_learner_stands_by_itself_and_has_what_it_was_written_with(
  of_images, squares, tmp_path
):
  copy = tmp_path / 'a copy'
  shutil.copytree(of_images, copy)
  with np.load(squares) as held:
    pixels, labels = held['images'], held['labels']
  own = {name: pixels[labels == name] for name in ('sign 0', 'sign 5')}
  record = json.loads((copy / 'config.json').read_text())
  record |= {'eval_inner_steps': 9, 'precision': 'bfloat16'}
  (copy / 'config.json').write_text(json.dumps(record))
  one, other = (
    metajax.load(path).adapt(own).outputs(pixels) for path in (of_images, copy)
  )
  np.testing.assert_array_equal(one, other)
  again = images.Settings(
    dataset='npz', data_file=str(squares), algorithm='protonet', width=4,
    network='conv4', workdir=str(tmp_path / 'again'), seed=1, **SMALL,
  )  # fmt: skip
  images.run(again)
  shutil.rmtree(copy / 'learner')
  shutil.copytree(tmp_path / 'again' / 'learner', copy / 'learner')
  with pytest.raises(LearnerError, match=r'is not what .* was written with'):
    metajax.load(copy)


@pytest.mark.in_ci
def test_tasks_of_several_sizes_are_calibrated_by_the_classes_they_have(
  squares, tmp_path
):
  workdir = tmp_path / 'run'
  images.run(
    images.Settings(
      dataset='npz', data_file=str(squares), algorithm='protonet', width=4,
      network='conv4', workdir=str(workdir), min_ways=2, min_shots=1,
      split_shares=(0.5, 0.25, 0.25), **{**SMALL, 'ways': 3, 'train_ways': 3},
    )
  )  # fmt: skip
  found = json.loads((workdir / 'result.json').read_text())
  assert found['calibration']['accuracy'] == pytest.approx(
    found['test']['accuracy']
  )
  assert sum(found['calibration']['bins']['share']) == pytest.approx(1)
  with np.load(squares) as held:
    pixels, labels = held['images'], held['labels']
  own = np.isin(labels, ('sign 0', 'sign 5'))
  adapted = metajax.load(workdir).adapt((pixels[own], labels[own]))
  assert adapted.predict(pixels[own]).labels == labels[own].tolist()


@pytest.mark.in_ci
def test_texts_and_their_words(tmp_path, capsys):
  workdir = tmp_path / 'run'
  text.run(
    text.Settings(algorithm='protonet', width=16, workdir=str(workdir), **SMALL)
  )
  (tmp_path / 'support.csv').write_text(
    'text,label\nplease raise the heater,raise\nturn off the lamp,off\n'
  )
  (tmp_path / 'queries.txt').write_text('raise the heater\nturn off the lamp\n')
  output = tmp_path / 'out.csv'
  predicted(
    capsys, run=str(workdir), support=str(tmp_path / 'support.csv'),
    queries=str(tmp_path / 'queries.txt'), output=str(output),
  )  # fmt: skip
  assert [row['class'] for row in rows_of(output)] == ['raise', 'off']
  model = tmp_path / 'model'
  export.run(
    export.Settings(run=str(workdir), output=str(model), platforms=('cpu',))
  )
  support = {'raise': ['please raise the heater'], 'off': ['turn off the lamp']}
  here, there = (
    metajax.load(path).adapt(support).outputs(['raise the lamp please'])
    for path in (workdir, model)
  )
  np.testing.assert_allclose(here, there, atol=1e-5)


@pytest.mark.in_ci
@pytest.mark.parametrize('adapt', ['lora', 'head'])
def test_texts_on_a_pretrained_transformer(tmp_path, model_dir, adapt):
  workdir = tmp_path / 'run'
  moved = tmp_path / 'transformer'
  shutil.copytree(model_dir, moved)
  text.run(
    text.Settings(
      algorithm='protonet', model_dir=str(moved), adapt=adapt,
      max_tokens=24,
      workdir=str(workdir), **SMALL,
    )
  )  # fmt: skip
  moved.rename(tmp_path / 'elsewhere')
  with pytest.raises(LearnerError, match='model_dir'):
    metajax.load(workdir)
  learner = metajax.load(workdir, model_dir=tmp_path / 'elsewhere')
  support = {'raise': ['please raise the heater'], 'off': ['turn off the lamp']}
  adapted = learner.adapt(support)
  assert adapted.predict(support['off']).labels == ['off']
  model = tmp_path / 'model'
  metajax.trained.export(learner, model, platforms=('cpu',))
  np.testing.assert_allclose(
    metajax.load(model).adapt(support).outputs(['raise the lamp please']),
    adapted.outputs(['raise the lamp please']),
    atol=1e-5,
  )


@pytest.mark.in_ci
def test_tables_in_their_own_units(tmp_path, capsys):
  rng = np.random.default_rng(0)
  lines = ['task,u,v,y']
  for task in range(12):
    slope = rng.normal()
    for u, v in rng.normal(size=(9, 2)):
      lines.append(f'{task},{100 + 10 * u},{v},{1000 + 50 * slope * u}')
  table = tmp_path / 'table.csv'
  table.write_text('\n'.join(lines))
  workdir = tmp_path / 'run'
  tables.run(
    tables.Settings(
      data_file=str(table), workdir=str(workdir), steps=2, eval_tasks=4,
      validation_tasks=2, shots=4, queries=4,
      train_queries=4, algorithm='cnp', width=8,
    )
  )  # fmt: skip
  assert 'calibration' not in json.loads((workdir / 'result.json').read_text())
  (tmp_path / 's.csv').write_text('u,v,y\n100,0,1000\n110,0,1050\n90,1,950\n')
  (tmp_path / 'q.csv').write_text('v,u,name\n0,105,a\n0,95,b\n')
  output = tmp_path / 'out.csv'
  said = predicted(
    capsys, run=str(workdir), support=str(tmp_path / 's.csv'),
    queries=str(tmp_path / 'q.csv'), output=str(output),
  )  # fmt: skip
  assert 'row 2' in said
  values = [float(row['y']) for row in rows_of(output)]
  assert all(800 < value < 1200 for value in values)
  (tmp_path / 'bad.csv').write_text('u\n1\n')
  (tmp_path / 'one.csv').write_text('u,v,y,task\n100,0,1000,a\n90,1,950,a\n')
  (tmp_path / 'other.csv').write_text('u,v,task\n100,0,b\n')
  for support, queries, blamed, message in [
    ('s.csv', 'bad.csv', 'queries', "there is no column 'v'"),
    ('q.csv', 'q.csv', 'support', "there is no column 'y'"),
    ('table.csv', 'q.csv', 'support', 'rows are of 12 tasks'),
    ('s.csv', 'table.csv', 'queries', 'rows are of 12 tasks'),
    ('one.csv', 'other.csv', 'queries', "of task 'b', and the support set"),
  ]:
    with pytest.raises(UsageError, match=message) as raised:
      predict.run(
        predict.Settings(
          run=str(workdir), support=str(tmp_path / support),
          queries=str(tmp_path / queries),
        )
      )  # fmt: skip
    assert raised.value.setting == blamed
