"""Episodes: few-shot classification tasks over any labelled array."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Task
from metajax.tasks._examples import check_examples, decoded, stored
from metajax.tasks.places import classification_places, episode_places

__all__ = [
  'HostEpisodes',
  'HostTasks',
  'as_examples',
  'classification',
  'device_tasks',
  'episodes',
  'stored_parts',
]


def episodes(
  images: np.ndarray | jax.Array,
  labels: np.ndarray,
  ways: int,
  shots: int,
  queries: int,
  *,
  min_ways: int | None = None,
  min_shots: int | None = None,
  groups: np.ndarray | None = None,
) -> jax.tree_util.Partial:
  """Makes any labelled array a distribution of few-shot tasks.

  A task draws `ways` classes without replacement, numbers them at random, and
  draws `shots + queries` different examples of each: two gathers from an array
  that stays on the device. (`HostEpisodes` draws the same tasks from an array
  that does not fit there.)

  Args:
    images: the examples `[examples, ...]`, whose type says what they are.
      uint8 are images `[examples, height, width]` or `[..., channels]`, which
      are scaled to [0, 1]. All else is taken as it is, with no axis added:
      other integers are tokens, and become int32; floating-point numbers and
      booleans are features, sequences, or images with channels.
    labels: integer classes `[examples]`, any values.
    ways: classes per task.
    shots: support examples per class.
    queries: query examples per class.
    min_ways: draw the number of classes of every task, from this one to
      `ways`. The shapes are those of the largest task: see `split_episode`.
    min_shots: draw the number of support examples too, one for all classes.
    groups: integers `[classes]`, in the order of sorted labels: all classes of
      a task are of one group, such as an alphabet. A group is drawn first,
      uniformly of those with `ways` classes or more.

  Returns:
    `sample(key) -> Task`, a `jax.tree_util.Partial` that holds the images, so
    they are an argument of whatever is compiled, not a constant in it. Inputs
    are int32 for tokens and float32 otherwise (float64 stays where JAX has it);
    of images, `[examples, height, width, channels]`.

  Raises:
    ValueError: if a count is not positive, a least one above the greatest, if
      there are more or fewer labels than images or groups than classes, fewer
      classes than `ways` (in every group), or if a class has fewer than
      `shots + queries` examples; if images seem to have 16 bits or their
      channels first (uint8), or integers do not fit into 32 bits; if labels are
      no integers.

  Example:
    >>> import jax, numpy as np
    >>> images = np.zeros((12, 4, 4), np.uint8)
    >>> sample = episodes(images, np.arange(12) % 3, ways=2, shots=1, queries=3)
    >>> task = sample(jax.random.key(0))
    >>> task.support.inputs.shape, task.query.targets.shape
    ((2, 4, 4, 1), (6,))
    >>> tokens = np.full((12, 7), 5)
    >>> sample = episodes(tokens, np.arange(12) % 3, ways=2, shots=1, queries=3)
    >>> sample(jax.random.key(0)).support.inputs[0].tolist()
    [5, 5, 5, 5, 5, 5, 5]
  """
  _check_labels(images, labels)
  places = episode_places(
    labels,
    ways,
    shots,
    queries,
    min_ways=min_ways,
    min_shots=min_shots,
    groups=groups,
  )
  return device_tasks(images, places)


def classification(
  images: np.ndarray | jax.Array, labels: np.ndarray, batch_size: int
) -> jax.tree_util.Partial:
  """Batches of images of all classes: the task of telling all apart.

  It is what methods train on that know all classes of training, and adapt at
  test only. There is nothing to adapt to: the support set of such a task is
  its queries.

  Args:
    images: as for `episodes`.
    labels: integer classes `[examples]`, any values.
    batch_size: images in a batch, drawn uniformly with replacement.

  Returns:
    `sample(key) -> Task`, as `episodes` does. Targets are the ranks of the
    labels among all there are: from 0 to the number of classes - 1.

  Raises:
    ValueError: if `batch_size` is not positive, if there are more or fewer
      labels than images, or for such images as `episodes` refuses.

  Example:
    >>> import jax, numpy as np
    >>> images = np.zeros((12, 4, 4), np.uint8)
    >>> sample = classification(images, np.arange(12) % 3, batch_size=8)
    >>> task = sample(jax.random.key(0))
    >>> task.query.inputs.shape, task.query.targets.shape
    ((8, 4, 4, 1), (8,))
  """
  _check_labels(images, labels)
  return device_tasks(images, classification_places(labels, batch_size))


def device_tasks(
  images: np.ndarray | jax.Array, places: jax.tree_util.Partial
) -> jax.tree_util.Partial:
  """Tasks of images that lie on the device.

  Args:
    images: as for `episodes`.
    places: `(key) -> Task` whose inputs are places in `images`, such as
      `episode_places`.

  Returns:
    `sample(key) -> Task`, a `jax.tree_util.Partial` that holds the images.

  Raises:
    ValueError: for such images as `episodes` refuses.
  """
  examples = jnp.asarray(stored(as_examples(images)))
  return jax.tree_util.Partial(
    _sample_at, examples, jax.tree.map(jnp.asarray, places)
  )


def stored_parts(sample: Any) -> tuple[Any, jax.tree_util.Partial]:
  """What `device_tasks` or `HostTasks` made a sampler of.

  Returns:
    The examples as they are stored, and the sampler of places in them.

  Raises:
    ValueError: if it is of neither.

  Example:
    >>> labels = np.arange(12) % 3
    >>> sample = episodes(np.zeros((12, 5)), labels, ways=2, shots=1, queries=3)
    >>> stored_parts(sample)[0].shape
    (12, 5)
  """
  if isinstance(sample, HostTasks):
    return sample.examples, sample.places
  if isinstance(sample, jax.tree_util.Partial) and sample.func is _sample_at:
    examples, places = sample.args
    return examples, places
  raise ValueError(
    'a sampler that holds examples is wanted, as episodes, classification,'
    f' device_tasks and HostTasks make it; got {type(sample).__name__}'
  )


class HostTasks:
  """The tasks of `device_tasks`, from an array that stays on the host.

  With the same key it draws the same task. `make_train_step` streams from it:
  tasks are drawn ahead on the host while devices adapt to those before
  (`metajax.devices.streaming`). Elsewhere it is a sampler like any, which calls
  the host for its images.
  """

  def __init__(self, images: np.ndarray, places: jax.tree_util.Partial) -> None:
    """Reads nothing yet: `images` may be a `numpy.memmap`.

    Args:
      images: as for `episodes`.
      places: as for `device_tasks`.

    Raises:
      ValueError: for such images as `episodes` refuses; of integers that do
        not fit into 32 bits only when they are drawn.
    """
    self.examples = as_examples(images)  # as they are stored
    self.places = places

  def draw(self, keys: jax.Array) -> Task:
    """Draws one task per key on the host; images as they are stored."""
    tasks = jax.tree.map(np.asarray, _draw_places(self.places, keys))
    return _with_inputs(tasks, self._gather)

  @staticmethod  # so that one program serves samplers that are made anew
  def decode(drawn: Task) -> Task:
    """Scales the images of a task that was drawn."""
    return _with_inputs(drawn, decoded)

  def __call__(self, key: jax.Array) -> Task:
    """Draws a task inside jit, by a call back to the host."""

    def fetch(indices: jax.Array) -> jax.Array:
      shape = jax.ShapeDtypeStruct(
        (*indices.shape, *self.examples.shape[1:]),
        stored(self.examples[:0]).dtype,
      )
      images: jax.Array = jax.pure_callback(
        self._gather, shape, indices, vmap_method='expand_dims'
      )
      return decoded(images)

    return _with_inputs(self.places(key), fetch)

  def _gather(self, indices: np.ndarray) -> np.ndarray:
    gathered: np.ndarray = stored(self.examples[np.asarray(indices)])
    return gathered


@jax.jit
def _draw_places(places: jax.tree_util.Partial, keys: jax.Array) -> Task:
  tasks: Task = jax.vmap(places)(keys)
  return tasks


class HostEpisodes(HostTasks):
  """The tasks of `episodes`, from an array that stays on the host.

  Example:
    >>> import jax, numpy as np
    >>> images = np.zeros((12, 4, 4), np.uint8)
    >>> sample = HostEpisodes(images, np.arange(12) % 3, 2, 1, 3)
    >>> sample(jax.random.key(0)).support.inputs.shape
    (2, 4, 4, 1)
  """

  def __init__(
    self,
    images: np.ndarray,
    labels: np.ndarray,
    ways: int,
    shots: int,
    queries: int,
  ) -> None:
    """Reads nothing yet: `images` may be a `numpy.memmap`.

    Args:
      images: as for `episodes`.
      labels: as for `episodes`.
      ways: classes per task.
      shots: support examples per class.
      queries: query examples per class.

    Raises:
      ValueError: as `episodes` does.
    """
    _check_labels(images, labels)
    super().__init__(images, episode_places(labels, ways, shots, queries))


def _check_labels(images: np.ndarray | jax.Array, labels: np.ndarray) -> None:
  # A gather would clamp indices out of range without a word.
  if np.shape(labels) != (len(images),):
    raise ValueError(
      f'{len(images)} images need as many integer labels, in one dimension;'
      f' got {np.size(labels)} labels of shape {np.shape(labels)}'
    )
  if np.asarray(labels).dtype.kind not in 'iub':
    raise ValueError(
      f'labels must be integers, got {np.asarray(labels).dtype}; number the'
      ' classes, as numpy.unique(labels, return_inverse=True)[1] does'
    )


def as_examples(images: Any) -> Any:
  """The examples, if they can be such; images with an axis of channels.

  Raises:
    ValueError: for such images as `episodes` refuses.
  """
  check_examples(images)
  is_grey = images.dtype == np.uint8 and images.ndim == 3
  return images[..., None] if is_grey else images


def _sample_at(
  images: jax.Array, places: Callable[[jax.Array], Task], key: jax.Array
) -> Task:
  return _with_inputs(places(key), lambda inputs: decoded(images[inputs]))


def _with_inputs(task: Task, change: Callable[[Any], Any]) -> Task:
  """A task with other inputs for the same targets."""
  return Task(*(each._replace(inputs=change(each.inputs)) for each in task))
