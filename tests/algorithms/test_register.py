"""Methods from outside: what registering them adds, and what it refuses."""

import pytest

import metajax
from experiments.recipes import images, regression
from experiments.recipes.kinds import methods, published
from metajax.algorithms import (
  ALGORITHMS,
  Recipe,
  gradient_method,
  register,
  registered,
  unregister,
)
from metajax.testing import small_network

ROW = gradient_method(metajax.maml)


@pytest.fixture(autouse=True)
def table_as_it_was():
  """Takes out whatever a test has registered."""
  rows, before = dict(ALGORITHMS), set(registered())
  yield
  for name in set(registered()) - before:
    unregister(name)
  assert rows == ALGORITHMS


def registers_elsewhere(*args, **recipes) -> None:
  """The same from another module."""
  scope = {'__name__': 'elsewhere', 'register': register}
  exec('def call(*args, **recipes): register(*args, **recipes)', scope)
  scope['call'](*args, **recipes)


def test_a_method_from_outside_is_in_the_table():
  register('mine', ROW, images=Recipe())
  assert ALGORITHMS['mine'] is ROW
  assert registered()['mine'].module == __name__
  learner = ALGORITHMS['mine'].make(
    small_network(), metajax.cross_entropy, Recipe()
  )
  assert isinstance(learner, metajax.MetaLearner)


def test_it_is_a_method_of_the_kinds_that_it_has_a_recipe_for():
  before = methods(images), methods(regression)
  register('mine', ROW, images=Recipe())
  register('other', ROW, regression=Recipe())
  register('neither', ROW)
  assert methods(images) == [*before[0], 'mine']
  assert methods(regression) == [*before[1], 'other']


def test_its_recipe_is_found_and_names_a_network():
  register('mine', ROW, images=Recipe(inner_lr=0.3))
  recipe = published(images, 'mine')
  assert (recipe.inner_lr, recipe.network) == (0.3, images.NETWORK)
  register('mine', ROW, images=Recipe(network='resnet12'))
  assert published(images, 'mine').network == 'resnet12'


def test_a_recipe_may_depend_on_ways_and_shots():
  register(
    'mine', ROW, images=lambda ways, shots: Recipe(ways=ways, shots=shots)
  )
  recipe = published(images, 'mine', 20, 5)
  assert (recipe.ways, recipe.shots) == (20, 5)


def test_the_same_module_may_register_again():
  register('mine', ROW, images=Recipe())
  again = gradient_method(metajax.fomaml)
  register('mine', again, regression=Recipe())
  assert ALGORITHMS['mine'] is again
  assert 'mine' not in methods(images)


@pytest.mark.parametrize('name', ['maml', 'protonet'])
def test_a_method_of_the_table_is_not_replaced(name):
  with pytest.raises(
    ValueError, match=f"there is a method '{name}' already; register another"
  ):
    register(name, ROW)


def test_a_method_of_another_module_is_not_replaced():
  registers_elsewhere('mine', ROW)
  with pytest.raises(ValueError, match="'mine' already, of elsewhere"):
    register('mine', ROW)


@pytest.mark.parametrize('row', [metajax.maml, None, tuple(ROW)])
def test_what_is_no_row_is_refused(row):
  with pytest.raises(TypeError, match='mine needs an Algorithm, got'):
    register('mine', row)


@pytest.mark.parametrize('recipe', [{'steps': 3}, None, 'maml'])
def test_what_is_no_recipe_is_refused(recipe):
  with pytest.raises(TypeError, match='images needs a Recipe, or a function'):
    register('mine', ROW, images=recipe)


@pytest.mark.parametrize('name', ['my-method', '', '2nd', 'a b', 'a,b'])
def test_a_name_that_no_flag_could_carry_is_refused(name):
  with pytest.raises(ValueError, match='is no identifier, such as my_method'):
    register(name, ROW)


def test_what_was_not_registered_is_not_taken_out():
  with pytest.raises(ValueError, match="no method 'maml' from outside"):
    unregister('maml')
  register('mine', ROW)
  with pytest.raises(ValueError, match=r'there are .*mine'):
    unregister('yours')


def test_the_methods_from_outside_cannot_be_written_to():
  with pytest.raises(TypeError):
    registered()['mine'] = ROW
