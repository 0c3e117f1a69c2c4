"""What devices send to each other, read from programs of the compiler."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from metajax.devices.collectives import Collective, collectives
from metajax.devices.mesh import make_mesh

AXIS = 'device'
DEVICES = 8
PIECE = (2, 4)  # of the array on one device
BYTES = 2 * 4 * 4


def exchanges(function, dtype=jnp.float32):
  """Lists those of a function that every device runs on its piece."""
  mesh = make_mesh({AXIS: DEVICES})
  everywhere = jax.shard_map(
    function,
    mesh=mesh,
    in_specs=PartitionSpec(AXIS),
    out_specs=PartitionSpec(AXIS),
    check_vma=False,
  )
  whole = jax.ShapeDtypeStruct((DEVICES * PIECE[0], PIECE[1]), dtype)
  return collectives(jax.jit(everywhere).lower(whole).compile().as_text())


def total(piece):
  return jax.lax.psum(piece, AXIS)


def repeat(function, times=5):
  """The function, applied in a loop that the compiler keeps."""

  def repeated(piece):
    return jax.lax.scan(
      lambda carry, _: (function(carry), None), piece, None, length=times
    )[0]

  return repeated


def if_positive(function):
  """Every device decides for itself, so the compiler cannot."""

  def decided(piece):
    return jax.lax.cond(piece[0, 0] > 0, function, jnp.sin, piece)

  return decided


def gathered(piece):
  whole = jax.lax.all_gather(piece, AXIS, tiled=True)
  return piece + jnp.sin(whole[3:5])


def test_a_sum_over_devices_is_one_all_reduce_of_its_size():
  assert exchanges(total) == [Collective('all-reduce', BYTES, False)]


def test_several_sums_in_one_exchange_are_one_with_all_their_bytes():
  found = exchanges(lambda piece: [total(piece * i) for i in range(1, 10)])
  assert {each.op for each in found} == {'all-reduce'}
  assert sum(each.bytes for each in found) == 9 * BYTES


@pytest.mark.parametrize(
  ('dtype', 'width'),
  [(jnp.int8, 1), (jnp.int32, 4), (jnp.complex64, 8)],
)
def test_the_bytes_are_those_of_the_kind_of_number(dtype, width):
  (found,) = exchanges(total, dtype)
  assert found.bytes == PIECE[0] * PIECE[1] * width


def test_double_precision_has_eight_bytes(float64):
  (found,) = exchanges(total, jnp.float64)
  assert found.bytes == 2 * BYTES


def test_a_gather_has_the_bytes_of_its_result():
  (found,) = exchanges(gathered)
  assert found == Collective('all-gather', DEVICES * BYTES, False)


def test_a_gather_inside_a_loop_is_inside_a_loop():
  (found,) = exchanges(repeat(gathered))
  assert found == Collective('all-gather', DEVICES * BYTES, True)


def test_a_loop_inside_a_loop_is_a_loop():
  (found,) = exchanges(repeat(repeat(lambda piece: jnp.sin(total(piece)))))
  assert found == Collective('all-reduce', BYTES, True)


def test_a_sum_beside_a_loop_is_not_inside_it():
  loop = repeat(jnp.sin)
  before_and_after = exchanges(lambda piece: total(loop(total(piece))))
  assert before_and_after == [Collective('all-reduce', BYTES, False)] * 2


def test_a_sum_under_a_condition_is_found():
  (found,) = exchanges(if_positive(total))
  assert found == Collective('all-reduce', BYTES, False)


def test_a_sum_under_a_condition_in_a_loop_is_inside_the_loop():
  (found,) = exchanges(repeat(if_positive(total)))
  assert found == Collective('all-reduce', BYTES, True)


def test_every_branch_is_looked_into():
  largest = partial(jax.lax.pmax, axis_name=AXIS)

  def switched(piece):
    return jax.lax.switch(
      piece[0, 0].astype(jnp.int32), [total, jnp.sin, largest], piece
    )

  assert exchanges(switched) == [Collective('all-reduce', BYTES, False)] * 2


@pytest.mark.parametrize(
  ('function', 'op', 'size'),
  [
    (
      lambda piece: jax.lax.psum_scatter(
        jnp.tile(piece, (4, 1)), AXIS, tiled=True
      ),
      'reduce-scatter',
      BYTES // 2,
    ),
    (
      lambda piece: jax.lax.ppermute(
        piece, AXIS, [(i, (i + 1) % DEVICES) for i in range(DEVICES)]
      ),
      'collective-permute',
      BYTES,
    ),
    (
      lambda piece: jax.lax.all_to_all(
        jnp.tile(piece, (4, 1)), AXIS, 0, 0, tiled=True
      ),
      'all-to-all',
      4 * BYTES,
    ),
  ],
)
def test_the_other_exchanges_are_told_apart(function, op, size):
  assert exchanges(function) == [Collective(op, size, False)]


def test_a_program_of_one_device_has_none():
  program = jax.jit(repeat(jnp.sin)).lower(jnp.zeros(PIECE)).compile()
  assert collectives(program.as_text()) == []


def test_an_exchange_in_the_condition_of_a_loop_is_in_every_turn():
  def count(piece):
    return jax.lax.while_loop(
      lambda piece: jax.lax.psum(jnp.sum(piece), AXIS) < 3,
      lambda piece: piece + 1,
      piece,
    )

  assert [each.inside_loop for each in exchanges(count)] == [True]


def test_the_start_of_an_exchange_counts_its_results():
  lines = [
    'ENTRY %main (a: f32[4]) -> f32[4] {',
    '  %p = (f32[128,512]{1,0}, f32[128,512]{1,0}, u32[], u32[])'
    ' collective-permute-start(%a)',
    '  %r = (f32[100]{0}, f32[50]{0}) all-reduce-start(%a, %b)',
    '  %g = (f32[4]{0}, f32[32]{0}) all-gather-start(%a)',
    '}',
  ]
  sizes = [each.bytes for each in collectives('\n'.join(lines))]
  assert sizes == [128 * 512 * 4, 150 * 4, 32 * 4]
