"""Captions of signs: what a class of `strokes` looks like, in words.

A caption says of each stroke what it is (a ring, a hook, a zigzag), whether it
is large or small, level or upright, and where on the paper it lies. These
follow from how the class is drawn, so whoever has read the caption knows the
sign. Words vary, as hands do: each thing has several names, and something is
left unsaid now and then.

Captions are pure functions of keys, as images are.
"""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.tasks.signs import (
  KINDS,
  StrokeProgram,
  draw_class,
  render,
  stroke_kinds,
)
from metajax.tasks.strokes import split_key
from metajax.tasks.words import NO_TOKEN, WordTokenizer, word_tokenizer

__all__ = [
  'LENGTH',
  'Described',
  'caption',
  'caption_tokenizer',
  'described_strokes',
]

LENGTH = 24  # of all tokens: six words about each of four strokes

# Names of everything, as many of each.
_NAMES = {
  'bar': 'bar, line, stick', 'arc': 'arc, curve, bend',
  'bowl': 'bowl, cup, dish', 'ring': 'ring, circle, oval',
  'hook': 'hook, cane, crook', 'u': 'horseshoe, trough, arch',
  'corner': 'corner, elbow, angle', 'box': 'box, frame, bracket',
  'triangle': 'triangle, wedge, delta', 'zigzag': 'zigzag, lightning, bolt',
  's': 'swan, snake, worm', 'wave': 'wave, ripple, swell',
  'bumps': 'bumps, humps, hills', 'stem and ring': 'key, lollipop, balloon',
  'stem and bowl': 'ladle, spoon, scoop', 'loop': 'loop, knot, noose',
  'spiral': 'spiral, coil, snail', 'dot': 'dot, point, speck',
}  # fmt: skip
# Words by slot of a stroke, each slot in the order of its choices below.
_SLOTS = (
  ('a, one, some', 'and, with, then'),
  ('small, little, tiny', 'medium, moderate, fair', 'large, big, huge'),
  ('level, flat, wide', 'even, square, compact', 'upright, tall, standing'),
  tuple(_NAMES[kind] for kind in KINDS),
  ('top, above, upper', 'halfway, midway, inside', 'bottom, below, lower'),
  ('left, leftmost, west', 'middle, centre, amid', 'right, rightmost, east'),
)
_UNSAID = 0.15  # how often a slot is left out, but for what a stroke is
_WHAT = 3  # which slot that is
_AT_ONCE = 50  # classes


@cache
def caption_tokenizer() -> WordTokenizer:
  """The tokenizer of captions: all words that there are.

  Example:
    >>> tokenize = caption_tokenizer()
    >>> tokenize.decode(tokenize(['a large ring'])[0][0])
    'a large ring'
  """
  words = [words for slot in _SLOTS for words in slot]
  return word_tokenizer([' '.join(words).replace(',', ' ')])


@cache
def _tables() -> tuple[np.ndarray, ...]:
  """The tokens of each slot, int32 `[choices, names]`."""
  tokenize = caption_tokenizer()
  return tuple(
    tokenize([words.replace(',', ' ') for words in slot], 3)[0]
    for slot in _SLOTS
  )


