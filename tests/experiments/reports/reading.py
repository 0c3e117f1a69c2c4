"""What a browser would make of a page, without one."""

from html.parser import HTMLParser

_VOID = {'meta', 'img', 'br', 'input', 'hr', 'link'}


class Read(HTMLParser):
  """A page, read: tags in their order, and texts."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.texts, self.open, self.faults = [], [], [], []
    self.feed(text)
    self.close()
    self.faults += [f'{tag} is not closed' for tag in self.open]

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in _VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    if not self.open or self.open.pop() != tag:
      self.faults.append(f'{tag} is closed and not open')

  def handle_data(self, data):
    if self.open and self.open[-1] not in ('style', 'script'):
      self.texts.append(data)

  @property
  def text(self):
    """All that is read, with single spaces."""
    return ' '.join(' '.join(self.texts).split())

  def named(self, tag):
    """The attributes of all tags of a name."""
    return [attrs for name, attrs in self.tags if name == tag]
