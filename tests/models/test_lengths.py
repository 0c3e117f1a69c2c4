"""Lengths that tokens are padded to."""

from metajax.models.lengths import bucket


def test_buckets_are_few_and_hold_all():
  sizes = [bucket(length) for length in range(1, 300)]
  assert sorted(set(sizes)) == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384]
  assert all(size >= length for length, size in enumerate(sizes, start=1))
  assert sizes == sorted(sizes)
