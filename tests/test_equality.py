"""Functions that are equal where they were made alike, and nowhere else."""

import copy
import dataclasses
import pickle
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax import testing
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS
from metajax.base import Head
from metajax.equality import EqualPartial, by_value
from metajax.models import conv4, from_linen, mlp
from metajax.models.encoders import encoder
from metajax.normalisation import population
from metajax.precision import drawn_like_inputs, with_precision
from metajax.tasks import (
  HostEpisodes,
  classification,
  completion,
  episodes,
  sinusoid,
  strokes,
  strokes_classification,
)

IMAGES = np.arange(12 * 16, dtype=np.uint8).reshape(12, 4, 4)
LABELS = np.arange(12) % 3
SMALL = Recipe(ways=3, inner_steps=2, train_classes=6, steps=100)
OBJECTIVE = metajax.cross_entropy


@by_value
def made(argument, other=1, *, named=None):
  return lambda inputs: (inputs, argument, other, named)


def maml(**options):
  return metajax.maml(mlp([8], 3), OBJECTIVE, **options)


# Arguments of which a copy has the same value.
ARGUMENTS = (
  1,
  1.0,
  float('nan'),
  'text',
  None,
  [1, [2.0]],
  {'a': (1, 2)},
  partial(pow, 2),
  np.arange(6.0).reshape(2, 3),
  np.arange(6.0).reshape(2, 3).T,
  np.zeros(()),
  np.zeros((0, 2)),
  jnp.arange(3.0),
  jnp.zeros(2, jnp.bfloat16),
)


@pytest.mark.parametrize('argument', ARGUMENTS, ids=repr)
def test_arguments_are_compared_by_value(argument):
  first, second = made(argument), made(copy.deepcopy(argument), 1)
  assert first == second
  assert hash(first) == hash(second)
  assert EqualPartial(pow, argument) == EqualPartial(
    pow, copy.deepcopy(argument)
  )


def test_whatever_differs_is_told_apart():
  others = [*ARGUMENTS, True, 0.0, -0.0, (1, [2.0]), {'a': (1, 2.0)}, 2]
  others += [np.arange(6).reshape(2, 3), jnp.arange(1.0, 4.0), 'other']
  others += [jnp.asarray(0.0), lambda: 1, lambda: 1, jax.random.key(0)]
  functions = [made(argument) for argument in others]
  functions += [made(1, 2), made(1, named=1), made([1]), EqualPartial(pow, 1)]
  for index, first in enumerate(functions):
    for second in functions[index + 1 :]:
      assert first != second


def test_what_was_changed_in_place_is_another_argument():
  array, listed = np.zeros(3), [1]
  before = made(array), made(listed)
  array[0] = 1
  listed.append(2)
  assert before[0] != made(array)
  assert before[1] != made(listed)
  assert before[0] == made(np.zeros(3))


def test_traced_arguments_are_what_they_are():
  def traced(x):
    assert made(x) == made(x) != made(x + 0)
    return made(x)(1)[1]

  assert float(jax.jit(traced)(3.0)) == 3
  donated = jnp.arange(3.0)
  function = made(donated)
  donated.delete()
  assert function != made(jnp.arange(3.0))
  assert function == function


def test_equal_functions_are_compiled_once(traced_once):
  counted = traced_once(lambda x: x)

  @by_value
  def factory(number):
    return lambda x: number * counted(x)

  first, second = factory(2), factory(2)
  assert float(jax.jit(first)(3.0)) == float(jax.jit(second)(3.0)) == 6


def test_functions_of_a_factory_differ_and_know_their_names():
  model = mlp([8], 3)
  assert len({*model}) == 4
  assert model.apply.__name__ == 'apply'
  assert model._replace(init=model.apply) != model


MAKE = {
  'model': lambda: conv4(3, width=4),
  'encoder': lambda: encoder('transformer', Head(), 3),
  'own_module': lambda: from_linen(nn.LayerNorm()),
  'float16': lambda: with_precision(drawn_like_inputs(mlp([8], 3)), 'float16'),
  'first_order': lambda: maml(first_order=True),
  'metrics': lambda: metajax.with_metrics(OBJECTIVE, metajax.metric.MACRO_F1),
  'replaced': lambda: maml()._replace(grad=metajax.microbatch(maml().grad, 2)),
  'ensemble': lambda: metajax.ensemble(maml(), 2),
  'select': lambda: metajax.select([maml(), maml(inner_lr=1.0)], OBJECTIVE, 3),
  'hardest': lambda: metajax.hardest(maml(), OBJECTIVE),
  'self_destruct': lambda: metajax.self_destruct(
    mlp([4], 3), mlp([4], 2), OBJECTIVE
  ),
  'population': lambda: population(maml_of, conv4(3)),
  'backprop': lambda: metajax.backprop(maml(), OBJECTIVE, jnp.ones(3)),
  'evolution': lambda: metajax.evolution(maml(), OBJECTIVE),
  'strokes': lambda: strokes(3, 1, 2),
  'strokes_classification': lambda: strokes_classification(3, 2),
}  # fmt: skip


