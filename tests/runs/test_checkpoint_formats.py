"""Checkpoints of every format are read for ever, and to the bit.

`checkpoints/format_1/` was written by the first version of metajax: three steps
of MAML on sine waves with a network of three hidden units, and Adam.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

import metajax
from metajax.models import mlp
from metajax.runs.checkpoint import Checkpointer
from metajax.tasks import sinusoid

FORMATS = Path(__file__).parent / 'checkpoints'
STEP = 3
# The bytes of every leaf, in hexadecimal digits, as they were when saved.
META_PARAMS = {
  'meta_params/Dense_0/bias': '08b6e63c6895ccbc8914ba3a',
  'meta_params/Dense_0/kernel': 'ba7cc3be589846bf6f7f02c0',
  'meta_params/head/bias': '3a42f43c',
  'meta_params/head/kernel': '3b35433e68a5d8be751f23bf',
}
GOLDEN = {
  'step': '03000000',
  **META_PARAMS,
  'optimizer_state/0/count': '03000000',
  'optimizer_state/0/mu/Dense_0/bias': '407605be5c5a0f3eb4e1dc3d',
  'optimizer_state/0/mu/Dense_0/kernel': 'e3e8f03ebf2e05bfcb7ed3be',
  'optimizer_state/0/mu/head/bias': '6c0114bf',
  'optimizer_state/0/mu/head/kernel': 'bfd443bf5fa3a8bf922c67c0',
  'optimizer_state/0/nu/Dense_0/bias': '9949733a8e84003bf40da43b',
  'optimizer_state/0/nu/Dense_0/kernel': '0b63563c56cfc43ca136363d',
  'optimizer_state/0/nu/head/bias': '860e663c',
  'optimizer_state/0/nu/head/kernel': 'c141103d7181eb3d017b563f',
  'key': 'bf28a00bbf5620f2',
  'skipped': '00000000',
  'skipped_in_a_row': '00000000',
}


def make_train() -> metajax.TrainStep:
  learner = metajax.maml(mlp([3], 1), metajax.mean_squared_error, 0.01, 1)
  return metajax.make_train_step(
    learner, optax.adam(1e-2), sinusoid(5, 5), tasks_per_step=2
  )


@pytest.fixture(scope='module')
def template() -> metajax.TrainState:
  return make_train().template()


def digits(tree: Any) -> dict[str, str]:
  """The bytes of every leaf by its path."""
  found = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    found[name] = np.asarray(leaf).tobytes().hex()
  return found


def test_format_1_is_read_to_the_bit(template: metajax.TrainState) -> None:
  found = Checkpointer(FORMATS / 'format_1').restore(template)
  assert (found.step, found.rejected) == (STEP, ())
  assert digits(found.state) == GOLDEN
  assert found.metrics['accuracy'] == 0.5
  assert np.isnan(found.metrics['loss'])
