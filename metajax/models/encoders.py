"""Networks by name, each with the head that a method asks for.

An experiment supplies the encoder, a method says what it wants at its end
(`metajax.base.Head`), so that any network trains with any method that can take
it.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import jax

from metajax.base import Head, Model
from metajax.equality import by_value
from metajax.models.attention import transformer
from metajax.models.networks import conv4, mlp, resnet12
from metajax.models.sequences import decoder, gru

__all__ = ['ENCODERS', 'Encoder', 'encoder']

_PATCHES = 7  # along the side of an image, or a few more


class Encoder(NamedTuple):
  """A row of the table of networks."""

  # From the head, the number of outputs, width and depth, and whether there
  # are warps.
  make: Callable[[Head, int, int, int, bool], Model]
  width: int  # by default
  depth: int | None = None  # by default; None: it has no depth to choose
  heads: tuple[str, ...] = ('outputs', 'features')
  has_warps: bool = False


def encoder(
  name: str,
  head: Head,
  num_outputs: int,
  *,
  width: int | None = None,
  depth: int | None = None,
) -> Model:
  """Makes a network with the head that a method wants.

  Args:
    name: of a row of `ENCODERS`.
    head: what the method wants at its end.
    num_outputs: of the last layer, where the head is `'outputs'` or
      `'memory'`.
    width: channels of convolutions, or units of layers.
    depth: number of layers or blocks, where the network has a choice.

  Returns:
    The model; a `SequenceModel` where the head is `'memory'`.

  Raises:
    ValueError: if there is no such network, or it cannot have this head, or
      has no depth.

  Example:
    >>> from metajax.base import Head
    >>> model = encoder('conv4', Head('features'), 5, width=8)
  """
  if name not in ENCODERS:
    raise ValueError(
      f'there is no network {name!r}; there are {", ".join(ENCODERS)}'
    )
  row = ENCODERS[name]
  if head.kind not in row.heads or (head.warps and not row.has_warps):
    able = [
      other
      for other, each in ENCODERS.items()
      if head.kind in each.heads and (each.has_warps or not head.warps)
    ]
    raise ValueError(
      f'{name} cannot end in {head.describe()}; {", ".join(able)} can'
    )
  if depth is not None and row.depth is None:
    able = [
      other
      for other, each in ENCODERS.items()
      if each.depth and head.kind in each.heads
    ]
    raise ValueError(f'{name} has no depth to choose; {", ".join(able)} have')
  return row.make(
    head, num_outputs, width or row.width, depth or row.depth or 0, head.warps
  )


def _conv4(
  downsample: str, pool: Literal['mean', 'flatten']
) -> Callable[[Head, int, int, int, bool], Model]:
  """Makes the function that builds a variant of the network."""

  def make(
    head: Head, num_outputs: int, width: int, depth: int, warps: bool
  ) -> Model:
    del depth  # it has four layers
    common: dict[str, Any] = {
      'width': width,
      'downsample': downsample,
      'warps': warps,
    }
    if head.kind == 'maps':
      return conv4(None, pool='none', halvings=3, **common)
    if head.kind == 'features':
      return conv4(head.size, pool='flatten', **common)
    return conv4(num_outputs, pool=pool, **common)

  return make


def _resnet12(
  head: Head, num_outputs: int, width: int, depth: int, warps: bool
) -> Model:
  del depth, warps  # it has neither
  widths = [width, width * 5 // 2, width * 5, width * 10]
  outputs = num_outputs if head.kind == 'outputs' else head.size
  return resnet12(outputs, widths=widths)


def _mlp(
  head: Head, num_outputs: int, width: int, depth: int, warps: bool
) -> Model:
  outputs = num_outputs if head.kind == 'outputs' else head.size or width
  return mlp([width] * depth, outputs, warps=warps)


def _transformer(
  head: Head, num_outputs: int, width: int, depth: int, warps: bool
) -> Model:
  del warps  # it has none
  outputs = num_outputs if head.kind == 'outputs' else head.size
  return _on_sequences(
    transformer(outputs, width=width, depth=depth, heads=math.gcd(width, 4))
  )


def _gru(
  head: Head, num_outputs: int, width: int, depth: int, warps: bool
) -> Model:
  del head, depth, warps  # it is a memory, of one layer, and has none
  return cast(Model, gru(num_outputs, width=width))


def _decoder(
  head: Head, num_outputs: int, width: int, depth: int, warps: bool
) -> Model:
  del head, warps  # it is a memory, and has none
  heads = math.gcd(width, 4)
  return cast(
    Model, decoder(num_outputs, width=width, depth=depth, heads=heads)
  )


@by_value
def _on_sequences(model: Model) -> Model:
  """The same model for whatever `sequences` makes sequences of."""
  measure, freeze = model.measure, model.freeze
  return Model(
    init=lambda key, inputs: model.init(key, sequences(inputs)),
    apply=lambda params, inputs: model.apply(params, sequences(inputs)),
    measure=measure
    and (lambda params, inputs: measure(params, sequences(inputs))),
    freeze=freeze and (lambda statistics: _on_sequences(freeze(statistics))),
  )


def sequences(inputs: jax.Array) -> jax.Array:
  """Examples as sequences of vectors.

  Args:
    inputs: images `[examples, height, width, channels]`, of which square
      patches become vectors, about 7 x 7 of them; rows of numbers `[examples,
      features]`, of which each is a vector of one; or sequences already.

  Returns:
    `[examples, length, channels]`.
  """
  if inputs.ndim == 2:
    return inputs[:, :, None]
  if inputs.ndim == 3:
    return inputs
  examples, height, width, channels = inputs.shape
  both = math.gcd(height, width)
  side = max(
    each
    for each in range(1, both + 1)
    if both % each == 0
    and (each == 1 or min(height, width) // each >= _PATCHES)
  )
  rows, columns = height // side, width // side
  cut = inputs.reshape(examples, rows, side, columns, side, channels)
  return cut.swapaxes(2, 3).reshape(examples, rows * columns, -1)


ENCODERS: dict[str, Encoder] = {
  'conv4': Encoder(
    _conv4('stride', 'mean'),
    width=64,
    heads=('outputs', 'features', 'maps'),
    has_warps=True,
  ),
  'conv4_flatten': Encoder(
    _conv4('stride', 'flatten'),
    width=64,
    heads=('outputs', 'features', 'maps'),
    has_warps=True,
  ),
  'conv4_max_pool': Encoder(
    _conv4('max_pool', 'flatten'),
    width=64,
    heads=('outputs', 'features', 'maps'),
    has_warps=True,
  ),
  'resnet12': Encoder(_resnet12, width=64),
  'mlp': Encoder(_mlp, width=64, depth=2, has_warps=True),
  'transformer': Encoder(_transformer, width=64, depth=2),
  'gru': Encoder(_gru, width=64, heads=('memory',)),
  'decoder': Encoder(_decoder, width=32, depth=2, heads=('memory',)),
}
