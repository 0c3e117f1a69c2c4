"""Exported directories: programs, weights and a manifest, checked."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .examples import NO_TOKEN, LearnerError
from .learner import TrainedLearner

__all__ = ['FORMAT', 'MANIFEST', 'digest_of', 'load']

FORMAT = 1  # of exported directories
MANIFEST = 'manifest.json'
_WORD = re.compile(r'\w+|[^\w\s]')
_TYPES = {
  'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16',
  'I64': 'int64', 'I32': 'int32', 'I16': 'int16', 'I8': 'int8',
  'U64': 'uint64', 'U32': 'uint32', 'U16': 'uint16', 'U8': 'uint8',
  'BOOL': 'bool',
}  # fmt: skip


def load(directory: str | Path) -> TrainedLearner:
  """Loads an exported learner.

  Args:
    directory: that `experiments.export` or `metajax.trained.export` wrote.

  Raises:
    LearnerError: if a file is missing, or is not what was exported.
  """
  directory = Path(directory)
  manifest = _manifest(directory)
  try:
    return _loaded(directory, manifest)
  except LearnerError:
    raise
  except Exception as error:  # whatever a manifest lacks, or programs
    reason = ' '.join(f'{type(error).__name__}: {error}'.split())
    raise LearnerError(
      f'{directory} is no learner as it is exported ({reason}); export it again'
    ) from error


def _loaded(directory: Path, manifest: dict[str, Any]) -> TrainedLearner:
  for name in manifest['files']:
    if Path(name).is_absolute() or '..' in Path(name).parts:
      raise LearnerError(f'{directory} names a file elsewhere, {name!r}')
  if not manifest['temperature'] > 0:
    raise LearnerError(f'{directory} has a temperature that is not positive')
  files = {
    name: _checked(directory / name, each)
    for name, each in manifest['files'].items()
  }
  weights = _tensors(files[manifest['weights']['file']])
  held = [jnp.asarray(weights[name]) for name in manifest['weights']['names']]
  return TrainedLearner(
    manifest, _Exported(manifest, files, held), _tokenizer(manifest, files)
  )


def _manifest(directory: Path) -> dict[str, Any]:
  path = directory / MANIFEST
  try:
    manifest = json.loads(path.read_text(encoding='utf-8'))
    number = manifest['format']
    if not isinstance(number, int):
      raise ValueError('of no format')
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    reason = str(error).partition('\n')[0]
    raise LearnerError(
      f'{directory} holds no exported learner: {MANIFEST} is not readable'
      f' ({reason})'
    ) from error
  if number > FORMAT:
    raise LearnerError(
      f'{path} is of format {number}, and this program reads up to {FORMAT};'
      ' take a newer one'
    )
  if manifest.get('digest') != digest_of(manifest):
    raise LearnerError(f'{path} is not as it was written; export it again')
  return manifest


def digest_of(manifest: Mapping[str, Any]) -> str:
  """SHA-256 of all that a manifest says but for this."""
  rest = {name: each for name, each in manifest.items() if name != 'digest'}
  text = json.dumps(rest, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _checked(path: Path, entry: Mapping[str, Any]) -> bytes:
  """The bytes of a file that is as it was written."""
  try:
    found = path.read_bytes()
  except OSError as error:
    raise LearnerError(f'{path} is not readable ({error.strerror})') from error
  if hashlib.sha256(found).hexdigest() != entry['sha256']:
    raise LearnerError(
      f'{path} is not as it was written ({len(found)} bytes, where'
      f' {entry["bytes"]} were); export it again'
    )
  return found


def _tensors(data: bytes) -> dict[str, np.ndarray]:
  """The arrays of a safetensors file."""
  length = int.from_bytes(data[:8], 'little')
  header = json.loads(data[8 : 8 + length])
  found = {}
  for name, each in header.items():
    if name != '__metadata__':
      start, end = (8 + length + offset for offset in each['data_offsets'])
      kind = jnp.dtype(_TYPES[each['dtype']])
      array = np.frombuffer(data[start:end], kind)
      found[name] = array.reshape(each['shape'])
  return found


class _Exported:
  """The programs of an exported directory."""

  def __init__(
    self, manifest: Mapping[str, Any], files: Mapping[str, bytes], held: Any
  ) -> None:
    from jax import export  # it needs flatbuffers

    def program(file: str) -> Any:
      return jax.jit(export.deserialize(bytearray(files[file])).call)

    # By the number of support examples that they are for; None: any.
    self._adapt = {
      x['examples']: program(x['adapt']) for x in manifest['programs']
    }
    self._predict = {
      x['examples']: program(x['predict']) for x in manifest['programs']
    }
    self._held = held

  def adapt(self, inputs: Any, targets: Any, keys: Any) -> list[Any]:
    """What was adapted, of a batch of tasks."""
    program = self._of(self._adapt, inputs)
    return list(program(self._held, inputs, targets, keys))

  def predict(self, state: list[Any], support: Any, queries: Any) -> Any:
    """Outputs for queries, of a batch of tasks."""
    program = self._of(self._predict, support)
    return program(self._held, state, support, queries)

  def _of(self, programs: Mapping[int | None, Any], support: Any) -> Any:
    found = programs.get(None) or programs.get(support.shape[1])
    if found is None:
      raise LearnerError(
        'the learner was exported for'
        f' {" or ".join(map(str, programs))} examples in all; got'
        f' {support.shape[1]}'
      )
    return found


def _tokenizer(
  manifest: Mapping[str, Any], files: Mapping[str, bytes]
) -> Callable[..., tuple[np.ndarray, int]] | None:
  name = manifest['inputs'].get('tokenizer')
  if name is None:
    return None
  text = files[name].decode('utf-8')
  if name == 'words.json':
    ids = {word: number for number, word in enumerate(json.loads(text), 1)}
    return lambda texts, most: _padded(
      [[ids.get(w, 0) for w in _WORD.findall(x.lower())] for x in texts], most
    )
  return _Subwords(text)


class _Subwords:
  """Tokens of a tokenizer.json; they need the package tokenizers."""

  def __init__(self, text: str) -> None:
    self._text = text
    self._made: Any = None

  def __call__(self, texts: list[str], most: int) -> tuple[np.ndarray, int]:
    """Tokens of texts, and how many were cut off."""
    if self._made is None:
      try:
        import tokenizers
      except ImportError:
        raise LearnerError(
          'texts need tokenizers; install it with: pip install tokenizers'
        ) from None
      self._made = tokenizers.Tokenizer.from_str(self._text)
      self._made.no_padding()
    self._made.enable_truncation(most, direction='right')
    found = self._made.encode_batch(texts)
    ids = [[] if all(x.special_tokens_mask) else x.ids for x in found]
    tokens, _ = _padded(ids, most)
    return tokens, sum(bool(each.overflowing) for each in found)


def _padded(
  tokens: Sequence[Sequence[int]], most: int
) -> tuple[np.ndarray, int]:
  array = np.full((len(tokens), most), NO_TOKEN, np.int32)
  for number, (row, each) in enumerate(zip(array, tokens, strict=True)):
    if not each:
      raise LearnerError(f'text {number} of {len(tokens)} has no tokens')
    row[: len(each)] = each[:most]
  return array, sum(len(each) > most for each in tokens)
