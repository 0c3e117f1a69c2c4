"""Low-rank adapters: where they start, what they learn, and what is refused."""

import math
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import plain_transformer as plain
import pytest

from metajax.inner import partition
from metajax.models import fold, lora, materialised
from metajax.models.modes import takes_key

PARAMS = plain.drawn()
KINDS = ('lora', 'dora', 'rslora')
TARGETS = 'attention/|feed_forward/|head'


@jax.jit
def outputs(params):
  return plain.apply(params, plain.TOKENS)


@pytest.mark.in_ci
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('arrange', [lambda x: x, plain.stacked])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_at_first_outputs_are_exactly_those_of_the_base(kind, arrange, dtype):
  params = jax.tree.map(
    lambda leaf: leaf.astype(dtype) if leaf.ndim > 1 else leaf, arrange(PARAMS)
  )
  params['embeddings']['token'] = PARAMS['embeddings']['token']
  adapt = lora(2, TARGETS, kind=kind)
  learned = adapt.init(jax.random.key(0), params)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(learned)} == {'float32'}
  np.testing.assert_array_equal(
    outputs(adapt.combine(params, learned)), outputs(params)
  )


@pytest.mark.in_ci
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('arrange', [lambda x: x, plain.stacked])
def test_folded_kernels_give_the_same_outputs(kind, arrange):
  params, adapt = arrange(PARAMS), lora(2, TARGETS, kind=kind)
  learned = plain.moved(adapt.init(jax.random.key(0), params))
  folded = fold(adapt, params, learned)
  assert jax.tree.structure(folded) == jax.tree.structure(params)
  combined = outputs(adapt.combine(params, learned))
  np.testing.assert_allclose(outputs(folded), combined, atol=1e-4)
  assert np.abs(combined - outputs(params)).max() > 0.01
  arrays = materialised(adapt).combine(params, learned)
  jax.tree.map(np.testing.assert_array_equal, arrays, folded)


def test_the_factor_is_that_of_the_papers():
  params = {'kernel': np.ones((4, 4), np.float32)}
  found = []
  for kind in KINDS:
    adapt = lora(4, 'kernel', scale=6.0, kind=kind)
    learned = adapt.init(jax.random.key(0), params)
    found.append(adapt.combine(params, learned)['kernel'].scale)
  assert found == [1.5, 1.5, 6.0 / math.sqrt(4)]


def test_adapters_have_the_shapes_and_spread_of_the_papers():
  params = {'blocks': {'layer': {'kernel': np.zeros((3, 100, 20), np.float32)}}}
  adapt = lora(4, 'layer', kind='dora')
  (learned,) = adapt.init(jax.random.key(0), params).values()
  shapes = {name: leaf.shape for name, leaf in learned.items()}
  assert shapes == {'a': (3, 100, 4), 'b': (3, 4, 20), 'magnitude': (3, 20)}
  assert 0.09 < np.abs(learned['a']).max() <= 0.1
  assert abs(np.std(learned['a']) - 0.1 / 3**0.5) < 0.005


def test_adapters_in_double_precision_stay_in_it(float64):
  params = plain.drawn(np.float64)
  adapt = lora(2)
  learned = plain.moved(adapt.init(jax.random.key(0), params))
  assert {leaf.dtype.name for leaf in jax.tree.leaves(learned)} == {'float64'}
  np.testing.assert_allclose(
    outputs(adapt.combine(params, learned)),
    outputs(fold(adapt, params, learned)),
    atol=1e-12,
  )


def test_gradients_reach_the_adapters_alone():
  adapt = lora(2)
  learned = plain.moved(adapt.init(jax.random.key(0), PARAMS))
  assert {*learned} == {
    f'block_{i}/attention/{name}/kernel'
    for i in range(2)
    for name in ('query', 'value')
  }
  gradient = jax.jit(
    jax.grad(lambda x: jnp.square(outputs(adapt.combine(PARAMS, x))).sum())
  )(learned)
  assert jax.tree.structure(gradient) == jax.tree.structure(learned)
  assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(gradient))


