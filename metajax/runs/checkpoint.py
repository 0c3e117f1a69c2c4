"""Saving and restoring everything that a bit-exact resume needs.

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
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from metajax.base import PyTree
from metajax.devices.distributed import agree, gather, is_primary
from metajax.devices.mesh import put

# `12` is step 12. A step that is saved again lies in `12.1` until `12` is
# removed, so that there is no moment without a whole copy.
_NAME = re.compile(r'(\d+)(?:\.(\d+))?')
_LEFTOVER = re.compile(r'\d+(\.\d+)?\.(orbax-checkpoint-tmp.*|deleted)')


class CheckpointError(RuntimeError):
  """A checkpoint cannot be saved or restored; says which, where and why."""


class Restored(NamedTuple):
  """What `Checkpointer.restore` found."""

  step: int
  state: PyTree
  metrics: dict[str, float]  # those passed to `save`
  rejected: tuple[str, ...]  # checkpoints passed over, each with its reason


class _Saved(NamedTuple):
  """A finished checkpoint; they sort from the oldest to the newest."""

  step: int
  generation: int

  @property
  def name(self) -> str:
    suffix = f'.{self.generation}' if self.generation else ''
    return f'{self.step}{suffix}'


class _Manifest(NamedTuple):
  """What lies beside the arrays of a step."""

  step: int
  metrics: dict[str, float]
  leaves: list[dict[str, Any]]  # path, dtype, shape, key, sha256


class _Found(NamedTuple):
  """A good checkpoint in host memory, and what was passed over for it."""

  manifest: _Manifest
  arrays: list[np.ndarray]
  rejected: list[str]


class _Leaf(NamedTuple):
  """A leaf of the state in host memory."""

  path: str
  dtype: str
  data: np.ndarray
  key: str | None  # the random number generator of typed keys


class Checkpointer:
  """Saves states in the background and restores the newest good one.

  A directory holds the history of one run, without branches: a save of step n
  replaces an older checkpoint of step n and, once it is safely on disk, removes
  those of later steps, which belong to a course that the run went back on. So
  that this cannot destroy another run, a `Checkpointer` that has neither
  restored nor saved refuses to save at or below the newest step it finds.

  Leave it through `close` (or use it as a context manager): what is still being
  written when the interpreter exits is lost, though nothing else is. One run
  at a time may save to a directory.

  Where several processes train together (see `metajax.devices`), all of them
  call `save` and `restore`: what lies in pieces on their devices is gathered,
  process 0 alone reads and writes, and what it has read goes to all. Nothing in
  a checkpoint depends on how many devices or processes wrote it.

  Example:
    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> directory = tempfile.TemporaryDirectory()
    >>> with Checkpointer(directory.name) as checkpoints:
    ...   checkpoints.save(10, {'weights': jnp.ones(3)}, {'accuracy': 0.9})
    ...   restored = checkpoints.restore({'weights': jnp.zeros(3)})
    >>> restored.step, restored.metrics, restored.state['weights'].tolist()
    (10, {'accuracy': 0.9}, [1.0, 1.0, 1.0])
    >>> directory.cleanup()
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    *,
    keep_last: int = 3,
    best_metric: str | None = None,
    best_mode: Literal['max', 'min'] = 'max',
  ) -> None:
    """Neither reads nor writes anything yet.

    Args:
      directory: where the checkpoints of one run lie; the first `save` creates
        it.
      keep_last: how many of the newest checkpoints are kept.
      best_metric: also keep the checkpoint that is best by this metric. Saves
        without it, or with NaN, are never the best.
      best_mode: whether the best is the largest or the smallest.

    Raises:
      ValueError: if `keep_last` or `best_mode` is out of range.
    """
    if keep_last < 1:
      raise ValueError(f'keep_last must be 1 or more, got {keep_last}')
    if best_mode not in ('max', 'min'):
      raise ValueError(f"best_mode must be 'max' or 'min', got {best_mode!r}")
    self._directory = Path(directory).absolute()
    self._keep_last = keep_last
    self._best_metric = best_metric
    self._sign = 1.0 if best_mode == 'max' else -1.0
    self._continues = False  # whether the history on disk is ours to rewrite
    self._ranks: dict[_Saved, float | None] = {}  # by metric, higher is better
    self._thread: threading.Thread | None = None
    self._error: CheckpointError | None = None

  def __enter__(self) -> Self:
    return self

  def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
    try:
      self.close()
    except CheckpointError:
      # The error that ended the block is the one to see.
      if kind is None:
        raise

  def save(
    self, step: int, state: PyTree, metrics: Mapping[str, float] | None = None
  ) -> None:
    """Copies the state to host memory and writes it in the background.

    The caller may donate or overwrite the state as soon as this returns. A
    save that is still under way is waited for first.

    Args:
      step: how many steps the state has seen, 0 or more.
      state: any pytree of arrays, typed random keys and Python numbers.
      metrics: scalars that are stored with it.

    Raises:
      CheckpointError: if the save before this one failed, if the directory
        cannot be created or written, if it holds a run that this
        `Checkpointer` did not restore, or if a leaf is not an array or number.
    """
    step = int(step)
    if step < 0:
      raise ValueError(f'step must be 0 or more, got {step}')
    self.wait()
    scalars = {name: float(value) for name, value in (metrics or {}).items()}
    leaves = _to_host(state)
    if not is_primary():
      return
    self._make_directory()
    saved = self._saved()
    if saved and step <= saved[-1].step and not self._continues:
      raise CheckpointError(
        f'{self._directory} already holds step {saved[-1].step} of a run, and'
        f' saving step {step} would replace it; restore it first to continue'
        ' it, or use another directory'
      )
    self._continues = True
    generations = [old.generation for old in saved if old.step == step]
    target = _Saved(step, max(generations, default=-1) + 1)
    # Not a daemon: the interpreter should wait for it where it can.
    self._thread = threading.Thread(
      target=self._write,
      args=(target, leaves, scalars),
      name='metajax-checkpoint',
    )
    self._thread.start()

  def wait(self) -> None:
    """Returns once everything is on disk.

    Raises:
      CheckpointError: if a save failed; each failure is raised once.
    """
    if self._thread is not None:
      self._thread.join()
      self._thread = None
    if self._error is not None:
      error, self._error = self._error, None
      raise error

  def close(self) -> None:
    """The same as `wait`; the `Checkpointer` stays usable."""
    self.wait()

  def steps(self) -> list[int]:
    """The steps on disk, ascending, whether good or not."""
    return sorted({saved.step for saved in self._saved()})

  def restore(
    self, template: PyTree, *, step: int | None = None, best: bool = False
  ) -> Restored:
    """Reads the newest good checkpoint, walking back over bad ones.

    A checkpoint is bad if anything in it is missing, unreadable or differs
    from its checksum. Bad ones stay where they are until the next `save`.

    Args:
      template: a pytree with the structure, dtypes and shapes of the state;
        `jax.ShapeDtypeStruct` will do for an array. Where a leaf lies on a
        mesh, or has such a sharding, so does what is restored.
      step: restore this step and no other.
      best: restore the best by `best_metric`, or the next best if it is bad.

    Returns:
      The step, and the state in the structure of `template`: arrays on the
      default device, typed keys for typed keys, Python numbers for Python
      numbers. A NumPy array whose dtype JAX cannot hold (float64 without
      `jax_enable_x64`) stays a NumPy array.

    Raises:
      CheckpointError: if there is no checkpoint, if none is good, or if the
        state in it does not fit the template.
      ValueError: if `best` is given with `step` or without a `best_metric`.
    """
    if best and step is not None:
      raise ValueError(f'restore takes step ({step}) or best, not both')
    if best and self._best_metric is None:
      raise ValueError('best needs a Checkpointer with a best_metric')
    self.wait()
    if jax.process_count() == 1:
      found = self._read(template, step, best)
    else:
      found = _from_primary(partial(self._read, template, step, best))
    self._continues = True
    return Restored(
      found.manifest.step,
      _from_host(found.arrays, template, found.manifest),
      found.manifest.metrics,
      tuple(found.rejected),
    )

  def _read(self, template: PyTree, step: int | None, best: bool) -> '_Found':
    rejected: list[str] = []
    readable = self._readable(self._candidates(step), rejected)
    for saved, manifest in self._by_rank(readable) if best else readable:
      # What does not fit is the caller's mistake, not damage, and an older
      # checkpoint would not fit either: it is not passed over.
      _check_fit(template, manifest, self._directory)
      try:
        arrays = _read_arrays(self._directory / saved.name, manifest)
      except Exception as error:
        rejected.append(f'step {saved.step}: {_reason(error)}')
        continue
      return _Found(manifest, arrays, rejected)
    if not rejected:
      raise CheckpointError(
        f'no checkpoint in {self._directory} has the metric'
        f' {self._best_metric!r}; restore the newest one instead'
      )
    raise CheckpointError(
      f'no good checkpoint in {self._directory}: {"; ".join(rejected)}; restore'
      ' another step, or start again in an empty directory'
    )

  def _readable(
    self, candidates: list[_Saved], rejected: list[str]
  ) -> Iterator[tuple[_Saved, _Manifest]]:
    for saved in candidates:
      try:
        manifest = _read_manifest(self._directory / saved.name, saved.step)
      except Exception as error:
        rejected.append(f'step {saved.step}: {_reason(error)}')
      else:
        yield saved, manifest

  def _candidates(self, step: int | None) -> list[_Saved]:
    """The checkpoints to try, newest first; at least one."""
    saved = self._saved()[::-1]
    if not saved:
      raise CheckpointError(
        f'no checkpoint in {self._directory}; check the directory, or start a'
        ' new run without resuming'
      )
    if step is None:
      return saved
    chosen = [each for each in saved if each.step == step]
    if not chosen:
      raise CheckpointError(
        f'no checkpoint of step {step} in {self._directory}; there are steps'
        f' {", ".join(map(str, self.steps()))}'
      )
    return chosen

  def _by_rank(
    self, readable: Iterable[tuple[_Saved, _Manifest]]
  ) -> list[tuple[_Saved, _Manifest]]:
    """Those with the metric, best first, newest first among equals."""
    ranked = [
      (rank, saved, manifest)
      for saved, manifest in readable
      if (rank := self._rank(manifest.metrics)) is not None
    ]
    ranked.sort(key=lambda item: item[:2], reverse=True)
    return [(saved, manifest) for _, saved, manifest in ranked]

  def _rank(self, metrics: Mapping[str, float]) -> float | None:
    value = metrics.get(self._best_metric or '', math.nan)
    return None if math.isnan(value) else self._sign * value

  def _make_directory(self) -> None:
    try:
      self._directory.mkdir(parents=True, exist_ok=True)
      if not os.access(self._directory, os.W_OK | os.X_OK):
        raise PermissionError('no permission to write')
    except OSError as error:
      raise CheckpointError(
        f'cannot write checkpoints to {self._directory}: {_reason(error)};'
        ' choose a directory that can be written'
      ) from error

  def _names(self) -> list[str]:
    try:
      return os.listdir(self._directory)
    except (FileNotFoundError, NotADirectoryError):
      return []
    except OSError as error:
      raise CheckpointError(
        f'cannot read {self._directory}: {_reason(error)}'
      ) from error

  def _saved(self) -> list[_Saved]:
    matches = filter(None, map(_NAME.fullmatch, self._names()))
    return sorted(_Saved(int(m[1]), int(m[2] or 0)) for m in matches)

  def _write(
    self, target: _Saved, leaves: list[_Leaf], metrics: dict[str, float]
  ) -> None:
    """Runs in the background; leaves any error for `wait`."""
    try:
      self._remove_leftovers()
      manifest = _Manifest(target.step, metrics, [_entry(x) for x in leaves])
      _write_step(self._directory / target.name, leaves, manifest)
    except Exception as error:
      self._remove_leftovers()  # a full disk needs the room
      self._error = CheckpointError(
        f'could not save step {target.step} in {self._directory}:'
        f' {_reason(error)}; earlier checkpoints there are unharmed'
      )
      self._error.__cause__ = error
      return
    try:
      self._ranks[target] = self._rank(metrics)
      self._remove_superseded(target)
    except Exception as error:
      self._error = CheckpointError(
        f'saved step {target.step} in {self._directory}, but could not remove'
        f' superseded checkpoints: {_reason(error)}'
      )
      self._error.__cause__ = error

  def _remove_leftovers(self) -> None:
    """Removes what killed or failed processes left behind."""
    for name in filter(_LEFTOVER.fullmatch, self._names()):
      shutil.rmtree(self._directory / name, ignore_errors=True)

  def _remove_superseded(self, newest: _Saved) -> None:
    """Keeps the last few and the best of the history that ends in `newest`."""
    saved = self._saved()
    history: dict[int, _Saved] = {}
    for each in saved:
      if each.step < newest.step or each == newest:
        history[each.step] = each  # of one step, the last generation
    keep = set(list(history.values())[-self._keep_last :])
    if self._best_metric is not None:
      ranked = [
        (rank, each)
        for each in history.values()
        if (rank := self._rank_on_disk(each)) is not None
      ]
      keep |= {max(ranked)[1]} if ranked else set()
    for each in saved:
      if each not in keep:
        # Renamed first, so that no half-removed step is ever seen as one.
        doomed = self._directory / f'{each.name}.deleted'
        (self._directory / each.name).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        self._ranks.pop(each, None)

  def _rank_on_disk(self, saved: _Saved) -> float | None:
    if saved not in self._ranks:
      try:
        manifest = _read_manifest(self._directory / saved.name, saved.step)
        self._ranks[saved] = self._rank(manifest.metrics)
      except Exception:  # a bad checkpoint is never the best
        self._ranks[saved] = None
    return self._ranks[saved]


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


