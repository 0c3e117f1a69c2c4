"""Signs: the strokes of a pen, as a class draws them and as a hand does.

A class is a program of one to four pen strokes, drawn from its own key the way
the letters of an invented alphabet might be: bars, arcs, hooks, loops, waves
and dots that touch, cross, repeat or stand apart. An example is that program
in somebody's hand: its points wander, the whole is bent, turned, scaled and
shifted a little, and the pen is more or less broad. Both are pure functions of
their keys.

The look is that of Omniglot at 28 x 28 pixels (B. M. Lake, R. Salakhutdinov
and J. B. Tenenbaum, "Human-level concept learning through probabilistic
program induction", Science 350, 2015), whose generative model this simplifies.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
  'KINDS',
  'SIZE',
  'StrokeProgram',
  'draw_class',
  'render',
  'stroke_kinds',
]

SIZE = 28  # pixels, in height and in width

_STROKES = 4  # at most, in one class
_PIECES = 3  # cubic Bezier curves in a stroke, end to end
_NODES = 3 * _PIECES + 1  # control points of a stroke
_SAMPLES = 5  # straight steps that stand for one Bezier curve
_DABS = 80  # round dabs of ink that make up one image

# A stroke is three arcs drawn without lifting the pen. Each kind of stroke says
# how long the arcs are, by how many degrees each turns, by how many the pen
# turns on the spot between them, how freely all this varies from class to
# class, and how common the kind is: in a sign of one stroke, as the first of
# several strokes, and later.
_KINDS = (
  # lengths, turns, corners, freedom, (alone, first, later)
  ((1, 1, 1), (0, 0, 0), (0, 0), 0.5, (1, 26, 44)),  # bar
  ((1, 1, 1), (45, 45, 45), (0, 0), 1.0, (8, 12, 14)),  # arc
  ((1, 1, 1), (75, 75, 75), (0, 0), 0.8, (6, 5, 4)),  # open bowl
  ((1, 1, 1), (118, 118, 118), (0, 0), 0.4, (6, 10, 8)),  # closed ring
  ((2.5, 0.9, 0.4), (0, 110, 30), (0, 0), 1.0, (8, 7, 5)),  # hook
  ((1, 1, 1), (0, 180, 0), (0, 0), 0.6, (6, 5, 3)),  # U
  ((1.6, 0.8, 0.8), (0, 0, 0), (95, 0), 1.0, (8, 8, 6)),  # corner
  ((1, 1, 1), (0, 0, 0), (90, 90), 0.6, (6, 5, 3)),  # three sides of a box
  ((1, 1, 1), (0, 0, 0), (120, 120), 0.4, (3, 3, 2)),  # triangle
  ((1, 1.2, 1), (0, 0, 0), (130, -130), 0.7, (6, 4, 3)),  # zigzag
  ((1, 0.5, 1), (150, 0, -150), (0, 0), 1.0, (8, 4, 3)),  # S
  ((1, 1, 1), (150, -150, 150), (0, 0), 0.7, (5, 2, 3)),  # wave
  ((1, 1, 0.6), (170, 170, 60), (-150, -150), 0.7, (6, 3, 2)),  # bumps
  ((1.4, 0.9, 0.9), (0, 165, 165), (0, 0), 0.5, (8, 5, 4)),  # stem and ring
  ((1.4, 0.9, 0.9), (0, 165, 165), (110, 0), 0.6, (6, 4, 3)),  # stem and bowl
  ((1, 1.6, 1), (20, 290, 20), (0, 0), 0.5, (6, 3, 2)),  # loop on the way
  ((1.6, 1.0, 0.6), (130, 160, 190), (0, 0), 0.6, (4, 2, 1)),  # spiral
)

# What `stroke_kinds` numbers: the rows above, and a dot.
KINDS = (
  'bar', 'arc', 'bowl', 'ring', 'hook', 'u', 'corner', 'box', 'triangle',
  'zigzag', 's', 'wave', 'bumps', 'stem and ring', 'stem and bowl', 'loop',
  'spiral', 'dot',
)  # fmt: skip


def _column(index: int) -> np.ndarray:
  return np.asarray([kind[index] for kind in _KINDS], np.float32)


def _cumulative(weights: np.ndarray) -> np.ndarray:
  """Upper ends of the intervals of [0, 1] that stand for each choice."""
  total = np.cumsum(weights, axis=0)
  return np.asarray(total[:-1] / total[-1:], np.float32)


_LENGTHS, _TURNS, _CORNERS = _column(0), _column(1), _column(2)
_FREEDOM, _COMMON = _column(3)[:, None], _cumulative(_column(4)).T
_NUM_STROKES = _cumulative(np.asarray([24, 40, 26, 10]))
# A copy of a stroke is shifted, or seen in a mirror, or upside down.
_FLIPS = np.asarray([[1, 1], [-1, 1], [1, -1], [-1, -1]], np.float32)
_JOINTS = np.asarray([0.55, 0.7, 0.85], np.float32)  # mostly at its beginning
_CENTRES = ((np.arange(SIZE) + 0.5) * (2 / SIZE) - 1).astype(np.float32)
_STEPS = np.arange(0.5, _DABS, dtype=np.float32)
_TIMES = np.arange(1, _SAMPLES + 1)[:, None] / _SAMPLES
_POWERS = np.arange(4)
_BERNSTEIN = np.asarray(
  [1, 3, 3, 1] * _TIMES**_POWERS * (1 - _TIMES) ** (3 - _POWERS), np.float32
)  # [samples, 4]

# These say how one hand differs from another, as standard deviations where the
# paper is 2 wide. They were set by comparing with Omniglot, to have about its
# ink, thickness, size, spread of position, and accuracy of a nearest class mean
# in pixel space.
_NODE_SHIFT = 0.07  # of the ends of arcs, relative to the size of a stroke
_STROKE_SHIFT = 0.03
_SHIFT = 0.09
_BOW = 0.08  # quadratic bending of the whole
_GROW, _STRETCH, _TURN, _SHEAR = 0.12, 0.1, 0.1, 0.12
_PEN, _PEN_SPREAD = 0.04, 0.06
_GAIN, _FLOOR = 1.2, 0.08  # make soft dabs a crisp line


class StrokeProgram(NamedTuple):
  """How the signs of one class are drawn.

  Coordinates are (x, y) with y downwards. The ideal sign is centred at the
  origin, and the edges of the paper are at -1 and 1.
  """

  points: jax.Array  # [strokes, nodes, 2], nodes of chained Bezier curves
  used: jax.Array  # [strokes] bool, which strokes are drawn


def draw_class(key: jax.Array) -> StrokeProgram:
  """Draws a class: a sign of one to four strokes.

  Args:
    key: a typed key; the same key gives the same class.

  Returns:
    The program of the class.

  Example:
    >>> program = jax.jit(draw_class)(jax.random.key(0))
    >>> program.points.shape, program.used.shape
    ((4, 10, 2), (4,))
  """
  noise, luck, num_strokes = _draw_luck(key)
  used = jnp.arange(_STROKES) < num_strokes
  shapes = _draw_shapes(noise[:-1, :10], luck[:-1, 10:15], num_strokes)
  points = _compose(shapes, luck[:-1, 15:])
  # Centre the sign and give it its size, larger the more there is to draw. A
  # narrow sign is widened a little.
  inked = used[:, None, None]
  low = jnp.min(points, axis=(0, 1), keepdims=True, where=inked, initial=9.0)
  high = jnp.max(points, axis=(0, 1), keepdims=True, where=inked, initial=-9.0)
  sides = jnp.maximum(high - low, 0.35 * jnp.max(high - low))
  size = 0.72 + 0.12 * num_strokes + 0.4 * luck[-1, 1]
  scale = size / jnp.sqrt(sides * jnp.max(sides))
  points = (points - (low + high) / 2) * scale
  return StrokeProgram(jnp.where(inked, points, 0.0), used)


def stroke_kinds(key: jax.Array) -> jax.Array:
  """What each stroke of a class is, for whoever describes it.

  A copy of a stroke is of its kind, in a mirror too.

  Args:
    key: of the class, as for `draw_class`.

  Returns:
    int32 `[strokes]`, places in `KINDS`; those of strokes that are not used
    mean nothing.

  Example:
    >>> kinds = jax.jit(stroke_kinds)(jax.random.key(0))
    >>> kinds.shape, KINDS[kinds[0]]
    ((4,), 'spiral')
  """
  _, luck, num_strokes = _draw_luck(key)
  kinds = [*_choose_kinds(luck[:-1, 10], num_strokes)]
  for index in range(1, _STROKES):
    dot, copy, other = _relation(luck[index, 15], luck[index, 16], index)
    copied = jnp.stack(kinds)[other]
    kinds[index] = jnp.where(copy, copied, kinds[index])
    kinds[index] = jnp.where(dot, KINDS.index('dot'), kinds[index])
  return jnp.stack(kinds).astype(jnp.int32)


def render(key: jax.Array, program: StrokeProgram) -> jax.Array:
  """Draws one example of a class, as a hand would.

  Args:
    key: a typed key.
    program: what is drawn, see `draw_class`.

  Returns:
    An image `[28, 28, 1]`, float32: ink is 1, paper is 0.

  Example:
    >>> program = jax.jit(draw_class)(jax.random.key(0))
    >>> image = jax.jit(render)(jax.random.key(1), program)
    >>> image.shape, image.dtype.name
    ((28, 28, 1), 'float32')
  """
  joints = _STROKES * (_PIECES + 1)
  noise = jax.random.normal(key, (joints + _STROKES + 7, 2), jnp.float32)
  points = _wobble(program.points, noise[:joints], noise[joints:-7])
  points = _distort(points, noise[-7:-1])
  width = _PEN * jnp.exp(_PEN_SPREAD * noise[-1, 0])
  return _ink(*_flatten(points, program.used), width)[..., None]


def _draw_luck(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """All that a class is drawn by; its last row is about the whole sign."""
  # One draw for everything: random bits are what takes longest to compile.
  noise = jax.random.normal(key, (_STROKES + 1, 23), jnp.float32)
  # The same numbers made uniform in [0, 1).
  luck = jnp.minimum(jax.scipy.special.ndtr(noise), 1 - 1e-6)
  return noise, luck, 1 + _choose(luck[-1, 0], _NUM_STROKES)


def _choose_kinds(luck: jax.Array, num_strokes: jax.Array) -> jax.Array:
  """The kind `[strokes]` that each stroke has of its own."""
  later = jnp.arange(_STROKES) > 0
  column = jnp.where(later, 2, jnp.where(num_strokes > 1, 1, 0))
  return _choose(luck, jnp.asarray(_COMMON)[column])


def _relation(
  what: jax.Array, which: jax.Array, index: jax.Array | int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Whether a later stroke is a dot, or a copy, and of which it is one."""
  # Mostly it is the stroke just before that the new one relates to.
  back = jnp.floor(jnp.maximum(which - 0.6, 0) * 2.5 * index).astype(int)
  return what < 0.07, what > 0.8, index - 1 - back