def test_adapters_of_many_tasks_run_in_one_program():
  adapt = lora(2, kind='dora')
  learned = adapt.init(jax.random.key(0), PARAMS)
  each = [plain.moved(learned, seed) for seed in range(3)]
  of_all = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

  @jax.jit
  def of_one(learned):
    return outputs(adapt.combine(PARAMS, learned))

  together = jax.vmap(of_one)(of_all)
  for one, found in zip(each, together, strict=True):
    np.testing.assert_allclose(found, of_one(one), atol=1e-5)


def test_inputs_are_dropped_in_training_alone_and_anew_for_every_matrix():
  params = {'blocks': {'kernel': np.zeros((2, 4, 4), np.float32)}}
  adapt = lora(2, 'kernel', dropout=0.5)
  assert takes_key(adapt.combine)
  assert not takes_key(lora(2, 'kernel').combine)
  learned = plain.moved(adapt.init(jax.random.key(0), params))
  inputs = np.ones((2, 100, 4), np.float32)

  def product(key):
    kernel = adapt.combine(params, learned, key)['blocks']['kernel']
    _, outputs = jax.lax.scan(
      lambda _, x: (None, x[0] @ x[1]), None, (inputs, kernel)
    )
    return outputs

  first, second = product(jax.random.key(1)), product(jax.random.key(2))
  assert not np.array_equal(first, second)
  np.testing.assert_array_equal(first, product(jax.random.key(1)))
  np.testing.assert_allclose(product(None).std(1), 0, atol=1e-5)
  combined = adapt.combine(params, learned, jax.random.key(1))
  assert len(np.unique(combined['blocks']['kernel'].dropout_key, axis=0)) == 2


def test_tunings_are_equal_by_value_and_can_be_pickled():
  assert lora(4, 'kernel') == lora(rank=4, targets='kernel')
  assert hash(lora(4)) == hash(lora(4))
  assert lora(4) != lora(5)
  pattern = partition.matching('kernel')
  assert lora(4, pattern) == lora(4, partition.matching('kernel'))
  again = pickle.loads(pickle.dumps(lora(4, pattern)))
  assert again == lora(4, pattern)


def test_a_program_is_compiled_once_for_tunings_that_are_alike(traced_once):
  def product(tuning, params, learned):
    return np.ones((1, 4), np.float32) @ tuning.combine(params, learned)['w']

  once = jax.jit(traced_once(product), static_argnums=0)
  params = {'w': np.ones((4, 3), np.float32)}
  for seed in range(2):
    adapt = lora(2, 'w')
    learned = plain.moved(adapt.init(jax.random.key(0), params), seed)
    once(adapt, params, learned)


def test_adapters_are_called_after_what_they_adapt():
  adapt = lora(2, 'head')
  combined = adapt.combine(PARAMS, adapt.init(jax.random.key(0), PARAMS))
  paths = []
  partition.map_with_path(lambda path, _: paths.append(path), combined['head'])
  assert paths == ['bias', 'kernel/kernel', 'kernel/a', 'kernel/b']


def test_layers_that_want_arrays_say_what_to_do():
  module = nn.Dense(3)
  params = {'kernel': jnp.ones((4, 3)), 'bias': jnp.zeros(3)}
  adapt = lora(2, 'kernel')
  combined = adapt.combine(params, adapt.init(jax.random.key(0), params))
  with pytest.raises(TypeError, match='an array by materialised'):
    module.apply({'params': combined}, jnp.ones((1, 4)))


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'rank': 0}, 'rank must be a whole number from 1, got 0'),
    ({'rank': 2.0}, 'rank must be a whole number from 1'),
    ({'rank': True}, 'rank must be a whole number from 1'),
    ({'dropout': 1.0}, 'dropout must be from 0 to below 1, got 1.0'),
    ({'dropout': -0.1}, 'dropout must be from 0 to below 1'),
    ({'dropout': math.nan}, 'dropout must be from 0 to below 1'),
    ({'dropout': None}, 'dropout must be a number'),
    ({'scale': 0.0}, 'scale must be finite and not 0'),
    ({'scale': math.inf}, 'scale must be finite and not 0'),
    ({'scale': 'big'}, "scale must be a number, got 'big'"),
    ({'kind': 'loha'}, "kind must be one of lora, dora, rslora, got 'loha'"),
    ({'targets': '('}, 'a pattern is a regular expression'),
    ({'targets': 3}, 'what adapts is selected by a pattern'),
  ],
)
def test_what_no_adapter_can_have_is_refused_at_once(arguments, message):
  with pytest.raises(ValueError, match=message):
    lora(**arguments)


