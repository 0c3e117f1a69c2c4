"""The site can be built: pages are linked, and every public name has its own.

The build itself is in .ci/run, with docs/check_site.py, which follows the links
of what was built.
"""

import importlib.util
import posixpath
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / 'docs'
GENERATED = {'api', 'examples', 'project'}
PAGES = sorted(
  path
  for path in DOCS.rglob('*.md')
  if path.relative_to(DOCS).parts[0] not in GENERATED
)
DOCUMENTS = [
  *PAGES,
  *REPOSITORY.glob('*.md'),
  REPOSITORY / 'examples/README.md',
]


def _load(name):
  path = DOCS / '_extensions' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  spec.loader.exec_module(module)
  return module


def _listed(page: Path) -> list[str]:
  """Pages in the tables of contents of a page, from the root of the site."""
  folder = page.parent.relative_to(DOCS).as_posix()
  blocks = re.findall(r'```\{toctree\}\n(.*?)```', page.read_text(), re.DOTALL)
  lines = [line.strip() for block in blocks for line in block.splitlines()]
  names = [line for line in lines if line and not line.startswith(':')]
  return [posixpath.normpath(posixpath.join(folder, name)) for name in names]


def test_every_page_is_in_a_table_of_contents():
  listed = {name for page in PAGES for name in _listed(page)}
  names = {page.relative_to(DOCS).with_suffix('').as_posix() for page in PAGES}
  assert names - listed == {'index'}
  assert {
    name for name in listed if name.split('/')[0] not in GENERATED
  } <= names


@pytest.mark.parametrize(
  'path', DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix()
)
def test_links_and_pictures_of_documents_are_there(path):
  text = re.sub(r'```.*?```', '', path.read_text(), flags=re.DOTALL)
  targets = re.findall(r'\]\(([^)\s#]+)', text)
  missing = [
    target
    for target in targets
    if '://' not in target
    and not (path.parent / target).exists()
    and (path.parent / target).resolve().relative_to(DOCS).parts[0]
    not in GENERATED
  ]
  assert not missing


@pytest.mark.parametrize('guide', ['choose', 'large'])
def test_figures_of_a_guide_are_those_of_the_record(guide):
  text = (DOCS / 'guides' / f'{guide}.md').read_text()
  (table,) = re.findall(
    r'<!-- figures -->\n(.*?)<!-- end of figures -->', text, re.DOTALL
  )
  record = (DOCS / 'results.md').read_text()
  figures = set(re.findall(r'[\d,]+\.\d+(?: ± \d+\.\d+)?|\d+,\d{3}', table))
  assert len(figures) >= 10
  assert {figure for figure in figures if figure not in record} == set()


@pytest.mark.in_ci
@pytest.mark.parametrize(
  'path', sorted((DOCS / 'guides').glob('*.md')), ids=lambda path: path.stem
)
def test_programs_of_a_guide_run(path):
  blocks = re.findall(r'```python\n(.*?)```', path.read_text(), re.DOTALL)
  namespace: dict = {}
  for block in blocks:
    exec(block, namespace)


def test_every_public_name_is_defined_where_a_page_shows_it():
  symbols = _load('symbols')
  assert 'metajax.algorithms.maml' in symbols.modules()
  assert symbols.home('metajax', 'maml') == ('metajax.algorithms.maml', 'maml')
  nowhere = [
    f'{module}.{name}'
    for module in symbols.modules()
    for name, symbol in symbols.members_of(module).items()
    if symbol is None
    or (symbol.name and symbol.name not in symbols.defined(symbol.module))
  ]
  assert not nowhere


def test_links_of_the_repository_lead_to_pages_of_the_site():
  rewrite = _load('repository').rewrite
  texts = {
    '[a](../metajax/algorithms/maml.py)': (
      '{py:mod}`a <metajax.algorithms.maml>`'
    ),
    '[a](../examples/own_method.py)': '[a](/examples/own_method.md)',
    '[a](../CONTRIBUTING.md#style)': '[a](/project/contributing.md#style)',
    '[a](models.md#what-adapts)': '[a](/models.md#what-adapts)',
    '[a](https://arxiv.org/abs/1)': '[a](https://arxiv.org/abs/1)',
  }
  assert {text: rewrite(text, 'docs') for text in texts} == texts