def _write_step(path: Path, leaves: list[_Leaf], manifest: _Manifest) -> None:
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


def _from_primary(read: Callable[[], _Found]) -> _Found:
  """What process 0 reads, or the error that it meets, on every process."""
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
  manifest = _Manifest(**manifest)
  # Bytes, for JAX would round what it holds in fewer bits.
  if found is None:
    data = np.zeros(sum(map(_num_bytes, manifest.leaves)), np.uint8)
  else:
    joined = b''.join(array.tobytes() for array in found.arrays)
    data = np.frombuffer(joined, np.uint8)
  if data.size:
    data = np.asarray(multihost_utils.broadcast_one_to_all(data))
  return _Found(manifest, _split(data.tobytes(), manifest), rejected)


def _num_bytes(entry: Mapping[str, Any]) -> int:
  dtype = np.dtype(entry['data_dtype'])
  return math.prod(entry['data_shape']) * dtype.itemsize


def _split(data: bytes, manifest: _Manifest) -> list[np.ndarray]:
  """The arrays that lie one after the other."""
  arrays, start = [], 0
  for entry in manifest.leaves:
    chunk = data[start : start + _num_bytes(entry)]
    start += len(chunk)
    array = np.frombuffer(chunk, np.dtype(entry['data_dtype']))
    arrays.append(array.reshape(entry['data_shape']))
  return arrays


