"""Several runs as one program are the runs that they would be alone."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.base import Task
from metajax.models import conv4, mlp
from metajax.runs.checkpoint import Checkpointer
from metajax.tasks import HostEpisodes, sinusoid

MODEL = mlp([4], 1)
LEARNER = metajax.maml(MODEL, metajax.mean_squared_error, 0.05, 1)
SINUSOID = sinusoid(3, 3)
MEMBERS = 4
KEYS = jax.vmap(jax.random.key)(jnp.arange(MEMBERS))
make = partial(
  metajax.make_train_step, sample=SINUSOID, tasks_per_step=2,
  max_skipped_in_a_row=3,
)  # fmt: skip


def of(member, tree):
  return jax.tree.map(lambda leaf: leaf[member], tree)


def assert_close(a, b, rtol=1e-4, atol=1e-6):
  jax.tree.map(
    partial(np.testing.assert_allclose, rtol=rtol, atol=atol),
    (a.step, a.meta_params, a.optimizer_state, a.skipped),
    (b.step, b.meta_params, b.optimizer_state, b.skipped),
  )
  assert a.key == b.key


def mesh_of(devices):
  if devices is None:
    return None
  return metajax.make_mesh({'task': devices}, jax.devices()[:devices])


@pytest.mark.parametrize(
  'devices',
  [None, *(pytest.param(n, marks=pytest.mark.in_ci) for n in (2, 4))],
)
def test_a_member_is_the_run_that_it_would_be_alone(float64, devices):
  train = make(
    LEARNER, optax.adam(1e-2), members=MEMBERS, mesh=mesh_of(devices)
  )
  state, metrics = train.run(train.init(KEYS), 6)
  alone = make(LEARNER, optax.adam(1e-2))
  for member in range(MEMBERS):
    wanted, means = alone.run(alone.init(jax.random.key(member)), 6)
    assert_close(of(member, state), wanted, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(metrics['loss'][member], means['loss'], 1e-10)


@pytest.mark.in_ci
def test_rates_of_members_are_those_of_single_runs(float64):
  inner, outer = jnp.array([0.01, 0.1]), jnp.array([1e-2, 1e-3])
  train = make(
    metajax.Varied(_maml, inner), metajax.Varied(_adam, outer), members=2
  )
  state, _ = train.run(train.init(KEYS[:2]), 6)
  for member in range(2):
    alone = make(_maml(float(inner[member])), _adam(float(outer[member])))
    wanted, _ = alone.run(alone.init(jax.random.key(member)), 6)
    assert_close(of(member, state), wanted, rtol=1e-10, atol=1e-12)


def _maml(rate):
  return metajax.maml(MODEL, metajax.mean_squared_error, rate, 1)


def _adam(rate):
  return optax.adam(optax.cosine_decay_schedule(rate, 10))


@pytest.mark.in_ci
def test_an_outer_rate_is_an_argument_of_the_program(traced_once):
  """Another rate is another argument, and the same run as with a constant."""
  programs = []
  for rate in (1e-2, 1e-3):
    frozen = metajax.equality.Frozen(optax.adam, jnp.float32(rate))
    train, constant = make(LEARNER, frozen), make(LEARNER, optax.adam(rate))
    programs.append(train.lower().as_text())
    state, _ = train.run(train.init(KEYS[0]), 3)
    wanted, _ = constant.run(constant.init(KEYS[0]), 3)
    assert_close(state, wanted)
    paths = jax.tree.structure
    assert paths(state) == paths(wanted)  # so checkpoints stay as they are
  assert programs[0] == programs[1]


def sample_with_gaps(key: jax.Array) -> Task:
  """Without a target where the wave is steep, of some keys."""
  task = SINUSOID(key)
  missing = jax.random.uniform(jax.random.fold_in(key, 0)) < 0.2
  targets = jnp.where(missing, jnp.nan, task.query.targets)
  return task._replace(query=task.query._replace(targets=targets))


def test_members_skip_and_stop_by_themselves():
  train = make(
    LEARNER, optax.adam(1e-2), sample=sample_with_gaps, members=MEMBERS
  )
  alone = make(LEARNER, optax.adam(1e-2), sample=sample_with_gaps)
  with pytest.warns(metajax.SkippedSteps) as told:
    state, _ = train.run(train.init(KEYS), 20)
  message = r'member \d: \d+ of \d+ steps were skipped'
  assert all(re.match(message, str(each.message)) for each in told)
  with pytest.warns(metajax.SkippedSteps):
    wanted = [alone.run(alone.init(key), 20)[0] for key in KEYS]
  for member in range(MEMBERS):
    assert_close(of(member, state), wanted[member])
  assert len({*state.step.tolist()}) > 1  # some gave up, and others did not
  assert state.step.max() == 20


@pytest.mark.parametrize(
  'devices', [None, pytest.param(2, marks=pytest.mark.in_ci)]
)
def test_a_resume_of_members_changes_no_bit(tmp_path, devices):
  new = partial(
    make, LEARNER, optax.adam(1e-2), members=2, mesh=mesh_of(devices)
  )
  train = new()
  whole, _ = train.run(train.init(KEYS[:2]), 7)
  half, _ = train.run(train.init(KEYS[:2]), 3)
  with Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(3, half)
    del half
    resumed = new()
    restored = checkpoints.restore(resumed.template()).state
  again, _ = resumed.run(restored, 4)
  np.testing.assert_array_equal(*(
    np.concatenate([np.ravel(x) for x in jax.tree.leaves(s.meta_params)])
    for s in (whole, again)
  ))  # fmt: skip
  assert again.step.tolist() == [7, 7]


@pytest.mark.in_ci
def test_what_is_large_is_computed_one_member_after_the_other(float64):
  """On a CPU, where vectorising it would win nothing."""
  learner = metajax.maml(mlp([512] * 3, 1), metajax.mean_squared_error, 0.1, 1)
  new = partial(make, learner, optax.adam(1e-3), sample=sinusoid(9, 9))
  train, alone = new(members=2), new()
  state, _ = train.run(train.init(KEYS[:2]), 2)
  wanted, _ = alone.run(alone.init(KEYS[1]), 2)
  assert_close(of(1, state), wanted, rtol=1e-8, atol=1e-10)
  loops = [
    each.lower().as_text().count('stablehlo.while') for each in (train, alone)
  ]
  assert loops[0] == loops[1] + 1


def test_what_cannot_be_meant_is_refused():
  sgd, varied = optax.sgd(0.1), metajax.Varied(optax.sgd, jnp.ones(3))
  images = np.zeros((12, 4, 4), np.uint8)
  host = HostEpisodes(images, np.arange(12) % 3, 2, 1, 3)
  features = metajax.maml(conv4(2), metajax.cross_entropy, 0.1, 1)
  for arguments, message in (
    ({'members': 0}, 'members must be 1 or more, got 0'),
    ({'members': 3, 'mesh': mesh_of(2)}, '3 members cannot be divided over'),
    ({'members': 2, 'optimizer': varied}, r'of 2 members, got the shape \[3\]'),
    ({'optimizer': varied}, 'needs members'),
    ({'members': 2, 'rule': lambda *_: None}, 'leave rule out'),
    (
      {'members': 2, 'sample': host, 'meta_learner': features},
      'not on the host',
    ),
  ):
    given = {'meta_learner': LEARNER, 'optimizer': sgd, **arguments}
    with pytest.raises(ValueError, match=message):
      make(**given)
  train = make(LEARNER, sgd, members=2)
  with pytest.raises(ValueError, match=r'for each of 2 members, .* \[\]'):
    train.init(KEYS[0])
