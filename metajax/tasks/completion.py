"""Image completion: regression from the place of a pixel to its intensity."""

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Batch, Task
from metajax.equality import EqualPartial
from metajax.tasks._examples import check_examples, decoded, stored
from metajax.tasks.places import choose_without_replacement

__all__ = ['completion']


def completion(
  images: np.ndarray | jax.Array, shots: int, queries: int
) -> jax.tree_util.Partial:
  """Makes any images a distribution of regression tasks, an image each.

  Args:
    images: `[images, height, width]` or `[images, height, width, channels]`;
      uint8 is scaled to [0, 1], fractions are taken as they are.
    shots: pixels of the support set.
    queries: other pixels, to be predicted.

  Returns:
    `sample(key) -> Task`, a `jax.tree_util.Partial` that holds the images.
    Inputs are places `[pixels, 2]`, row and column from -1 to 1; targets are
    intensities `[pixels, channels]`.

  Raises:
    ValueError: if a count is not positive, if there are more of them than
      pixels, or if the images are no such images.

  Example:
    >>> import jax, numpy as np
    >>> sample = completion(np.zeros((3, 4, 4), np.uint8), shots=5, queries=2)
    >>> task = sample(jax.random.key(0))
    >>> task.support.inputs.shape, task.query.targets.shape
    ((5, 2), (2, 1))

  References:
    Garnelo et al. (2018), Conditional neural processes, section 4.2.
  """
  if shots < 1 or queries < 1:
    raise ValueError(
      f'shots and queries must be 1 or more, got {shots} and {queries}'
    )
  check_examples(images)
  tokens = (
    jnp.issubdtype(images.dtype, jnp.integer) and images.dtype != np.uint8
  )
  if images.ndim not in (3, 4) or tokens:
    raise ValueError(
      'images are uint8 or fractions, [images, height, width] or [images,'
      f' height, width, channels]; got {images.dtype} {list(images.shape)}'
    )
  height, width = images.shape[1:3]
  if shots + queries > height * width:
    raise ValueError(
      f'{shots} shots + {queries} queries, but an image has only'
      f' {height} x {width} pixels'
    )
  if images.ndim == 3:
    images = images[..., None]
  return jax.tree_util.Partial(
    EqualPartial(_sample, shots, queries), jnp.asarray(stored(images))
  )


def _sample(
  shots: int, queries: int, images: jax.Array, key: jax.Array
) -> Task:
  image_key, pixel_key = jax.random.split(key)
  number, height, width, _ = images.shape
  image = images[jax.random.randint(image_key, (), 0, number)]
  chosen = choose_without_replacement(
    pixel_key, height * width, shots + queries
  )
  rows, columns = jnp.divmod(chosen, width)
  places = jnp.stack(
    [_from_minus_one(rows, height), _from_minus_one(columns, width)], axis=1
  )
  intensities = decoded(image[rows, columns])
  return Task(
    Batch(places[:shots], intensities[:shots]),
    Batch(places[shots:], intensities[shots:]),
  )


def _from_minus_one(index: jax.Array, length: int) -> jax.Array:
  """The middles of so many cells between -1 and 1."""
  return (2 * index.astype(jnp.float32) + 1) / length - 1
