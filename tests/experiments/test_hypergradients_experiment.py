"""Hyper-parameters by gradient: the binary, its problems, and bad input."""

import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip('sklearn')

from experiments import hypergradients
from experiments.bilevel import PROBLEMS, architecture, digits, summary
from experiments.bilevel.augmentation import changed
from experiments.data.digits import load_digits
from experiments.runner import runs
from experiments.runner.errors import UsageError
from metajax import trained
from metajax.bilevel import SOLVES, bilevel_learner
from metajax.trained import LearnerError

TINY = {
  'inner_steps': 2, 'outer_steps': 2, 'seeds': 2,
}  # fmt: skip


@pytest.mark.in_ci
@pytest.mark.parametrize('problem', PROBLEMS)
def test_every_problem_is_run_from_one_line_and_goes_on(problem, tmp_path):
  place = tmp_path / 'run'
  settings = hypergradients.Settings(**TINY, problem=problem, workdir=place)
  assert hypergradients.main(settings) == 0
  outcome = json.loads((place / 'result.json').read_text())
  assert not outcome['converged']  # two steps are not enough, and it says so
  assert outcome['residual'] > 1e-3
  for own in outcome['distributions'].values():
    assert own['random_solves'] >= 1
    for values in own['rows'].values():
      assert len(values['accuracy']['values']) == 2
      assert 0 <= values['accuracy']['mean'] <= 1
      assert math.isfinite(values['accuracy']['ci95'])
  for name in (f'{problem}.png', 'outer.png'):
    assert (place / name).read_bytes()[1:4] == b'PNG'
  assert 'not converged' in (place / 'report.html').read_text()
  with pytest.raises(LearnerError, match='it learns hyper-param'):
    trained.load(place)
  # A seed that is done is not done again.
  first = (place / 'seed0.json').read_bytes()
  (place / 'seed1.json').unlink()
  again = hypergradients.run(settings)
  assert (place / 'seed0.json').read_bytes() == first
  name = next(iter(outcome['distributions']))
  # Random search by time is as long, and therefore not the same.
  for row in ('hyper-gradients', 'random search, as many'):
    before, after = (
      each['distributions'][name]['rows'][row]['accuracy']['values']
      for each in (outcome, again)
    )
    np.testing.assert_allclose(after, before, atol=1e-6)
  with pytest.raises(UsageError, match='--outer_steps was 2 and is 3'):
    hypergradients.run(settings.replace(outer_steps=3))


@pytest.mark.in_ci
def test_damaged_records_of_seeds_are_one_line(tmp_path):
  settings = hypergradients.Settings(**TINY, workdir=tmp_path / 'run')
  hypergradients.run(settings)
  path = tmp_path / 'run' / 'seed1.json'
  right = path.read_text()

  def refusal(text):
    path.write_text(text)
    with pytest.raises(UsageError, match=r'seed1\.json') as error:
      hypergradients.run(settings)
    assert '\n' not in str(error.value)
    return str(error.value)

  for text in ('', '[]', '{}', right[:-100], '{"seed": 1}'):
    refusal(text)
  first = (tmp_path / 'run' / 'seed0.json').read_text()
  assert 'is of seed 0; remove it' in refusal(first)
  for spoil in (
    lambda own: own['rows'].clear(),
    lambda own: own.update(curve=[]),
    lambda own: own.update(search={}),
    lambda own: own['rows']['hyper-gradients'].update(accuracy='x'),
    lambda own: own.pop('skipped'),
    lambda own: own.update(rows=[]),
  ):
    record = json.loads(right)
    spoil(record['distributions'][''])
    assert 'is damaged' in refusal(json.dumps(record))
  path.write_text(right)
  with (
    runs.alone(tmp_path / 'run'),
    pytest.raises(UsageError, match='is in use by another run'),
  ):
    hypergradients.run(settings)
  hypergradients.run(settings)


@pytest.mark.in_ci
@pytest.mark.parametrize('problem', ['cleaning', 'regularisation', 'loss'])
@pytest.mark.parametrize('solve', SOLVES)
def test_every_way_has_a_finite_gradient_of_all_hyperparameters(problem, solve):
  kind = PROBLEMS[problem]
  task = kind.data(0)[''].task
  learner = bilevel_learner(
    kind.problem, kind.objective, kind.optimizer(kind.inner_lr), 3, solve
  )
  hyper = learner.init(jax.random.key(0), task.support.inputs)
  tasks = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], task)
  slope, metrics = jax.jit(learner.grad)(jax.random.key(1), hyper, tasks)
  for leaf in jax.tree.leaves(slope):
    assert np.isfinite(leaf).all()
    assert np.any(leaf != 0)
  assert metrics['inner_gradient_norm'] > 0


def test_parts_of_the_digits_share_none_and_follow_from_the_seed():
  parts = digits.digits(3, 900, 100)
  assert [len(labels) for _, labels in parts] == [900, 100, 797]
  again = digits.digits(3, 900, 100)
  np.testing.assert_array_equal(parts[0][0], again[0][0])
  assert not np.array_equal(parts[0][0], digits.digits(4, 900, 100)[0][0])
  seen = np.concatenate([images for images, _ in parts])
  assert seen.shape == (1797, 64)
  assert seen.max() == 1


def test_half_of_the_labels_are_drawn_and_validation_is_clean():
  own = PROBLEMS['cleaning'].data(0)['']
  assert 0.4 < own.truth.mean() < 0.5  # of ten drawn at random one is right
  oracle = own.rivals['oracle'].hyperparams
  assert PROBLEMS['cleaning'].measure(own, oracle) == {'f1': 1.0}


