"""Writes a trained learner as serialised programs, which need no metajax."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.trained import portable
from metajax.trained.portable import (
  FORMAT,
  MANIFEST,
  LearnerError,
  TrainedLearner,
  digest_of,
)
from metajax.trained.programs import Built, Compiled

__all__ = ['PLATFORMS', 'export']

PLATFORMS = ('cpu', 'cuda', 'tpu')
_WEIGHTS = 'weights.safetensors'
_README = """\
# {method}

`learner/` needs no more than `pip install jax flatbuffers{more}`:

```python
from learner import load

learner = load('.')
adapted = learner.adapt({{'one class': inputs, 'another': inputs}})
print(adapted.predict(inputs))
```

`manifest.json` says what inputs are, what was measured, and how.
"""


def export(
  learner: TrainedLearner,
  directory: str | Path,
  *,
  ways: int | None = None,
  platforms: Sequence[str] = PLATFORMS,
  support_sizes: Sequence[int] = (),
  progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
  """Writes programs, weights and a manifest into a new directory.

  Numbers of tasks, of support examples and of queries are symbols of the
  programs: they run for any. Weights are arguments of them, in a file of
  safetensors. The directory is there when all of it is.

  Args:
    learner: of a run (`metajax.load`), or on `Compiled` programs of your own.
    directory: where to; there is nothing yet.
    ways: classes that it tells apart at most, where the method leaves a choice;
      by default as many as at the test of its run.
    platforms: which programs run on.
    support_sizes: numbers of support examples that there may be where a method
      does not allow symbols, as minibatches (Reptile) and the length of a
      context (MetaICL) do not; by default that of the test of its run. The
      manifest lists them.
    progress: is told what is being done.

  Returns:
    The manifest as it was written.

  Raises:
    LearnerError: if the directory holds something, or cannot be written, or the
      programs cannot be written down.
  """
  directory = Path(directory).expanduser()
  if not platforms or not set(platforms) <= set(PLATFORMS):
    raise LearnerError(
      f'platforms are some of {", ".join(PLATFORMS)}; got'
      f' {", ".join(platforms) or "none"}'
    )
  _check_free(directory)
  manifest, built = _of_ways(learner, ways)
  contents = {name: text.encode() for name, text in learner.files.items()}
  progress('programs')
  programs = list[dict[str, Any]]()
  for size, both in _programs(built, platforms, support_sizes):
    named = {name: _file_of(name, size) for name in both}
    programs.append({'examples': size, **named})
    contents |= {named[name]: program for name, program in both.items()}
  progress('weights')
  contents[_WEIGHTS] = _safetensors(built)
  folder = Path(portable.__file__).parent
  for path in sorted(folder.glob('*.py')):
    contents[f'learner/{path.name}'] = path.read_bytes()
  more = ' tokenizers' if 'tokenizer.json' in contents else ''
  contents['README.md'] = _README.format(
    method=manifest['method'], more=more
  ).encode()
  whole: dict[str, Any] = {
    **manifest,
    'format': FORMAT,
    'platforms': list(platforms),
    'programs': programs,
    'weights': {'file': _WEIGHTS, 'names': built.names},
    'files': {
      name: {'sha256': hashlib.sha256(data).hexdigest(), 'bytes': len(data)}
      for name, data in contents.items()
    },
  }
  whole = json.loads(json.dumps(whole, allow_nan=False))
  whole['digest'] = digest_of(whole)
  contents[MANIFEST] = (json.dumps(whole, indent=2) + '\n').encode()
  progress('files')
  _write(directory, contents)
  return whole


def _of_ways(
  learner: TrainedLearner, ways: int | None
) -> tuple[dict[str, Any], Built]:
  """The manifest and the programs for so many classes."""
  manifest, programs = learner.manifest, learner.programs
  if ways is not None:
    if not learner.classifies:
      raise LearnerError('a learner that predicts numbers has no classes')
    if ways < 2:
      raise LearnerError(f'ways={ways}: two classes or more are told apart')
    if ways > manifest['outputs']['classes']:
      programs = learner.for_classes(ways)
    manifest = {**manifest, 'outputs': {'classes': ways}}
  if not isinstance(programs, Compiled):
    raise LearnerError('the learner is exported already; copy its directory')
  return manifest, programs.built


def _file_of(program: str, size: int | None) -> str:
  return f'{program}.jax' if size is None else f'{program}_{size}.jax'


def _check_free(directory: Path) -> None:
  try:
    if directory.is_symlink() or (
      directory.exists()
      and not (directory.is_dir() and not any(directory.iterdir()))
    ):
      raise LearnerError(
        f'{directory} is there already; name a directory that is not'
      )
  except OSError as error:
    raise LearnerError(f'{directory}: {error.strerror}') from error


def _programs(
  built: Built, platforms: Sequence[str], sizes: Sequence[int]
) -> list[tuple[int | None, dict[str, bytes]]]:
  """Both programs; for each number of support examples, or for any (None)."""
  try:
    return [(None, _exported(built, platforms, None))]
  except Exception:  # whatever is raised by what counts or compares a symbol
    inputs, *_ = jax.tree.leaves(built.support.inputs)
    sizes = sizes or (inputs.shape[0],)
  try:
    return [(size, _exported(built, platforms, size)) for size in sizes]
  except Exception as error:  # such as of an operation of one platform alone
    reason = ' '.join(f'{type(error).__name__}: {error}'.split())
    raise LearnerError(
      f'the programs cannot be written down for {", ".join(platforms)}'
      f' ({reason})'
    ) from error


def _exported(
  built: Built, platforms: Sequence[str], size: int | None
) -> dict[str, bytes]:
  from jax import export as jax_export

  tasks, examples, queries = jax_export.symbolic_shape('b, s, q')
  shape = jax.ShapeDtypeStruct
  number = examples if size is None else size

  def of(each: Any, number: Any) -> Any:
    return shape((tasks, number, *each.shape[1:]), each.dtype)

  support = built.support
  weights = [shape(jnp.shape(x), jnp.result_type(x)) for x in built.weights]
  inputs, targets = of(support.inputs, number), of(support.targets, number)
  adapt = jax_export.export(jax.jit(built.adapt), platforms=platforms)(
    weights, inputs, targets, shape((tasks, 2), jnp.uint32)
  )
  predict = jax_export.export(jax.jit(built.predict), platforms=platforms)(
    weights, list(adapt.out_avals), inputs, of(support.inputs, queries)
  )
  each = {'adapt': adapt, 'predict': predict}
  return {name: bytes(program.serialize()) for name, program in each.items()}


def _safetensors(built: Built) -> bytes:
  from safetensors.numpy import save

  # What is equal to a scalar of Python is an array all the same.
  return save({
    name: np.asarray(jnp.asarray(leaf), order='C')
    for name, leaf in zip(built.names, built.weights, strict=True)
  })  # fmt: skip


def _write(directory: Path, contents: Mapping[str, bytes]) -> None:
  """Writes a directory all at once or not at all."""
  try:
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(
      tempfile.mkdtemp(prefix=f'.{directory.name}.', dir=directory.parent)
    )
    try:
      partial.chmod(0o755)
      (partial / 'learner').mkdir()
      for name, data in contents.items():
        (partial / name).write_bytes(data)
      os.replace(partial, directory)
    except BaseException:
      shutil.rmtree(partial, ignore_errors=True)
      raise
  except OSError as error:
    raise LearnerError(
      f'{directory} cannot be written ({error.strerror})'
    ) from error
