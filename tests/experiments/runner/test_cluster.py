"""What an experiment makes of the machine that it runs on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import REPOSITORY

COUNT_DEVICES = """
import sys
import jax
from experiments.runner import cluster
from experiments.runner.common import Machine
for pair in sys.argv[1:]:
  cores, tasks_per_step = map(int, pair.split(','))
  cluster._cores = lambda: cores
  chosen = jax.config.jax_num_cpu_devices
  cluster.divide_cpu(Machine(), tasks_per_step)
  print(jax.config.jax_num_cpu_devices)
  jax.config.update('jax_num_cpu_devices', chosen)
cluster.divide_cpu(Machine(), tasks_per_step)
print(jax.device_count())
"""


def devices(*cores_and_tasks, **environment):
  """How many there are to be on each CPU, and then are on the last."""
  chosen = {'XLA_FLAGS', 'JAX_NUM_CPU_DEVICES'}
  inherited = {name: os.environ[name] for name in {*os.environ} - chosen}
  ended = subprocess.run(
    [sys.executable, '-c', COUNT_DEVICES, *cores_and_tasks],
    env=inherited | {'JAX_PLATFORMS': 'cpu'} | environment,
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=True,
  )
  return [int(line) for line in ended.stdout.split()]


def test_a_cpu_is_as_many_devices_as_it_has_cores_that_divide_the_tasks():
  assert devices('2,32', '2,25', '64,32', '6,25') == [2, 1, 8, 5, 5]


@pytest.mark.in_ci
def test_the_number_of_devices_that_the_user_chose_stays():
  assert devices('2,32', JAX_NUM_CPU_DEVICES='4') == [4, 4]
  forced = '--xla_force_host_platform_device_count=3'
  assert devices('2,33', XLA_FLAGS=forced) == [-1, 3]


COUNT_THREADS = """
from pathlib import Path
import jax
from experiments.runner import cluster
from experiments.runner.common import Machine
cluster.single_thread(Machine())
jax.block_until_ready(jax.numpy.zeros(3))
threads = Path('/proc/self/task').glob('*/comm')
print(sum('XLAEigen' in thread.read_text() for thread in threads))
"""


@pytest.mark.in_ci
@pytest.mark.skipif(
  not Path('/proc/self/task').exists(), reason='threads cannot be counted'
)
@pytest.mark.parametrize(('chosen', 'threads'), [({}, 1), ({'NPROC': '3'}, 3)])
def test_a_small_network_has_one_thread_unless_the_user_chose(chosen, threads):
  names = {*os.environ} - {'NPROC', 'XLA_FLAGS', 'JAX_NUM_CPU_DEVICES'}
  inherited = {name: os.environ[name] for name in names}
  ended = subprocess.run(
    [sys.executable, '-c', COUNT_THREADS],
    env=inherited | {'JAX_PLATFORMS': 'cpu'} | chosen,
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=True,
  )
  assert int(ended.stdout) == threads
