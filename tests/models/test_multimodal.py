"""Models of several modalities: what runs, what is shared, what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax.base import Batch
from metajax.inner import partition
from metajax.models import from_linen, mlp, multimodal
from metajax.models.frozen import hold
from metajax.models.modes import takes_key

KEY = jax.random.key(0)
IMAGES, TEXTS = jnp.ones((3, 5)), jnp.ones((3, 2))
ENCODERS = {'images': mlp([], 4), 'texts': mlp([], 6)}
MODEL = multimodal(ENCODERS, mlp([], 2), size=4)


@pytest.fixture(scope='module')
def params():
  return jax.jit(MODEL.init)(KEY, {'images': IMAGES, 'texts': TEXTS})


def test_inputs_of_both_are_the_mean_of_their_vectors(params):
  def vector(name, inputs):
    own = params[name]
    features = ENCODERS[name].apply(own['encoder'], inputs)
    projection = own['projection']
    return features @ projection['kernel'] + projection['bias'][None]

  images, texts = vector('images', IMAGES), vector('texts', TEXTS)
  for inputs, wanted in (
    ({'images': IMAGES}, images),
    ({'texts': TEXTS}, texts),
    ({'images': IMAGES, 'texts': TEXTS}, (images + texts) / 2),
  ):
    outputs = MODEL.apply(params, inputs)
    expected = mlp([], 2).apply(params['shared'], wanted)
    np.testing.assert_allclose(outputs, expected, rtol=1e-6, atol=1e-6)


def test_what_is_shared_is_selected_by_its_path(params):
  select = partition.matching('^shared/')
  assert set(filter(select, partition.paths(params))) == {
    'shared/head/bias', 'shared/head/kernel',
  }  # fmt: skip


def test_a_modality_alone_is_initialised_as_with_others(params):
  alone = MODEL.init(KEY, {'texts': TEXTS})
  assert sorted(alone) == ['shared', 'texts']
  jax.tree.map(
    lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6),
    alone,
    {name: params[name] for name in alone},
  )


def test_support_of_one_modality_and_queries_of_another(params):
  """Methods that adapt by gradient and in closed form run unchanged."""
  support = Batch({'texts': TEXTS[:2]}, jnp.arange(2))
  objective = metajax.cross_entropy
  for learner in (
    metajax.maml(MODEL, objective, 0.1, 1),
    metajax.protonet(MODEL, objective, 2),
    metajax.anil(MODEL, objective, 0.1, 1),
    metajax.r2d2(MODEL, objective, 2),
  ):
    meta_params = jax.eval_shape(
      learner.init, KEY, {'images': IMAGES, 'texts': TEXTS}
    )
    adapted, _ = jax.eval_shape(learner.adapt, KEY, meta_params, support)
    outputs = jax.eval_shape(learner.predict, adapted, {'images': IMAGES})
    assert outputs.shape == (3, 2)


def test_an_encoder_may_stand_on_frozen_weights(params):
  weights = params['texts']['encoder']
  model = multimodal(
    {**ENCODERS, 'texts': hold(ENCODERS['texts'], weights)}, mlp([], 2), 4
  )
  held = model.init(KEY, {'images': IMAGES, 'texts': TEXTS})
  assert not jax.tree.leaves(held['texts']['encoder'])
  whole = {**held, 'texts': {**held['texts'], 'encoder': weights}}
  np.testing.assert_allclose(
    model.apply(held, {'texts': TEXTS}),
    MODEL.apply(whole, {'texts': TEXTS}),
    rtol=1e-6,
  )


def test_a_key_reaches_an_encoder_that_takes_one():
  class Noisy(nn.Module):
    @nn.compact
    def __call__(self, inputs, train: bool = False):
      dropped = nn.Dropout(0.5, deterministic=not train)(inputs)
      return nn.Dense(4)(dropped)

  noisy = {**ENCODERS, 'images': from_linen(Noisy())}
  model = multimodal(noisy, mlp([], 2), 4)
  assert takes_key(model.apply)
  assert not takes_key(MODEL.apply)
  params = model.init(KEY, {'images': IMAGES})
  one, again, other = (
    model.apply(params, {'images': IMAGES}, key=jax.random.key(seed))
    for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(one, again)
  assert (one != other).any()


@pytest.mark.parametrize('texts', [1, 2])
def test_as_many_examples_of_each_modality_are_wanted(params, texts):
  inputs = {'images': IMAGES, 'texts': TEXTS[:texts]}
  with pytest.raises(ValueError, match=f'got 3, {texts} of images, texts'):
    MODEL.apply(params, inputs)


def test_it_is_equal_where_it_is_made_alike():
  assert multimodal(ENCODERS, mlp([], 2), size=4) == MODEL
  assert multimodal(ENCODERS, mlp([], 2), size=5) != MODEL


@pytest.mark.parametrize(
  ('encoders', 'size', 'message'),
  [
    ({}, 4, "none of them called 'shared'; got none"),
    ({'shared': mlp([], 4)}, 4, "none of them called 'shared'; got shared"),
    (ENCODERS, 0, 'size must be 1 or more, got 0'),
  ],
)
def test_what_cannot_be_made(encoders, size, message):
  with pytest.raises(ValueError, match=message):
    multimodal(encoders, mlp([], 2), size)


@pytest.mark.parametrize(
  ('inputs', 'message'),
  [
    (IMAGES, 'of some of images, texts; got an array'),
    ({}, 'got one of nothing'),
    ({'sounds': TEXTS}, 'got one of sounds'),
    ({'images': IMAGES, 'sounds': TEXTS}, 'got one of images, sounds'),
  ],
)
def test_inputs_that_are_not_by_modality(params, inputs, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(MODEL.apply, params, inputs)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(MODEL.init, KEY, inputs)


def test_a_modality_that_it_was_not_initialised_for(params):
  alone = {name: params[name] for name in ('shared', 'texts')}
  with pytest.raises(ValueError, match=r'inputs of images, but .* for texts'):
    MODEL.apply(alone, {'images': IMAGES})


def test_features_that_are_no_vectors():
  maps = metajax.Model(lambda key, inputs: {}, lambda params, inputs: inputs)
  model = multimodal({'maps': maps}, mlp([], 2), 4)
  with pytest.raises(ValueError, match=r'encoder of maps must .* \(2, 3, 4\)'):
    jax.eval_shape(model.init, KEY, {'maps': jnp.zeros((2, 3, 4))})
