"""An exported learner of drawings, in files."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.recipes import images
from experiments.recipes.kinds import published
from metajax.algorithms.table import ALGORITHMS
from metajax.base import Batch, Model
from metajax.objectives import cross_entropy
from metajax.trained import Compiled, TrainedLearner, build, export

WAYS = 3


@pytest.fixture(scope='session')
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Prototypes of drawings of 28 x 28 pixels: the means of these."""
  row = ALGORITHMS['protonet']
  recipe = published(images, 'protonet', WAYS, 1)._replace(ways=WAYS)
  model = Model(
    lambda key, inputs: jnp.ones(()),
    lambda scale, inputs: scale * inputs.reshape(inputs.shape[0], -1),
  )
  learner = row.make(model, cross_entropy, recipe)
  support = Batch(
    jax.ShapeDtypeStruct((WAYS, 28, 28, 1), jnp.float32),
    jax.ShapeDtypeStruct((WAYS,), jnp.int32),
  )
  zeros = jnp.zeros(support.inputs.shape)
  meta_params = jax.jit(learner.init)(jax.random.key(0), zeros)
  manifest = {
    'method': 'protonet', 'temperature': 1.0, 'normalisation': 'none',
    'inputs': {
      'kind': 'images', 'shape': [28, 28, 1], 'files': {'size': 28, 'ink': True}
    },
    'outputs': {'classes': WAYS}, 'random': False,
  }  # fmt: skip
  programs = Compiled(build(learner, meta_params, support, 'transductive'))
  path = tmp_path_factory.mktemp('exported') / 'model'
  export(TrainedLearner(manifest, programs), path, platforms=('cpu',))
  return path


@pytest.fixture(scope='session')
def drawings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
  """Files of two classes: ink at the left, and at the right."""
  import numpy as np
  import PIL.Image

  root = tmp_path_factory.mktemp('drawings')
  found: dict[str, list[Path]] = {}
  for name, column in (('left', 1), ('right', 5)):
    for number in range(3):
      paper = np.full((8, 8), 255, np.uint8)
      paper[number : number + 5, column : column + 2] = 0
      path = root / f'{name} {number}.png'
      PIL.Image.fromarray(paper).save(path)
      found.setdefault(name, []).append(path)
  return found
