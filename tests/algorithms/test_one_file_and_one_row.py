"""A new method is one file and one row: CONTRIBUTING's, in a copy of all."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
COPIED = (
  'metajax',
  'experiments',
  'pyproject.toml',
  'tests/conftest.py',
  'tests/quick_compilation.py',
  'tests/test_import.py',
  'tests/algorithms/test_conformance.py',
)


def skeleton_and_row() -> tuple[str, str]:
  """The two blocks of code that CONTRIBUTING has for it."""
  text = (REPOSITORY / 'CONTRIBUTING.md').read_text()
  blocks = re.findall(r'\n   ```python\n(.*?)\n   ```', text, re.DOTALL)
  file, row = (
    re.sub('^   ', '', block, flags=re.MULTILINE) for block in blocks
  )
  return file, row


@pytest.fixture(scope='module')
def copy(tmp_path_factory) -> Path:
  """The repository with the method in it."""
  folder = tmp_path_factory.mktemp('copy')
  for name in COPIED:
    source, target = REPOSITORY / name, folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
      shutil.copytree(
        source, target, ignore=shutil.ignore_patterns('__pycache__')
      )
    else:
      shutil.copy(source, target)
  algorithms = folder / 'metajax' / 'algorithms'
  file, row = skeleton_and_row()
  (algorithms / 'mymethod.py').write_text(f'{file}\n')
  table = (algorithms / 'table.py').read_text()
  for before, added in (
    ('from metajax.algorithms.neural_process import neural_process\n',
     'from metajax.algorithms.mymethod import mymethod\n'),
    ("  'protonet': closed_form_method(protonet),\n", f'{row}\n'),
  ):  # fmt: skip
    assert table.count(before) == 1
    table = table.replace(before, added + before)
  (algorithms / 'table.py').write_text(table)
  return folder


def run(copy: Path, *arguments: str) -> str:
  """What python says there; it has to succeed."""
  done = subprocess.run(
    [sys.executable, *arguments],
    cwd=copy,
    env={**os.environ, 'PYTHONPATH': str(copy)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def run_tests(copy: Path, selected: str) -> list[str]:
  """Files of the tests that pass there."""
  printed = run(
    copy, '-m', 'pytest', '-q', '-rp', '-p', 'no:cacheprovider',
    *(name for name in COPIED if '/test_' in name),
    '-k', selected, '-m', 'long or not long',
  )  # fmt: skip
  return re.findall(r'^PASSED \S*/(test_\w+)\.py::', printed, re.MULTILINE)


@pytest.fixture(scope='module')
def passed(copy) -> list[str]:
  """Of one run, since to start one takes longer than these tests."""
  return run_tests(
    copy,
    '(test_import and (mymethod or all_is_sorted or every_name_in_all '
    'or design)) or (mymethod and (fits_together or metrics))',
  )


def test_the_method_is_exported_and_one_of_all(copy):
  printed = run(
    copy, '-c',
    'import metajax, metajax.algorithms.table as table;'
    'print(metajax.__file__, "mymethod" in metajax.__all__,'
    ' metajax.mymethod is table.ALGORITHMS["mymethod"].factory)',
  )  # fmt: skip
  assert printed.startswith(str(copy))
  assert 'False' not in printed


@pytest.mark.in_ci
def test_the_tests_of_imports_take_it_up(passed):
  assert passed.count('test_import') > 50


@pytest.mark.in_ci
def test_its_published_setting_is_the_default_one(passed):
  assert passed.count('test_conformance') == 2


@pytest.mark.long
def test_the_conformance_test_takes_it_up(copy):
  passed = run_tests(copy, 'test_conformance and mymethod')
  assert len(passed) > 15
