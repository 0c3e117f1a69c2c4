"""Tests of the benchmark: on tiny sizes, of everything but the speeds."""

import json
import math
import re

import numpy as np
import pytest

from experiments.benchmark.speed import measure, worker
from experiments.benchmark.speed.base import Implementation, small
from experiments.benchmark.speed.in_jax import flat, nested
from experiments.benchmark.speed.in_metajax import (
  in_metajax,
  in_reverse_mode,
  prepare,
)
from experiments.benchmark.speed.in_plain_jax import in_plain_jax
from experiments.benchmark.speed.methods import MethodStep
from experiments.benchmark.speed.processes import (
  TimeLimitError,
  Worker,
  WorkerError,
)
from experiments.benchmark.speed.record import Record
from experiments.benchmark.speed.session import (
  installed,
  time_methods,
  time_workloads,
)
from experiments.benchmark.speed.workloads import METAJAX, PEERS, PLAIN, SUITES

TINY = {row.name: small(row)._replace(inner_steps=1) for row in SUITES['full']}
HERE = __name__  # where workers find it


@pytest.fixture(autouse=True)
def _code_of_users():
  """What is written by hand promotes ranks, as most code does."""
  import jax

  with jax.numpy_rank_promotion('allow'):
    yield


def wrong_rate(problem):
  """Plain JAX, but at another inner rate."""
  workload = problem.workload._replace(inner_lr=0.5)
  return in_plain_jax(problem._replace(workload=workload))


def wrong_gradient(problem):
  """Plain JAX, but with a gradient that is not that of its loss."""
  program = in_plain_jax(problem)

  def meta_gradient(weights, tasks):
    value, gradient = program.meta_gradient(weights, tasks)
    return value, {name: 1.1 * leaf for name, leaf in gradient.items()}

  return program._replace(meta_gradient=meta_gradient)


def dying(problem):
  """Ends its process."""
  raise SystemExit(3)


WRONG_GRADIENT = Implementation('wrong gradient', f'{HERE}:wrong_gradient')


@pytest.mark.in_ci
def test_the_record_holds_what_was_measured(tmp_path, capsys):
  absent = Implementation('Other', PLAIN.make, needs=('no_such_package',))
  dead = Implementation('dead', f'{HERE}:dying')
  record = Record(tmp_path / 'benchmark.json')
  time_workloads(
    [TINY['sinusoid']],
    [METAJAX, WRONG_GRADIENT, dead, absent],
    record,
    rounds=2,
    seconds=0.002,
  )
  found = json.loads(record.path.read_text())
  assert set(found) == {
    'machine', 'matmul_peak_flops', 'rows', 'curves', 'methods',
  }  # fmt: skip
  assert {'cpu', 'cores', 'device', 'python', 'jax'} <= set(found['machine'])
  first, second = found['rows']
  for row in (first, second):
    assert set(row) == set(measure.Timing._fields)
    assert (row['workload'], row['tasks'], row['rounds']) == ('sinusoid', 2, 2)
    assert row['tasks_per_second'] > 0
    assert row['peak_process_bytes'] > 2**25
    assert row['compiled_temp_bytes'] > 0
    assert row['seconds_to_first_step'] > 0
    assert row['seconds_to_first_step_warm'] > 0
    assert row['roofline_fraction'] == pytest.approx(
      row['flops_per_step']
      * row['tasks_per_second']
      / row['tasks']
      / found['matmul_peak_flops']
    )
    assert row['first_loss'] == pytest.approx(first['first_loss'], rel=1e-4)
  assert first['ratio_to_metajax'] == 1
  assert first['gradient_error'] < 1e-7
  assert second['gradient_error'] == pytest.approx(0.1 / 1.1, rel=1e-3)
  printed = capsys.readouterr().out
  assert 'Other: skipped, the package no_such_package' in printed
  assert 'dead left out: its process ended with code 3' in printed
  assert printed.count('WRONG') == 1
  names = {path.name for path in tmp_path.iterdir()}
  assert {'speed.png', 'memory.png', 'report.html'} <= names


