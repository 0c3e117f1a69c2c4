"""Weights of learned optimisers as files, to be used anywhere."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import PyTree
from metajax.inner import partition
from metajax.learned.optimizers import OPTIMIZERS, check_weights

__all__ = ['load_weights', 'save_weights']

_KIND = 'metajax_learned_optimizer'


def save_weights(
  path: str | os.PathLike[str], weights: PyTree, kind: str
) -> None:
  """Writes weights, and of what kind they are, to a safetensors file.

  Args:
    path: of the file, which is replaced as a whole.
    weights: of a learned optimiser.
    kind: of `metajax.learned.OPTIMIZERS`.

  Raises:
    ValueError: if they are not those of that kind, or not finite.

  Example:
    >>> import tempfile
    >>> from metajax.learned import init_learned_adam
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   save_weights(f'{folder}/adam', init_learned_adam(), 'adam')
    ...   weights, kind = load_weights(f'{folder}/adam')
    >>> kind
    'adam'
  """
  from safetensors.numpy import save_file  # what is heavy is loaded when used

  check_weights(weights, kind)
  arrays = {
    name: np.asarray(leaf)
    for name, leaf in zip(
      partition.paths(weights), jax.tree.leaves(weights), strict=True
    )
  }
  for name, array in arrays.items():
    if not np.isfinite(array).all():
      raise ValueError(f'{name} has numbers that are not finite')
  target = Path(path)
  partial = target.with_name(f'{target.name}.partial')
  save_file(arrays, partial, {_KIND: json.dumps(kind)})
  partial.replace(target)


def load_weights(path: str | os.PathLike[str]) -> tuple[PyTree, str]:
  """Reads what `save_weights` has written.

  Args:
    path: of the file.

  Returns:
    The weights, and of what kind they are.

  Raises:
    ValueError: if it is no such file, or if its weights are not those of the
      kind that it names, or not finite.
    OSError: if it cannot be read.
  """
  from safetensors import SafetensorError, safe_open

  try:
    with safe_open(os.fspath(path), 'numpy') as file:
      kind = json.loads((file.metadata() or {}).get(_KIND, 'null'))
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except (SafetensorError, ValueError, TypeError) as error:
    raise ValueError(
      f'{path} is no file of weights: {str(error).splitlines()[0]}'
    ) from error
  if not isinstance(kind, str) or kind not in OPTIMIZERS:
    raise ValueError(
      f'{path} has no weights of a learned optimiser; save them by'
      ' metajax.learned.save_weights'
    )
  weights: dict = {}
  for name, array in sorted(arrays.items()):
    first, _, last = name.partition('/')
    if last:
      weights.setdefault(first, {})[last] = jnp.asarray(array)
    else:
      weights[first] = jnp.asarray(array)
    if not np.isfinite(array).all():
      raise ValueError(f'{path}: {name} has numbers that are not finite')
  try:
    check_weights(weights, kind)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  return weights, kind
