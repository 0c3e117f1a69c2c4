"""Tests of the benchmark: on tiny sizes, of everything but the speeds."""

import json
import math
import re
from functools import partial

import jax
import numpy as np
import pytest

from experiments import benchmark
from experiments.benchmark import IMPLEMENTATIONS, WORKLOADS, Implementation
from metajax.models import conv4, mlp

QUICK = {'rounds': 2, 'seconds': 0.002}
METAJAX = IMPLEMENTATIONS[0]


@pytest.fixture(autouse=True)
def _code_of_users():
  """What is written by hand promotes ranks, as most code does."""
  with jax.numpy_rank_promotion('allow'):
    yield


@pytest.fixture
def sinusoid():
  workload = WORKLOADS['sinusoid']
  return workload._replace(
    recipe=workload.recipe._replace(
      network=partial(mlp, [4, 4]), tasks_per_step=3, chunk_size=3
    )
  )


def test_the_record_holds_what_was_measured(sinusoid, tmp_path, capsys):
  record = tmp_path / 'benchmark.json'
  absent = Implementation('Other', METAJAX.make, needs='no_such_package')
  chunked = sinusoid._replace(recipe=sinusoid.recipe._replace(chunk_size=1))
  benchmark.run([chunked], [*IMPLEMENTATIONS, absent], record, **QUICK)

  found = json.loads(record.read_text())
  assert set(found) == {'machine', 'rows'}
  assert {'cpu', 'cores', 'device', 'python', 'jax'} <= set(found['machine'])
  able, missing = benchmark.installed(IMPLEMENTATIONS)
  rows = found['rows']
  assert [row['implementation'] for row in rows] == [each.name for each in able]
  for row in rows:
    assert set(row) == set(benchmark.Row._fields)
    assert row['workload'] == 'sinusoid'
    assert (row['tasks'], row['inner_steps'], row['rounds']) == (3, 1, 2)
    assert row['tasks_per_second'] > 0
    assert row['seconds_to_first_step'] > 0
    assert row['first_loss'] == pytest.approx(rows[0]['first_loss'], rel=1e-4)
  assert rows[0]['ratio_to_metajax'] == 1

  printed = capsys.readouterr().out
  for each in (*missing, absent):
    assert f'{each.name}: skipped, the package {each.needs}' in printed
  for row in rows:
    assert row['implementation'] in printed


@pytest.mark.parametrize('name', WORKLOADS)
def test_networks_written_by_hand_are_those_of_metajax(name):
  workload = WORKLOADS[name]
  wide = {'network': partial(conv4, width=4)} if name == 'conv4' else {}
  model = workload.recipe._replace(**wide).network(workload.num_outputs)
  inputs = np.random.default_rng(0).random(
    (6, 28, 28, 1) if name == 'conv4' else (6, 1), np.float32
  )
  params = model.init(jax.random.key(0), inputs)
  # A scale of 1 and a bias of 0 would hide that one is left out.
  params = jax.tree.map(lambda leaf: leaf + 0.1, params)
  expected = model.apply(params, inputs)
  np.testing.assert_allclose(
    workload.jax_apply(params, inputs), expected, rtol=1e-4, atol=1e-5
  )
  torch = pytest.importorskip('torch')
  weights = jax.tree.map(
    lambda leaf: benchmark._torch_weight(np.asarray(leaf)), params
  )
  if name == 'conv4':
    inputs = inputs.transpose(0, 3, 1, 2).copy()
  outputs = workload.torch_apply(weights, torch.tensor(inputs))
  np.testing.assert_allclose(
    outputs.detach().numpy(), expected, rtol=1e-4, atol=1e-5
  )


def other_recipe(**changes):
  """The computation by hand, but with another recipe."""

  def make(problem):
    recipe = problem.workload.recipe._replace(**changes)
    workload = problem.workload._replace(recipe=recipe)
    return benchmark.jax_by_hand(problem._replace(workload=workload))

  return Implementation('wrong', make)


@pytest.mark.parametrize(
  ('changes', 'step'),
  [({'inner_lr': 0.011}, 0), ({'outer_lr': 0.05}, 1)],
)
def test_no_table_if_something_else_is_computed(
  sinusoid, tmp_path, capsys, changes, step
):
  record = tmp_path / 'benchmark.json'
  with pytest.raises(
    benchmark.DisagreementError,
    match=f'sinusoid: wrong .* metajax .* at outer step {step} is',
  ):
    benchmark.run([sinusoid], [METAJAX, other_recipe(**changes)], record, 1)
  assert not record.exists()
  assert 'tasks/s' not in capsys.readouterr().out


@pytest.mark.parametrize('first', [1.0002, math.nan, math.inf])
def test_losses_that_differ(first):
  good = {'a': [1.0, 2.0], 'b': [1.00005, 2.001]}
  benchmark.check_agreement('w', good)
  with pytest.raises(benchmark.DisagreementError, match=r'w: c .* what a does'):
    benchmark.check_agreement('w', {**good, 'c': [first, 2.0]})


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--workloads=sinusoid,foo'], r'--workloads.*foo.*sinusoid, conv4'),
    (['--workloads='], r'--workloads.*sinusoid, conv4'),
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
