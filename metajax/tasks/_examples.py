"""What the examples of an array are: the one rule of all samplers.

It goes by the type of the array and its number of axes, never by its values:

| an array of | is | and becomes |
|---|---|---|
| uint8 | images of 8 bits | float32 in [0, 1]; `[n, height, width]` gets an \
axis of one channel |
| other integers | tokens | int32, as they are |
| booleans, halves | numbers | float32, as they are |
| float32, float64 | numbers | as they are |

What may be images of another kind is refused, as it would be wrong without a
word: 16 bits in three axes or more, other integers in four, and channels that
come before height and width.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ['are_channels_first', 'check_examples', 'decoded', 'stored']

_INT32 = np.iinfo(np.int32)


def are_channels_first(shape: tuple[int, ...]) -> bool:
  """Whether these are images [examples, channels, height, width]."""
  return len(shape) == 4 and shape[1] <= 4 < min(shape[2:])


def check_examples(examples: Any) -> None:
  """Refuses what is no array of images, tokens or numbers, without reading it.

  Raises:
    ValueError: says what was given, what is allowed and what to do.
  """
  given = f'{examples.dtype} {list(examples.shape)}'
  kind, axes = examples.dtype, examples.ndim
  if kind == np.uint8:
    if are_channels_first(examples.shape):
      raise ValueError(
        f'images have their channels last, [examples, height, width,'
        f' channels]; got {given}, so move them:'
        ' numpy.moveaxis(images, 1, -1)'
      )
  elif jnp.issubdtype(kind, jnp.integer):
    if axes >= 4 or (axes == 3 and kind == np.uint16):
      raise ValueError(
        f'images are uint8, from 0 to 255, or fractions; got {given}: convert'
        ' them, such as (images / 65535).astype(numpy.float32), or make int32'
        ' of tokens, in three axes or fewer'
      )
  elif not (jnp.issubdtype(kind, jnp.floating) or kind == np.bool_):
    raise ValueError(
      f'examples are integers, floating-point numbers or booleans; got {given}'
    )


def stored(examples: Any) -> Any:
  """Examples as a sampler holds or gathers them: of a type that devices have.

  Raises:
    ValueError: if integers do not fit into 32 bits.
  """
  kind = examples.dtype
  wide = jnp.issubdtype(kind, jnp.integer) and not np.can_cast(kind, np.int32)
  if wide and not isinstance(examples, jax.core.Tracer) and examples.size:
    low, high = int(examples.min()), int(examples.max())
    if low < _INT32.min or high > _INT32.max:
      raise ValueError(
        f'integers are kept in 32 bits, up to {_INT32.max}; these go from {low}'
        f' to {high}, so number the tokens anew'
      )
  kept = np.int32 if wide else jax.dtypes.canonicalize_dtype(kind)
  return examples.astype(np.dtype(kept).newbyteorder('='), copy=False)


def decoded(examples: jax.Array) -> jax.Array:
  """What a model sees of examples that are stored."""
  kind = examples.dtype
  if kind == jnp.uint8:
    return examples.astype(jnp.float32) / 255
  if jnp.issubdtype(kind, jnp.integer):
    return examples.astype(jnp.int32)
  if kind == jnp.bool_ or jnp.finfo(kind).bits < 32:
    return examples.astype(jnp.float32)
  return examples
