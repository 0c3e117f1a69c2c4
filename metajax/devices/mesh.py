"""Meshes of devices, and which part of an array lies on which of them."""

import math
import re
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from metajax.base import PyTree

__all__ = [
  'MODEL',
  'TASK',
  'Rule',
  'axis_size',
  'by_path',
  'largest_dimension',
  'make_mesh',
  'put',
  'replicated',
  'shardings',
  'with_places',
]

TASK = 'task'  # the axis of a mesh that tasks are divided over
MODEL = 'model'  # the axis that a single network is divided over

# Maps the path and the shape of an array to how it is divided.
Rule = Callable[[str, tuple[int, ...]], PartitionSpec]


def make_mesh(
  axes: Mapping[str, int], devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Arranges devices along named axes.

  Args:
    axes: the number of devices along each axis, such as
      `{'task': 4, 'model': 2}`. Devices that are close to one another share
      the last axis.
    devices: those to arrange, by default all devices of all processes.

  Returns:
    The mesh.

  Raises:
    ValueError: if the product of the axes is not the number of devices.

  Example:
    >>> mesh = make_mesh({'task': jax.device_count(), 'model': 1})
    >>> mesh.axis_names
    ('task', 'model')
  """
  devices = jax.devices() if devices is None else devices
  wanted = math.prod(axes.values())
  if wanted != len(devices):
    listed = ' x '.join(f'{name}:{size}' for name, size in axes.items())
    raise ValueError(
      f'a mesh of {listed} needs {wanted} devices, and there are'
      f' {len(devices)} ({devices[0].platform}); the axes must multiply to that'
    )
  return jax.make_mesh(
    tuple(axes.values()),
    tuple(axes),
    axis_types=(AxisType.Auto,) * len(axes),
    devices=devices,
  )


def axis_size(mesh: Mesh, axis: str) -> int:
  """How many devices there are along an axis.

  Raises:
    ValueError: if the mesh has no such axis.
  """
  if axis not in mesh.shape:
    raise ValueError(
      f'the mesh has no axis {axis!r}; it has {", ".join(mesh.shape)}'
    )
  return int(mesh.shape[axis])


def replicated(path: str, shape: tuple[int, ...]) -> PartitionSpec:
  """The rule under which every device has all of every array."""
  del path, shape
  return PartitionSpec()


def largest_dimension(mesh: Mesh, axis: str, at_least: int = 2**16) -> Rule:
  """The rule that divides the largest dimension of every large array.

  Over the axis of tasks this is ZeRO: parameters and the state of the
  optimiser lie in pieces between steps and are gathered for one. Over an axis
  of its own the network itself is divided.

  Args:
    mesh: the mesh.
    axis: its axis to divide over.
    at_least: arrays with fewer numbers stay whole, as do those none of whose
      dimensions can be divided.

  Returns:
    The rule.

  Raises:
    ValueError: if the mesh has no such axis.
  """
  pieces = axis_size(mesh, axis)

  def rule(path: str, shape: tuple[int, ...]) -> PartitionSpec:
    del path
    able = [size for size in shape if size % pieces == 0]
    if math.prod(shape) < at_least or not able:
      return PartitionSpec()
    # The last of equal dimensions is taken: of a kernel, its outputs.
    place = len(shape) - 1 - shape[::-1].index(max(able))
    return PartitionSpec(*([None] * place), axis)

  return rule


def by_path(mesh: Mesh, rules: Sequence[tuple[str, PartitionSpec]]) -> Rule:
  """The rule that goes by names: the first pattern found in a path decides.

  The state of an optimiser has the paths of the parameters inside its own, so
  it is divided as they are.

  Args:
    mesh: the mesh.
    rules: pairs of a regular expression and how an array whose path it is
      found in is divided. Arrays of no pattern stay whole.

  Returns:
    The rule.

  Raises:
    ValueError: if a pattern is no regular expression, or if the mesh lacks an
      axis. The rule itself raises it where a dimension cannot be divided.

  Example:
    >>> from jax.sharding import PartitionSpec
    >>> mesh = make_mesh({'model': 1}, jax.devices()[:1])
    >>> rule = by_path(mesh, [('Dense.*kernel', PartitionSpec(None, 'model'))])
    >>> tuple(rule("['Dense_0']['kernel']", (40, 40)))
    (None, 'model')
  """
  compiled = []
  for pattern, spec in rules:
    try:
      compiled.append((re.compile(pattern), spec))
    except re.error as error:
      raise ValueError(f'{pattern!r} is no regular expression: {error}') from (
        error
      )
    for axis in _axes(spec):
      axis_size(mesh, axis)

  def rule(path: str, shape: tuple[int, ...]) -> PartitionSpec:
    for pattern, spec in compiled:
      if pattern.search(path):
        _check_division(mesh, path, shape, spec)
        return spec
    return PartitionSpec()

  return rule


def shardings(tree: PyTree, mesh: Mesh, rule: Rule = replicated) -> PyTree:
  """Says where the leaves of a tree lie, by a rule.

  Args:
    tree: arrays, or their shapes.
    mesh: the mesh.
    rule: from the path of a leaf (as `jax.tree_util.keystr` writes it) and its
      shape to how it is divided.

  Returns:
    A tree of `NamedSharding`.
  """
  return jax.tree.map_with_path(
    lambda path, leaf: NamedSharding(
      mesh, rule(jax.tree_util.keystr(path), leaf.shape)
    ),
    tree,
  )


def with_places(shapes: PyTree, places: PyTree) -> PyTree:
  """Shapes of arrays, with where they lie."""
  return jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=place, weak_type=leaf.weak_type
    ),
    shapes,
    places,
  )


def put(tree: PyTree, places: Mesh | PyTree) -> PyTree:
  """Lays arrays that are the same on every process onto devices.

  Args:
    tree: arrays, typed random keys, numbers. What lies on those devices
      already, if they are several, stays as it is.
    places: a tree of shardings like `tree`, or a mesh, every device of which
      gets all of every array.

  Returns:
    The tree as arrays of all processes.
  """
  if isinstance(places, Mesh):
    whole = NamedSharding(places, PartitionSpec())
    places = jax.tree.map(lambda _: whole, tree)

  def put_leaf(leaf: jax.Array, place: NamedSharding) -> jax.Array:
    if (
      isinstance(leaf, jax.Array)
      and len(place.device_set) > 1
      and leaf.sharding.device_set == place.device_set
    ):
      return leaf
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
      data = put_leaf(jax.random.key_data(leaf), place)
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(
      host.shape, place, lambda index: host[index]
    )

  return jax.tree.map(put_leaf, tree, places)


def _axes(spec: PartitionSpec) -> list[str]:
  return [
    axis
    for entry in spec
    for axis in (entry if isinstance(entry, tuple) else (entry,))
    if axis is not None
  ]


def _check_division(
  mesh: Mesh, path: str, shape: tuple[int, ...], spec: PartitionSpec
) -> None:
  if len(spec) > len(shape):
    raise ValueError(
      f'{path} has the shape {list(shape)}, and is to be divided along'
      f' {len(spec)} dimensions: {spec}'
    )
  for size, entry in zip(shape, spec, strict=False):
    pieces = math.prod(
      axis_size(mesh, axis) for axis in _axes(PartitionSpec(entry))
    )
    if size % pieces:
      raise ValueError(
        f'{path} has the shape {list(shape)}, of which {size} cannot be divided'
        f' over the {pieces} devices of {entry!r}'
      )
