"""Installs metajax."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
  r"^__version__ = '(.+)'$",
  (HERE / 'metajax' / '__init__.py').read_text(),
  re.MULTILINE,
).group(1)

# The compiler of TPUs, which needs no TPU. JAX 0.10.2 asks for 0.0.42, which
# does not know topologies of one chip.
LIBTPU = 'libtpu==0.0.52; platform_machine == "x86_64"'
TEXT = ['tokenizers>=0.21']
SWEEP = ['optuna>=4.0']
SERVE = ['prometheus_client>=0.20', 'starlette>=0.40', 'uvicorn>=0.30']
CONTROL = ['gymnax>=1.0']  # environments that are pure JAX
BASELINES = ['scikit-learn>=1.5']  # small data sets, and models to compare with
TEST = [
  *TEXT,
  *CONTROL,
  *BASELINES,
  *SWEEP,
  *SERVE,
  'hypothesis>=6.100',
  'pytest>=8.0',
  'pytest-xdist>=3.5',
  'selenium>=4.20',  # of pages in a browser
  LIBTPU,
]
DEV = [*TEST, 'mypy>=1.15', 'ruff>=0.11']

setup(
  name='metajax',
  version=VERSION,
  description='Meta-learning as pure functions of JAX, exact to second order.',
  long_description=(HERE / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  packages=find_packages(include=['metajax*']),
  package_data={'metajax': ['py.typed']},
  python_requires='>=3.11',
  install_requires=[
    'absl-py>=2.1',
    'array-record>=0.7',
    'flatbuffers>=24.3',  # what jax.export writes by; jax does not declare it
    'flax>=0.12',
    'grain>=0.2.12',
    'importlib_resources>=6.0',  # tensorflow-datasets does not declare it
    'jax>=0.10',
    'jinja2>=3.1',
    'matplotlib>=3.9',
    'numpy>=2.0',
    'optax>=0.2.6',
    'orbax-checkpoint>=0.11.30',
    'pillow>=10.0',  # tensorflow-datasets does not declare it
    'pyarrow>=15',
    'rich>=13.0',
    'safetensors>=0.5',
    'scipy>=1.13',
    'tensorboardX>=2.6',
    'tensorflow-datasets>=4.9.9',
  ],
  extras_require={
    'text': TEXT,
    'control': CONTROL,
    'baselines': BASELINES,
    'sweep': SWEEP,
    'serve': SERVE,
    'test': TEST,
    'dev': DEV,
    'docs': [
      *TEXT,
      'latex2mathml>=3.78',
      'myst-nb>=1.4',
      'sphinx>=8.2',
      'sphinx-book-theme>=1.1.4',
    ],
    'gpu': ['jax[cuda12]>=0.10'],
    'tpu': [LIBTPU, 'requests'],
    # They pull old versions of others: an environment of their own is best.
    'track': ['mlflow>=3.0', 'wandb>=0.19'],
    'benchmark': [
      'torch>=2.6',
      'higher>=0.2.1',
      'torchopt>=0.7.3',
      'transformers>=4.56',
    ],
  },
)
