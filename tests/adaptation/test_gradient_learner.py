"""What an inner loop refuses, whatever the method is."""

import jax.numpy as jnp
import optax
import pytest

import metajax
from metajax.adaptation.learned_descent import learned_descent

MODEL, LOSS = metajax.models.mlp([4], 1), metajax.mean_squared_error
METHODS = [
  metajax.maml,
  metajax.fomaml,
  metajax.anil,
  metajax.boil,
  metajax.imaml,
  metajax.es_maml,
  metajax.from_scratch,
  metajax.reptile,
]
every_method = pytest.mark.parametrize(
  'method', METHODS, ids=lambda method: method.__name__
)


def make(method, **options):
  if method is metajax.reptile:
    options['inner_batch'] = 2
  return method(MODEL, LOSS, **options)


@every_method
def test_an_optimiser_where_one_is_to_be_made_is_refused(method):
  with pytest.raises(ValueError, match='inner_optimizer makes an optimiser'):
    make(method, inner_optimizer=optax.sgd(0.1))


def test_so_it_is_where_it_is_learned():
  with pytest.raises(ValueError, match='inner_optimizer makes an optimiser'):
    learned_descent(MODEL, LOSS, 1, lambda *_: (), optax.sgd(0.1))


@every_method
@pytest.mark.parametrize('number', [2.5, jnp.float32(2)])
def test_a_number_of_steps_that_is_no_integer_is_refused(method, number):
  with pytest.raises(ValueError, match='num_steps must be a Python integer'):
    make(method, num_steps=number)