def maml_of(model):
  return metajax.maml(model, OBJECTIVE)


@pytest.mark.parametrize('name', MAKE)
def test_what_the_library_makes_alike_is_equal(name):
  first, second = MAKE[name](), MAKE[name]()
  assert first == second
  assert hash(first) == hash(second)
  assert pickle.loads(pickle.dumps(first)) == first


@pytest.mark.parametrize('name', sorted(ALGORITHMS))
def test_methods_that_are_made_alike_are_equal(name):
  row = ALGORITHMS[name]

  def make(objective):
    recipe = SMALL._replace(inner_batch=4) if name == 'reptile' else SMALL
    model = mlp([8], 3)
    if row.head.kind == 'none':
      model = metajax.algorithms.hallucination.identity
    return row.make(model, objective, recipe)

  learner = make(OBJECTIVE)
  assert learner == make(OBJECTIVE)
  assert hash(learner) == hash(make(OBJECTIVE))
  assert learner.grad != make(metajax.mean_squared_error).grad


# Their arrays are arguments of what is compiled, so those may differ.
SAMPLERS = {
  'sinusoid': lambda: sinusoid(2, 3),
  'episodes': lambda: episodes(IMAGES, LABELS, 2, 1, 3, min_ways=2),
  'classification': lambda: classification(IMAGES, LABELS, 4),
  'completion': lambda: completion(IMAGES, 3, 2),
  'distil': lambda: metajax.distil(maml(), maml(), jnp.ones(3), OBJECTIVE),
  'candidates': lambda: metajax.candidates(strokes(2, 1, 2), 3),
}


@pytest.mark.parametrize('name', SAMPLERS)
def test_samplers_that_are_made_alike_are_one_argument(name):
  first, second = (SAMPLERS[name]() for _ in range(2))
  assert jax.tree.structure(first) == jax.tree.structure(second)
  structure = jax.tree.structure(pickle.loads(pickle.dumps(first)))
  assert structure == jax.tree.structure(first)
  assert structure != jax.tree.structure(sinusoid(2, 4))


def test_the_checks_of_a_method_do_not_know_the_difference():
  trial = testing.make_trial(
    metajax.protonet(testing.small_network(), OBJECTIVE, 3)
  )
  testing.check_structure(trial)


def test_samplers_of_a_factory_stay_what_they_are():
  """Their arrays are arguments of programs; a step moves them; a host draws."""
  images = np.arange(12.0, dtype=np.float32)[:, None]

  @by_value
  def sampler(make):
    return make()

  partial_ = sampler(lambda: episodes(images, LABELS, 2, 1, 1))
  assert isinstance(partial_, jax.tree_util.Partial)
  assert jax.tree.leaves(partial_)
  curriculum = sampler(lambda: metajax.ByStep(lambda key, step: step))
  assert isinstance(curriculum, metajax.ByStep)
  assert int(curriculum.at(4)(jax.random.key(0))) == 4
  host = sampler(lambda: HostEpisodes(images, LABELS, 2, 1, 1))
  assert isinstance(host, HostEpisodes)


def test_what_is_changed_afterwards_does_not_change_what_was_made():
  for argument, change in (
    (np.ones(2), lambda x: x.__imul__(10)),
    ([1.0], lambda x: x.append(2.0)),
    ({'a': 1.0}, lambda x: x.update(a=2.0)),
  ):
    first = made(copy.deepcopy(argument))
    held = made(argument)
    change(argument)
    assert held == first
    assert repr(held(0)) == repr(first(0))
    assert made(argument) != first


@dataclasses.dataclass(frozen=True)
class Holder:
  held: object


@pytest.mark.parametrize(
  ('one', 'other'),
  [
    (Holder(1), Holder(1.0)), (Holder(1), Holder(True)),
    (frozenset([1]), frozenset([1.0])), (complex(0, 0.0), complex(0, -0.0)),
    (np.float32(0.0), np.float32(-0.0)), (np.float32(1), np.float64(1)),
    (nn.Dense(2), nn.Dense(2.0)),
  ],
)  # fmt: skip
def test_types_tell_values_apart_wherever_they_stand(one, other):
  assert made(one) == made(copy.copy(one))
  assert made(one) != made(other)