def caption(
  key: jax.Array, kinds: jax.Array, program: StrokeProgram
) -> jax.Array:
  """Describes a sign, as somebody would.

  Args:
    key: of the wording.
    kinds: what its strokes are, see `metajax.tasks.signs.stroke_kinds`.
    program: how it is drawn, see `metajax.tasks.strokes.draw_class`.

  Returns:
    Tokens `[24]`, int32, -1 at the end where there is none.

  Example:
    >>> kinds = jnp.full(4, KINDS.index('ring'))
    >>> slope = jnp.linspace(-0.5, 0.5, 10)[None, :, None]
    >>> sign = StrokeProgram(jnp.tile(slope, (4, 1, 2)), jnp.arange(4) == 0)
    >>> tokens = jax.jit(caption)(jax.random.key(0), kinds, sign)
    >>> caption_tokenizer().decode(tokens)
    'some fair even circle midway middle'
  """
  low, high = (
    reduce(program.points, axis=1) for reduce in (jnp.min, jnp.max)
  )  # [strokes, 2]
  wide, tall = (high - low).T
  across, down = ((high + low) / 2).T
  largest = jnp.maximum(wide, tall)
  choices = (
    jnp.arange(len(kinds)) > 0,
    _grade(largest, 0.5, 1.0),
    _grade(tall / jnp.maximum(wide, 1e-3), 0.6, 1.7),
    kinds,
    _grade(down, -0.2, 0.2),
    _grade(across, -0.2, 0.2),
  )
  # One draw for everything: random bits are what takes longest to compile.
  luck = jax.random.uniform(key, (2, len(kinds), len(_SLOTS)))
  names = jnp.floor(3 * luck[0]).astype(jnp.int32)
  unsaid = luck[1] < _UNSAID
  unsaid &= jnp.arange(len(_SLOTS))[None] != _WHAT
  words = [
    jnp.asarray(table)[choice.astype(jnp.int32), names[:, slot]]
    for slot, (table, choice) in enumerate(zip(_tables(), choices, strict=True))
  ]
  said = program.used[:, None] & ~unsaid
  tokens = jnp.where(said, jnp.stack(words, axis=1), NO_TOKEN).reshape(-1)
  return tokens[jnp.argsort(tokens == NO_TOKEN, stable=True)]


def _grade(values: jax.Array, low: float, high: float) -> jax.Array:
  """0 below the one, 2 above the other, and 1 between them."""
  return (values > low).astype(jnp.int32) + (values > high)


class Described(NamedTuple):
  """Signs as pictures and in words; example i is drawn as it is described."""

  images: np.ndarray  # uint8 [examples, 28, 28], ink is 255
  texts: np.ndarray  # int32 [examples, 24], tokens of `caption_tokenizer`
  labels: np.ndarray  # int32 [examples]


def described_strokes(split: str, num_classes: int, each: int) -> Described:
  """Pictures and captions of signs, class by class, of `strokes`.

  Args:
    split: where classes come from: 'train', 'validation' or 'test'.
    num_classes: the first so many of the split, of which there are 2^32.
    each: examples of a class.

  Returns:
    Arrays on the host, the same ones in every call.

  Raises:
    ValueError: if there is no such split, or a count is not positive.

  Example:
    >>> signs = described_strokes('test', num_classes=2, each=3)
    >>> signs.images.shape, signs.texts.shape, signs.labels.tolist()
    ((6, 28, 28), (6, 24), [0, 0, 0, 1, 1, 1])
  """
  root = split_key(split)
  for name, count in (('num_classes', num_classes), ('each', each)):
    if count < 1:
      raise ValueError(f'{name} must be 1 or more, got {count}')
  # Some at a time, so that one program draws any number of classes.
  parts = [
    _draw_classes(each, root, first + jnp.arange(_AT_ONCE))
    for first in range(0, num_classes, _AT_ONCE)
  ]
  images, texts = (
    np.concatenate(part)[:num_classes] for part in zip(*parts, strict=True)
  )
  return Described(
    images.reshape(-1, *images.shape[2:]),
    texts.reshape(-1, LENGTH),
    np.repeat(np.arange(num_classes, dtype=np.int32), each),
  )


@partial(jax.jit, static_argnums=0)
def _draw_classes(
  each: int, root: jax.Array, indices: jax.Array
) -> tuple[jax.Array, jax.Array]:
  def draw(index: jax.Array) -> tuple[jax.Array, jax.Array]:
    sign = jax.random.fold_in(root, index)
    program, kinds = draw_class(sign), stroke_kinds(sign)
    # Other keys than those of the class are drawn by.
    keys = jax.random.split(jax.random.fold_in(sign, 1), (2, each))
    images = jax.vmap(render, (0, None))(keys[0], program)
    texts = jax.vmap(caption, (0, None, None))(keys[1], kinds, program)
    return jnp.round(255 * images[..., 0]).astype(jnp.uint8), texts

  drawn: tuple[jax.Array, jax.Array] = jax.lax.map(draw, indices)
  return drawn
