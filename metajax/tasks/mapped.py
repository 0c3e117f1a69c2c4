"""Tasks of what a model makes of examples: computed once, not once a task.

Features that nothing changes, such as those of a pretrained network without its
head, are the same in every task that an example is drawn for. The examples that
a sampler holds go through the network once, and tasks draw the features.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.models.lengths import bucket
from metajax.tasks._examples import decoded, stored
from metajax.tasks.decoding import Progress
from metajax.tasks.episodes import as_examples, device_tasks, stored_parts
from metajax.tasks.words import NO_TOKEN

__all__ = ['map_array', 'map_examples']


def map_examples(
  sample: Any,
  function: Callable[[jax.Array], jax.Array],
  *,
  batch_size: int = 64,
  progress: Progress | None = None,
) -> jax.tree_util.Partial:
  """The same tasks, of what a function makes of their examples.

  Args:
    sample: draws tasks from examples that it holds, on the device or on the
      host: `episodes`, `classification`, `device_tasks`, `HostTasks`.
    function: as for `map_array`.
    batch_size: as for `map_array`.
    progress: as for `map_array`.

  Returns:
    `sample(key) -> Task`, which with the same key draws the same examples. What
    the function makes of them lies on the device.

  Raises:
    ValueError: if `sample` holds no examples, or as `map_array` does.

  Example:
    >>> import jax, numpy as np
    >>> from metajax.models import mlp
    >>> from metajax.tasks import episodes
    >>> examples = np.ones((12, 3), np.float32)
    >>> sample = episodes(examples, np.arange(12) % 3, 2, 1, 3)
    >>> network = mlp([8], 16)
    >>> params = network.init(jax.random.key(0), examples)
    >>> encode = jax.tree_util.Partial(network.apply, params)
    >>> features = map_examples(sample, encode)
    >>> features(jax.random.key(0)).support.inputs.shape
    (2, 16)
  """
  examples, places = stored_parts(sample)
  mapped = map_array(
    examples, function, batch_size=batch_size, progress=progress
  )
  return device_tasks(mapped, places)


def map_array(
  examples: np.ndarray | jax.Array,
  function: Callable[[jax.Array], jax.Array],
  *,
  batch_size: int = 64,
  progress: Progress | None = None,
) -> np.ndarray:
  """What a function makes of all examples, a batch at a time.

  Tokens, integers `[examples, length]` with -1 behind the last one, go through
  it in the order of their length, without columns in which a batch has none: a
  few programs are compiled, and short texts do not pay for the longest one.

  Args:
    examples: as for `episodes`. The function sees what a model would, such as
      images in [0, 1].
    function: of a batch `[examples, ...]`, each by itself. It is compiled; give
      weights as arguments of a `jax.tree_util.Partial`, or they are constants.
    batch_size: how many there are in a batch, the last one filled up.
    progress: is told after each batch how many examples are done, and of how
      many.

  Returns:
    An array `[examples, ...]`.

  Raises:
    ValueError: if `batch_size` is not positive, there are no examples, or the
      function returns anything but one array with a row for each; for such
      examples as `episodes` refuses.

  Example:
    >>> tokens = np.array([[3, 4, 5], [7, -1, -1]])
    >>> count = lambda tokens: (tokens >= 0).sum(axis=1)
    >>> map_array(tokens, count).tolist()
    [3, 1]
  """
  if batch_size < 1:
    raise ValueError(f'batch_size must be 1 or more, got {batch_size}')
  if not len(examples):
    raise ValueError('there are no examples to map; give 1 or more')
  held = np.asarray(as_examples(examples))
  number = len(held)
  size = min(batch_size, number)
  if not isinstance(function, jax.tree_util.Partial):
    function = jax.tree_util.Partial(function)
  lengths = _lengths(held)
  # Those of a batch are of about one length.
  order = np.argsort(lengths, kind='stable')
  found: np.ndarray | None = None
  for start in range(0, number, size):
    places = order[start : start + size]
    batch = stored(held[np.resize(places, size)])
    if lengths.any():
      batch = batch[:, : bucket(int(lengths[places].max()))]
    mapped = _apply(function, batch)
    if getattr(mapped, 'shape', ())[:1] != (size,):
      raise ValueError(
        'a function of examples returns one array with a row for each of'
        f' {size}; got {jax.tree.map(jnp.shape, mapped)}'
      )
    if found is None:
      found = np.empty((number, *mapped.shape[1:]), mapped.dtype)
    found[places] = mapped[: len(places)]
    if progress is not None:
      progress(start + len(places), number)
  assert found is not None  # there is a batch
  return found


@jax.jit
def _apply(function: jax.tree_util.Partial, batch: jax.Array) -> jax.Array:
  mapped: jax.Array = function(decoded(batch))
  return mapped


def _lengths(examples: np.ndarray) -> np.ndarray:
  """How long each is up to its last token; zeros for what is no tokens."""
  if examples.dtype.kind != 'i' or examples.ndim != 2:
    return np.zeros(len(examples), int)
  places = np.arange(1, examples.shape[1] + 1)
  lengths: np.ndarray = np.max((examples != NO_TOKEN) * places, axis=1)
  return lengths
