"""Odd and damaged input for the experiments, made from a generator's numbers.

Each maker starts from input that is right and does a few things to it, some of
which change nothing that it says: what is left right must be accepted.
"""

import atexit
import csv
import functools
import io
import json
import os
import shutil
import string
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import PIL.Image

from experiments import (
  by_shots,
  car,
  combine,
  compare,
  completion,
  continual,
  control,
  hypergradients,
  images,
  incremental,
  learned_optimizer,
  multimodal,
  self_destruct,
  sinusoid,
  tables,
  text,
)
from experiments.runner import flags, runs
from experiments.runner.loop import recorded
from experiments.runner.settings import said
from experiments.runner.workdir import open_workdir

__all__ = [
  'KINDS',
  'ODD',
  'Generator',
  'Input',
  'choice',
  'damage',
  'damaged',
  'odd_name',
  'up_to_training',
]

Generator = np.random.Generator


class Input(NamedTuple):
  """A command line, and what is known about it."""

  binary: str
  arguments: list[str]
  door: Callable[[list[str]], int]
  kept: bool = False  # whether nothing is wrong with it


BINARIES = {
  'car': car,
  'control': control,
  'images': images,
  'sinusoid': sinusoid,
  'tables': tables,
  'text': text,
}
# These start others, or draw and compile before they train.
STARTERS = {
  'compare': compare,
  'by_shots': by_shots,
  'combine': combine,
  'completion': completion,
  'continual': continual,
  'hypergradients': hypergradients,
  'incremental': incremental,
  'learned_optimizer': learned_optimizer,
  'multimodal': multimodal,
  'self_destruct': self_destruct,
}


def up_to_training(
  binary: str, judge: Callable[[Any], None] | None = None
) -> Callable[[list[str]], int]:
  """What a binary does with a command line, before anything is compiled."""
  experiment = BINARIES[binary].EXPERIMENT

  def prepare(settings: Any) -> int:
    problem = experiment.problem(settings, experiment.recipe(settings))
    if judge:
      judge(problem)
    return 0

  def door(argv: list[str]) -> int:
    sys.argv = argv
    return flags.main(experiment.settings, prepare)

  return door


def settings_alone(
  module: Any, run: Callable[[Any], int] = lambda settings: 0
) -> Callable[[list[str]], int]:
  """What a binary makes of its flags, and nothing else by default."""

  def door(argv: list[str]) -> int:
    sys.argv = argv
    return flags.main(module.Settings, run)

  return door


# --- flags ---

ODD = (
  '', ' ', '0', '-0', '-1', '1', '2', '3', '5', '20', '100000', '9' * 40,
  '1e3', '1e-3', '1e999', '-1e-3', '0.1', '.5', 'nan', 'inf', '-inf', '0x10',
  '1_000', '\N{FULLWIDTH DIGIT THREE}', '\N{SUPERSCRIPT TWO}', '3.0', '+3',
  'true', 'false', 'True', 'yes', 'None', 'none', 'null', 'auto', 'all', '~',
  '~/x', '~nobody/x', '.', '..', '../..', '/', '/dev/null', '/proc/self/mem',
  'a' * 300, 'a,b', ',', ',,', '1,2', '1,,2', 'a=b', 'a=1,b=2', '=', '==1',
  'task:2', 'task:0', 'task:-1', 'task', ':', 'task:2:3', 'task=2', 'maml++',
  'MAML', 'protonet', 'reptile', 'maml', 'conv4', 'mlp', 'transformer',
  'strokes', 'npz', 'folder', 'tfds:', 'tfds:../..', 'omniglot', 'v5e-8',
  'v5e', 'accuracy', 'adam', 'sgd', 'cosine', 'constant', 'float16', '%s%n',
  'bfloat16', '\x1b[31mred', 'tab\there', 'new\nline', 'e\u0301', '\u202eabc',
  '[bold]x[/bold]', '{}', '[]', '{"a": 1}', '"', "'", '\\', '--seed', '-h',
)  # fmt: skip


