"""The files of a checkpoint: one array of bytes, and a manifest about it.

Orbax writes each step into a directory of its own that appears under its
final name in one rename, so a killed process leaves whole checkpoints only.
Two things orbax does not do are done here: it loads flipped bytes without a
word, so a checksum of every leaf lies beside the step and is verified on load;
and it casts silently, so dtypes and shapes are compared with the template.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from metajax.devices.distributed import agree, is_primary
from metajax.runs._checkpoint_leaves import (
  CheckpointError,
  Entry,
  Leaf,
  entry_of,
  is_in_field,
)

__all__ = [
  'FORMAT',
  'Found',
  'Manifest',
  'NewerFormatError',
  'from_primary',
  'read_arrays',
  'read_manifest',
  'reason',
  'write_step',
]


# The format of the files. It is raised when they change so that versions before
# cannot read them; those of all earlier numbers are read for ever. A field that
# a manifest has besides is of no concern to who does not know it, and needs no
# new number.
#   1: a manifest without this number.
#   2: with it.
FORMAT = 2


class NewerFormatError(CheckpointError):
  """A later version of metajax wrote a checkpoint: it is not damaged."""


class Manifest(NamedTuple):
  """What lies beside the arrays of a step."""

  step: int
  metrics: dict[str, float]
  leaves: Sequence[Entry]  # path, dtype, shape, key, sha256
  format: int = FORMAT


class Found(NamedTuple):
  """A good checkpoint in host memory, and what was passed over for it."""

  manifest: Manifest
  arrays: list[np.ndarray]
  rejected: list[str]


def write_step(path: Path, leaves: list[Leaf], manifest: Manifest) -> None:
  """Writes all leaves as one array of bytes, described by the manifest.

  Of many arrays orbax would read each by itself, and after one that is damaged
  the others would write tracebacks to the terminal. One is also four times
  faster than a hundred.
  """
  text = json.dumps(manifest._asdict(), sort_keys=True)
  data = b''.join(leaf.data.tobytes() for leaf in leaves)
  data = data or bytes(1)  # orbax refuses to write an empty array
  ocp = _orbax()
  with _checkpointer(ocp) as writer:
    writer.save(
      path,
      args=ocp.args.PyTreeSave({'data': np.frombuffer(data, np.uint8)}),
      custom_metadata={
        'manifest': text,
        'sha256': hashlib.sha256(text.encode()).hexdigest(),
      },
    )


def read_manifest(path: Path, step: int) -> Manifest:
  """Reads what a checkpoint holds.

  Raises:
    NewerFormatError: if its format is newer than any that is known.
    Exception: anything at all if the manifest is damaged.
  """
  ocp = _orbax()
  with _checkpointer(ocp) as reader:
    metadata = reader.metadata(path).custom_metadata
  if not metadata or {'manifest', 'sha256'} - metadata.keys():
    raise CheckpointError('its manifest is missing or unreadable')
  text = metadata['manifest']
  if hashlib.sha256(text.encode()).hexdigest() != metadata['sha256']:
    raise CheckpointError('its manifest differs from its checksum')
  fields = {'format': 1, **json.loads(text)}
  if fields['format'] > FORMAT:
    raise NewerFormatError(
      f'was saved in the checkpoint format {fields["format"]}, and this version'
      f' of metajax reads formats 1 to {FORMAT}; upgrade metajax to read it'
    )
  manifest = Manifest(**{name: fields[name] for name in Manifest._fields})
  if manifest.step != step:
    raise CheckpointError(f'its manifest is that of step {manifest.step}')
  return manifest


def read_arrays(
  path: Path, manifest: Manifest, only: str | None = None
) -> list[np.ndarray]:
  """Reads the arrays, or those of one field, and verifies their checksums.

  Raises:
    Exception: anything at all if one of these arrays is damaged.
  """
  ocp = _orbax()
  as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  with _checkpointer(ocp) as reader:
    data = reader.restore(
      path,
      args=ocp.args.PyTreeRestore({'data': 0}, restore_args={'data': as_numpy}),
    )['data'].tobytes()
  arrays = []
  pairs = zip(_split(data, manifest), manifest.leaves, strict=True)
  for array, entry in pairs:
    if only is not None and not is_in_field(entry, only):
      continue
    leaf = Leaf(entry['path'], entry['dtype'], array, entry['key'])
    if entry_of(leaf)['sha256'] != entry['sha256']:
      name = leaf.path or 'its only leaf'
      raise CheckpointError(f'{name} differs from its checksum')
    arrays.append(array)
  return arrays


def from_primary(read: Callable[[], Found]) -> Found:
  """Gives every process what process 0 reads, or the error that it meets."""
  found, error = None, None
  if is_primary():
    try:
      found = read()
    except CheckpointError as raised:
      error = str(raised)
  if error := agree(error):
    raise CheckpointError(error)
  about = found and [found.manifest._asdict(), found.rejected]
  manifest, rejected = agree(about)
  manifest = Manifest(**manifest)
  # Bytes, for JAX would round what it holds in fewer bits.
  if found is None:
    data = np.zeros(sum(map(_num_bytes, manifest.leaves)), np.uint8)
  else:
    joined = b''.join(array.tobytes() for array in found.arrays)
    data = np.frombuffer(joined, np.uint8)
  if data.size:
    data = np.asarray(multihost_utils.broadcast_one_to_all(data))
  return Found(manifest, _split(data.tobytes(), manifest), rejected)


def _num_bytes(entry: Entry) -> int:
  dtype = np.dtype(entry['data_dtype'])
  return math.prod(entry['data_shape']) * dtype.itemsize


def _split(data: bytes, manifest: Manifest) -> list[np.ndarray]:
  """The arrays that lie one after the other."""
  arrays, start = [], 0
  for entry in manifest.leaves:
    chunk = data[start : start + _num_bytes(entry)]
    start += len(chunk)
    array = np.frombuffer(chunk, np.dtype(entry['data_dtype']))
    arrays.append(array.reshape(entry['data_shape']))
  return arrays


def _orbax() -> Any:
  """Imports orbax (half a second) and keeps its log off the terminal.

  Orbax logs through the logger of absl, which belongs to the user too: only
  records from files of orbax are dropped. Its failures arrive as exceptions.
  """
  from absl import logging as absl_logging

  logger = absl_logging.get_absl_logger()
  if _not_from_orbax not in logger.filters:
    logger.addFilter(_not_from_orbax)
  import orbax.checkpoint  # logs while it is imported

  return orbax.checkpoint


def _checkpointer(ocp: Any) -> Any:
  """Orbax's, which is not to wait for processes that do not call it."""
  alone = {}
  if jax.process_count() > 1:
    alone['multiprocessing_options'] = ocp.options.MultiprocessingOptions(
      primary_host=0, active_processes={0}, barrier_sync_key_prefix='metajax'
    )
  return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**alone), **alone)


def _not_from_orbax(record: logging.LogRecord) -> bool:
  return 'orbax' not in Path(record.pathname).parts


def reason(error: BaseException) -> str:
  """One line that says what went wrong, from wherever orbax buried it."""
  chain = [error]
  while (cause := chain[-1].__cause__) is not None and cause not in chain:
    chain.append(cause)
  for each in chain:
    if isinstance(each, OSError) and each.strerror:
      named = f': {each.filename}' if each.filename else ''
      return f'{each.strerror}{named}'
    if 'No space left on device' in str(each):  # tensorstore raises no OSError
      return 'No space left on device'
  text = ' '.join(str(chain[-1]).split())
  if isinstance(chain[-1], CheckpointError):
    return text
  shortened = text if len(text) <= 300 else f'{text[:300]}...'
  return f'{type(chain[-1]).__name__}: {shortened}'
