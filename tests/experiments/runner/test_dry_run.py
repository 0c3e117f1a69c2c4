"""Compiling for accelerators that are not here.

Most of it needs the compiler of TPUs (the package libtpu), but no TPU.
"""

import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from processes import TINY_IMAGES

import metajax
from experiments.benchmark.scaling import judgement, steps
from experiments.runner import dry_run
from metajax.devices.collectives import Collective
from metajax.models import mlp
from metajax.tasks import sinusoid

HAS_COMPILER = importlib.util.find_spec('libtpu') is not None
needs_compiler = pytest.mark.skipif(
  not HAS_COMPILER, reason='libtpu is not installed'
)


@pytest.fixture
def compiled(launcher, cache, tmp_path):
  """Compiles a tiny network: how it ended, and what it reported."""

  def run(topology, *flags):
    workdir = tmp_path / 'run'
    ended = launcher.run(
      'images', *TINY_IMAGES, cache, f'--dry_run={topology}',
      f'--workdir={workdir}', *flags, for_tpus=True,
    )  # fmt: skip
    if ended.code == 2:
      assert not workdir.exists()  # what is refused leaves nothing
      return ended, None
    (path,) = workdir.iterdir()  # no step was taken
    assert path.name == 'dry_run.json'
    return ended, json.loads(path.read_text())

  return run


def refusal(compiled, topology, *flags):
  ended, _ = compiled(topology, *flags)
  assert ended.code == 2, ended
  assert ended.stderr.count('\n') == 1, ended
  return ended.stderr


def bytes_of_parameters(ways, width):
  """Counts those of a Conv-4 for grey images, a bias in each normalisation."""
  kernels = 9 * width + 3 * 9 * width**2
  return 4 * (kernels + 4 * 2 * width + width * ways + ways)


@pytest.mark.in_ci
@needs_compiler
def test_a_step_that_fits_is_reported(compiled):
  ended, report = compiled('v5e:2x2', '--tasks_per_step=8', '--chunk_size=1')
  assert ended.code == 0, ended
  assert ended.stderr == ''
  assert report['fits'] is True
  assert report['topology'] == 'v5e:2x2'
  assert report['chips'] == 4
  assert report['mesh'] == {'task': 4}
  assert report['chunk_size'] == 1
  assert report['flops_per_chip'] > 0
  assert report['compile_seconds'] > 0
  assert 0 < report['hbm_bytes_per_chip'] < report['hbm_limit_bytes']
  assert report['hbm_limit_bytes'] == 16 * 2**30
  # The gradient and the means of two metrics, outside of the loop over chunks.
  (exchange,) = report['collectives']
  metrics = 2 * 4
  assert exchange == {
    'op': 'all-reduce',
    'bytes': bytes_of_parameters(ways=2, width=4) + metrics,
    'inside_loop': False,
  }
  assert 'one step on v5e:2x2: 4 x TPU v5 lite' in ended.stdout
  assert f'{exchange["bytes"]:,} bytes' in ended.stdout
  assert 'yes' in ended.stdout


# Twelve tasks of twenty times the images need 22 GiB of the 16 of a chip.
LARGE = (
  '--width=512', '--tasks_per_step=12', '--train_shots=20',
  '--train_queries=200',
)  # fmt: skip


@pytest.mark.in_ci
@needs_compiler
def test_a_step_that_does_not_fit_is_reported(compiled):
  ended, report = compiled('v5e:1x1', *LARGE, '--chunk_size=12')
  assert ended.code == 1, ended
  assert ended.stderr == ''
  assert report['fits'] is False
  assert report['hbm_bytes_per_chip'] > report['hbm_limit_bytes'] > 0
  assert 'NO' in ended.stdout


@pytest.mark.in_ci
@needs_compiler
def test_a_mesh_that_is_not_the_topology_is_refused(compiled):
  assert 'a mesh of task:3 needs 3 devices, and there are 4' in refusal(
    compiled, 'v5e:2x2', '--mesh=task:3', '--tasks_per_step=3'
  )


@needs_compiler
def test_tasks_that_the_chips_do_not_divide_are_refused(compiled):
  assert '--tasks_per_step: 6 cannot be divided over the 4 devices' in refusal(
    compiled, 'v5e:2x2', '--tasks_per_step=6'
  )