def flags_of(random: Generator, folder: Path) -> Input:
  """A few flags of one binary, with values that may be anything."""
  makers = {name: up_to_training(name) for name in BINARIES}
  makers |= {name: settings_alone(each) for name, each in STARTERS.items()}
  binary = str(random.choice(list(makers)))
  module = {**BINARIES, **STARTERS}[binary]
  names = list(said(module.Settings))
  arguments = []
  for _ in range(random.integers(1, 5)):
    name, value = choice(random, names), choice(random, ODD)
    if random.random() < 0.1:
      name = _typo(random, name)
    if random.random() < 0.1:
      arguments += [f'--{name}', value]
    elif random.random() < 0.1:
      arguments.append(choice(random, [f'--no{name}', f'--{name}', value]))
    else:
      arguments.append(f'--{name}={value}')
  return Input(binary, arguments, makers[binary])


def choice(random: Generator, among: Sequence[Any]) -> Any:
  """One of some."""
  return among[random.integers(len(among))]


def _typo(random: Generator, text: str) -> str:
  place = random.integers(len(text) + 1)
  letter = choice(random, string.printable[:90])
  return choice(
    random, [text[:place] + letter + text[place:], text[:place], text + 's']
  )


# --- npz ---


def npz(random: Generator, folder: Path) -> Input:
  """A file of images, a few things of which may be wrong."""
  arrays, pixels = _arrays(random)
  judge, kept = _known(pixels), True
  for _ in range(random.integers(0, 3)):
    change = choice(random, [*_HARMLESS, *_HARMFUL])
    kept &= change in _HARMLESS
    arrays = change(random, arrays)
  path = folder / 'data.npz'
  save = choice(random, [np.savez, np.savez_compressed])
  try:
    save(path, **arrays)
  except ValueError:  # NumPy itself writes no such thing
    return npz(random, folder)
  if random.random() < 0.25:
    kept = False
    damage(random, path)
  arguments = ['--dataset=npz', f'--data_file={path}', *_SMALL]
  if random.random() < 0.15:
    kept = False
    arguments.append(f'--image_size={choice(random, [0, 1, 7, 10**9])}')
  return Input(
    'images', arguments, up_to_training('images', judge if kept else None), kept
  )


# Without a network, as it is input that is looked at.
_SMALL = ('--algorithm=pixels', '--ways=2', '--shots=1', '--queries=1')


def _arrays(random: Generator) -> tuple[dict[str, Any], np.ndarray]:
  classes, each = random.integers(10, 14), random.integers(2, 5)
  size = int(random.integers(4, 9))
  channels = choice(random, [(), (1,), (3,)])
  number = classes * each
  pixels = random.integers(0, 256, (number, size, size + 1, *channels), 'uint8')
  pixels[:, 0, 0] = 255  # it is the range of bytes, and seen to be
  return {
    'images': pixels,
    'labels': random.permutation(np.arange(number) % classes),
  }, pixels


def _known(pixels: np.ndarray) -> Callable[[Any], None]:
  """Judges that all images are there, each in one split."""
  originals = {image.tobytes() for image in pixels}

  def judge(problem: Any) -> None:
    found: set[bytes] = set()
    for sampler in (problem.train, problem.validation, problem.test):
      leaves = jax.tree.leaves(sampler)
      stored = np.asarray(max(leaves, key=lambda leaf: leaf.size))
      own = {image.tobytes() for image in stored}
      assert own, 'a split is empty'
      assert not own & found, 'an image is in two splits'
      found |= own
    assert found == originals, 'images were changed or lost'

  return judge


def _with(name: str, change: Callable[[Generator, Any], Any]) -> Any:
  def changed(random: Generator, arrays: dict[str, Any]) -> dict[str, Any]:
    if name not in arrays:
      return arrays
    try:
      return {**arrays, name: change(random, arrays[name])}
    except (ValueError, TypeError, OverflowError, IndexError):
      return arrays  # after other changes it may have no meaning

  return changed