def _choose(luck: jax.Array, cumulative: jax.Array | np.ndarray) -> jax.Array:
  """The choice that uniform `luck` falls on, see `_cumulative`."""
  return jnp.sum(luck[..., None] > cumulative, axis=-1)


def _direction(angle: jax.Array) -> jax.Array:
  return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def _box(points: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Centre and sides `[..., 1, 2]` of the box around `[..., nodes, 2]`."""
  low = jnp.min(points, axis=-2, keepdims=True)
  high = jnp.max(points, axis=-2, keepdims=True)
  return (low + high) / 2, high - low


def _trace(
  lengths: jax.Array, turns: jax.Array, corners: jax.Array
) -> jax.Array:
  """Control points `[..., nodes, 2]` of circular arcs drawn end to end.

  Arc i has length `lengths[..., i]` and turns by `turns[..., i]` radians;
  before the next one the pen turns by `corners[..., i]` on the spot.
  """
  ends = jnp.cumsum(turns.at[..., 1:].add(corners), axis=-1)
  begins = ends - turns
  turns = jnp.where(jnp.abs(turns) < 1e-3, 1e-3, turns)  # 0 / 0 otherwise
  chord = (lengths * jnp.sinc(turns / (2 * jnp.pi)))[..., None]
  chord *= _direction(begins + turns / 2)
  stop = jnp.cumsum(chord, axis=-2)
  start = stop - chord
  # The handles that make a cubic Bezier curve follow an arc.
  handle = (lengths * (4 / 3) * jnp.tan(turns / 4) / turns)[..., None]
  leave = start + handle * _direction(begins)
  arrive = stop - handle * _direction(ends)
  inner = jnp.stack([leave, arrive, stop], axis=-2)
  inner = inner.reshape(*inner.shape[:-3], _NODES - 1, 2)
  return jnp.concatenate([start[..., :1, :], inner], axis=-2)


def _draw_shapes(
  noise: jax.Array, luck: jax.Array, num_strokes: jax.Array
) -> jax.Array:
  """Strokes `[strokes, nodes, 2]`, each about the origin, one unit large.

  Args:
    noise: `[strokes, 10]`, normal.
    luck: `[strokes, 5]`, uniform.
    num_strokes: how many will be used.
  """
  later = jnp.arange(_STROKES) > 0
  kind = _choose_kinds(luck[:, 0], num_strokes)
  turns, corners, lengths, freedom = (
    jnp.asarray(table)[kind] for table in (_TURNS, _CORNERS, _LENGTHS, _FREEDOM)
  )
  # The arcs of a stroke vary mostly together, so that a ring becomes another
  # ring, or a bowl, and not a tangle.
  turns *= 1 + freedom * 0.2 * noise[:, :1]
  turns += freedom * 15 * noise[:, 1:4]
  corners *= 1 + freedom * 0.2 * noise[:, 4:6]
  lengths *= jnp.exp(freedom * 0.3 * noise[:, 6:9])
  turns = jnp.clip(turns, -310, 310)
  shapes = _trace(lengths, jnp.deg2rad(turns), jnp.deg2rad(corners))
  # Most strokes start level or upright, fewer diagonally, and across the one
  # before rather than along it.
  quarters = jnp.floor(4 * luck[:, 1])
  quarters = jnp.where(later, 1 + 2 * (quarters % 2), quarters)
  diagonal = luck[:, 2] < 0.22
  angle = jnp.cumsum(quarters) + 0.5 * diagonal + 0.07 * noise[:, 9]
  angle *= jnp.pi / 2
  shapes @= jnp.stack(
    [_direction(angle), _direction(angle + jnp.pi / 2)], axis=1
  )
  # Ovals, upright or lying, and in both senses.
  stretch = jnp.exp(0.8 * (luck[:, 3] - 0.5))
  mirror = jnp.where(luck[:, 4] < 0.5, 1.0, -1.0)
  shapes *= jnp.stack([mirror * stretch, 1 / stretch], axis=-1)[:, None]
  centre, sides = _box(shapes)
  return (shapes - centre) / jnp.max(sides, axis=-1, keepdims=True)


def _compose(shapes: jax.Array, luck: jax.Array) -> jax.Array:
  """Puts strokes together: later ones join, cross, repeat or stand apart.

  Args:
    shapes: `[strokes, nodes, 2]`, each about the origin, one unit large.
    luck: `[strokes, 8]`, uniform.
  """

  def place(index: jax.Array | int, placed: jax.Array) -> jax.Array:
    what, which, flip, size, where, here, side, gap = luck[index]
    dot, copy, earlier = _relation(what, which, index)
    other = placed[earlier]
    # The mirror image of a straight or flat stroke would cover it.
    middle, sides = _box(other)
    flat = jnp.min(sides) < 0.3 * jnp.max(sides)
    flip = jnp.where(flat, 0, jnp.floor(4 * flip)).astype(int)
    shape = shapes[index] * jnp.where(dot, 0.07, jnp.exp(-size))
    shape = jnp.where(copy, other * jnp.asarray(_FLIPS)[None, flip], shape)
    apart = dot | (copy & (flip == 0)) | (where < 0.22)
    # Joined: an end of an arc of one is put on an end of an arc of the other.
    there = jnp.floor(4 * gap).astype(int)
    here = _choose(here, _JOINTS)
    here = jnp.where(copy, there, here)
    joined = other[None, 3 * there] - shape[None, 3 * here]
    # Apart: side by side, or one above the other, level with each other.
    side = jnp.floor(8 * side) * (jnp.pi / 4)
    towards, across = _direction(side), _direction(side + jnp.pi / 2)
    reach = jnp.max(other @ towards) - jnp.min(shape @ towards)
    reach = reach + 0.05 + 0.25 * gap
    reach = jnp.where(copy, jnp.minimum(reach, 0.25 + 0.3 * gap), reach)
    level = (middle - _box(shape)[0]) @ across
    beside = (reach * towards + level * across)[None]
    return placed.at[index].set(shape + jnp.where(apart, beside, joined))

  composed: jax.Array = jax.lax.fori_loop(1, _STROKES, place, shapes)
  return composed


def _wobble(
  points: jax.Array, joint_noise: jax.Array, stroke_noise: jax.Array
) -> jax.Array:
  """Misplaces the ends of arcs, and whole strokes, a little."""
  extent = jnp.max(_box(points)[1], axis=-1, keepdims=True)
  joints = joint_noise.reshape(_STROKES, _PIECES + 1, 2)
  # A handle moves with its end, which keeps smooth joints smooth.
  moves = jnp.repeat(joints, 3, axis=1)[:, 1:-1]
  moves *= _NODE_SHIFT * extent
  return points + moves + _STROKE_SHIFT * stroke_noise[:, None]


def _distort(points: jax.Array, noise: jax.Array) -> jax.Array:
  """Bends, scales, shears, turns and shifts the whole sign."""
  x, y = points[..., 0], points[..., 1]
  points += jnp.stack([x * x, x * y, y * y], axis=-1) @ (_BOW * noise[:3])
  stretch = _STRETCH * jnp.stack([noise[3, 0], -noise[3, 0]])
  scale = jnp.exp(_GROW * noise[3, 1] + stretch)
  shear, turn = _SHEAR * noise[4, 0], _TURN * noise[4, 1]
  across = _direction(turn)
  axes = jnp.stack([across, _direction(turn + jnp.pi / 2) + shear * across])
  return points @ (scale[:, None] * axes) + _SHIFT * noise[None, 5:6]


def _flatten(points: jax.Array, used: jax.Array) -> tuple[jax.Array, jax.Array]:
  """One path through all strokes `[steps + 1, 2]`, and the ink so far."""
  starts = points[:, :-1].reshape(_STROKES, _PIECES, 3, 2)
  curves = jnp.concatenate([starts, points[:, 3::3, None]], axis=2)
  path = jnp.einsum('tn,spnd->sptd', _BERNSTEIN, curves)
  path = path.reshape(_STROKES, -1, 2)
  path = jnp.concatenate([points[:, :1], path], axis=1)
  lengths = jnp.linalg.norm(jnp.diff(path, axis=1), axis=-1)
  # The way to a stroke, and all of an unused one, leaves no ink.
  lengths = jnp.pad(lengths * used[:, None], ((0, 0), (1, 0)))
  return path.reshape(-1, 2), jnp.cumsum(lengths.reshape(-1))


def _ink(path: jax.Array, ink: jax.Array, width: jax.Array) -> jax.Array:
  """The image `[28, 28]` of dabs of ink at even distances along a path.

  A round Gaussian dab is the product of a profile across and one down, so all
  the dabs together are one matrix product.
  """
  spacing = ink[-1] / _DABS
  width = jnp.maximum(width, 0.4 * spacing)  # or a long line looks dotted
  travelled = _STEPS * spacing
  x, y = (jnp.interp(travelled, ink, path[:, axis]) for axis in (0, 1))
  across = jnp.exp(-0.5 * jnp.square((_CENTRES[None] - x[:, None]) / width))
  down = jnp.exp(-0.5 * jnp.square((_CENTRES[:, None] - y[None]) / width))
  # With this weight a line is as black in the middle however broad the pen.
  weight = spacing / (width * (2 * jnp.pi) ** 0.5)
  return jnp.clip(_GAIN * weight * (down @ across) - _FLOOR, 0.0, 1.0)