@pytest.mark.in_ci
@needs_compiler
@pytest.mark.parametrize('topology', ['v5e:banana', 'v99:2x2', 'v5e', ''])
def test_an_unknown_topology_is_refused_with_some_that_are_known(
  compiled, topology
):
  said = refusal(compiled, topology)
  assert said.startswith(f"--dry_run: '{topology}' is no topology")
  for known in dry_run.EXAMPLES:
    assert known in said


@needs_compiler
@pytest.mark.parametrize('topology', dry_run.EXAMPLES)
def test_the_topologies_that_are_named_are_known(topology):
  devices = dry_run.devices_of(topology)
  lengths = topology.partition(':')[2].split('x')
  assert len(devices) == math.prod(map(int, lengths))
  assert devices[0].device_kind in dry_run.CHIPS


@pytest.mark.in_ci
@needs_compiler
def test_work_of_the_sparse_cores_does_not_hinder_the_report(compiled):
  ended, report = compiled(
    'v6e:2x2',
    '--ways=5',
    '--width=64',
    '--tasks_per_step=8',
    '--chunk_size=1',
  )
  assert ended.code == 0, ended
  assert [each['op'] for each in report['collectives']] == ['all-reduce']


@pytest.fixture
def compiles_for_tpus(monkeypatch):
  """Whose compiler ends the process over a flag that it does not know."""
  monkeypatch.setenv('XLA_FLAGS', '')


def sine_waves():
  """A method that compiles quickly."""
  learner = metajax.maml(
    mlp([8], 1), metajax.mean_squared_error, inner_lr=0.01, num_steps=2
  )
  return steps.Method(learner, optax.adam(1e-3), sinusoid(4, 4))


@needs_compiler
def test_programs_for_chips_are_not_cached(compiles_for_tpus, tmp_path):
  # They cannot be read back, though programs for what is here can.
  cache = jax.config.jax_compilation_cache_dir
  seconds = jax.config.jax_persistent_cache_min_compile_time_secs
  compilation_cache.reset_cache()
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  try:
    jax.jit(jnp.sin).lower(1.0).compile()
    kept = list(tmp_path.iterdir())
    assert kept
    (chip,) = dry_run.devices_of('v5e:1x1')
    one = jax.ShapeDtypeStruct(
      (8,), 'float32', sharding=jax.sharding.SingleDeviceSharding(chip)
    )
    for _ in range(2):
      _, text = dry_run.compile_for_chips(jax.jit(jnp.cos).lower(one))
      assert 'cos' in text
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    jax.jit(jnp.tan).lower(1.0).compile()
    assert len(list(tmp_path.iterdir())) > len(kept)
  finally:
    jax.config.update('jax_compilation_cache_dir', cache)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', seconds)
    compilation_cache.reset_cache()


@pytest.mark.in_ci
@needs_compiler
def test_weak_scaling_finds_the_same_on_one_chip_and_on_four(compiles_for_tpus):
  workload = steps.Workload(sine_waves, tasks_per_chip=4, chunk_size=2)
  one, four, twice = (
    steps.measure('sine waves', workload, topology, tasks)
    for topology, tasks in (('v5e:1x1', 4), ('v5e:2x2', 4), ('v5e:2x2', 8))
  )
  assert [row.chips for row in (one, four, twice)] == [1, 4, 4]
  assert [row.tasks for row in (one, four, twice)] == [4, 16, 32]
  assert one.flops_per_chip == four.flops_per_chip > 0
  assert twice.flops_per_chip == 2 * four.flops_per_chip
  parameters = 4 * (1 * 8 + 8 + 8 * 1 + 1)
  assert one.parameter_bytes == parameters
  assert one.metrics == ['loss', 'mse']
  assert one.all_reduce_bytes == 0
  assert four.all_reduce_bytes == twice.all_reduce_bytes == parameters + 2 * 4
  assert judgement.judge([one, four, twice]) == []
  lines = judgement.table([one, four, twice]).splitlines()
  assert len(lines) == 2 + 3
  assert lines[3].startswith('| sine waves | v5e:2x2 | 4 | 16 |')


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--generations=v7'], "--generations: 'v7' is none of v5e, v5p, v6e\n"),
    (
      ['--workloads=mlp'],
      "--workloads: 'mlp' is none of conv4, transformer\n",
    ),
    (
      ['--generations=v5p', '--max_chips=3'],
      '--max_chips: there is no slice as small as that\n',
    ),
  ],
)
def test_weak_scaling_refuses_what_it_does_not_know(
  launcher, tmp_path, flags, message
):
  workdir = tmp_path / 'run'
  ended = launcher.run('weak_scaling', f'--workdir={workdir}', *flags)
  assert (ended.code, ended.stderr) == (2, message)
  assert not workdir.exists()