def test_no_magnitude_changes_nothing_and_a_pixel_moves_by_a_pixel():
  images = jnp.asarray(digits.digits(0)[0][0][:3])
  draws, noise = jnp.ones((3, 4)), jnp.ones((3, 64))
  still = changed(images, draws, noise, jnp.zeros(5))
  np.testing.assert_allclose(still, images, atol=1e-6)
  moved = changed(images, draws, noise, jnp.zeros(5).at[1].set(1.0))
  np.testing.assert_allclose(
    moved.reshape(3, 8, 8)[:, :, :-1], images.reshape(3, 8, 8)[:, :, 1:],
    atol=1e-5,
  )  # fmt: skip


def test_the_likeliest_cells_have_one_operation_at_every_place():
  logits = {
    'first': np.array([0.1, 0.3, 0.2]),
    'second': np.array([0.0, -1.0, 1.0]),
    'readout': np.array([2.0, 1.0]),
  }
  settled = PROBLEMS['architecture'].settle(logits)
  assert [architecture.named(each) for each in settled] == [
    'all pixels, skip, mean', 'skip, skip, mean', 'convolution, skip, mean',
  ]  # fmt: skip
  assert float(jax.nn.softmax(settled[0]['first'])[1]) > 0.999999


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'problem': 'cleanin'}, 'value should be one of.*did you mean cleaning'),
    ({'solve': 'newton'}, 'value should be one of.*unrolled'),
    ({'inner_steps': 0}, '--inner_steps=0: must be a whole number from 1'),
    ({'outer_lr': -1.0}, '--outer_lr=-1.0: must be a finite number > 0'),
    ({'damping': -1.0}, '--damping=-1.0: must be a finite number from 0'),
    ({'seeds': 1}, '--seeds=1: must be a whole number from 2'),
    ({'tolerance': 0.0}, '--tolerance=0.0: must be a finite number > 0'),
    ({'terms': 3}, '--terms: terms is an option of neumann, and solve is'),
    (
      {'solve': 'truncated', 'inner_steps': 5, 'last_steps': 100},
      '--last_steps: last_steps must be at most the number of inner steps, 5,'
      ' got 100; leave it out',
    ),
    ({'solve': 'implicit', 'last_steps': 3}, 'an option of truncated, and'),
  ],
)
def test_what_cannot_be_meant_is_one_line_and_nothing_is_written(
  given, message, tmp_path
):
  place = tmp_path / 'run'
  with pytest.raises(UsageError, match=message):
    hypergradients.run(hypergradients.Settings(workdir=place, **given))
  assert not place.exists()


def test_without_scikit_learn_it_says_how_to_install_it(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'sklearn', None)
  load_digits.cache_clear()
  with pytest.raises(UsageError, match=r"pip install -e '\.\[baselines\]'"):
    hypergradients.run(hypergradients.Settings(workdir=tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def row(residual):
  return {
    'accuracy': 0.5, 'loss': 1.0, 'residual': residual, 'validation_loss': 1.0
  }  # fmt: skip


def seed_that_ends_with(residual, linear):
  point = {
    'step': 1.0, 'loss': 1.0, 'inner_gradient_norm': residual,
    'solver_residual': linear,
  }  # fmt: skip
  return {
    'distributions': {
      '': {
        'rows': {'hyper-gradients': row(residual)},
        'curve': [point],
        'search': {'number': 3},
        'seconds': 1.0,
        'skipped': 0,
        'show': None,
      }
    }
  }


@pytest.mark.parametrize(
  ('solve', 'inner_steps', 'last_steps', 'is_whole'),
  [
    ('truncated', 5, None, True),
    ('truncated', 12, 12, True),
    ('truncated', 12, None, False),
    ('one_step', 1, None, True),
    ('one_step', 2, None, False),
  ],
)
def test_what_differentiates_all_steps_supposes_no_minimum(
  solve, inner_steps, last_steps, is_whole
):
  seeds = [seed_that_ends_with(0.1, 0.0) for _ in range(2)]
  (line,) = summary.lines_of_convergence(
    {
      'solve': solve,
      'settings': {'tolerance': 1e-3, 'inner_steps': inner_steps},
      'config': {'last_steps': last_steps},
      **summary.summary(seeds, 1e-3, solve),
    }
  )
  assert ('that of so many inner steps' in line) == is_whole
  assert ('supposes a minimum' in line) != is_whole


@pytest.mark.parametrize(
  ('solve', 'residual', 'linear', 'said'),
  [
    ('unrolled', 1e-4, 0.0, []),
    ('unrolled', 0.1, 0.0, ['that of so many inner steps']),
    ('implicit', 1e-4, 1e-4, []),
    ('implicit', 0.1, 1e-4, ['supposes a minimum, and is off']),
    ('implicit', 1e-4, 0.5, ['--max_iterations or --damping']),
    ('neumann', 0.1, 0.5, ['supposes a minimum', 'raise --terms']),
    ('truncated', None, 0.0, ['inner gradient was up to not finite']),
  ],
)
def test_what_has_not_converged_is_marked(solve, residual, linear, said):
  seeds = [seed_that_ends_with(residual, linear) for _ in range(2)]
  found = summary.summary(seeds, 1e-3, solve)
  assert found['converged'] == (not said)
  outcome = {
    'solve': solve, 'settings': {'tolerance': 1e-3, 'inner_steps': 100},
    'config': {'last_steps': None},
    **{
      name: None
      if isinstance(value, float) and math.isnan(value)
      else value
      for name, value in found.items()
    },
  }  # fmt: skip
  lines = summary.lines_of_convergence(outcome)
  assert len(lines) == len(said)
  for line, part in zip(lines, said, strict=True):
    assert part in line
