"""A state as a list of leaves in host memory, and back.

Every leaf has a path, and comes back as the kind of thing that it was: an
array, a typed key, a Python number.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from metajax.base import PyTree
from metajax.devices.distributed import gather
from metajax.devices.mesh import put

__all__ = [
  'CheckpointError',
  'Entry',
  'Leaf',
  'check_fit',
  'choose_field',
  'entry_of',
  'from_host',
  'is_in_field',
  'to_host',
]


class CheckpointError(RuntimeError):
  """A checkpoint cannot be saved or restored; says which, where and why."""


# A line of a manifest: path, dtype, shape, key and checksum of a leaf.
Entry = Mapping[str, Any]


class Leaf(NamedTuple):
  """A leaf of the state in host memory."""

  path: str
  dtype: str
  data: np.ndarray
  key: str | None  # the random number generator of typed keys


def entry_of(leaf: Leaf) -> dict[str, Any]:
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


def to_host(state: PyTree) -> list[Leaf]:
  """Copies every leaf, so that the state may be donated afterwards."""
  leaves = [(path, gather(leaf)) for path, leaf in _paths(state)]
  for _, leaf in leaves:
    # On a CPU it would hold the array's own buffer, from donation too.
    if isinstance(leaf, jax.Array) and _on_accelerator(leaf):
      leaf.copy_to_host_async()
  return [_leaf_to_host(path, leaf) for path, leaf in leaves]


def _on_accelerator(leaf: jax.Array) -> bool:
  return any(device.platform != 'cpu' for device in leaf.devices())


def _leaf_to_host(path: str, leaf: Any) -> Leaf:
  dtype = _dtype(leaf)
  if _is_key(leaf):
    data = np.array(jax.random.key_data(leaf))
    return Leaf(path, dtype, data, str(jax.random.key_impl(leaf)))
  # On a CPU np.asarray would be a view of the array's own buffer.
  data = np.array(leaf)
  if not (jnp.issubdtype(data.dtype, np.number) or data.dtype == np.bool_):
    raise CheckpointError(
      f'cannot save leaf {path!r}, which is a {type(leaf).__name__} of dtype'
      f' {data.dtype}; a state is made of arrays, typed keys and numbers'
    )
  return Leaf(path, dtype, data, None)


def from_host(
  arrays: Sequence[np.ndarray], template: PyTree, entries: Sequence[Entry]
) -> PyTree:
  """Makes arrays that were read a state like the template, and put like it."""
  leaves, structure = jax.tree.flatten(template)
  return jax.tree.unflatten(
    structure,
    [
      _leaf_from_host(array, leaf, entry['key'])
      for array, leaf, entry in zip(arrays, leaves, entries, strict=True)
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


def is_in_field(entry: Entry, name: str) -> bool:
  """Tells whether a leaf is of the field of the state that has this name."""
  path = entry['path']
  return bool(path == name or path.startswith(f'{name}/'))


def choose_field(
  template: PyTree, entries: Sequence[Entry], name: str, where: str
) -> tuple[dict[str, PyTree], list[Entry]]:
  """One field of a state: what it should be like, and what was saved of it.

  Args:
    template: of the whole state or of the field alone. Where it could be
      either, because the field has a field of the same name, it is what fits.
    entries: of the whole state.
    name: of the field.
    where: begins the message of an error.

  Returns:
    `{name: template of the field}`, whose paths are those in the state, and the
    entries of the field.

  Raises:
    CheckpointError: if there is no such field.
  """
  chosen = [entry for entry in entries if is_in_field(entry, name)]
  alone, fields = {name: template}, _fields(template)
  if name in fields:
    paths = [path for path, _ in _paths(alone)]
    if paths != [entry['path'] for entry in chosen]:
      return {name: fields[name]}, chosen
  elif not chosen:
    names = [entry['path'].partition('/')[0] for entry in entries]
    allowed = ', '.join(map(repr, dict.fromkeys(filter(None, names))))
    raise CheckpointError(
      f'{where} has no field {name!r}; only may be one of'
      f' {allowed or "none, for the state has no fields"}'
    )
  return alone, chosen


def _fields(tree: PyTree) -> dict[str, PyTree]:
  """The children of a node, each whatever it is, by their names."""
  children, _ = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda node: node is not tree
  )
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): child
    for path, child in children
  }


def check_fit(template: PyTree, entries: Sequence[Entry], where: str) -> None:
  """Raises CheckpointError where the saved state differs in kind."""
  expected = _paths(template)
  saved_paths = [entry['path'] for entry in entries]
  paths = [path for path, _ in expected]
  if paths != saved_paths:
    missing = _listed(path for path in paths if path not in saved_paths)
    extra = _listed(path for path in saved_paths if path not in paths)
    raise CheckpointError(
      f'{where} does not fit: expected but not saved: {missing}; saved but not'
      f' expected: {extra}; resume with the settings that it was saved with'
    )
  for (path, leaf), entry in zip(expected, entries, strict=True):
    saved = f'{entry["dtype"]}{_shape_of(entry)}'
    wanted = f'{_dtype(leaf)}{list(np.shape(leaf))}'
    if saved != wanted:
      raise CheckpointError(
        f'{where} does not fit: leaf {path!r} was saved as {saved}, expected'
        f' {wanted}; resume with the settings that it was saved with'
      )


def _paths(tree: PyTree) -> list[tuple[str, Any]]:
  return [
    (jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  ]


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


def _shape_of(entry: Entry) -> list[int]:
  """The shape of a key does not count the words of its data."""
  shape = list(entry['data_shape'])
  return shape[:-1] if entry['key'] else shape


def _listed(paths: Iterable[str]) -> str:
  listed = [repr(path) for path in paths]
  more = f' and {len(listed) - 5} more' if len(listed) > 5 else ''
  return (', '.join(listed[:5]) or 'nothing') + more
