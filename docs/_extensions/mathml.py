"""Formulas as MathML, which browsers draw by themselves.

Nothing is loaded for them, so pages are whole without a network or a script.
"""

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

__all__ = ['setup', 'to_mathml']

# Commands that the converter does not know, and what says the same.
_REPLACED = {
  r'\arg': r'\text{arg}\,',
  r'\lVert': r'\|',
  r'\rVert': r'\|',
  r'\Bigl': r'\left',
  r'\Bigr': r'\right',
}


def setup(app):
  """Registers the renderer `mathml` with Sphinx."""
  app.add_html_math_renderer(
    'mathml', inline_renderers=(_inline, None), block_renderers=(_block, None)
  )
  return {'parallel_read_safe': True}


def to_mathml(latex: str, display: str) -> str:
  """A formula in MathML; `display` is `inline` or `block`.

  Raises:
    ValueError: if a command is left that the converter does not know.
  """
  for command, known in _REPLACED.items():
    latex = latex.replace(command, known)
  written = convert(latex, display=display)
  if '\\' in written:
    raise ValueError(f'no MathML for {latex!r}')
  return written


def _inline(writer, node):
  writer.body.append(_checked(node, 'inline'))
  raise nodes.SkipNode


def _block(writer, node):
  writer.body.append(f'<div class="formula">{_checked(node, "block")}</div>')
  raise nodes.SkipNode


def _checked(node, display: str) -> str:
  try:
    return to_mathml(node.astext(), display)
  except Exception as error:  # whatever the converter raises
    logging.getLogger(__name__).warning(str(error), location=node)
    return ''
