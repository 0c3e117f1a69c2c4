"""Predicts for examples of one's own with what a run has learned.

  python -m experiments.predict --run=runs/x --support=DIR --queries=DIR

adapts to the examples of `--support` and prints what those of `--queries` are,
with probabilities. What these are follows from the run:

  images   --support: a folder of folders of images, of which each is a class;
           --queries: a folder of images, or one image
  texts    --support: a CSV or JSON lines file with a text and a label a row;
           --queries: the same without labels, or a .txt file of lines
  tables   CSV or Parquet files with the columns of the run, of rows of one
           task; --queries needs no targets

Each query is answered by itself: the others change nothing. Probabilities are
calibrated by a temperature that the run has fitted on tasks of validation.
`--run` may be a directory that `experiments.export` wrote, too.

From Python:

  learner = metajax.load('runs/x')
  adapted = learner.adapt({'cat': cats, 'dog': dogs})
  adapted.predict(images).labels
"""

import contextlib
import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data import own
from experiments.runner import flags, tables
from experiments.runner.cache import use_compilation_cache
from experiments.runner.errors import (
  UsageError,
  check_given,
  printable,
  unwritable,
)
from experiments.runner.paths import Place
from experiments.runner.progress import shown
from experiments.runner.settings import (
  Base,
  OneOf,
  Text,
  Whole,
  said,
  setting,
  settings,
)
from experiments.runner.workdir import write_text
from metajax.tasks import DataError
from metajax.trained import (
  HIGHEST_TEMPERATURE,
  LearnerError,
  Prediction,
  TrainedLearner,
  Values,
  load,
)

__all__ = ['Settings', 'Trained', 'run']

# On the terminal, rows and characters of a name.
_SHOWN, _LONG = 20, 30


@settings
class Trained(Base):
  """Which learner, and how it is used."""

  run: str | None = setting(
    None, Place(), 'workdir of a finished run, or, to predict, an exported'
    ' directory',
    of='data', resume=False,
  )  # fmt: skip
  normalisation: str | None = setting(
    None, OneOf(['support', 'population', 'transductive']),
    'what a query shares its batch statistics with: the support set, images of'
    ' training, or all queries, which are then not answered each by itself'
    ' [default: population if the run has measured it, else support]',
    of='method', resume=False,
  )  # fmt: skip
  model_dir: str | None = setting(
    None, Place(), 'where the pretrained transformer of the run is now',
    of='data', resume=False,
  )  # fmt: skip

  def load(self) -> TrainedLearner:
    """Loads it; what is wrong with it is that of `--run`."""
    options = {
      'normalisation': self.normalisation, 'model_dir': self.model_dir
    }  # fmt: skip
    given = {name: each for name, each in options.items() if each is not None}
    try:
      return load(self.run or '', **given)
    except LearnerError as error:
      raise UsageError('run', str(error)) from error


@settings
class Settings(Trained):
  """And what it adapts to and predicts for."""

  support: str | None = setting(
    None, Place(), 'examples to adapt to, with their classes or targets',
    of='data', resume=False,
  )  # fmt: skip
  queries: str | None = setting(
    None, Place(), 'examples to predict for', of='data', resume=False
  )
  output: str | None = setting(
    None, Place(), 'CSV file to write, that is not there yet',
    of='machine', resume=False,
  )  # fmt: skip
  text_column: str = setting(
    'text', Text(), 'column of texts', of='data', resume=False
  )
  label_column: str = setting(
    'label', Text(), 'column of the classes of texts', of='data', resume=False
  )
  seed: int = setting(
    0, Whole(0), 'of methods that draw something at random',
    of='method', resume=False,
  )  # fmt: skip
  cache_dir: str | None = setting(
    None, Place(), 'compiled programs [default: metajax in the user\'s cache'
    ' directory]',
    of='machine', resume=False,
  )  # fmt: skip


