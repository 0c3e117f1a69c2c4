"""What wrappers are tested on."""

import numpy as np

from metajax.base import Batch, Task


def noise(num: int, ways: int, shots: int, queries: int) -> Task:
  """Tasks of noise, in NumPy, of which nothing is compiled."""
  generator = np.random.default_rng(0)

  def batch(each: int) -> Batch:
    targets = np.tile(np.arange(ways, dtype=np.int32), (num, each))
    inputs = generator.uniform(size=(*targets.shape, 3, 3, 1))
    return Batch(inputs.astype(np.float32), targets)

  return Task(batch(shots), batch(queries))