@pytest.mark.parametrize(
  ('experiment', 'flag', 'value'),
  [('images', 'dry_run', 'v5e:1x1'), ('weak_scaling', 'generations', 'v5e')],
)
def test_without_the_compiler_the_package_is_named(
  launcher, tmp_path, experiment, flag, value
):
  ended = launcher.run(
    experiment,
    f'--{flag}={value}',
    f'--workdir={tmp_path}/run',
    without='libtpu',
  )
  assert ended.code == 2, ended
  assert ended.stdout == ''
  assert ended.stderr.startswith(f'--{flag}: v5e:1x1 needs the compiler')
  assert 'pip install libtpu' in ended.stderr
  assert ended.stderr.count('\n') == 1
  assert not (tmp_path / 'run').exists()


def test_gpus_that_are_not_here_are_refused(compiled):
  assert refusal(compiled, 'cuda') == (
    '--dry_run: cuda needs a machine with such a GPU\n'
  )


def test_a_method_without_steps_is_refused(compiled):
  said = refusal(compiled, 'v5e:2x2', '--algorithm=pixels')
  assert said == '--dry_run: pixels takes no steps\n'


def test_collectives_of_one_kind_are_added_up(capsys):
  sent = [
    Collective('all-reduce', 1000, False),
    Collective('all-reduce', 24, False),
    Collective('all-gather', 8, True),
  ]
  dry_run.show(
    dry_run.Report(
      topology='v5e:2x2',
      chip='TPU v5 lite',
      chips=4,
      mesh={'task': 4},
      chunk_size=3,
      hbm_bytes_per_chip=2**29,
      hbm_limit_bytes=2**34,
      flops_per_chip=2_500_000_000,
      collectives=[each._asdict() for each in sent],
      compile_seconds=12.3,
      fits=True,
      estimated_step_seconds=None,
      assumption='none',
    )
  )
  lines = [
    [cell.strip() for cell in line.split('│') if cell.strip()]
    for line in capsys.readouterr().out.splitlines()
  ]
  for name, value in (
    ('memory', '0.500 of 16.00 GiB'),
    ('arithmetic', '2.5 GFLOP'),
    ('1 x all-gather, in every turn of a loop', '8 bytes'),
    ('2 x all-reduce, once a step', '1,024 bytes'),
    ('estimated step', 'unknown'),
  ):
    assert [name, value] in lines


def row(**changes):
  """A row of the table of weak scaling of which all holds."""
  return steps.Scaling(
    workload='conv4',
    topology='v5e:2x2',
    chips=4,
    tasks=8,
    flops_per_chip=1000,
    compiled_flops_per_chip=900.0,
    all_reduce_bytes=108,
    other_collectives=[],
    collectives_inside_loops=0,
    parameter_bytes=100,
    metrics=['accuracy', 'loss'],
    metrics_bytes=8,
    memory_bytes_per_chip=2**20,
    compile_seconds=1.0,
  )._replace(**changes)


ALONE = {'topology': 'v5e:1x1', 'chips': 1, 'tasks': 2, 'all_reduce_bytes': 0}


@pytest.mark.parametrize(
  ('changes', 'complaint'),
  [
    ({'flops_per_chip': 1021}, '1021 FLOP per chip as written, and 1000 on'),
    ({'compiled_flops_per_chip': 880.0}, '880 FLOP per chip as compiled'),
    ({'all_reduce_bytes': 116}, '116 bytes are reduced over all chips, and'),
    ({'other_collectives': ['all-gather']}, 'there is all-gather besides'),
    ({'collectives_inside_loops': 1}, '1 collectives are inside of a loop'),
  ],
)
def test_weak_scaling_complains_of_what_does_not_hold(changes, complaint):
  fine = [row(**ALONE), row(), row(topology='v5e:4x4', chips=16, tasks=32)]
  assert judgement.judge(fine) == []
  (said,) = judgement.judge([*fine[:2], fine[2]._replace(**changes)])
  assert said.startswith('conv4, v5e:4x4, 32 tasks: ')
  assert complaint in said


def test_weak_scaling_compares_like_with_like():
  other = {'flops_per_chip': 5000, 'compiled_flops_per_chip': None}
  assert not judgement.judge(
    [
      row(**ALONE),
      row(tasks=16, **other),
      row(workload='transformer', **other),
      row(topology='v6e:2x2', **other),
    ]
  )