@pytest.mark.long
def test_no_table_if_something_else_is_computed(tmp_path):
  known = measure.reference(TINY['sinusoid'], 'float32')
  wrong = Implementation('wrong', f'{HERE}:wrong_rate')
  with pytest.raises(
    measure.DisagreementError, match=r'sinusoid: wrong .* what metajax does'
  ):
    measure.measure(
      TINY['sinusoid'], [METAJAX, wrong], known, 1e9, 1, 0.002, lambda _: None
    )


@pytest.mark.parametrize('loss', [1.001, math.nan, math.inf])
def test_losses_that_differ(loss):
  measure.check_agreement('w', {'a': 1.0, 'b': 1.0003})
  with pytest.raises(measure.DisagreementError, match=r'w: c .* what a does'):
    measure.check_agreement('w', {'a': 1.0, 'c': loss})


@pytest.mark.long
def test_a_curve_has_points_until_one_takes_too_long():
  said = []

  def points(limit):
    found = measure.curve(
      TINY['sinusoid'], 'width', [4], [METAJAX], 'float32', 0.001, limit,
      said.append,
    )  # fmt: skip
    return list(found)

  (point,) = points(300)
  assert point.value == 4
  assert point.tasks_per_second > 0
  assert point.compiled_temp_bytes > 0
  assert points(1e-3) == []
  assert 'metajax ends before width 4: took more than' in said[-1]


@pytest.mark.in_ci
def test_a_worker_says_what_went_wrong(tmp_path):
  with Worker(tmp_path) as process:
    with pytest.raises(WorkerError, match='AttributeError'):
      process.ask('make', f'{HERE}:nothing', None)
    with pytest.raises(TimeLimitError, match='more than 0 s'):
      process.ask('reference', TINY['sinusoid'], 'float32', limit=0.001)


@pytest.mark.in_ci
def check_same(problem, ours, theirs, of_loss, *, rtol, atol):
  """Compares losses and meta-gradients of a task; returns our loss."""
  (loss, slopes), (other_loss, others) = (
    program.meta_gradient(problem.weights, problem.tasks[0])
    for program in (ours, theirs)
  )
  assert other_loss == pytest.approx(loss, rel=of_loss)
  for path, slope in slopes.items():
    np.testing.assert_allclose(slope, others[path], rtol=rtol, atol=atol)
  return loss


@pytest.mark.parametrize(
  'name',
  [
    n if n == 'sinusoid' else pytest.param(n, marks=pytest.mark.long)
    for n in TINY
    if n != 'omniglot'
  ],
)
def test_by_hand_is_what_metajax_computes(name):
  problem = prepare(TINY[name], 'float32', 1)
  ours, theirs = (make(problem) for make in (in_metajax, in_plain_jax))
  check_same(problem, ours, theirs, 1e-4, rtol=5e-3, atol=1e-4)


@pytest.mark.in_ci
def test_both_modes_compute_the_same_adapters():
  problem = prepare(TINY['lora'], 'float32', 1)
  mixed, reverse = (make(problem) for make in (in_metajax, in_reverse_mode))
  check_same(problem, mixed, reverse, 1e-6, rtol=1e-4, atol=1e-6)


@pytest.mark.in_ci
def test_peers_compute_adapters_on_the_same_pretrained_weights():
  pytest.importorskip('transformers')
  pytest.importorskip('torch')
  from experiments.benchmark.speed.in_torch import in_loop, in_torch_func

  problem = prepare(TINY['lora'], 'float32', 1)
  assert sorted(problem.pretrained) == ['config.json', 'model.safetensors']
  ours = in_metajax(problem)
  for make in (in_loop, in_torch_func):
    check_same(problem, ours, make(problem), 1e-5, rtol=1e-3, atol=1e-6)


