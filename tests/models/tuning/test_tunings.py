"""Tuned models under the methods that adapt them."""

import functools
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import plain_transformer as plain
import pytest

import metajax
from metajax.base import Batch, Model, Task
from metajax.inner import partition
from metajax.models import (
  conv4,
  fold,
  from_linen,
  last,
  lora,
  materialised,
  mlp,
  only,
  prefix,
  quantise,
  soft_prompt,
  together,
  transformer,
  tuned,
)
from metajax.models.modes import takes_key
from metajax.precision import with_precision

ADAPTS = partition.matching('^tuning/')
KEY = jax.random.key(0)


BATCH = Batch(plain.TOKENS, np.array([0, 1, 2, 1]))


@pytest.mark.parametrize(
  'tuning',
  [
    pytest.param(lora(2), id='lora'),
    pytest.param(lora(2, kind='dora'), id='dora', marks=pytest.mark.in_ci),
    pytest.param(
      together(soft_prompt(2), prefix(1, plain.HEADS), only(partition.biases)),
      id='together',
      marks=pytest.mark.in_ci,
    ),
  ],
)
def test_meta_gradients_of_both_modes_equal_central_differences(
  float64, tuning
):
  base = plain.drawn(np.float64, depth=1)
  model = tuned(Model(lambda key, inputs: base, plain.apply), tuning)
  start = plain.moved(model.init(KEY, plain.TOKENS)['tuning'])

  def loss(learned, mode):
    learner = metajax.maml(
      model,
      metajax.cross_entropy,
      0.5,
      2,
      second_order=mode,
      adapts=ADAPTS,
    )
    params = {'base': base, 'tuning': learned}
    adapted, _ = learner.adapt(KEY, params, BATCH)
    outputs = learner.predict(adapted, (plain.TOKENS + 3) % plain.VOCABULARY)
    return metajax.cross_entropy(outputs, BATCH.targets)[0]

  slope = jax.jit(jax.grad(loss), static_argnums=1)
  mixed, reverse = slope(start, 'mixed'), slope(start, 'reverse')
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), mixed, reverse
  )
  direction = plain.moved(jax.tree.map(np.zeros_like, start), 1)
  value = jax.jit(lambda x: loss(x, 'mixed'))

  def along(step):
    return value(jax.tree.map(lambda x, d: x + step * d, start, direction))

  found = sum(
    (x * d).sum()
    for x, d in zip(*map(jax.tree.leaves, (mixed, direction)), strict=True)
  )
  assert abs(found) > 1e-3
  expected = (along(1e-5) - along(-1e-5)) / 2e-5
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize('tuning', [soft_prompt(2), prefix(1, plain.HEADS)])
def test_a_model_that_would_not_read_what_is_added_is_refused(tuning):
  def deaf(params, tokens):
    hidden = jnp.asarray(params['embeddings']['token'])[tokens].mean(1)
    return plain.linear(params['head'], hidden)

  with pytest.raises(ValueError, match=r'this model does not read .*pr'):
    tuned(Model(plain.init, deaf), tuning).init(KEY, plain.TOKENS)


NETWORKS = {
  'mlp': (mlp([8, 8], 3), 'Dense_', np.ones((2, 4), np.float32)),
  'conv4': (
    conv4(3, width=4),
    'Conv_[123]/|head',
    np.random.default_rng(0).normal(size=(2, 16, 16, 1)).astype(np.float32),
  ),
  'transformer': (
    transformer(3, vocabulary=11, width=8, depth=2, heads=2),
    'attention_(in|out)/|narrow|wide',
    plain.TOKENS,
  ),
}


@pytest.mark.in_ci
@pytest.mark.parametrize('name', NETWORKS)
def test_networks_of_flax_adapt_by_materialised_adapters(name):
  model, targets, inputs = NETWORKS[name]
  adapt = materialised(together(lora(2, targets), only('head/bias')))
  both = tuned(model, adapt)
  params = jax.jit(both.init)(KEY, inputs)
  before = jax.jit(model.apply)(params['base'], inputs)
  np.testing.assert_array_equal(jax.jit(both.apply)(params, inputs), before)
  learner = metajax.maml(both, metajax.cross_entropy, 0.5, 2, adapts=ADAPTS)
  batch = Batch(inputs, np.arange(len(inputs)) % 3)
  adapted, adaptation = jax.jit(learner.adapt)(KEY, params, batch)
  jax.tree.map(np.testing.assert_array_equal, adapted['base'], params['base'])
  assert adaptation.losses[-1] < adaptation.losses[0]
  folded = fold(adapt, adapted['base'], adapted['tuning'])
  np.testing.assert_allclose(
    jax.jit(model.apply)(folded, inputs),
    jax.jit(both.apply)(adapted, inputs),
    atol=1e-5,
  )


def test_the_last_blocks_of_a_network_of_flax_are_found():
  model, _, inputs = NETWORKS['transformer']
  params = jax.eval_shape(model.init, KEY, inputs)
  learned = jax.eval_shape(only(last(1)).init, KEY, params)
  parts = {path.split('/')[0] for path in learned}
  assert parts == {'block_1', 'LayerNorm_0', 'head'}


