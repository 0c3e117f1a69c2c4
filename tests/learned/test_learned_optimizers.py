"""Learned optimisers as optax transformations, and their weights as files."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

import metajax
import metajax.models
from metajax import learned
from metajax.base import Weighted

PARAMS = {
  'bias': jnp.array([0.3, -0.2]),
  'kernel': jnp.array([[1.0, 2.0], [3.0, -4.0]]),
}


def descended(optimizer, steps=20):
  params, state = PARAMS, optimizer.init(PARAMS)
  for _ in range(steps):
    gradient = jax.tree.map(lambda leaf: 2 * leaf + 0.1, params)
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
  return params


@pytest.mark.in_ci
@pytest.mark.parametrize('kind', ['mlp', 'adam'])
def test_they_begin_as_adam(kind):
  weights = learned.OPTIMIZERS[kind].init(jax.random.key(0))
  weights |= {'log_rate': jnp.log(0.1)} if kind == 'mlp' else {}
  if kind == 'adam':
    weights = learned.init_learned_adam(rate=0.1)
    weights = {
      name: {**own, 'log_decay': jnp.float32(-40)}
      for name, own in weights.items()
    }
  found = descended(learned.OPTIMIZERS[kind].make(weights, 20))
  adam = descended(optax.adam(0.1, b2=0.99))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    found,
    adam,
  )


@pytest.mark.in_ci
@pytest.mark.parametrize('kind', ['mlp', 'adam'])
def test_any_step_is_finite_and_has_finite_slopes_where_gradients_are_zero(
  kind,
):
  def moved(weights):
    optimizer = learned.OPTIMIZERS[kind].make(weights, 4)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(6):  # beyond the last one, too
      updates, state = optimizer.update(zeros, state, params)
      params = optax.apply_updates(params, updates)
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))

  weights = learned.OPTIMIZERS[kind].init(jax.random.key(1))
  weights = jax.tree.map(lambda leaf: leaf + 0.1, weights)
  value, slopes = jax.value_and_grad(moved)(weights)
  assert np.isfinite(
    [value, *(jnp.sum(x) for x in jax.tree.leaves(slopes))]
  ).all()


@pytest.mark.parametrize('kind', ['mlp', 'adam'])
def test_what_it_was_not_made_for_is_refused(kind):
  weights = learned.OPTIMIZERS[kind].init(jax.random.key(0))
  make = learned.OPTIMIZERS[kind].make
  optimizer = make(weights, 10)
  state = optimizer.init(PARAMS)
  with pytest.raises(ValueError, match='has to see the parameters'):
    optimizer.update(PARAMS, state)
  other = {**PARAMS, 'bias': jnp.zeros(3)}
  with pytest.raises(ValueError, match=r'state is not of these.*bias'):
    optimizer.update(other, state, other)
  with pytest.raises(ValueError, match=r'gradient is not of these.*bias'):
    optimizer.update({'kernel': PARAMS['kernel']}, state, PARAMS)
  for bad in (jnp.arange(3), jnp.zeros(3, jnp.complex64)):
    with pytest.raises(ValueError, match='moves real floating-point numbers'):
      optimizer.init({'order': bad})
  for steps in (0, -1, 1.5, None):
    with pytest.raises(ValueError, match='num_steps must be a whole number'):
      make(weights, steps)
  others = learned.OPTIMIZERS['adam' if kind == 'mlp' else 'mlp'].init
  with pytest.raises(ValueError, match='they are those of another kind'):
    make(others(jax.random.key(0)), 10)
  with pytest.raises(ValueError, match='made for another one'):
    make(
      jax.tree.map(lambda leaf: jnp.zeros((*jnp.shape(leaf), 2)), weights), 9
    )
  with pytest.raises(ValueError, match='must be floating-point'):
    make(jax.tree.map(lambda leaf: leaf.astype(int), weights), 9)


def test_numbers_that_cannot_be_are_refused():
  for rate in (-1.0, 0.0, np.inf, np.nan):
    with pytest.raises(ValueError, match='rate must be above 0'):
      learned.init_learned_adam(rate=rate)
    with pytest.raises(ValueError, match='rate must be above 0'):
      learned.init_mlp_optimizer(jax.random.key(0), rate=rate)
  with pytest.raises(ValueError, match='hidden must be'):
    learned.init_mlp_optimizer(jax.random.key(0), hidden=0)
  with pytest.raises(ValueError, match='kind must be one of mlp, adam'):
    learned.check_weights({}, 'sgd')
  with pytest.raises(ValueError, match='got none'):
    learned.check_weights({}, 'mlp')


def test_weights_are_read_as_they_were_written_or_refused(tmp_path):
  for kind, family in learned.OPTIMIZERS.items():
    weights = family.init(jax.random.key(2))
    learned.save_weights(tmp_path / kind, weights, kind)
    found, named = learned.load_weights(tmp_path / kind)
    assert named == kind
    jax.tree.map(np.testing.assert_array_equal, weights, found)
  with pytest.raises(ValueError, match='another kind'):
    learned.save_weights(tmp_path / 'new', weights, 'mlp')
  weights['matrix']['log_rate'] = jnp.float32(jnp.nan)
  with pytest.raises(ValueError, match='not finite'):
    learned.save_weights(tmp_path / 'new', weights, 'adam')
  assert not (tmp_path / 'new').exists()
  (tmp_path / 'odd').write_bytes(b'odd')
  with pytest.raises(ValueError, match='is no file of weights'):
    learned.load_weights(tmp_path / 'odd')
  with pytest.raises(OSError):
    learned.load_weights(tmp_path / 'none')
  arrays = {'a': np.zeros(2, np.float32)}
  safetensors.numpy.save_file(arrays, tmp_path / 'other')
  with pytest.raises(ValueError, match='has no weights of a learned optimiser'):
    learned.load_weights(tmp_path / 'other')
  named = {'metajax_learned_optimizer': '"adam"'}
  safetensors.numpy.save_file(arrays, tmp_path / 'other', named)
  with pytest.raises(ValueError, match='other: weights of a learned'):
    learned.load_weights(tmp_path / 'other')


@pytest.mark.in_ci
def test_a_learned_loss_is_an_objective():
  weights = learned.init_learned_loss(jax.random.key(0))
  loss = learned.learned_loss(weights)
  logits, classes = jnp.eye(3), jnp.array([0, 2, 1])
  whole, _ = loss(logits, classes)
  one_hot = jax.nn.one_hot(classes, 3)
  same, _ = loss(jax.nn.log_softmax(logits), one_hot)
  np.testing.assert_allclose(whole, same, rtol=1e-6)
  counts = jnp.array([1.0, 1.0, 0.0])
  part, _ = loss(logits, Weighted(classes, counts))
  np.testing.assert_allclose(part, loss(logits[:2], classes[:2])[0], rtol=1e-6)
  with pytest.raises(ValueError, match='of one shape'):
    loss(logits, jnp.zeros((3, 1)))
  with pytest.raises(ValueError, match='weights of a learned loss'):
    learned.learned_loss({'hidden': jnp.zeros(3)})
  with pytest.raises(ValueError, match='hidden must be 1 or more'):
    learned.init_learned_loss(jax.random.key(0), 0)


@pytest.mark.parametrize('kind', ['mlp', 'adam'])
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_short_numbers_move_as_long_ones_do(kind, dtype):
  optimizer = learned.OPTIMIZERS[kind].make(
    learned.OPTIMIZERS[kind].init(jax.random.key(0)), 10
  )
  # Its square is nothing in float16.
  gradient = jnp.full(3, 1e-4, dtype)
  found = {}
  for each in (dtype, 'float32'):
    params = jnp.ones(3, each)
    state = optimizer.init(params)
    updates, after = optimizer.update(gradient.astype(each), state, params)
    found[each] = np.asarray(updates, float)
    assert updates.dtype == each
    for old, new in zip(*map(jax.tree.leaves, (state, after)), strict=True):
      assert old.dtype == new.dtype
  np.testing.assert_allclose(found[dtype], found['float32'], rtol=1e-2)


@pytest.mark.parametrize('kind', ['mlp', 'adam'])
def test_parameters_of_python_and_none_are_moved(kind):
  optimizer = learned.OPTIMIZERS[kind].make(
    learned.OPTIMIZERS[kind].init(jax.random.key(0)), 10
  )
  updates, _ = optimizer.update(1.0, optimizer.init(2.0), 2.0)
  np.testing.assert_allclose(updates, -1e-3, rtol=1e-2)
  assert optimizer.update({}, optimizer.init({}), {})[0] == {}


@pytest.mark.parametrize('kind', ['mlp', 'adam'])
def test_gradients_and_states_of_another_kind_are_refused_in_a_line(kind):
  optimizer = learned.OPTIMIZERS[kind].make(
    learned.OPTIMIZERS[kind].init(jax.random.key(0)), 10
  )
  params = [jnp.ones(2)]
  state = optimizer.init(params)
  for gradient, given in (
    ((jnp.ones(2),), state),
    ([jnp.ones(2, complex)], state),
    ([np.zeros(2, jax.dtypes.float0)], state),
    (params, optax.adam(0.1).init(params)),
  ):
    with pytest.raises(ValueError, match=r'not of these|real floating') as told:
      optimizer.update(gradient, given, params)
    assert '\n' not in str(told.value)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('horizon', 2.5),
    ('horizon', True),
    ('batch_size', 2.5),
    ('spread', float('inf')),
    ('num_tasks', -1),
  ],
)
def test_a_learner_of_optimisers_refuses_what_is_no_number_of_things(
  name, value
):
  model = metajax.models.mlp([2], 1)
  settings = {
    'horizon': 4, 'estimator': 'pes', 'num_tasks': 2, 'task': (), name: value,
  }  # fmt: skip
  with pytest.raises(ValueError, match=f'{name} must be'):
    learned.learn_optimizer(model, metajax.mean_squared_error, **settings)