def test_names_of_adapters_have_slashes():
  params = {
    'base': {'head': {'kernel': np.ones(2)}},
    'tuning': {'block_0/attention/query/kernel': {'a': np.ones(1)}},
  }
  weights = flat(params)
  assert list(weights) == [
    'base/head/kernel', 'tuning/block_0/attention/query/kernel/a',
  ]  # fmt: skip
  assert nested(weights) == params


@pytest.mark.in_ci
@pytest.mark.parametrize('peer', PEERS.values(), ids=list(PEERS))
def test_peers_compute_what_metajax_computes(peer):
  if installed([peer])[1]:
    pytest.skip(f'{peer.name} is not installed')
  from experiments.benchmark.speed.base import resolve

  problem = prepare(TINY['sinusoid'], 'float32', 1)
  program = resolve(peer.make)(problem)
  loss = check_same(
    problem, in_metajax(problem), program, 1e-4, rtol=1e-3, atol=1e-4
  )
  assert program.advance(1) == pytest.approx(loss, rel=1e-4)


def test_the_error_of_a_gradient():
  weights = {'w': np.array([1.0, 2.0])}
  tasks = ((np.ones(1), np.ones(1)), (np.ones(1), np.ones(1)))

  def cubes(factor):
    return lambda weights, tasks: (
      float(np.sum(weights['w'] ** 3)),
      {'w': factor * weights['w'] ** 2},
    )

  assert worker.directional_error(cubes(3.0), weights, tasks) < 1e-8
  assert worker.directional_error(cubes(3.3), weights, tasks) > 0.05


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--workloads=sinusoid,foo'], r'--workloads.*foo.*sinusoid, conv4'),
    (['--peers=learn3learn'], r'--peers.*learn3learn.*higher, torchopt'),
    (['--suite=slow'], r'--suite.*slow.*quick\|full'),
    (['--curves='], r'--curves.*tasks, inner_steps, width, memory'),
    (['--methods=pixels'], r'--methods.*pixels.*all, maml'),
    (['--rounds=0'], r'--rounds=0: .* whole number'),
    (['--workdir=taken'], r'--workdir: taken already holds a benchmark.json'),
    (['--workdir=taken/benchmark.json'], r'--workdir: .* cannot be written'),
  ],
)
def test_misuse_is_one_line(launcher, tmp_path, arguments, message):
  taken = tmp_path / 'taken' / 'benchmark.json'
  taken.parent.mkdir()
  taken.write_text('mine')
  ended = launcher.run('benchmark', *arguments, cwd=tmp_path)
  assert ended.code == 2, ended
  assert ended.stdout == ''
  assert ended.stderr.count('\n') == 1
  assert re.search(message, ended.stderr), ended.stderr
  assert taken.read_text() == 'mine'
  assert [path.name for path in tmp_path.iterdir()] == ['taken']


@pytest.mark.long
def test_a_step_of_a_method_is_timed_beside_one_of_maml(tmp_path, capsys):
  record = Record(tmp_path / 'benchmark.json')
  steps = [MethodStep('baseline', width=4, classes=8)]
  time_methods(steps, record, rounds=2, seconds=0.01)
  written = json.loads(record.path.read_text())
  assert written['machine']['cores'] > 0
  rows = {row['method']: row for row in written['methods']}
  assert list(rows) == ['maml', 'baseline']
  assert rows['maml']['ratio_to_maml'] == 1
  assert [row['tasks_per_step'] for row in rows.values()] == [32, 1]
  for row in rows.values():
    assert 0 < row['seconds_per_step'] < row['seconds_to_first_step']
    assert row['compiled_temp_bytes'] > 0
    assert row['rounds'] == 2
  assert 'of MAML' in capsys.readouterr().out
  assert (tmp_path / 'methods.png').read_bytes()[1:4] == b'PNG'
  assert 'baseline: ' in (tmp_path / 'report.html').read_text()


def test_what_takes_minutes_has_few_turns():
  assert measure.turns(0.1, rounds=9) == 9
  assert measure.turns(10.0, rounds=9) == 3
  assert measure.turns(10.0, rounds=2) == 2
  assert measure.turns(200.0, rounds=9) == 1
