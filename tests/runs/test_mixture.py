"""Mixtures of task distributions: shares, exact resumes, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.base import Batch, Task
from metajax.models import mlp, multimodal
from metajax.runs.mixture import Alternating, alternate, parts_of
from metajax.tasks import sinusoid

KEY = jax.random.key(0)
SHARES = {'images': 1, 'texts': 2}


def numbers(name: str, size: int):
  """Tasks of regression whose inputs have this name, and so many features."""

  def sample(key: jax.Array) -> Task:
    inputs = jax.random.normal(key, (6, size))
    batch = Batch({name: inputs}, inputs[:, :1])
    return Task(batch, batch)

  return sample


SAMPLERS = {'images': numbers('images', 3), 'texts': numbers('texts', 4)}
MODEL = multimodal(
  {'images': mlp([], 4), 'texts': mlp([], 4)}, mlp([4], 1), size=4
)
LEARNER = metajax.maml(MODEL, metajax.mean_squared_error, 0.1, 1)


def make_train(sample, **options) -> metajax.TrainStep:
  return metajax.make_train_step(
    LEARNER, optax.sgd(0.1), sample, tasks_per_step=2, **options
  )


@pytest.fixture(scope='module')
def train() -> metajax.TrainStep:
  return make_train(alternate(SAMPLERS, SHARES))


def order(mixture: Alternating, steps: int, key: jax.Array = KEY) -> np.ndarray:
  return np.asarray(
    jax.vmap(lambda step: mixture.which(key, step))(jnp.arange(steps))
  )


@pytest.mark.parametrize('shares', [(1, 1), (1, 3), (2, 5, 1), (0.001, 1)])
def test_every_stretch_has_its_shares(shares):
  names = [*'abc'[: len(shares)]]
  samplers = dict.fromkeys(names, sinusoid(1, 1))
  mixture = alternate(samplers, dict(zip(names, shares, strict=True)))
  taken = order(mixture, 4000)
  wanted = np.array(shares) / sum(shares)
  for first in (0, 17, 3000):
    counts = np.bincount(taken[first : first + 1000], minlength=len(shares))
    np.testing.assert_allclose(counts, 1000 * wanted, atol=3)


def test_one_distribution_is_all_steps():
  assert not order(alternate({'only': sinusoid(1, 1)}), 50).any()


def test_another_key_is_another_sequence():
  mixture = alternate(SAMPLERS)
  assert (order(mixture, 50) != order(mixture, 50, jax.random.key(1))).any()


@pytest.mark.in_ci
def test_a_step_is_of_one_distribution_and_changes_its_part_alone(train):
  mixture = alternate(SAMPLERS, SHARES)
  state = train.init(KEY)
  names = list(SAMPLERS)
  for step in range(4):
    before = jax.device_get(state.meta_params)
    taken = names[int(mixture.which(state.key, step))]
    state, _ = train.run(state, 1)
    changed = {
      name
      for name in before
      if any(
        (np.asarray(new) != old).any()
        for new, old in zip(
          jax.tree.leaves(state.meta_params[name]),
          jax.tree.leaves(before[name]),
          strict=True,
        )
      )
    }
    assert changed == {taken, 'shared'}


def test_a_resume_is_exact(train):
  whole, metrics = train.run(train.init(KEY), 7)
  assert metrics['loss'] > 0
  parts = train.init(KEY)
  for size in (2, 4, 1):
    parts, _ = train.run(parts, size)
  jax.tree.map(
    np.testing.assert_array_equal, whole.meta_params, parts.meta_params
  )


def test_arrays_of_samplers_are_arguments():
  def sample(scale: jax.Array, key: jax.Array) -> Task:
    return jax.tree.map(lambda leaf: leaf * scale, SAMPLERS['images'](key))

  held = jax.tree_util.Partial(sample, jnp.float32(2))
  leaves = jax.tree.leaves(alternate({'held': held, 'texts': sample}))
  assert [float(leaf) for leaf in leaves] == [2.0]


def test_what_changes_in_training_changes_in_a_mixture():
  def sample(key: jax.Array, step: jax.Array) -> Task:
    return jax.tree.map(lambda leaf: leaf + step, SAMPLERS['images'](key))

  mixture = alternate({'moving': metajax.ByStep(sample)})
  moved, start = (
    mixture.at(step).samplers['moving'](KEY).query.targets for step in (5, 0)
  )
  np.testing.assert_allclose(moved, start + 5, rtol=1e-6)


def test_parts_of_what_is_no_mixture():
  sample = sinusoid(1, 1)
  assert parts_of(sample) == {'': sample}
  assert list(parts_of(alternate(SAMPLERS))) == ['images', 'texts']


@pytest.mark.parametrize(
  ('samplers', 'shares', 'message'),
  [
    ({}, None, 'needs a task distribution; got none'),
    (SAMPLERS, {'images': 1}, 'names of the samplers, images, texts; got imag'),
    (SAMPLERS, {'images': 1, 'texts': 0}, 'share of texts must be positive'),
    (SAMPLERS, {'images': 1, 'texts': np.nan}, 'share of texts must be posi'),
    ({'images': 3}, None, 'images must be a function from a key to a task'),
    ({'both': alternate(SAMPLERS)}, None, 'both must be a function'),
  ],
)
def test_what_is_no_mixture_is_refused(samplers, shares, message):
  with pytest.raises(ValueError, match=message):
    alternate(samplers, shares)


def test_it_draws_no_task_and_says_what_does():
  with pytest.raises(ValueError, match=r'one of `.samplers`: images, texts'):
    metajax.evaluate(
      LEARNER,
      metajax.mean_squared_error,
      {},
      alternate(SAMPLERS),
      key=KEY,
      num_tasks=2,
    )


@pytest.mark.in_ci
def test_check_says_which_distribution_does_not_fit():
  objective = metajax.mean_squared_error
  metajax.check(LEARNER, objective, alternate(SAMPLERS))
  sounds = alternate({**SAMPLERS, 'sounds': numbers('sounds', 2)})
  with pytest.raises(ValueError, match='of some of images, texts; got one of'):
    metajax.check(LEARNER, objective, sounds)

  def wide(key: jax.Array) -> Task:
    task = SAMPLERS['texts'](key)
    batch = task.query._replace(targets=jnp.zeros((6, 2)))
    return Task(batch, batch)

  with pytest.raises(ValueError, match=r'^wide: adapt: mean_squared_error'):
    metajax.check(LEARNER, objective, alternate({**SAMPLERS, 'wide': wide}))


def test_distributions_have_the_same_metrics():
  def objective(outputs, targets):
    loss = jnp.mean(jnp.square(outputs - targets))
    return loss, {f'of_{len(targets)}': loss}

  def short(key: jax.Array) -> Task:
    return jax.tree.map(lambda leaf: leaf[:3], SAMPLERS['images'](key))

  learner = metajax.maml(MODEL, objective, 0.1, 1)
  train = metajax.make_train_step(
    learner,
    optax.sgd(0.1),
    alternate({'images': SAMPLERS['images'], 'short': short}),
    tasks_per_step=2,
  )
  with pytest.raises(ValueError, match='images has loss, of_6, short has'):
    train.lower()


@pytest.mark.in_ci
def test_skipped_steps_name_the_cause_in_their_own_distribution():
  def missing(key: jax.Array) -> Task:
    task = SAMPLERS['texts'](key)
    batch = task.query._replace(targets=jnp.full((6, 1), jnp.nan))
    return Task(batch, batch)

  mixture = alternate({'images': SAMPLERS['images'], 'missing': missing})
  train = make_train(mixture)
  state = train.init(KEY)
  last = 1 + int(np.argmax(order(mixture, 50, state.key)))
  with pytest.warns(metajax.SkippedSteps, match='targets that are not finite'):
    state, metrics = train.run(state, last)
  assert int(metrics['skipped']) == 1