_HARMLESS = (
  _with('labels', lambda random, x: x.astype(choice(random, ['i1', 'u8']))),
  _with('labels', lambda random, x: x.astype(str)),
  _with('labels', lambda random, x: x * 7 + 3),
  _with('images', lambda random, x: np.asfortranarray(x)),
  lambda random, arrays: dict(reversed(arrays.items())),
  lambda random, arrays: {**arrays, 'notes': np.arange(3)},
)
_HARMFUL = (
  _with('images', lambda random, x: x.astype(choice(random, 'bhiqefdFDSUOM'))),
  _with('images', lambda random, x: x / choice(random, [1, 16, 255.0, -1])),
  _with('images', lambda random, x: np.moveaxis(x, -1, 1)),
  _with('images', lambda random, x: np.moveaxis(x, 0, -1)),
  _with('images', lambda random, x: x[..., None]),
  _with('images', lambda random, x: x[..., 0]),
  _with('images', lambda random, x: x[: random.integers(4)]),
  _with('images', lambda random, x: x[:, :0]),
  _with('images', lambda random, x: np.where(x > 250, np.nan, x)),
  _with('images', lambda random, x: np.where(x > 250, np.inf, x)),
  _with('images', lambda random, x: x.astype('u2') * 257),
  _with('images', lambda random, x: x.astype('>i4')),
  _with('images', lambda random, x: np.zeros_like(x)),
  _with('images', lambda random, x: np.array([{'a': 1}, None])),
  _with('images', lambda random, x: np.float64(3)),
  _with('labels', lambda random, x: x[:-1]),
  _with('labels', lambda random, x: x + 0.5),
  _with('labels', lambda random, x: x.astype(float)),
  _with('labels', lambda random, x: np.where(x > 8, np.nan, x)),
  _with('labels', lambda random, x: np.zeros_like(x)),
  _with('labels', lambda random, x: np.eye(64)[x]),
  _with('labels', lambda random, x: x.astype(bool)),
  _with('labels', lambda random, x: np.array([None, *x[1:]], object)),
  _with('labels', lambda random, x: x.astype('M8[s]')),
  _with('labels', lambda random, x: np.array([odd_name(random) for _ in x])),
  lambda random, arrays: {'x': arrays.get('images', 0), 'y': 1},
  lambda random, arrays: {k: v for k, v in arrays.items() if k != 'labels'},
  lambda random, arrays: {},
)


def damage(random: Generator, path: Path) -> None:
  """Does to a file what disks, programs and people do."""
  content = bytearray(path.read_bytes())
  way = random.integers(9)
  if way == 0:
    content = content[: random.integers(len(content) + 1)]
  elif way == 1:
    for _ in range(random.integers(1, 9)):
      if content:
        content[random.integers(len(content))] = random.integers(256)
  elif way == 2:
    content = bytearray(random.bytes(random.integers(2000)))
  elif way == 3:
    content += random.bytes(100)
  elif way == 4 and content:
    start = random.integers(len(content))
    del content[start : start + random.integers(1, 50)]
  path.unlink()
  if way == 5:
    path.mkdir()
  elif way == 6:
    path.symlink_to(path.name)  # to itself
  elif way == 7:
    return  # gone
  elif way == 8:
    path.symlink_to('/dev/null')
  else:
    path.write_bytes(content)


# --- names and lists ---

_PIECES = (
  'a', 'B', '\u00e9', 'e\u0301', '\u00df', ' ', '  ', '\t', '\r', '\n', '\0',
  '\ufeff', '\u200b', '\xa0', '/', '\\', '..', '.', ',', ';', '"', "'",
  '\x1b[2J', '[bold]', '\u202e', '\U0001f600', '%', '~', '-', '0',
)  # fmt: skip


def odd_name(random: Generator) -> str:
  """A name that someone might give to a class or to a file."""
  return ''.join(choice(random, _PIECES) for _ in range(random.integers(0, 6)))


