"""Tasks whose classes are known in several modalities, as by name and face."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Task
from metajax.equality import EqualPartial
from metajax.tasks._examples import check_examples, decoded, stored
from metajax.tasks.places import (
  choose_examples,
  choose_without_replacement,
  places_by_class,
)
from metajax.tasks.task_sizes import check_sizes, split_episode

__all__ = ['Examples', 'modal_episodes']


class Examples(NamedTuple):
  """Examples of one modality."""

  inputs: Any  # [examples, ...], as for `metajax.tasks.episodes`
  labels: np.ndarray  # integer classes [examples]


class _Held(NamedTuple):
  """Examples on the device, and where each class is among them."""

  inputs: jax.Array
  table: jax.Array  # [classes, places]
  counts: jax.Array  # [classes]


def modal_episodes(
  examples: Mapping[str, Examples],
  ways: int,
  shots: int,
  queries: int,
  *,
  support: str,
  query: str,
) -> jax.tree_util.Partial:
  """Few-shot tasks that are given in one modality, and asked in another.

  What `metajax.tasks.episodes` is for one array of examples. With support set
  and queries of two modalities nothing that is given looks like what is asked
  for: a method has to know how the one goes with the other. With both of the
  same one these are its usual tasks.

  Args:
    examples: by modality, each with labels of its own, of the same classes.
      There may be one name and a thousand images of a class.
    ways: classes per task.
    shots: support examples per class.
    queries: query examples per class.
    support: the modality of the support set.
    query: that of the queries.

  Returns:
    `sample(key) -> Task`, a `jax.tree_util.Partial` that holds the examples.
    Inputs are a dictionary of one entry, by modality, as
    `metajax.models.multimodal` takes them.

  Raises:
    ValueError: if there is no such modality, if modalities have other classes
      than each other, and as `episodes` does.

  Example:
    >>> import jax, numpy as np
    >>> faces = Examples(np.zeros((12, 4, 4), np.uint8), np.arange(12) % 3)
    >>> names = Examples(np.array([[7, 8], [9, -1], [5, 6]]), np.arange(3))
    >>> sample = modal_episodes(
    ...   {'images': faces, 'texts': names}, ways=2, shots=1, queries=4,
    ...   support='texts', query='images')
    >>> task = sample(jax.random.key(0))
    >>> task.support.inputs['texts'].shape, task.query.inputs['images'].shape
    ((2, 2), (8, 4, 4, 1))
  """
  check_sizes(ways, shots, queries)
  for name, modality in (('support', support), ('query', query)):
    if modality not in examples:
      raise ValueError(
        f'{name} must be one of {", ".join(examples) or "none"}, which there'
        f' are examples of; got {modality!r}'
      )
  classes = {
    name: np.unique(examples[name].labels) for name in (support, query)
  }
  if not np.array_equal(classes[support], classes[query]):
    few, many = sorted((support, query), key=lambda name: len(classes[name]))
    alone = np.setdiff1d(classes[many], classes[few])
    raise ValueError(
      f'{few} and {many} must be of the same classes, but class {alone[0]} has'
      f' {many} alone'
    )
  if ways > len(classes[support]):
    raise ValueError(
      f'{ways} ways, but there are only {len(classes[support])} classes'
    )
  needed = {support: shots, query: queries}
  if support == query:
    needed = {support: shots + queries}
  held = {
    name: _hold(name, examples[name], number) for name, number in needed.items()
  }
  sample = EqualPartial(_sample, ways, shots, queries, support, query)
  return jax.tree_util.Partial(sample, held)


def _hold(name: str, examples: Examples, needed: int) -> _Held:
  inputs, labels = examples
  check_examples(inputs)
  if np.shape(labels) != (len(inputs),) or labels.dtype.kind not in 'iu':
    raise ValueError(
      f'{len(inputs)} {name} need as many integer labels, in one dimension; got'
      f' {labels.dtype} of shape {np.shape(labels)}'
    )
  classes, table, counts = places_by_class(labels)
  if counts.min() < needed:
    raise ValueError(
      f'{needed} {name} of each class are needed, but class'
      f' {classes[counts.argmin()]} has only {counts.min()}'
    )
  if inputs.dtype == np.uint8 and inputs.ndim == 3:
    inputs = inputs[..., None]
  return _Held(*map(jnp.asarray, (stored(inputs), table, counts)))


def _sample(
  ways: int,
  shots: int,
  queries: int,
  support: str,
  query: str,
  held: dict[str, _Held],
  key: jax.Array,
) -> Task:
  class_key, example_key, order_key = jax.random.split(key, 3)
  classes = choose_without_replacement(
    class_key, len(held[support].table), ways
  )

  def choose(key: jax.Array, name: str, number: int) -> jax.Array:
    each = held[name]
    return choose_examples(
      key, each.table[classes], each.counts[classes], number
    )

  if support == query:
    places = choose(example_key, support, shots + queries)
  else:
    keys = jax.random.split(example_key)
    places = jnp.concatenate(
      [choose(keys[0], support, shots), choose(keys[1], query, queries)], axis=1
    )
  drawn = split_episode(order_key, places, ways, shots)
  return Task(
    *(
      batch._replace(inputs={name: decoded(held[name].inputs[batch.inputs])})
      for batch, name in zip(drawn, (support, query), strict=True)
    )
  )
