"""What `import metajax` loads, and what it offers."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import metajax

# Not rich: flax itself loads it.
HEAVY = (
  'PIL',
  'cv2',
  'matplotlib',
  'orbax',
  'pyarrow',
  'safetensors',
  'tensorboardX',
  'tensorflow',
  'tensorflow_datasets',
  'tokenizers',
)
MODULES = sorted(
  module.name for module in pkgutil.walk_packages(metajax.__path__, 'metajax.')
)


def test_importing_metajax_loads_nothing_heavy():
  script = (
    'import sys, metajax, metajax.tasks, metajax.algorithms.table;'
    f' print(sorted(set(sys.modules) & set({HEAVY})))'
  )
  done = subprocess.run(
    [sys.executable, '-c', script],
    capture_output=True,
    text=True,
    check=True,
    cwd=Path(__file__).resolve().parents[1],
  )
  assert done.stdout.strip() == '[]'


@pytest.mark.parametrize('module', ['metajax', *MODULES])
def test_every_name_in_all_exists(module):
  loaded = importlib.import_module(module)
  for name in getattr(loaded, '__all__', ()):
    assert hasattr(loaded, name), name


def test_all_is_sorted_and_without_repetition():
  assert metajax.__all__ == sorted(set(metajax.__all__))


def test_the_names_of_the_design_are_there():
  names = """Batch Task Model Learner MetaLearner maml fomaml anil reptile
    protonet descend backprop displacement microbatch cross_entropy
    mean_squared_error TrainState make_train_step evaluate"""
  assert set(names.split()) <= set(metajax.__all__)


@pytest.mark.parametrize('name', metajax.__all__)
def test_what_metajax_exports_has_a_docstring_of_its_own(name):
  exported = getattr(metajax, name)
  documentation = exported.__doc__
  assert documentation
  # What a NamedTuple or a partial says of itself by default is no help.
  assert not documentation.startswith((f'{name}(', 'Create a new function'))


@pytest.mark.parametrize('module', MODULES)
def test_public_functions_and_classes_have_docstrings(module):
  loaded = importlib.import_module(module)
  assert loaded.__doc__
  for name, member in vars(loaded).items():
    if name.startswith('_') or getattr(member, '__module__', '') != module:
      continue
    if inspect.isclass(member) or inspect.isfunction(member):
      assert inspect.getdoc(member), f'{module}.{name}'