@pytest.mark.in_ci
@pytest.mark.parametrize(
  'tuning', [only(partition.biases), materialised(lora(2, 'Dense_'))]
)
def test_training_moves_what_is_learned_and_compiles_once(tuning, traced_once):
  model = tuned(mlp([8], 3), tuning)
  learner = metajax.maml(model, metajax.cross_entropy, 0.5, 2, adapts=ADAPTS)
  optimizer = metajax.freeze(optax.adam(0.1), partition.matching('^base/'))
  inputs = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
  batch = Batch(inputs, np.arange(12).reshape(2, 6) % 3)

  def step(params, state, tasks):
    gradient, metrics = learner.grad(KEY, params, tasks)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, metrics

  first = params = learner.init(KEY, inputs[0])
  state = optimizer.init(params)
  once = jax.jit(traced_once(step))
  for _ in range(3):
    params, state, _ = once(params, state, Task(batch, batch))
  jax.tree.map(np.testing.assert_array_equal, params['base'], first['base'])
  for before, after in zip(
    *(jax.tree.leaves(x['tuning']) for x in (first, params)), strict=True
  ):
    assert not np.array_equal(before, after)


@pytest.mark.in_ci
def test_eight_bits_under_adapters_adapt():
  def init(key, tokens):
    del key, tokens
    return quantise(plain.drawn())

  model = tuned(Model(init, plain.apply), together(lora(2), only('^head/bias')))
  learner = metajax.maml(model, metajax.cross_entropy, 0.5, 3, adapts=ADAPTS)
  params = learner.init(KEY, plain.TOKENS)
  adapted, adaptation = jax.jit(learner.adapt)(KEY, params, BATCH)
  assert adaptation.losses[-1] < adaptation.losses[0]
  jax.tree.map(np.testing.assert_array_equal, adapted['base'], params['base'])


@pytest.mark.in_ci
def test_statistics_are_those_of_the_tuned_model():
  model = tuned(conv4(3, width=4), only(partition.matching('Conv_0')))
  inputs = NETWORKS['conv4'][2]
  params = model.init(KEY, inputs)
  moved = {**params, 'tuning': plain.moved(params['tuning'])}
  before, after = (model.measure(x, inputs) for x in (params, moved))
  name = 'BatchNorm_0'
  assert not np.allclose(before[name]['mean'], after[name]['mean'])
  np.testing.assert_allclose(
    model.freeze(after).apply(moved, inputs),
    model.apply(moved, inputs),
    atol=1e-4,
  )


def test_the_key_of_a_tuned_model_reaches_model_and_adapters():
  quiet = tuned(mlp([8], 3), only(partition.head))
  assert not takes_key(quiet.apply)
  assert takes_key(tuned(from_linen(nn.Dropout(0.5)), only('x')).apply)
  model = tuned(plain.MODEL, lora(2, dropout=0.5))
  assert takes_key(model.apply)
  params = model.init(KEY, plain.TOKENS)
  params['tuning'] = plain.moved(params['tuning'])
  keys = [None, None, *jax.random.split(KEY)]
  outputs = [model.apply(params, plain.TOKENS, key) for key in keys]
  np.testing.assert_array_equal(outputs[0], outputs[1])
  assert np.abs(outputs[2] - outputs[3]).max() > 1e-3


@pytest.mark.in_ci
def test_adapters_are_computed_in_fewer_bits_too():
  model = with_precision(tuned(plain.MODEL, lora(2)), jnp.bfloat16)
  params = model.init(KEY, plain.TOKENS)
  np.testing.assert_allclose(
    model.apply(params, plain.TOKENS),
    plain.apply(params['base'], plain.TOKENS),
    atol=0.2,
  )


def test_tuned_models_are_equal_by_value_and_can_be_pickled():
  def make(rank):
    return tuned(mlp([8], 3), materialised(lora(rank, 'Dense')))

  assert make(2) == make(2)
  assert make(2) != make(3)
  assert pickle.loads(pickle.dumps(make(2))) == make(2)


def test_what_is_no_model_tuning_or_parameters_of_one_is_refused():
  with pytest.raises(ValueError, match='a model is a'):
    tuned(nn.Dense(3), lora())
  for function in (materialised, functools.partial(tuned, mlp([8], 3))):
    with pytest.raises(ValueError, match=r'a tuning is what lora.*; got lora'):
      function(lora)
  with pytest.raises(ValueError, match='a tuning is what'):
    fold(None, {}, {})
  model = tuned(mlp([8], 3), only(partition.head))
  with pytest.raises(ValueError, match='a tuned model has the parameters'):
    model.apply({'head': 1.0}, np.ones((1, 4)))


def test_a_materialised_kernel_has_no_dropout():
  model = tuned(plain.MODEL, materialised(lora(2, dropout=0.5)))
  params = model.init(KEY, plain.TOKENS)
  model.apply(params, plain.TOKENS)
  with pytest.raises(ValueError, match=r'give lora\(dropout=0.0\)'):
    model.apply(params, plain.TOKENS, KEY)