def _read_manifest(path: Path, step: int) -> _Manifest:
  """Raises anything at all if the manifest is damaged."""
  ocp = _orbax()
  with _checkpointer(ocp) as reader:
    metadata = reader.metadata(path).custom_metadata
  if not metadata or {'manifest', 'sha256'} - metadata.keys():
    raise CheckpointError('its manifest is missing or unreadable')
  text = metadata['manifest']
  if hashlib.sha256(text.encode()).hexdigest() != metadata['sha256']:
    raise CheckpointError('its manifest differs from its checksum')
  manifest = _Manifest(**json.loads(text))
  if manifest.step != step:
    raise CheckpointError(f'its manifest is that of step {manifest.step}')
  return manifest


def _read_arrays(path: Path, manifest: _Manifest) -> list[np.ndarray]:
  """Raises anything at all if an array is damaged."""
  ocp = _orbax()
  as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  with _checkpointer(ocp) as reader:
    data = reader.restore(
      path,
      args=ocp.args.PyTreeRestore({'data': 0}, restore_args={'data': as_numpy}),
    )['data'].tobytes()
  arrays = _split(data, manifest)
  for array, entry in zip(arrays, manifest.leaves, strict=True):
    leaf = _Leaf(entry['path'], entry['dtype'], array, entry['key'])
    if _entry(leaf) != entry:
      name = leaf.path or 'its only leaf'
      raise CheckpointError(f'{name} differs from its checksum')
  return arrays


