"""Pretrained weights: a directory of safetensors, config and tokenizer."""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from metajax.base import PyTree
from metajax.models.pretrained.config import TransformerConfig, read_config
from metajax.models.pretrained.files import (
  digest,
  find_weights,
  open_weights,
  read_tensor,
)
from metajax.models.pretrained.names import (
  OUTPUT_EMBEDDING,
  PREFIXES,
  Source,
  canonical,
  has_masked_words,
  is_harmless,
  sources,
)
from metajax.models.pretrained.parameters import shapes, unstack_blocks
from metajax.models.pretrained.tokenizer import Tokenizer, read_tokenizer

__all__ = ['Pretrained', 'first_blocks', 'load', 'save']

_LISTED = 8  # names in an error; the others are counted
_Path = tuple[str, ...]
_DTYPES = ('float32', 'bfloat16')


class Pretrained(NamedTuple):
  """A transformer that somebody has trained."""

  config: TransformerConfig
  params: PyTree  # arrays; of what form, `shapes` says
  tokenizer: Tokenizer | None  # None where there is no tokenizer.json
  # SHA-256 of its `weights`, of what its `config` says, and of its `tokenizer`
  # where it has one.
  digests: dict[str, str]
  path: str  # of the directory


def load(
  directory: str | Path,
  dtype: DTypeLike = jnp.float32,
  *,
  masked_words: bool | None = False,
) -> Pretrained:
  """Reads a pretrained transformer, of BERT's, GPT-2's or Llama's family.

  Every tensor is accounted for: one that is missing and one that is not known
  are errors, save those that a family is known to have and not to need, such as
  the pooler of BERT. An output embedding that is not tied is left out where the
  file is of a model without it.

  Args:
    directory: with `config.json`, `model.safetensors` (or the files that
      `model.safetensors.index.json` lists), and `tokenizer.json` if it has one.
      Pickled weights are refused.
    dtype: that parameters are kept in, float32 or bfloat16.
    masked_words: whether the layers are read too that BERT predicts masked
      words with, for `language_model`; None: where the files have them.

  Returns:
    Configuration, parameters, tokenizer, digests of all three and where they
    are.

  Raises:
    ValueError: in one line, if anything is missing, unknown, of the wrong shape
      or type, not finite, damaged, or does not fit together.
  """
  directory = Path(directory)
  if jnp.dtype(dtype).name not in _DTYPES:
    raise ValueError(
      f'weights are kept in {" or ".join(_DTYPES)}, not {jnp.dtype(dtype).name}'
    )
  files = find_weights(directory)
  config = read_config(directory)
  if masked_words and (config.causal or not config.tied):
    raise ValueError(
      f'masked_words are of a BERT with tied embeddings; {directory} has a'
      f' {config.family}{"" if config.tied else " that is not tied"}'
    )
  tokenizer = None
  if (directory / 'tokenizer.json').is_file():
    tokenizer = read_tokenizer(directory / 'tokenizer.json', config)
  with open_weights(files) as places:
    params = _read(config, places, np.dtype(dtype), masked_words, directory)
  digests = {'weights': digest(files), 'config': _digest(config.to_json())}
  if tokenizer is not None:
    digests['tokenizer'] = _digest(tokenizer.text)
  return Pretrained(config, params, tokenizer, digests, str(directory))