def run(settings: Settings) -> int:
  """Loads, adapts, predicts, prints and writes; returns the exit code."""
  check_given(settings, 'run', 'support', 'queries')
  output = Path(settings.output) if settings.output else None
  if output is not None and output.exists():
    raise UsageError(
      'output', f'{output} is there already; name a file that is not'
    )
  use_compilation_cache(settings.cache_dir)
  with shown('loading'):
    learner = settings.load()
  manifest = learner.manifest
  with _blaming('support'), shown('reading examples'):
    examples = own.support(
      manifest, Path(settings.support or ''), settings.text_column,
      settings.label_column,
    )  # fmt: skip
  with _blaming('queries'), shown('reading queries'):
    queries = own.queries(
      manifest, Path(settings.queries or ''), settings.text_column,
      Path(settings.support or ''),
    )  # fmt: skip
  try:
    with shown('adapting'):
      adapted = learner.adapt(examples, seed=settings.seed)
  except LearnerError as error:
    raise UsageError('support', f'{settings.support}: {error}') from error
  try:
    with shown('predicting'):
      found = adapted.predict(queries.inputs)
  except LearnerError as error:
    raise UsageError('queries', f'{settings.queries}: {error}') from error
  rows = table(queries.names, found)
  if output is not None:
    _write(output, rows)
  tables.show(_in_short(queries.names, found))
  _say(learner, len(rows) - 1, output)
  return 0


@contextlib.contextmanager
def _blaming(flag: str) -> Iterator[None]:
  """What is wrong with files is the user's to put right, by this flag."""
  try:
    yield
  except DataError as error:
    named = error.parameter
    if named not in said(Settings):  # it is a setting of training alone
      named = None
    raise UsageError(named or flag, error.fault) from error


def table(names: list[str], found: Prediction | Values) -> list[list[str]]:
  """The header, and a line for every query."""
  if isinstance(found, Values):
    lines = [[f'{value:.9g}' for value in row] for row in found.values]
    header = ['query', *found.names]
  else:
    header = ['query', 'class', *(f'p({name})' for name in found.classes)]
    lines = [
      [label, *(f'{each:.4f}' for each in row)]
      for label, row in zip(found.labels, found.probabilities, strict=True)
    ]
  each = zip(names, lines, strict=True)
  return [header, *([name, *line] for name, line in each)]


def _in_short(names: list[str], found: Prediction | Values) -> list[list[str]]:
  """The first rows, with the two most likely classes."""
  rows = table(names, found)[: _SHOWN + 1]
  if isinstance(found, Values):
    return rows
  header = ['query', 'class', 'probability', 'next', 'probability']
  lines = []
  for (name, *_), row in zip(rows[1:], found.probabilities, strict=False):
    best, second = np.argsort(-row, kind='stable')[:2]
    both = [
      part
      for each in (best, second)
      for part in (found.classes[each], f'{row[each]:.3f}')
    ]
    lines.append([name if len(name) <= _LONG else f'{name[:_LONG]}...', *both])
  return [header, *lines]


def _write(path: Path, rows: list[list[str]]) -> None:
  text = io.StringIO()
  csv.writer(text).writerows(rows)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())
  except OSError as error:
    raise unwritable('output', path, error) from error


def _say(learner: TrainedLearner, number: int, output: Path | None) -> None:
  """What the table leaves out."""
  manifest: Any = learner.manifest
  if number > _SHOWN:
    rest = f'{number - _SHOWN} more rows'
    print(rest if output else f'{rest}; --output=FILE.csv writes all')
  how = {
    'none': 'each query by itself',
    'population': 'each query by itself, by statistics of training',
    'support': 'each query by itself, by statistics of the support set',
    'transductive': 'all queries together: they share statistics',
  }[manifest['normalisation']]
  sure = ''
  if learner.classifies:
    sure = f'; temperature {manifest["temperature"]:.3g}'
    if not manifest.get('calibrated', True):
      sure = '; probabilities are not calibrated'
    elif manifest['temperature'] > 0.9 * HIGHEST_TEMPERATURE:
      sure += ', the highest: in validation it was right by chance alone'
  of = manifest.get('test', {}).get('seed')
  which = '' if of is None else f' of seed {of}'
  print(f'{manifest["method"]}{which}; {how}{sure}')
  if output is not None:
    print(printable(str(output)))


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
