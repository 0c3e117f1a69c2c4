"""Recipes by kind of problem, and what users set in place of their fields."""

import pytest

from experiments import control, images, sinusoid
from experiments.recipes import images as on_images
from experiments.recipes import regression as on_regression
from experiments.recipes.kinds import methods, published
from experiments.runner.errors import UsageError
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS
from metajax.models.encoders import ENCODERS


@pytest.mark.parametrize('kind', [on_images, on_regression])
def test_recipes_are_of_methods_and_name_networks_that_these_can_take(kind):
  assert set(kind.RECIPES) <= set(ALGORITHMS)
  for name in methods(kind):
    recipe, head = published(kind, name), ALGORITHMS[name].head
    if head.kind == 'none':
      assert recipe.network is None
      continue
    network = ENCODERS[recipe.network]
    assert head.kind in network.heads
    assert network.has_warps or not head.warps
    assert set(recipe.options) <= set(ALGORITHMS[name].options), name


def test_recipes_depend_on_ways_and_shots():
  assert published(on_images, 'maml', 5, 1).inner_steps == 1
  assert published(on_images, 'maml', 20, 1).inner_steps == 5
  assert published(on_images, 'reptile', 5, 5).train_shots == 10
  assert published(on_images, 'protonet').network == 'conv4_max_pool'
  assert published(on_images, 'maml').network == 'conv4'
  assert published(on_regression, 'maml').network == 'mlp'


def recipe_of(**given) -> Recipe:
  return images.make_recipe(images.Settings(**given))


def test_settings_replace_fields_of_the_recipe():
  recipe = recipe_of(inner_lr=0.25, steps=7, network='mlp', depth=3)
  assert (recipe.inner_lr, recipe.steps, recipe.network) == (0.25, 7, 'mlp')
  assert (recipe.width, recipe.depth) == (64, 3)
  assert recipe_of().width == 64
  assert recipe_of().depth is None
  assert sinusoid.make_recipe(sinusoid.Settings()).width == 40


def test_any_field_and_option_can_be_set():
  recipe = recipe_of(
    algorithm='leo', set='code_size=128,kl_weight=0.5,eval_inner_batch=3'
  )
  assert recipe.options == {'code_size': 128, 'kl_weight': 0.5}
  assert recipe.eval_inner_batch == 3
  # What is not set stays as it is published.
  recipe = recipe_of(algorithm='imaml', set='damping=2')
  assert recipe.options == {'strength': 0.1, 'damping': 2.0}
  recipe = recipe_of(algorithm='baseline_plus_plus', set='learn_scale=true')
  assert recipe.options == {'learn_scale': True}
  recipe = recipe_of(set='outer_schedule=cosine, evaluation=support')
  assert (recipe.outer_schedule, recipe.evaluation) == ('cosine', 'support')


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'set': 'inner_step=3'}, "--set: maml has no 'inner_step' among .*; did"
                              ' you mean inner_steps'),
    ({'set': 'code_size=3'}, "--set: maml has no 'code_size' among checkpoint"),
    ({'algorithm': 'leo', 'set': 'code_size=2.5'},
     '--set: code_size=2.5: must be a whole number'),
    ({'algorithm': 'leo', 'set': 'kl_weight=low'},
     '--set: kl_weight=low: must be a finite number'),
    ({'set': 'inner_lr=-1'}, '--set: inner_lr=-1: must be a finite number > 0'),
    ({'set': 'outer_schedule=slow'}, '--set: outer_schedule=slow: value'),
    ({'algorithm': 'baseline_plus_plus', 'set': 'learn_scale=maybe'},
     '--set: learn_scale=maybe: must be true or false'),
    ({'set': 'checkpoint=everywhere'},
     '--set: checkpoint=everywhere: value should be one of <none|step|nest'),
    ({'set': 'steps=3,steps=4'}, '--set: steps is given twice'),
    ({'set': 'steps=3', 'steps': 4}, '--set: steps is given twice, or by'),
    ({'algorithm': 'pixels', 'set': 'evaluation=population'},
     '--evaluation: pixels has no weights'),
    ({'set': 'depth=3'}, '--depth: is 3, but conv4 has no choice of it'),
    ({'set': 'batch_size=3'}, '--batch_size: is 3, but has no meaning'),
    ({'set': 'train_classes=3'}, "--set: maml has no 'train_classes'"),
    ({'depth': 3}, '--depth: is 3, but conv4 has no choice of it; mlp, transf'),
    ({'algorithm': 'pixels', 'network': 'mlp'}, '--network: pixels has no net'),
  ],
)  # fmt: skip
def test_what_cannot_be_set_is_refused(given, message):
  with pytest.raises(UsageError, match=message):
    recipe_of(**given)


def test_an_option_that_the_method_refuses_is_named():
  given = images.Settings(algorithm='leo', set='code_size=64,weight_lr=-1')
  with pytest.raises(UsageError, match='--set: inner_lr must'):
    images.run(given)


def test_a_network_that_a_method_cannot_take_is_refused_with_those_it_can():
  given = images.Settings(algorithm='relationnet', network='resnet12')
  with pytest.raises(
    UsageError,
    match='--network: relationnet wants maps of a network: resnet12 cannot end'
    ' in maps; conv4, conv4_flatten, conv4_max_pool can',
  ):
    images.run(given)
  given = images.Settings(algorithm='warpgrad', network='transformer')
  with pytest.raises(UsageError, match=r'with warps .*; conv4, .*mlp can'):
    images.run(given)


def test_a_test_takes_the_steps_that_were_trained_for():
  usual = control.make_recipe(control.Settings())
  assert (usual.inner_steps, usual.eval_inner_steps) == (1, 1)
  for given, wanted in (
    ({'inner_steps': 3}, 3),
    ({'inner_steps': 3, 'eval_inner_steps': 2}, 2),
    ({'set': 'inner_steps=3'}, 3),
  ):
    recipe = control.make_recipe(control.Settings(**given))
    assert recipe.eval_inner_steps == wanted
  longer = images.make_recipe(images.Settings(inner_steps=2))
  assert longer.eval_inner_steps > 2


def test_what_is_set_is_as_if_its_flag_had_been_given():
  assert images.Settings(set='ways=20,inner_lr=0.25') == images.Settings(
    ways=20, inner_lr=0.25
  )
  # The recipe of 20 ways takes five steps.
  assert recipe_of(set='ways=20').inner_steps == 5
  given = sinusoid.Settings(set='shots=5,eval_inner_steps=10')
  assert sinusoid.make_recipe(given).eval_inner_steps == 10
  with pytest.raises(UsageError, match="--set: maml has no 'evaluation'"):
    sinusoid.make_recipe(sinusoid.Settings(set='evaluation=population'))
