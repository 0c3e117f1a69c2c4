"""Makes pages of files that stand outside of `docs/`, and follows their links.

Links in Markdown are those of the repository, so they work where it is browsed.
On the site a module leads to its page of the reference, an example to its
program, and CONTRIBUTING.md and CHANGELOG.md to their pages.
"""

import ast
import posixpath
import re
from pathlib import Path

__all__ = ['rewrite', 'setup', 'write_pages']

REPOSITORY = Path(__file__).resolve().parents[2]
# Files of the repository, and the pages that are made of them.
COPIES = {
  'CONTRIBUTING.md': 'project/contributing.md',
  'CHANGELOG.md': 'project/changelog.md',
  'examples/README.md': 'examples/index.md',
}
_LINK = re.compile(r'\[([^\]\n]*)\]\(([^)\s#]+)(#[^)\s]*)?\)')


def setup(app):
  """Registers what follows with Sphinx."""
  app.connect('builder-inited', lambda app: write_pages(Path(app.srcdir)))
  app.connect('source-read', _on_source)
  return {'parallel_read_safe': True}


def rewrite(text: str, folder: str) -> str:
  """Markdown whose links lead to pages of the site.

  Args:
    text: Markdown; its links are relative to where it stands.
    folder: where it stands, from the root of the repository.
  """

  def replaced(match: re.Match) -> str:
    label, target, anchor = match[1], match[2], match[3] or ''
    if '://' in target or target.startswith(('/', '{', 'mailto:')):
      return match[0]
    path = posixpath.normpath(posixpath.join(folder, target))
    if path.startswith('metajax/') and path.endswith('.py'):
      module = path.removesuffix('.py').removesuffix('/__init__')
      return f'{{py:mod}}`{label.strip("`")} <{module.replace("/", ".")}>`'
    return f'[{label}]({_page(path)}{anchor})'

  return _LINK.sub(replaced, text)


def _page(path: str) -> str:
  """The page of a file, from the root of the site."""
  if path in COPIES:
    return f'/{COPIES[path]}'
  if path == 'README.md':
    return '/index.md'
  if path.startswith('examples/') and path.endswith('.py'):
    return f'/{path.removesuffix(".py")}.md'
  if path.startswith('docs/'):
    return path.removeprefix('docs')
  return f'/../{path}'


def write_pages(folder: Path) -> None:
  """Writes `project/` and `examples/`; files that are the same stay."""
  pages = {
    page: rewrite((REPOSITORY / source).read_text(), posixpath.dirname(source))
    for source, page in COPIES.items()
  }
  names = sorted(path.stem for path in (REPOSITORY / 'examples').glob('*.py'))
  for name in names:
    pages[f'examples/{name}.md'] = _example(name)
  listed = '\n'.join(names)
  pages['examples/index.md'] += f'\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n'
  for page, text in pages.items():
    path = folder / page
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text() != text:
      path.write_text(text)
  for old in (folder / 'examples').glob('*.md'):
    if f'examples/{old.name}' not in pages:
      old.unlink()


def _example(name: str) -> str:
  """A page with the whole program."""
  source = (REPOSITORY / 'examples' / f'{name}.py').read_text()
  title = (ast.get_docstring(ast.parse(source)) or name).partition('\n')[0]
  return (
    f'# {title.rstrip(".")}\n\n'
    f'```{{literalinclude}} ../../examples/{name}.py\n:language: python\n```\n'
  )


def _on_source(app, docname, content):
  folder, _, _ = docname.rpartition('/')
  if Path(app.env.doc2path(docname)).suffix == '.md':
    text = rewrite(content[0], posixpath.join('docs', folder))
    content[0] = text.replace(' ± ', '\u00a0±\u00a0')  # on one line