def _digest(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()


def _read(
  config: TransformerConfig,
  places: dict[str, Any],
  dtype: np.dtype,
  masked_words: bool | None,
  directory: Path,
) -> PyTree:
  """All parameters, once every tensor is accounted for."""
  names: dict[str, str] = {}
  for name in places:
    short = canonical(config, name)
    if short in names:
      raise ValueError(f'{directory} has both {name} and {names[short]}')
    names[short] = name
  if masked_words is None:
    masked_words = not config.causal and config.tied and has_masked_words(names)
  prefixed = any(name.startswith(PREFIXES[config.family]) for name in places)
  tree = shapes(
    config,
    output_embedding=prefixed or 'lm_head.weight' in names,
    masked_words=masked_words,
  )
  wanted = _flat(tree)
  table = sources(wanted, config)
  known = {source.name for source in table.values()}
  missing = sorted(known - set(names))
  unexpected = sorted(
    name
    for short, name in names.items()
    if short not in known and not is_harmless(config, short)
  )
  if missing or unexpected:
    raise ValueError(
      f'{directory} does not hold the weights of its config.json: missing'
      f' {_listed(missing)}; unexpected {_listed(unexpected)}'
    )
  leaves = {}
  for path, source in table.items():
    name = names[source.name]
    _check_shape(places, name, wanted[path], source, directory)
    tensor = read_tensor(places, name)
    if source.part is not None:
      tensor = np.split(tensor, 3, axis=-1)[source.part]
    tensor = tensor.T if source.transposed else tensor
    with np.errstate(over='ignore'):  # what becomes infinite is refused
      tensor = np.ascontiguousarray(tensor.astype(dtype))
    if not np.isfinite(tensor).all():
      raise ValueError(
        f'{directory}: the tensor {name} has values that are not finite in'
        f' {dtype.name}; get the file again'
      )
    leaves[path] = jnp.asarray(tensor)
  return _nested(leaves)


def _check_shape(
  places: dict[str, Any],
  name: str,
  shape: tuple[int, ...],
  source: Source,
  directory: Path,
) -> None:
  if source.transposed:
    shape = shape[::-1]
  if source.part is not None:
    shape = (*shape[:-1], 3 * shape[-1])
  found = tuple(places[name].get_slice(name).get_shape())
  if found != shape:
    raise ValueError(
      f'{directory}: the tensor {name} has the shape {list(found)}, by'
      f' config.json it must be {list(shape)}'
    )


def first_blocks(found: Pretrained, depth: int) -> Pretrained:
  """A shallower transformer: the first blocks of a pretrained one.

  Args:
    found: the transformer.
    depth: how many of its blocks stay; the rest is as it was.

  Returns:
    Another, on the same arrays. Its digests are those of the whole.

  Raises:
    ValueError: if it has fewer blocks, or none is to stay.
  """
  held = found.config.depth
  if not 1 <= depth <= held:
    raise ValueError(f'the transformer has from 1 to {held} blocks to keep')
  params = unstack_blocks(found.params)
  gone = [f'block_{index}' for index in range(depth, held)]
  return found._replace(
    config=dataclasses.replace(found.config, depth=depth),
    params={name: each for name, each in params.items() if name not in gone},
  )


def save(
  directory: str | Path,
  config: TransformerConfig,
  params: PyTree,
  tokenizer: Tokenizer | None = None,
) -> None:
  """Writes a transformer as a directory that `load`, and others, can read.

  Args:
    directory: to make, or to write over.
    config: of the transformer.
    params: floating-point arrays, blocks apart or stacked.
    tokenizer: that goes with it.

  Raises:
    ValueError: if `params` are not those of the configuration, for example with
      a head, a prompt or adapters that have yet to be folded, or are quantised.
      Nothing is written then.
  """
  from safetensors.numpy import save_file

  params = unstack_blocks(params)
  tree = shapes(
    config,
    output_embedding='output_embedding' in params,
    masked_words='masked_words' in params,
  )
  wanted, given = _flat(tree), _flat(params)
  missing = sorted('/'.join(path) for path in set(wanted) - set(given))
  unexpected = sorted('/'.join(path) for path in set(given) - set(wanted))
  if missing or unexpected:
    raise ValueError(
      'these parameters are not those of the configuration: missing'
      f' {_listed(missing)}; unexpected {_listed(unexpected)}; adapters must be'
      ' folded, and heads and prompts be saved elsewhere'
    )
  whole = config.family == 'bert' or config.tied or OUTPUT_EMBEDDING in given
  prefix = PREFIXES[config.family] if whole else ''
  tensors: dict[str, Any] = {}
  for path, source in sources(wanted, config).items():
    array = np.asarray(given[path])
    if not jnp.issubdtype(array.dtype, jnp.floating):
      kind = type(given[path]) if array.dtype == object else array.dtype.type
      raise ValueError(
        f'{"/".join(path)} is {kind.__name__}, and weights are saved as'
        ' floating-point arrays: save those from before they were quantised'
      )
    if np.shape(given[path]) != wanted[path]:
      raise ValueError(
        f'{"/".join(path)} has the shape {list(np.shape(given[path]))}, by its'
        f' configuration it must be {list(wanted[path])}'
      )
    name = source.name if source.outside else prefix + source.name
    if source.part is None:
      array = array.T if source.transposed else array
      tensors[name] = np.ascontiguousarray(array)
    else:
      tensors.setdefault(name, {})[source.part] = array
  for name, parts in tensors.items():
    if isinstance(parts, dict):
      tensors[name] = np.concatenate([parts[part] for part in range(3)], -1)
  directory = Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  if (directory / 'model.safetensors.index.json').exists():
    raise ValueError(f'{directory} has weights in several files already')
  # A file that is half written is never seen under its name.
  unfinished = directory / 'model.safetensors.unfinished'
  save_file(tensors, str(unfinished), metadata={'format': 'pt'})
  os.replace(unfinished, directory / 'model.safetensors')
  (directory / 'config.json').write_text(config.to_json(), encoding='utf-8')
  if tokenizer is not None:
    tokenizer.save(directory / 'tokenizer.json')


def _flat(tree: PyTree) -> dict[_Path, Any]:
  """Leaves by their path; what is no dictionary is a leaf."""
  leaves, _ = jax.tree.flatten_with_path(
    tree, is_leaf=lambda each: not isinstance(each, dict)
  )
  return {tuple(key.key for key in path): leaf for path, leaf in leaves}


def _nested(leaves: dict[_Path, Any]) -> PyTree:
  tree: dict[str, Any] = {}
  for path, leaf in leaves.items():
    within = tree
    for name in path[:-1]:
      within = within.setdefault(name, {})
    within[path[-1]] = leaf
  return tree


def _listed(names: list[str]) -> str:
  """Some of the names, and how many more there are."""
  if not names:
    return 'none'
  rest = len(names) - _LISTED
  more = f' and {rest} more' if rest > 0 else ''
  return f'{", ".join(names[:_LISTED])}{more}'