def pictures(random: Generator, folder: Path) -> Input:
  """A folder of image files and their lists."""
  kept, size = True, 6
  directory = folder / 'images'
  directory.mkdir()
  rows: dict[str, list[tuple[str, str]]] = {}
  pixels = []
  for name in ('train', 'val', 'test'):
    rows[name] = []
    for number in range(random.integers(4, 9)):
      image = random.integers(0, 256, (size, size, 3), 'uint8')
      pixels.append(image)
      file = f'{name}{number}.png'
      PIL.Image.fromarray(image).save(directory / file)
      rows[name].append((file, f'{name}-{number % 2}'))
  files = sorted(directory.iterdir())
  for _ in range(random.integers(0, 3)):
    if random.random() < 0.6:
      kept = False
      _redraw(random, choice(random, files))
    else:
      kept = False
      damage(random, files.pop(random.integers(len(files))))
  for name, lines in rows.items():
    kept &= _write_list(random, folder / f'{name}.csv', lines)
  if random.random() < 0.1:
    kept = False
    damage(random, folder / f'{choice(random, list(rows))}.csv')
  arguments = ['--dataset=folder', f'--data_dir={folder}', *_SMALL]
  if random.random() < 0.3:
    kept = False
    arguments.append(f'--image_size={choice(random, [1, 5, 84])}')
  if random.random() < 0.3:
    arguments.append('--skip_unreadable')
  judge = _known(np.array(pixels)) if kept else None
  return Input('images', arguments, up_to_training('images', judge), kept)


def _redraw(random: Generator, path: Path) -> None:
  """Another picture under the same name: of any size, mode and format."""
  size = tuple(int(choice(random, [1, 2, 6, 6, 6, 50])) for _ in range(2))
  mode = choice(
    random, ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'I;16', 'I', 'F']
  )
  kind = choice(random, ['PNG', 'JPEG', 'GIF', 'BMP', 'TIFF', 'WEBP', 'PPM'])
  options: dict[str, Any] = {}
  if random.random() < 0.3:
    exif = PIL.Image.Exif()
    exif[0x0112] = int(random.integers(-1, 11))  # orientation
    options['exif'] = exif
  if random.random() < 0.2:
    options['transparency'] = 0
  content = io.BytesIO()
  try:
    picture = PIL.Image.new(mode, size, int(random.integers(2)))
    if random.random() < 0.1:
      options |= {'save_all': True, 'append_images': [picture.copy()]}
    picture.save(content, kind, **options)
  except (OSError, ValueError, TypeError, KeyError, struct.error):
    return  # there is no such file
  found = content.getvalue()
  if random.random() < 0.05 and found[:4] == b'\x89PNG':
    # A header that promises more pixels than any machine has.
    found = found[:16] + b'\x7f\xff\xff\xff' * 2 + found[24:]
  path.unlink()
  path.write_bytes(found)


