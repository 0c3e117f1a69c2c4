"""Methods from outside, by the module that registers them."""

import re

import pytest
from processes import TINY_IMAGES, result

PLUGIN = """
import metajax
from metajax.algorithms import Recipe, gradient_method, register


def slow(model, objective, inner_lr, num_steps, *, slowness=10.0):
  return metajax.maml(model, objective, inner_lr / slowness, num_steps)


def recipe(ways, shots):
  return Recipe(ways=ways, shots=shots, network='mlp', width=4)


register('slow_maml', gradient_method(slow), images=recipe)
"""


@pytest.fixture
def modules(tmp_path):
  """Writes modules to the folder that experiments are started in."""

  def write(**texts):
    for name, text in texts.items():
      (tmp_path / f'{name}.py').write_text(text)

  return write


@pytest.mark.in_ci
def test_a_plugin_is_trained_by_its_name(
  launcher, cache, npz, modules, tmp_path
):
  modules(my_plugin=PLUGIN)
  flags = (
    *TINY_IMAGES, *npz, cache, '--plugin=my_plugin', '--steps=1',
    '--algorithm=slow_maml', '--set=slowness=5', f'--workdir={tmp_path}/run',
  )  # fmt: skip
  ended = launcher.run('images', *flags, cwd=tmp_path)
  assert (ended.code, ended.stderr) == (0, ''), ended
  outcome = result(flags)
  assert outcome['algorithm'] == 'slow_maml'
  assert outcome['config']['plugin'] == ['my_plugin']
  assert outcome['config']['network'] == 'mlp'


def test_what_is_no_plugin_is_refused(launcher, modules, tmp_path):
  modules(
    silent='',
    broken='1 / 0',
    leaves='raise SystemExit(3)',
    misspelt=PLUGIN.replace('images=', 'image='),
    shadow=PLUGIN.replace("'slow_maml'", "'maml'"),
  )
  for name, message in (
    ('nowhere', 'nowhere cannot be imported (ModuleNotFoundError: No module'),
    ('broken', 'broken cannot be imported (ZeroDivisionError: division by'),
    ('misspelt', "misspelt has a recipe of slow_maml for 'image', which is no"),
    ('leaves', 'leaves cannot be imported (SystemExit: 3)'),
    ('silent', 'silent registers no method; call metajax.algorithms.regist'),
    ('shadow', "shadow cannot be imported (ValueError: there is a method 'm"),
  ):
    ended = launcher.run('images', f'--plugin={name}', cwd=tmp_path)
    assert ended.code == 2
    assert ended.stderr.startswith(f'--plugin: {message}'), ended.stderr
    assert ended.stderr.count('\n') == 1


def test_a_recipe_that_cannot_be_is_refused(launcher, modules, tmp_path):
  for number, (value, message) in enumerate(
    {
      "network='nope'": "'network' is 'nope', but value should be one of <",
      "network='mlpp'": '.*; did you mean mlp',
      "steps='x'": "'steps' is 'x', but must be a whole number from 0",
      'inner_lr=-1': "'inner_lr' is -1, but must be a finite number > 0",
    }.items()
  ):
    name = f'norecipe{number}'
    modules(**{name: PLUGIN.replace("network='mlp'", value)})
    ended = launcher.run(
      'images', f'--plugin={name}', '--algorithm=slow_maml', cwd=tmp_path
    )
    assert ended.code == 2, ended
    start = '--plugin: the recipe of slow_maml for images: '
    assert re.match(start + message, ended.stderr), ended.stderr