WITH_BUFFERS = {
  **PARAMS,
  'order': np.arange(3),
  'layer': {'index': np.zeros((3, 3), np.int32)},
  'constants': {'kernel': np.ones((3, 3))},
}


@pytest.mark.parametrize(
  ('targets', 'message'),
  [
    ('attentoin/(query|value)', 'selects none.*near it: block_0/attention/'),
    ('bias$', r'block_0/attention/query/bias \(a bias\)'),
    ('attention', r'attention_norm/bias \(a bias\), .*\(of a normalisation\)'),
    ('embed', r'embeddings/token \(an embedding, which is looked up\)'),
    ('^order', r'order \(an integer or a constant'),
    ('^layer', r'layer/index \(an integer or a constant'),
    ('^constants', r'constants/kernel \(an integer or a constant'),
    (partition.normalisation, r'^normalisation matches what is no kernel'),
    (partition.everything, r"'kernel\$' is every kernel"),
  ],
)
def test_what_cannot_be_adapted_is_named(targets, message):
  with pytest.raises(ValueError, match=message) as error:
    lora(2, targets).init(jax.random.key(0), WITH_BUFFERS)
  assert len(str(error.value)) < 600


def test_stacked_biases_are_no_kernels():
  with pytest.raises(ValueError, match=r'blocks/attention/query/bias \(a bias'):
    lora(2, 'query/bias').init(jax.random.key(0), plain.stacked(PARAMS))


def test_a_rank_above_a_side_is_refused_by_path():
  with pytest.raises(ValueError, match=r'rank of 4 .*head/kernel.* 8 x 3.*=3'):
    lora(4, 'head').init(jax.random.key(0), PARAMS)


def test_adapters_of_other_parameters_are_refused():
  adapt = lora(2)
  learned = adapt.init(jax.random.key(0), PARAMS)
  with pytest.raises(ValueError, match='other parameters: these have no'):
    adapt.combine({'head': PARAMS['head']}, learned)
  narrow = {**PARAMS, 'head': {'kernel': np.ones((8, 1)), 'bias': np.ones(1)}}
  for kind in KINDS:
    of_one = lora(1, 'head', kind=kind).init(jax.random.key(0), narrow)
    with pytest.raises(ValueError, match=r"'b': \(1, 3\).* other parameters"):
      lora(1, 'head', kind=kind).combine(PARAMS, of_one)
  with pytest.raises(ValueError, match='fold the first'):
    adapt.combine(adapt.combine(PARAMS, learned), learned)


def test_adapters_of_another_rank_or_kind_are_refused():
  key = jax.random.key(0)
  for learned_by, taken_by in (
    (lora(4), lora(2)),  # the scale would be twice what it was
    (lora(2, kind='dora'), lora(2)),
    (lora(2), lora(2, kind='dora')),
  ):
    learned = learned_by.init(key, PARAMS)
    with pytest.raises(ValueError, match='of another rank or kind'):
      taken_by.combine(PARAMS, learned)
    learned_by.combine(PARAMS, learned)
  learned = {path: {'a': own['a']} for path, own in learned.items()}
  with pytest.raises(ValueError, match='of another rank or kind'):
    lora(2).combine(PARAMS, learned)


def test_a_bias_beside_a_kernel_is_passed_over():
  learned = lora(2, 'w|b').init(
    jax.random.key(0),
    {'w': np.ones((3, 3), np.float32), 'b': np.ones(3, np.float32)},
  )
  assert list(learned) == ['w']