def _write_list(
  random: Generator, path: Path, lines: list[tuple[str, str]]
) -> bool:
  """Writes a list in one of many ways; tells whether it says the same."""
  text, same = io.StringIO(), True
  header = ['filename', 'label']
  if random.random() < 0.1:
    same = False
    header = choice(
      random, [['label', 'filename'], ['file', 'class'], [], ['filename']]
    )
  writer = csv.writer(
    text,
    lineterminator=choice(random, ['\n', '\r\n']),
    quoting=choice(random, [csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
  )
  writer.writerow(header)
  lines = [lines[i] for i in random.permutation(len(lines))]
  for file, label in lines:
    chance = random.random()
    if chance < 0.02:
      same, label = False, odd_name(random)
    elif chance < 0.04:
      same, file = False, odd_name(random)
    elif chance < 0.05:
      same = False
      file = choice(
        random, [f'../{file}', f'./{file}', f'/etc/{file}', file.upper()]
      )
    elif chance < 0.06:
      same = False
      writer.writerow([file] * random.integers(4))
    writer.writerow([file, label])
  encoding = 'utf-8'
  if random.random() < 0.2:
    encoding = choice(random, ['utf-8-sig', 'utf-16', 'latin-1'])
    same &= encoding != 'utf-16'
  path.write_bytes(text.getvalue().encode(encoding, errors='replace'))
  return same


def class_lists(random: Generator, folder: Path) -> Input:
  """Arrays whose classes lists divide."""
  classes = 12
  names = np.array([f'class {i}' for i in range(classes)])
  pixels = random.integers(0, 256, (3 * classes, 5, 5), 'uint8')
  pixels[:, 0, 0] = 255
  np.savez(folder / 'data.npz', images=pixels, labels=np.tile(names, 3))
  kept = True
  parts = np.split(random.permutation(classes), [6, 9])
  for name, part in zip(('train', 'val', 'test'), parts, strict=True):
    lines = list(names[part])
    for place, line in enumerate(lines):
      chance = random.random()
      if chance < 0.05:
        lines[place] = choice(random, [f' {line}', f'{line}\r', f'{line} '])
      elif chance < 0.1:
        kept = False
        lines[place] = choice(
          random, [odd_name(random), choice(random, names), line.upper()]
        )
    text = '\n'.join(lines) + choice(random, ['', '\n', '\n\n'])
    path = folder / f'{name}.txt'
    path.write_text(text, choice(random, ['utf-8', 'utf-8', 'utf-8-sig']))
    if random.random() < 0.05:
      kept = False
      damage(random, path)
  judge = _known(pixels) if kept else None
  return Input(
    'images',
    [
      '--dataset=npz', f'--data_file={folder / "data.npz"}',
      f'--split_dir={folder}', *_SMALL,
    ],
    up_to_training('images', judge),
    kept,
  )  # fmt: skip


# --- tables ---


def table(random: Generator, folder: Path) -> Input:
  """A CSV of tasks, a row an example."""
  rows: list[list[Any]] = [['task', 'a', 'b', 'y']]
  for task in range(random.integers(10, 14)):
    for _ in range(random.integers(12, 15)):
      rows.append([f't{task}', *np.round(random.normal(size=3), 3)])
  return _of_table(random, folder, rows, [])


def classes(random: Generator, folder: Path) -> Input:
  """The same with two classes, and an order in which rows came."""
  rows: list[list[Any]] = [['task', 'day', 'a', 'b', 'y']]
  names = choice(random, [(0, 1), ('false', 'true'), (-1, 2.5)])
  for task in range(random.integers(10, 14)):
    for day in range(random.integers(16, 20)):
      features = np.round(random.normal(size=2), 3)
      rows.append([f't{task}', day, *features, names[day % 2]])
  return _of_table(
    random,
    folder,
    rows,
    [
      '--target_type=classes',
      '--algorithm=maml',
      '--task_column=task',
      '--train_queries=2',
      *choice(random, [[], ['--order_column=day']]),
    ],
  )


def _of_table(
  random: Generator, folder: Path, rows: list[list[Any]], said: list[str]
) -> Input:
  kept = True
  for _ in range(random.integers(0, 3)):
    kept = False
    row = choice(random, rows)
    way = random.integers(5)
    if way == 0 and row:
      row[random.integers(len(row))] = choice(random, ODD)
    elif way == 1 and row:
      del row[random.integers(len(row))]
    elif way == 2:
      row.append(choice(random, ODD))
    elif way == 3:
      rows.remove(row)
    else:
      rows.insert(random.integers(len(rows)), [])
  text = io.StringIO()
  csv.writer(text, delimiter=choice(random, ',,,,,;\t')).writerows(rows)
  kept &= ';' not in text.getvalue() and '\t' not in text.getvalue()
  path = folder / choice(random, ['data.csv', 'data.csv', 'data.parquet'])
  kept &= path.suffix == '.csv'
  path.write_text(text.getvalue(), encoding='utf-8')
  if random.random() < 0.2:
    kept = False
    damage(random, path)
  arguments = [f'--data_file={path}', '--shots=2', '--queries=2', *said]
  if random.random() < 0.2:
    kept = False
    name = choice(random, ['task_column', 'target_columns', 'feature_columns'])
    value = choice(random, ['a', 'y', 'task', 'a,b', 'y,y', 'z', '', ','])
    arguments.append(f'--{name}={value}')
  return Input('tables', arguments, up_to_training('tables'), kept)


# --- records ---

_NO_TRAINING = {
  'algorithm': 'pixels', 'dataset': 'npz', 'ways': 2, 'shots': 1, 'queries': 1,
  'eval_tasks': 2,
}  # fmt: skip


@functools.cache
def workdirs() -> Path:
  """Workdirs that are whole: of a run, and of each binary that reads runs."""
  folder = Path(tempfile.mkdtemp(prefix='fuzz-'))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  arrays, _ = _arrays(np.random.default_rng(0))
  np.savez(folder / 'data.npz', **arrays)
  if (pid := os.fork()) == 0:  # whoever has computed something must not fork
    images.run(
      images.Settings(
        workdir=folder / 'run', data_file=folder / 'data.npz', **_NO_TRAINING
      )
    )
    os._exit(0)
  os.waitpid(pid, 0)
  shutil.copytree(folder / 'run', folder / 'by_shots' / 'run' / '1_shots')
  shutil.copytree(folder / 'run', folder / 'compare' / 'pixels')
  return folder


def records(random: Generator, folder: Path) -> Input:
  """Workdirs, what is remembered in which may be damaged."""
  shutil.copytree(workdirs(), folder, dirs_exist_ok=True)
  binary = choice(random, ['images', 'by_shots', 'compare'])
  run = {
    'images': folder / 'run',
    'by_shots': choice(
      random, [folder / 'run', folder / 'by_shots' / 'run' / '1_shots']
    ),
    'compare': folder / 'compare' / 'pixels',
  }[binary]
  kept = random.random() < 0.1
  if not kept:
    path = run / choice(random, ['config.json', 'result.json'])
    if random.random() < 0.25:
      damage(random, path)
    else:
      value = json.loads(path.read_text())
      for _ in range(random.integers(1, 3)):
        value = damaged(random, value)
      path.write_text(
        choice(random, _WHOLE) if random.random() < 0.1 else json.dumps(value)
      )
  data = f'--data_file={workdirs() / "data.npz"}'
  arguments, door = {
    'images': (
      [
        f'--workdir={run}', '--resume', data,
        *(f'--{name}={value}' for name, value in _NO_TRAINING.items()),
      ],
      resumed,
    ),
    'by_shots': (
      [
        f'--workdir={folder / "by_shots"}', f'--runs={folder / "run"}',
        '--shots=1', '--queries=1', '--eval_tasks=2',
      ],
      settings_alone(by_shots, run=begun(by_shots.run)),
    ),
    'compare': (
      [
        f'--workdir={folder / "compare"}', '--dataset=npz', data, '--ways=2',
        '--methods=pixels', '--eval_tasks=2',
      ],
      settings_alone(compare, run=begun(compare.run)),
    ),
  }[binary]  # fmt: skip
  return Input(binary, arguments, door, kept)


def begun(run: Callable[[Any], int]) -> Callable[[Any], int]:
  """Goes on with a comparison that was begun with the same settings."""

  def go_on(settings: Any) -> int:
    record = json.dumps(settings.given())
    (Path(settings.workdir) / 'config.json').write_text(record)
    return run(settings)

  return go_on


def resumed(argv: list[str]) -> int:
  """What resuming a run reads before it goes on."""

  def resume(settings: Any) -> int:
    experiment = images.EXPERIMENT
    problem = experiment.problem(settings, experiment.recipe(settings))
    workdir = Path(settings.workdir)
    open_workdir(workdir, settings, recorded(problem)).release()
    runs.read(workdir)
    return 0

  sys.argv = argv
  return flags.main(images.Settings, resume)


_WHOLE = (
  '[' * 100_000,
  '[]',
  'null',
  '3',
  '"a"',
  '{"a": NaN}',
  '{}',
  '9' * 5000,
)
_VALUES: tuple[Any, ...] = (
  None, True, 0, -1, 3, 2**31, 10**400, 0.5, -0.5, 1e308, float('nan'),
  float('inf'), '', 'a', 'maml', '\x1b[31m', '../..', 'a' * 500, [], [1], ['a'],
  [[[]]], {}, {'a': 1}, {'name': 3},
)  # fmt: skip


def damaged(random: Generator, value: Any) -> Any:
  """Another value somewhere in a tree, or one less."""
  if isinstance(value, dict) and value and random.random() < 0.9:
    key = choice(random, list(value))
    if random.random() < 0.2:
      return {name: each for name, each in value.items() if name != key}
    return {**value, key: damaged(random, value[key])}
  return choice(random, _VALUES)


KINDS: dict[str, Callable[[Generator, Path], Input]] = {
  'flags': flags_of,
  'npz': npz,
  'pictures': pictures,
  'lists': class_lists,
  'table': table,
  'classes': classes,
  'records': records,
}
