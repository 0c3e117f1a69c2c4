"""GPUs that are not here, for the compiler to compile for.

It is the one of JAX's CUDA plugin, of which no GPU is asked for: packages
jax-cuda12-plugin and jax-cuda12-pjrt of the version of JAX, and ptxas of
nvidia-cuda-nvcc-cu12. Products are left to cuBLAS and nothing is tried out, for
which a GPU would have to be there.
"""

import importlib.util
import os
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from experiments.runner.errors import UsageError

__all__ = ['COMPILER_OPTIONS', 'GPUS', 'devices_of_gpus', 'is_gpus', 'prepare']

COMPILER_OPTIONS: dict[str, bool | int] = {
  'xla_gpu_enable_triton_gemm': False,
  'xla_gpu_autotune_level': 0,
}
# By the data sheet of the SXM model, in the words of the compiler.
GPUS = {
  'h100': """
    gpu_device_info {
      core_count: 132
      fpus_per_core: 128
      clock_rate_ghz: 1.98
      cuda_compute_capability { major: 9 }
      device_memory_size: 84942979072
      memory_bandwidth: 3352320000000
      l2_cache_size: 52428800
      threads_per_warp: 32
      threads_per_block_limit: 1024
      threads_per_core_limit: 2048
      shared_memory_per_block: 49152
      shared_memory_per_block_optin: 232448
      shared_memory_per_core: 233472
      registers_per_core_limit: 65536
      registers_per_block_limit: 65536
      block_dim_limit_x: 2147483647
      block_dim_limit_y: 65535
      block_dim_limit_z: 65535
    }
    platform_name: "CUDA"
    runtime_version { major: 12 minor: 8 }
    dnn_version_info { major: 9 minor: 8 }
    device_description_str: "NVIDIA H100 80GB HBM3"
  """
}
_NAMES = re.compile(rf'({"|".join(GPUS)})(?::([1-9]\d*))?')


def is_gpus(topology: str | None) -> bool:
  """Whether it names GPUs that need not be here, such as `h100:8`."""
  return topology is not None and topology.partition(':')[0] in GPUS


def prepare(topology: str | None) -> None:
  """Has JAX take the compiler of GPUs for one; before it looks for devices."""
  if is_gpus(topology):
    # It wants libraries that programs call, which are only compiled here.
    os.environ.setdefault('JAX_SKIP_CUDA_CONSTRAINTS_CHECK', '1')


def devices_of_gpus(topology: str) -> Sequence[jax.Device]:
  """The GPUs of one machine.

  Args:
    topology: a name, and how many there are.

  Raises:
    UsageError: if it is none, or there is no compiler for it.
  """
  found = _NAMES.fullmatch(topology)
  if not found:
    raise UsageError(
      'dry_run', f'is {topology}; GPUs are a name and how many, as h100:8'
    )
  if importlib.util.find_spec('jax_cuda12_plugin') is None:
    raise UsageError(
      'dry_run',
      f'{topology} needs the compiler of GPUs, which is not installed: pip'
      f' install --no-deps jax-cuda12-plugin=={jax.__version__}'
      f' jax-cuda12-pjrt=={jax.__version__} nvidia-cuda-nvcc-cu12',
    )
  prepare(topology)
  try:
    devices: Sequence[jax.Device] = topologies.get_topology_desc(
      topology_name=found[1],
      platform='cuda',
      target_config=GPUS[found[1]],
      topology=f'1x1x{found[2] or 1}',
    ).devices
  except (RuntimeError, ValueError, NotImplementedError) as error:
    reason = ' '.join(str(error).split())
    raise UsageError('dry_run', f'{topology}: {reason}') from error
  return devices
