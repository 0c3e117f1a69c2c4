"""Names of classes and of files: one spelling of each, so that none has two.

A class that stands in the lists of training and of test under two spellings
would be tested after it was trained on, and no one would know.
"""

import posixpath
import unicodedata
from collections.abc import Sequence

from metajax.tasks.errors import DataError

__all__ = ['normal_file_name', 'normal_name', 'numbered']

_BYTE_ORDER_MARK = '\ufeff'
# Nobody sees them: zero-width space, word joiner, soft hyphen.
_UNSEEN = str.maketrans('', '', f'{_BYTE_ORDER_MARK}\u200b\u2060\xad')


def normal_name(text: str) -> str:
  r"""The one spelling of a name: of a class, a task or a column.

  Accents are composed (Unicode's NFC), blanks around the name are left out, and
  those in it, ends of lines among them, are one space. A byte-order mark and
  other characters that nobody sees are left out. Capitals stay: `a` and `A`
  may be two classes of letters.

  Example:
    >>> normal_name(' cafe\u0301  au lait\r')
    'café au lait'
  """
  plain = text.translate(_UNSEEN)
  return ' '.join(unicodedata.normalize('NFC', plain).split())


def normal_file_name(text: str) -> str:
  r"""The one spelling of the name of a file in a directory.

  As of other names, but that blanks within it stay. Backslashes are slashes,
  and detours (`./`, `a/../`) are left out.

  Example:
    >>> normal_file_name('.\\train\\cat 1.png ')
    'train/cat 1.png'
  """
  plain = text.replace(_BYTE_ORDER_MARK, '').strip().replace('\\', '/')
  return posixpath.normpath(unicodedata.normalize('NFC', plain))


def numbered(names: Sequence[str]) -> dict[str, int]:
  """The place of each name, by its one spelling.

  Raises:
    DataError: if two are the same name.

  Example:
    >>> numbered(['cat', 'dog '])
    {'cat': 0, 'dog': 1}
  """
  places: dict[str, int] = {}
  for place, name in enumerate(names):
    earlier = places.setdefault(normal_name(name), place)
    if earlier != place:
      raise DataError(
        f'the classes {names[earlier]!r} and {name!r} have the same name, which'
        ' could be in two splits; give them one class or two names'
      )
  return places
