"""Shows what docstrings of metajax mean, where Sphinx cannot know it.

Signatures are those of the source, so `PyTree` is not shown as `Any`. Fields
of named tuples and data classes are listed with the comments beside them, which
say their shapes. A name in single backticks is a link where the module that has
it knows such a name, and else code.
"""

import ast
import importlib
import inspect
import io
import tokenize

import symbols
from docutils import nodes
from sphinx.util.nodes import make_refnode

import metajax

__all__ = ['fields', 'setup', 'signature']


def setup(app):
  """Registers what follows with Sphinx."""
  app.connect('autodoc-process-signature', _on_signature)
  app.connect('autodoc-process-docstring', _on_docstring, priority=400)
  app.connect('autodoc-skip-member', _on_member)
  app.connect('env-updated', _on_all_read)
  app.connect('missing-reference', _on_missing)
  return {'parallel_read_safe': True}


def signature(function: object) -> tuple[str, str | None] | None:
  """Arguments and result as the source has them, or None without a source."""
  node = _parsed(function)
  if isinstance(node, ast.ClassDef):
    methods = {x.name: x for x in node.body if isinstance(x, ast.FunctionDef)}
    node = methods.get('__init__')
  if not isinstance(node, ast.FunctionDef):
    return None
  every = [*node.args.posonlyargs, *node.args.args]
  if every and every[0].arg in ('self', 'cls'):
    group = node.args.posonlyargs or node.args.args
    del group[0]
  returns = node.returns and ast.unparse(node.returns)
  return f'({ast.unparse(node.args)})', returns


def fields(cls: type) -> list[tuple[str, str, str]]:
  """Name, type and comment of each field, in the order of the source."""
  node = _parsed(cls)
  if not isinstance(node, ast.ClassDef):
    return []
  comments = _comments(inspect.getsource(cls))
  found = []
  for field in node.body:
    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
      text, _ = comments.get(field.end_lineno or 0, ('', False))
      line = field.lineno - 1
      while comments.get(line, ('', False))[1]:  # a line of its own, above
        text = f'{comments[line][0]} {text}'.strip()
        line -= 1
      if not field.target.id.startswith('_'):
        found.append((field.target.id, ast.unparse(field.annotation), text))
  return found


def _parsed(value: object) -> ast.AST | None:
  try:
    source = inspect.getsource(inspect.unwrap(value))
    return ast.parse(inspect.cleandoc(f'\n{source}')).body[0]
  except (OSError, TypeError, SyntaxError):
    return None


def _comments(source: str) -> dict[int, tuple[str, bool]]:
  """What a comment says, by its line, and whether it has the line alone."""
  tokens = tokenize.generate_tokens(io.StringIO(source).readline)
  try:
    return {
      token.start[0]: (
        token.string.lstrip('# '),
        token.line.lstrip().startswith('#'),
      )
      for token in tokens
      if token.type == tokenize.COMMENT
    }
  except tokenize.TokenError:
    return {}


def _on_signature(app, what, name, obj, options, arguments, returns):
  del app, name, options
  if what == 'class' and hasattr(obj, '_fields'):
    return None  # of a named tuple Sphinx knows it
  if what in ('function', 'method', 'class'):
    return signature(obj)
  return None


def _on_docstring(app, what, name, obj, options, lines):
  del app, name, options
  lines[:] = [symbols.separated(line) for line in lines]
  if what != 'class' or any(line.strip() == 'Attributes:' for line in lines):
    return
  described = fields(obj)
  if described and not any(line.strip() == 'Args:' for line in lines):
    lines += ['', 'Attributes:']
    for field, annotation, text in described:
      lines.append(f'  {field} ({annotation}): {text}')
    lines.append('')


def _on_member(app, what, name, obj, skip, options):
  """Leaves out fields of named tuples, which are listed already."""
  del app, what, name, options
  if type(obj).__name__ in ('_tuplegetter', 'member_descriptor'):
    return True
  return skip


def _on_all_read(app, env):
  """Lets exported names stand for what they were defined as elsewhere."""
  del app
  # Python's own modules, of names of types, have no page of source.
  sources = getattr(env, '_viewcode_modules', {})
  for name in [name for name, source in sources.items() if not source]:
    del sources[name]
  domain = env.domains['py']
  for module in symbols.modules():
    for name, symbol in symbols.members_of(module).items():
      known = symbol and domain.objects.get(symbol.path)
      path = f'{module}.{name}'
      if known and path not in domain.objects:
        domain.objects[path] = known._replace(aliased=True)


def _on_missing(app, env, node, contnode):
  """Finds a name as the module that uses it would."""
  if node.get('refdomain') != 'py':
    return None
  target, module = node['reftarget'], node.get('py:module') or 'metajax'
  symbol = _seen_from(module, target)
  known = symbol and env.domains['py'].objects.get(symbol.path)
  if not known:
    return None
  if isinstance(contnode, nodes.Text):
    contnode = nodes.inline('', contnode.astext())
  return make_refnode(
    app.builder, node['refdoc'], known.docname, known.node_id, contnode, target
  )


def _seen_from(module: str, target: str) -> symbols.Symbol | None:
  """The public symbol that a name means inside of a module."""
  first, *rest = target.split('.')
  if module not in symbols.modules() or not first.isidentifier():
    return None
  if target in metajax.algorithms.METHODS:
    return symbols.home('metajax', target)
  value = getattr(importlib.import_module(module), first, None)
  if inspect.ismodule(value) and len(rest) == 1:
    if value.__name__ in symbols.modules():
      return symbols.members_of(value.__name__).get(rest[0])
    return None
  origin = getattr(value, '__module__', None)
  for place in (module, origin, *symbols.imported_from(module, first)):
    if place in symbols.modules() and not rest:
      found = symbols.members_of(place).get(first)
      if found:
        return found
  return None