def _entry(leaf: _Leaf) -> dict[str, Any]:
  """The line of the manifest on a leaf, with its checksum."""
  about = {
    'path': leaf.path,
    'dtype': leaf.dtype,
    'key': leaf.key,
    'data_dtype': leaf.data.dtype.name,
    'data_shape': list(leaf.data.shape),
  }
  digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
  digest.update(leaf.data.tobytes())
  return {**about, 'sha256': digest.hexdigest()}


def _paths(tree: PyTree) -> list[tuple[str, Any]]:
  return [
    (jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  ]


def _to_host(state: PyTree) -> list[_Leaf]:
  """Copies every leaf, so that the state may be donated afterwards."""
  leaves = [(path, gather(leaf)) for path, leaf in _paths(state)]
  for _, leaf in leaves:
    if isinstance(leaf, jax.Array):
      leaf.copy_to_host_async()
  return [_leaf_to_host(path, leaf) for path, leaf in leaves]


def _leaf_to_host(path: str, leaf: Any) -> _Leaf:
  dtype = _dtype(leaf)
  if _is_key(leaf):
    data = np.array(jax.random.key_data(leaf))
    return _Leaf(path, dtype, data, str(jax.random.key_impl(leaf)))
  # Not np.asarray, which on a CPU is a view of the array's own buffer.
  data = np.array(leaf)
  if not (jnp.issubdtype(data.dtype, np.number) or data.dtype == np.bool_):
    raise CheckpointError(
      f'cannot save leaf {path!r}, which is a {type(leaf).__name__} of dtype'
      f' {data.dtype}; a state is made of arrays, typed keys and numbers'
    )
  return _Leaf(path, dtype, data, None)


def _is_key(leaf: Any) -> bool:
  dtype = getattr(leaf, 'dtype', None)
  return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _dtype(leaf: Any) -> str:
  """A Python number is of another type than an array that holds it."""
  if isinstance(leaf, bool | int | float | complex) and not isinstance(
    leaf, np.generic
  ):
    return type(leaf).__name__
  return str(leaf.dtype) if hasattr(leaf, 'dtype') else type(leaf).__name__


def _check_fit(template: PyTree, manifest: _Manifest, directory: Path) -> None:
  """Raises CheckpointError where the saved state differs in kind."""
  where = f'the state of step {manifest.step} in {directory} does not fit'
  expected = _paths(template)
  saved_paths = [entry['path'] for entry in manifest.leaves]
  paths = [path for path, _ in expected]
  if paths != saved_paths:
    missing = _listed(path for path in paths if path not in saved_paths)
    extra = _listed(path for path in saved_paths if path not in paths)
    raise CheckpointError(
      f'{where}: expected but not saved: {missing}; saved but not expected:'
      f' {extra}; resume with the settings that it was saved with'
    )
  for (path, leaf), entry in zip(expected, manifest.leaves, strict=True):
    saved = f'{entry["dtype"]}{_shape_of(entry)}'
    wanted = f'{_dtype(leaf)}{list(np.shape(leaf))}'
    if saved != wanted:
      raise CheckpointError(
        f'{where}: leaf {path!r} was saved as {saved}, expected {wanted};'
        ' resume with the settings that it was saved with'
      )


def _shape_of(entry: Mapping[str, Any]) -> list[int]:
  """The shape of a key does not count the words of its data."""
  shape = list(entry['data_shape'])
  return shape[:-1] if entry['key'] else shape


def _listed(paths: Iterable[str]) -> str:
  listed = [repr(path) for path in paths]
  more = f' and {len(listed) - 5} more' if len(listed) > 5 else ''
  return (', '.join(listed[:5]) or 'nothing') + more


def _from_host(
  arrays: list[np.ndarray], template: PyTree, manifest: _Manifest
) -> PyTree:
  leaves, structure = jax.tree.flatten(template)
  return jax.tree.unflatten(
    structure,
    [
      _leaf_from_host(array, leaf, entry['key'])
      for array, leaf, entry in zip(
        arrays, leaves, manifest.leaves, strict=True
      )
    ],
  )


def _leaf_from_host(array: np.ndarray, like: Any, key: str | None) -> Any:
  """Makes the array that was read the kind of thing that `like` is."""
  if not hasattr(like, 'dtype'):
    return array.item()
  place = getattr(like, 'sharding', None)
  if key is not None:
    leaf = jax.random.wrap_key_data(jnp.array(array), impl=key)
  elif jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
    return array
  else:
    leaf = jnp.array(array)
    # A strong type would be compiled anew, and promoted differently.
    if getattr(like, 'weak_type', False):
      weak = jnp.full(array.shape, array.dtype.type(0).item())
      leaf = weak.at[...].set(array) if weak.dtype == leaf.dtype else leaf
  return put(leaf, place) if isinstance(place, NamedSharding) else leaf


def _reason(error: BaseException) -> str:
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
