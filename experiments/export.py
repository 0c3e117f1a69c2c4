"""Exports what a run has learned as programs that need no metajax.

  python -m experiments.export --run=runs/x --output=DIR

writes adapt and predict as serialised programs of JAX, for CPU, CUDA and TPU,
the weights as safetensors, and a manifest with checksums, what inputs are,
classes, protocol and versions. `DIR/learner` runs them with jax, numpy and
flatbuffers alone; `experiments.serve --model=DIR` serves them.
"""

import sys
from pathlib import Path

from experiments.predict import Trained
from experiments.runner import flags
from experiments.runner.errors import UsageError, check_given, printable
from experiments.runner.paths import Place
from experiments.runner.progress import shown
from experiments.runner.settings import (
  Listed,
  OneOf,
  Whole,
  setting,
  settings,
)
from metajax.trained import PLATFORMS, LearnerError, export

__all__ = ['Settings', 'run']


class Platforms(Listed):
  """Names of platforms with commas between them."""

  allowed = f'a list of {", ".join(PLATFORMS)}'
  member = OneOf(PLATFORMS)


@settings
class Settings(Trained):
  """And where to."""

  output: str | None = setting(
    None, Place(), 'directory to write, that is not there yet',
    of='machine', resume=False,
  )  # fmt: skip
  ways: int | None = setting(
    None, Whole(2), 'classes that it tells apart at most, where the method'
    ' leaves a choice [default: as at the test of the run]',
    of='method', resume=False,
  )  # fmt: skip
  platforms: tuple[str, ...] = setting(
    PLATFORMS, Platforms(), 'what programs run on', of='machine', resume=False
  )


def run(settings: Settings) -> int:
  """Loads, exports and says what there is; returns the exit code."""
  check_given(settings, 'run', 'output')
  if not settings.platforms:
    raise UsageError('platforms', 'is empty; name one or more')
  learner = settings.load()
  output = Path(settings.output or '')
  with shown('exporting') as stage:

    def tell(what: str) -> None:
      stage.what = f'exporting: {what}'

    try:
      manifest = export(
        learner, output, ways=settings.ways, platforms=settings.platforms,
        progress=tell,
      )  # fmt: skip
    except LearnerError as error:
      raise UsageError('output', str(error)) from error
  for name, file in manifest['files'].items():
    print(f'{file["bytes"]:>12,} bytes  {name}')
  sizes = [each['examples'] for each in manifest['programs']]
  number = 'any number of' if sizes == [None] else ' or '.join(map(str, sizes))
  classes = manifest['outputs'].get('classes')
  most = '' if classes is None else f', of {classes} classes at most'
  print(
    f'runs on {", ".join(manifest["platforms"])}; adapts to {number}'
    f' examples{most}'
  )
  print(f'next: python -m experiments.serve --model={printable(str(output))}')
  return 0


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
