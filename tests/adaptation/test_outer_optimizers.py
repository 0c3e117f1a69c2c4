"""What an outer optimiser moves, and what stays as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.adaptation.outer_optimizers import freeze_buffers
from metajax.algorithms.reptile import LABELS
from metajax.base import Batch, Model, Task

# Above 2 ** 24 a float32 does not hold every integer.
BUFFERS = {
  'constants': {'shift': np.float32(0.5)},
  'large': np.int32(2**24 + 1),
  'mask': np.array([True, True, False, True]),
  'order': np.array([3, 1, 0, 2], np.uint8),
}


def init(key, inputs):
  return {**BUFFERS, 'kernel': jax.random.normal(key, (4, 2))}


def apply(params, inputs):
  chosen = jnp.where(params['mask'][None], inputs, 0)[:, params['order']]
  return chosen @ params['kernel'] + params['constants']['shift']


MODEL = Model(init, apply)


def sample(key):
  inputs = jax.random.normal(key, (2, 6, 4))
  return Task(*(Batch(each, jnp.arange(6) % 2) for each in inputs))


def maml(**options):
  return metajax.maml(MODEL, metajax.cross_entropy, 0.1, 2, **options)


def reptile():
  return metajax.reptile(MODEL, metajax.cross_entropy, 0.1, 2)


DECAYING = optax.adamw(0.1, weight_decay=0.5)


@pytest.mark.in_ci
@pytest.mark.parametrize(
  ('learner', 'optimizer'),
  [
    (maml(), DECAYING),
    (maml(checkpoint='nested'), optax.sgd(0.1, momentum=0.9)),
    (maml(inner_optimizer=lambda rate: optax.adam(rate, eps_root=1e-8)),
     optax.adafactor(0.1)),
    (metajax.imaml(MODEL, metajax.cross_entropy, 0.1, 2), DECAYING),
    (metajax.meta_sgd(MODEL, metajax.cross_entropy, 0.1, 2), DECAYING),
    (metajax.es_maml(MODEL, metajax.cross_entropy, 0.1, num_pairs=2),
     DECAYING),
    (reptile(), metajax.outer_optimizer(DECAYING, LABELS)),
  ],
  ids=['maml', 'nested', 'inner_adam', 'imaml', 'meta_sgd', 'es', 'reptile'],
)  # fmt: skip
def test_buffers_stay_as_they_are_while_all_else_is_trained(learner, optimizer):
  train = metajax.make_train_step(
    learner, optimizer, sample, tasks_per_step=2, chunk_size=1
  )
  state = train.init(jax.random.key(0))
  before = jax.tree.map(np.array, state.meta_params)
  state, metrics = train.run(state, 2)
  assert metrics['skipped'] == 0
  before, after = (
    getattr(each, 'params', each) for each in (before, state.meta_params)
  )
  assert not np.array_equal(before.pop('kernel'), after.pop('kernel'))
  for old, new in zip(*map(jax.tree.leaves, (before, after)), strict=True):
    np.testing.assert_array_equal(old, new, strict=True)


def test_buffers_of_a_task_are_those_of_the_meta_parameters():
  params = init(jax.random.key(0), None)
  adapted, adaptation = maml().adapt(
    jax.random.key(1), params, sample(jax.random.key(2)).support
  )
  for tree in (adapted, adaptation.after(1, adapted)):
    assert not np.array_equal(tree['kernel'], params['kernel'])
    for name in BUFFERS:
      jax.tree.map(np.testing.assert_array_equal, tree[name], params[name])


def test_frozen_parameters_have_no_moments_and_do_not_count_in_a_norm():
  params = {'body': jnp.ones(3), 'head': jnp.ones(2)}
  gradient = {'body': jnp.full(3, 100.0), 'head': jnp.array([3.0, 4.0])}
  optimizer = metajax.freeze(
    optax.chain(optax.clip_by_global_norm(1.0), optax.trace(0.9)),
    metajax.inner.partition.body,
  )
  state = optimizer.init(params)
  assert [leaf.shape for leaf in jax.tree.leaves(state)] == [(2,)]
  updates, _ = optimizer.update(gradient, state, params)
  np.testing.assert_array_equal(updates['body'], jnp.zeros(3))
  np.testing.assert_allclose(updates['head'], [0.6, 0.8], rtol=1e-6)


def test_what_is_to_freeze_has_to_be_there():
  optimizer = metajax.freeze(optax.sgd(0.1), lambda path: path == 'boddy')
  with pytest.raises(ValueError, match='selects none of the parameters'):
    optimizer.init({'body': jnp.ones(3)})


def test_an_optimiser_of_the_weights_may_be_frozen_in_part_beside_state():
  optimizer = metajax.freeze(
    metajax.outer_optimizer(optax.sgd(0.5), ('weights', 'state')),
    lambda path: path.endswith('body'),
  )
  params = ({'body': jnp.ones(()), 'head': jnp.ones(())}, jnp.int32(3))
  gradient = ({'body': jnp.ones(()), 'head': jnp.ones(())}, -1.0)
  updates, _ = optimizer.update(gradient, optimizer.init(params), params)
  assert optax.apply_updates(params, updates) == (
    {'body': 1.0, 'head': 0.5}, 4
  )  # fmt: skip


def test_other_labels_are_refused():
  with pytest.raises(ValueError, match="must be 'weights' or 'state', got 'w'"):
    metajax.outer_optimizer(optax.sgd(0.1), ('w', 'state'))


def test_an_optimiser_that_does_not_count_is_refused_where_steps_are_counted():
  with pytest.raises(ValueError, match='count counts steps, which this opt'):
    metajax.make_train_step(
      reptile(), optax.sgd(0.1), sample, tasks_per_step=1
    ).init(jax.random.key(0))


def test_an_update_without_the_parameters_is_refused():
  optimizer = freeze_buffers(optax.sgd(0.1))
  state = optimizer.init(jnp.ones(()))
  with pytest.raises(ValueError, match='has to see the parameters'):
    optimizer.update(jnp.ones(()), state)


def test_what_leaves_nothing_to_train_is_refused():
  params = {'a': jnp.ones(()), 'b': jnp.ones(())}
  optimizer = metajax.freeze(optax.sgd(0.1), lambda path: True)
  with pytest.raises(
    ValueError, match=r'selects all of the parameters.*: a, b'
  ):
    optimizer.init(params)
  with pytest.raises(ValueError, match="got 'a': give lambda path"):
    metajax.freeze(optax.sgd(0.1), 'a')
