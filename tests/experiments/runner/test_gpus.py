"""GPUs that are not here."""

import importlib.util
import os
import subprocess
import sys

import pytest

from experiments.runner import dry_run, gpus
from experiments.runner.errors import UsageError

HAS_COMPILER = importlib.util.find_spec('jax_cuda12_plugin') is not None

# A program of its own, since JAX looks for compilers once.
_COMPILE = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from experiments.runner import dry_run, gpus
from metajax import make_mesh
from metajax.devices.collectives import collectives
gpus.prepare('h100:8')
mesh = make_mesh({'task': 8}, dry_run.devices_of('h100:8'))
places = NamedSharding(mesh, PartitionSpec('task'))
shape = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=places)
lowered = jax.jit(lambda x: jnp.sum(x @ x.T)).lower(shape)
program, text = dry_run.compile_for_chips(lowered, for_gpus=True)
assert mesh.devices.flat[0].device_kind in dry_run.CHIPS
assert dry_run.bytes_needed(program) > 64 * 64 * 4 / 8
assert collectives(text)
"""


def test_what_is_no_number_of_gpus_is_refused():
  assert gpus.is_gpus('h100:8')
  assert not gpus.is_gpus('v5e:2x2')
  assert not gpus.is_gpus(None)
  for topology in ('h100:0', 'h100:2x2', 'h100:'):
    with pytest.raises(UsageError, match='a name and how many, as h100:8'):
      dry_run.devices_of(topology)


@pytest.mark.skipif(HAS_COMPILER, reason='the compiler of GPUs is installed')
def test_without_its_compiler_the_line_says_what_to_install():
  with pytest.raises(UsageError, match='pip install --no-deps jax-cuda12'):
    dry_run.devices_of('h100:8')


@pytest.mark.in_ci
@pytest.mark.skipif(not HAS_COMPILER, reason='no compiler of GPUs')
def test_a_program_for_eight_gpus_is_compiled_without_one():
  subprocess.run(
    [sys.executable, '-c', _COMPILE], check=True,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )  # fmt: skip
