"""Saving and restoring everything that a bit-exact resume needs."""

import math
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Literal, NamedTuple, Self

import jax

from metajax.base import PyTree
from metajax.devices.distributed import is_primary
from metajax.runs._checkpoint_directory import RunDirectory, Saved
from metajax.runs._checkpoint_files import (
  Found,
  Manifest,
  NewerFormatError,
  from_primary,
  read_arrays,
  read_manifest,
  reason,
  write_step,
)
from metajax.runs._checkpoint_leaves import (
  CheckpointError,
  Leaf,
  check_fit,
  choose_field,
  entry_of,
  from_host,
  to_host,
)

__all__ = ['CheckpointError', 'Checkpointer', 'Restored']


class Restored(NamedTuple):
  """What `Checkpointer.restore` found."""

  step: int
  state: PyTree
  metrics: dict[str, float]  # those passed to `save`
  rejected: tuple[str, ...]  # checkpoints passed over, each with its reason


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
    self._directory = RunDirectory(directory)
    self._keep_last = keep_last
    self._best_metric = best_metric
    self._sign = 1.0 if best_mode == 'max' else -1.0
    self._continues = False  # whether the history on disk is ours to rewrite
    self._ranks: dict[Saved, float | None] = {}  # by metric, higher is better
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
    leaves = to_host(state)
    if not is_primary():
      return
    self._directory.make()
    saved = self._directory.saved()
    if saved and step <= saved[-1].step and not self._continues:
      raise CheckpointError(
        f'{self._directory} already holds step {saved[-1].step} of a run, and'
        f' saving step {step} would replace it; restore it first to continue'
        ' it, or use another directory'
      )
    self._continues = True
    generations = [old.generation for old in saved if old.step == step]
    target = Saved(step, max(generations, default=-1) + 1)
    self._begin(partial(self._write, target, leaves, scalars))

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
    return sorted({saved.step for saved in self._directory.saved()})

  def restore(
    self,
    template: PyTree,
    *,
    step: int | None = None,
    best: bool = False,
    only: str | None = None,
  ) -> Restored:
    """Reads the newest good checkpoint, walking back over bad ones.

    A checkpoint is bad if anything in it is missing, unreadable or differs
    from its checksum. Bad ones stay where they are until the next `save`. One
    that a later version of metajax wrote is not bad, and not passed over.

    With `only='meta_params'` nothing needs to be known of the rest of the
    state, such as how it was trained, and damage there does no harm. The run
    stays another's: such a restore does not allow to save over it.

    Args:
      template: a pytree with the structure, dtypes and shapes of the state;
        with `only`, of that field, or of a state whose other fields may be
        anything. `jax.ShapeDtypeStruct` will do for an array. Where a leaf
        lies on a mesh, or has such a sharding, so does what is restored.
      step: restore this step and no other.
      best: restore the best by `best_metric`, or the next best if it is bad.
      only: restore this field of the state alone: a field of a NamedTuple, a
        key of a mapping.

    Returns:
      The step, and the state (with `only`, that field of it) in the structure
      of its template: arrays on the default device, typed keys for typed
      keys, Python numbers for Python numbers. A NumPy array whose dtype JAX
      cannot hold (float64 without `jax_enable_x64`) stays a NumPy array.

    Raises:
      CheckpointError: if there is no checkpoint, if none is good, if its
        format is newer than this version of metajax, if the state in it does
        not fit the template, or if it has no field `only`.
      ValueError: if `best` is given with `step` or without a `best_metric`.
    """
    if best and step is not None:
      raise ValueError(f'restore takes step ({step}) or best, not both')
    if best and self._best_metric is None:
      raise ValueError('best needs a Checkpointer with a best_metric')
    self.wait()
    if jax.process_count() == 1:
      found = self._read(template, step, best, only)
    else:
      found = from_primary(partial(self._read, template, step, best, only))
    manifest, arrays, rejected = found
    if only is None:
      self._continues = True
      state = from_host(arrays, template, manifest.leaves)
    else:
      like, entries = choose_field(template, manifest.leaves, only, '')
      state = from_host(arrays, like, entries)[only]
    return Restored(manifest.step, state, manifest.metrics, tuple(rejected))

  def _read(
    self, template: PyTree, step: int | None, best: bool, only: str | None
  ) -> Found:
    rejected: list[str] = []
    readable = self._readable(self._candidates(step), rejected)
    for saved, manifest in self._by_rank(readable) if best else readable:
      # What does not fit is the caller's mistake, not damage, and an older
      # checkpoint would not fit either: it is not passed over.
      where = f'the state of step {manifest.step} in {self._directory}'
      like, entries = template, manifest.leaves
      if only is not None:
        like, entries = choose_field(template, entries, only, where)
      check_fit(like, entries, where)
      try:
        arrays = read_arrays(self._directory.path_of(saved), manifest, only)
      except Exception as error:
        rejected.append(f'step {saved.step}: {reason(error)}')
        continue
      return Found(manifest._replace(leaves=entries), arrays, rejected)
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
    self, candidates: list[Saved], rejected: list[str]
  ) -> Iterator[tuple[Saved, Manifest]]:
    for saved in candidates:
      try:
        manifest = read_manifest(self._directory.path_of(saved), saved.step)
      except NewerFormatError as error:
        raise CheckpointError(
          f'step {saved.step} in {self._directory} {error}'
        ) from error
      except Exception as error:
        rejected.append(f'step {saved.step}: {reason(error)}')
      else:
        yield saved, manifest

  def _candidates(self, step: int | None) -> list[Saved]:
    """The checkpoints to try, newest first; at least one."""
    saved = self._directory.saved()[::-1]
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
    self, readable: Iterable[tuple[Saved, Manifest]]
  ) -> list[tuple[Saved, Manifest]]:
    """Sorts those with the metric: best first, newest first among equals."""
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

  def _begin(self, write: Callable[[], None]) -> None:
    """Runs it in a thread, or not at all if a signal breaks the start off.

    Such a thread may run or not, and can't be joined; so it waits for a word.
    """
    word: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def run() -> None:
      if word.get():
        write()

    # It is no daemon: the interpreter should wait for it where it can.
    thread = threading.Thread(target=run, name='metajax-checkpoint')
    try:
      thread.start()
      self._thread = thread
      word.put(True)
    except BaseException:
      word.put(False)
      raise

  def _write(
    self, target: Saved, leaves: list[Leaf], metrics: dict[str, float]
  ) -> None:
    """Runs in the background; leaves any error for `wait`."""
    try:
      self._directory.remove_leftovers()
      manifest = Manifest(target.step, metrics, [entry_of(x) for x in leaves])
      write_step(self._directory.path_of(target), leaves, manifest)
    except Exception as error:
      self._directory.remove_leftovers()  # a full disk needs the room
      self._error = CheckpointError(
        f'could not save step {target.step} in {self._directory}:'
        f' {reason(error)}; earlier checkpoints there are unharmed'
      )
      self._error.__cause__ = error
      return
    try:
      self._ranks[target] = self._rank(metrics)
      self._remove_superseded(target)
    except Exception as error:
      self._error = CheckpointError(
        f'saved step {target.step} in {self._directory}, but could not remove'
        f' superseded checkpoints: {reason(error)}'
      )
      self._error.__cause__ = error

  def _remove_superseded(self, newest: Saved) -> None:
    """Keeps the last few and the best of the history that ends in `newest`."""
    saved = self._directory.saved()
    history: dict[int, Saved] = {}
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
        self._directory.remove(each)
        self._ranks.pop(each, None)

  def _rank_on_disk(self, saved: Saved) -> float | None:
    if saved not in self._ranks:
      try:
        manifest = read_manifest(self._directory.path_of(saved), saved.step)
        self._ranks[saved] = self._rank(manifest.metrics)
      except Exception:  # a bad checkpoint is never the best
        self._ranks[saved] = None
    return self._ranks[saved]
