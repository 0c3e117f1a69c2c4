"""Checks a built site: names, links, and that nothing is loaded from elsewhere.

  python docs/check_site.py build/site

Every public name of metajax is on a page; every link within the site leads to a
page, and to a place on it, that is there; no page loads a script, a style, a
font or a picture from another host. Links to other sites are only looked at,
and not followed: they must be addresses. It exits with 1 where one of these is
not so.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / '_extensions')]

import symbols  # noqa: E402
from sphinx.util.inventory import InventoryFile  # noqa: E402

__all__ = ['addresses_are_well_formed', 'main', 'missing_names', 'wrong_links']

_LOADED = {'script': 'src', 'img': 'src', 'link': 'href', 'source': 'src',
           'iframe': 'src', 'video': 'src', 'object': 'data'}  # fmt: skip
_HOST = re.compile(r'([a-z0-9-]+\.)+[a-z]{2,}')


class Page(HTMLParser):
  """What a page links to, loads, and has for anchors."""

  def __init__(self, text: str) -> None:
    super().__init__()
    self.anchors: set[str] = set()
    self.links: list[str] = []
    self.loaded: list[str] = []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    """Notes one element."""
    given = {name: value or '' for name, value in attrs}
    self.anchors |= {given.get('id'), given.get('name')} - {None}
    if tag == 'a' and 'href' in given:
      self.links.append(given['href'])
    if tag in _LOADED and _LOADED[tag] in given:
      rel = given.get('rel', '')
      kept = tag != 'link' or rel not in ('canonical', 'alternate')
      if kept:
        self.loaded.append(given[_LOADED[tag]])


def missing_names(site: Path) -> list[str]:
  """Public names that are on no page."""
  text = (site / 'objects.inv').read_bytes()
  inventory = InventoryFile.loads(text, uri='')
  known = {
    name
    for kind, entries in inventory.data.items()
    if kind.startswith('py:')
    for name in entries
  }
  missing = []
  for module in symbols.modules():
    for name, symbol in symbols.members_of(module).items():
      for path in {f'{module}.{name}', symbol.path if symbol else ''}:
        if path not in known:
          missing.append(path or f'{module}.{name}, which nothing defines')
  return sorted(set(missing))


def wrong_links(site: Path) -> list[str]:
  """Links within the site that lead nowhere, and what is loaded from others."""
  pages = {
    path: Page(path.read_text())
    for path in sorted(site.rglob('*.html'))
    if '_static' not in path.relative_to(site).parts  # templates of the theme
  }
  wrong = []
  for path, page in pages.items():
    for link in [*page.links, *page.loaded]:
      problem = _problem(path, link, pages, link in page.loaded)
      if problem:
        wrong.append(f'{path.relative_to(site)}: {link}: {problem}')
  for path in sorted(site.rglob('*.css')):
    for link in re.findall(r'(?:url\(|@import )["\']?([^"\')\s]+)',
                           path.read_text()):  # fmt: skip
      if urlsplit(link).netloc:
        wrong.append(f'{path.relative_to(site)}: {link}: of another host')
  return wrong


def _problem(
  path: Path, link: str, pages: dict[Path, Page], loaded: bool
) -> str | None:
  """What is wrong with a link of a page."""
  parts = urlsplit(link)
  if parts.scheme == 'data':
    return None
  if parts.scheme or parts.netloc:
    if loaded:
      return 'loaded from another host'
    return None if addresses_are_well_formed(link) else 'no address'
  target = path
  if parts.path:
    target = (path.parent / unquote(parts.path)).resolve()
    if not target.is_file():
      return 'no such file'
  anchor = unquote(parts.fragment)
  if anchor and target in pages and anchor not in pages[target].anchors:
    return 'no such place on the page'
  return None


def addresses_are_well_formed(link: str) -> bool:
  """Whether a link to another site is an address; nobody asks for the page."""
  parts = urlsplit(link)
  if parts.scheme == 'mailto':
    return '@' in parts.path
  return bool(
    parts.scheme in ('http', 'https')
    and _HOST.fullmatch(parts.hostname or '')
    and not re.search(r'\s', link)
  )


def main(site: str) -> int:
  """Says what is wrong with a site; returns the exit code."""
  root = Path(site).resolve()
  names = missing_names(root)
  links = wrong_links(root)
  print(*(f'on no page: {name}' for name in names), *links, sep='\n')
  pages = len(list(root.rglob('*.html')))
  print(
    f'{pages} pages; {len(names)} public names on none, {len(links)} links'
    ' wrong'
  )
  return bool(names or links)


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))
