"""Which functions are given a key, and which one."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax.base import Batch, Model
from metajax.models import at_test, mlp
from metajax.models.modes import like, takes_key, training


def noisy(params, inputs, key=None):
  if key is None:
    return inputs
  return inputs + jax.random.normal(key, inputs.shape)


def plain(params, inputs):
  return inputs


@pytest.mark.parametrize(
  ('function', 'takes'),
  [(noisy, True), (jax.jit(noisy), True), (partial(noisy, 0), True),
   (plain, False), (jax.jit(plain), False), (max, False)],
)  # fmt: skip
def test_a_function_takes_a_key_by_the_name_of_its_argument(function, takes):
  assert takes_key(function) == takes


def test_what_takes_no_key_is_left_as_it_is():
  assert training(plain, jax.random.key(0)) is plain
  assert not takes_key(like(plain, noisy))
  assert like(noisy, noisy) is noisy


def test_numbers_are_folded_into_the_key():
  key, zeros = jax.random.key(0), jnp.zeros(3)
  np.testing.assert_array_equal(
    training(noisy, key, 3)((), zeros),
    jax.random.normal(jax.random.fold_in(key, 3), (3,)),
  )


def test_every_inner_step_draws_anew():
  model = Model(
    lambda key, inputs: jnp.zeros(()),
    lambda params, inputs, key=None: params + noisy((), inputs, key),
  )
  learner = metajax.maml(model, lambda outputs, _: (outputs.mean(), {}), 1.0, 3)
  batch = Batch(jnp.zeros(1), jnp.zeros(1))
  _, adaptation = learner.adapt(jax.random.key(0), jnp.zeros(()), batch)
  # The slope is 1, so without draws the losses were 0, -1, -2.
  draws = adaptation.losses + jnp.arange(3.0)
  assert len(np.unique(draws)) == 3


NOISY = mlp([], 2)._replace(apply=lambda params, inputs, key=None: inputs)


@pytest.mark.parametrize(
  'make',
  [
    lambda model: metajax.protonet(model, metajax.cross_entropy, 2),
    lambda model: metajax.protomaml(model, metajax.cross_entropy, 2),
    lambda model: metajax.r2d2(model, metajax.cross_entropy, 2),
    lambda model: metajax.matchingnet(model, metajax.cross_entropy, 2),
    lambda model: metajax.relationnet(model, metajax.cross_entropy, 2),
    lambda model: metajax.siamese(model, metajax.cross_entropy, 2),
    lambda model: metajax.leo(model, metajax.cross_entropy, 2),
    lambda model: metajax.in_context(model, metajax.cross_entropy, 2),
    lambda model: metajax.neural_process(model, metajax.mean_squared_error),
    lambda model: metajax.neural_process(
      mlp([], 1), metajax.mean_squared_error, encoder=model
    ),
  ],
)
def test_methods_that_never_train_a_model_refuse_one_with_a_key(make):
  with pytest.raises(ValueError, match='takes a key to train with'):
    make(NOISY)
  make(at_test(NOISY))


def test_a_model_at_test_holds_statistics_without_a_key_too():
  def freeze(statistics):
    return NOISY

  assert not takes_key(at_test(NOISY._replace(freeze=freeze)).freeze(()).apply)


@pytest.mark.parametrize(
  'make',
  [
    lambda module: metajax.maml(module, metajax.cross_entropy, 0.1, 1),
    lambda module: metajax.protonet(module, metajax.cross_entropy, 3),
  ],
)
def test_a_module_that_is_no_model_is_refused(make):
  with pytest.raises(ValueError, match=r'wrap modules of flax by .*from_linen'):
    make(nn.Dense(3))
