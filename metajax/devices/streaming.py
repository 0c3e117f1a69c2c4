"""Tasks from the memory of the host, for data too large for a device.

The tasks of a step are drawn there by the very keys that a device would have
drawn them by, so a run that streams is the same run. Each process draws only
what its own devices adapt to. Where a stream is, is the number of the step:
the checkpoint of a run holds it, and any number of processes go on from it.
"""

from collections.abc import Iterator
from functools import partial
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.base import PyTree, Task, task_keys
from metajax.devices.mesh import TASK

__all__ = ['HostSampler', 'step_keys', 'stream', 'stream_shapes']

_THREADS = 2  # that gather: it is memory traffic, which few threads fill
_AHEAD = 8  # steps that wait in the memory of the host


@runtime_checkable
class HostSampler(Protocol):
  """A task distribution that draws on the host; also a `SampleTask`."""

  def __call__(self, key: jax.Array, /) -> Task:
    """Draws one task inside jit, by a call back to the host."""

  def draw(self, keys: jax.Array) -> PyTree:
    """Draws tasks on the host: NumPy leaves `[tasks, ...]`, as stored."""

  def decode(self, drawn: PyTree) -> Task:
    """Makes a task of what was drawn for one, inside jit."""


def step_keys(key: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Two keys of a step: of its tasks, and of the adaptation to them."""
  sample_key, grad_key = jax.random.split(jax.random.fold_in(key, step))
  return sample_key, grad_key


def stream(
  sampler: HostSampler,
  key: jax.Array,
  first_step: int,
  tasks_per_step: int,
  mesh: Mesh | None = None,
) -> Iterator[PyTree]:
  """The tasks of one step after the other, drawn ahead by grain's threads.

  Args:
    sampler: the task distribution.
    key: of the run (`TrainState.key`).
    first_step: where to begin.
    tasks_per_step: tasks per step, over all processes.
    mesh: the devices of the run.

  Yields:
    Arrays `[tasks_per_step, ...]`, divided over the axis of tasks.
  """
  import grain  # takes a second to import, and most runs do not stream

  place, rows = None, np.arange(tasks_per_step)
  if mesh is not None:
    place = NamedSharding(mesh, PartitionSpec(TASK))
    rows = _rows_of_this_process(place, tasks_per_step)
  steps = _Steps(sampler, key, tasks_per_step, rows)
  dataset = grain.MapDataset.source(steps)[first_step:].to_iter_dataset(
    grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
  )
  for drawn in dataset:
    if place is None:
      yield jax.tree.map(jax.device_put, drawn)
    else:
      yield jax.tree.map(partial(_lay_out, tasks_per_step, place, rows), drawn)


def stream_shapes(
  sampler: HostSampler, tasks_per_step: int, mesh: Mesh | None = None
) -> PyTree:
  """The shapes of what `stream` yields, and where it lies."""
  drawn = sampler.draw(jax.random.split(jax.random.key(0), 1))
  place = None if mesh is None else NamedSharding(mesh, PartitionSpec(TASK))
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      (tasks_per_step, *leaf.shape[1:]), leaf.dtype, sharding=place
    ),
    drawn,
  )


class _Steps:
  """What grain reads: item n holds this process's tasks of step n."""

  def __init__(
    self,
    sampler: HostSampler,
    key: jax.Array,
    tasks_per_step: int,
    rows: np.ndarray,
  ) -> None:
    self._sampler = sampler
    # Keys are derived on the processor, whatever computes the gradient.
    self._processor = jax.local_devices(backend='cpu')[0]
    self._key_data = np.asarray(jax.random.key_data(key))
    kind = jax.random.key_impl(key)

    @jax.jit
    def keys(key_data: jax.Array, step: jax.Array) -> jax.Array:
      key = jax.random.wrap_key_data(key_data, impl=kind)
      return task_keys(step_keys(key, step)[0], tasks_per_step)[rows]

    self._keys = keys

  def __len__(self) -> int:
    return 2**31 - 1

  def __getitem__(self, step: int) -> PyTree:
    with jax.default_device(self._processor):
      keys = self._keys(self._key_data, np.int32(step))
      return self._sampler.draw(keys)


def _rows_of_this_process(place: NamedSharding, total: int) -> np.ndarray:
  """Lists the tasks of a step that its devices need, ascending."""
  slices = place.addressable_devices_indices_map((total,)).values()
  return np.unique(np.concatenate([np.arange(total)[each] for each in slices]))


def _lay_out(
  total: int, place: NamedSharding, rows: np.ndarray, local: np.ndarray
) -> jax.Array:
  def part(index: tuple[slice, ...] | None) -> np.ndarray:
    assert index is not None
    wanted = np.searchsorted(rows, np.arange(total)[index[0]])
    return local[wanted]

  return jax.make_array_from_callback((total, *local.shape[1:]), place, part)
