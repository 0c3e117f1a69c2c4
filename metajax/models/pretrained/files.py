"""Files of weights: safetensors, one or several, and nothing that runs code."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = [
  'WeightFiles',
  'digest',
  'find_weights',
  'open_weights',
  'read_tensor',
]

_SINGLE = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
_PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl', '.pickle', '.npz', '.h5')


class WeightFiles(NamedTuple):
  """The files that weights are in."""

  files: list[Path]
  names: set[str] | None  # of the tensors, if an index lists them


def find_weights(directory: Path) -> WeightFiles:
  """Finds `model.safetensors`, or the parts that an index lists.

  Args:
    directory: of a model.

  Returns:
    The files, in order.

  Raises:
    ValueError: if there is neither, only weights that are pickled, or if an
      index cannot be read or lists what is not in the directory.
  """
  if not directory.is_dir():
    raise ValueError(f'{directory} is no directory of a model')
  if (directory / _SINGLE).is_file():
    return WeightFiles([directory / _SINGLE], None)
  if (directory / _INDEX).is_file():
    return _from_index(directory / _INDEX)
  found = sorted(each.name for each in directory.iterdir())
  pickled = [name for name in found if name.endswith(_PICKLES)]
  if pickled:
    raise ValueError(
      f'{directory} has {pickled[0]} and no {_SINGLE}: what is pickled may run'
      ' any code when it is read, and only safetensors are read here; save the'
      ' weights as safetensors'
    )
  raise ValueError(
    f'{directory} has neither {_SINGLE} nor {_INDEX}; it has'
    f' {", ".join(found[:8]) or "nothing"}'
  )


def _from_index(path: Path) -> WeightFiles:
  try:
    places = json.loads(path.read_text(encoding='utf-8'))['weight_map']
    names, parts = set(places), sorted(set(places.values()))
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f'{path} is no index of weights: it has no weight_map from tensors to'
      ' files'
    ) from error
  for part in parts:
    plain = isinstance(part, str) and Path(part).name == part
    if not plain or not part.endswith('.safetensors'):
      raise ValueError(
        f'{path} lists {part!r}, which is not the name of a safetensors file'
      )
    if not (path.parent / part).is_file():
      raise ValueError(f'{path} lists {part}, which is not in the directory')
  if not parts:
    raise ValueError(f'{path} lists no weights')
  return WeightFiles([path.parent / part for part in parts], names)


@contextlib.contextmanager
def open_weights(weights: WeightFiles) -> Iterator[dict[str, Any]]:
  """Opens files of weights, of which only headers are read.

  Args:
    weights: what `find_weights` returns.

  Yields:
    A dictionary from names of tensors to the open file that each is in.

  Raises:
    ValueError: if a file is damaged or of another format, or a tensor is in
      two files, or not where the index says.
  """
  try:
    from safetensors import SafetensorError, safe_open
  except ImportError:
    raise ImportError(
      "weights need safetensors; install it with: pip install 'metajax[text]'"
    ) from None

  with contextlib.ExitStack() as stack:
    places: dict[str, Any] = {}
    for path in weights.files:
      try:
        opened = stack.enter_context(safe_open(str(path), 'numpy'))
      except (SafetensorError, OSError) as error:
        reason = str(error).partition('\n')[0]
        raise ValueError(
          f'{path} is not a whole safetensors file ({reason}); fetch it again'
        ) from error
      for name in opened.keys():  # noqa: SIM118 (it is no dictionary)
        if name in places:
          raise ValueError(f'{path} has {name}, which another file has too')
        places[name] = opened
    if weights.names is not None and weights.names != set(places):
      differing = sorted(weights.names ^ set(places))
      raise ValueError(
        f'{weights.files[0].parent / _INDEX} does not fit its files:'
        f' {len(differing)} tensors are in one of them alone, such as'
        f' {differing[0]}; fetch them again'
      )
    yield places


def digest(weights: WeightFiles) -> str:
  """The SHA-256 of weights, as hexadecimal digits.

  Args:
    weights: what `find_weights` returns.

  Returns:
    Of one file its own, which `sha256sum` prints; of several that of the lines
    `DIGEST  NAME` that `sha256sum *` prints.
  """
  lines = []
  for path in weights.files:
    with path.open('rb') as file:
      lines.append((hashlib.file_digest(file, 'sha256').hexdigest(), path.name))
  if len(lines) == 1:
    return lines[0][0]
  text = ''.join(f'{of_file}  {name}\n' for of_file, name in lines)
  return hashlib.sha256(text.encode()).hexdigest()


def read_tensor(places: dict[str, Any], name: str) -> np.ndarray:
  """One tensor, of numbers in 16 bits or more.

  Raises:
    ValueError: if it is of another type, such as quantised weights.
  """
  kind = places[name].get_slice(name).get_dtype()
  if kind not in ('F64', 'F32', 'F16', 'BF16'):
    raise ValueError(
      f'the tensor {name} is of type {kind}; weights must be F64, F32, F16 or'
      ' BF16, not quantised'
    )
  tensor: np.ndarray = places[name].get_tensor(name)
  return tensor
