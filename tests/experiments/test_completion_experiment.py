"""Whole runs of image completion, as small as they can be."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from processes import TINY

from experiments.figures.regression import on_grid
from metajax.tasks import completion

SIDE = 6


@pytest.fixture(scope='module')
def data_file(tmp_path_factory):
  """Images of one grey each, the same for all of a class, twice in colour."""
  rng = np.random.default_rng(0)
  grey = np.repeat(rng.choice(200, 20, replace=False), 4)
  images = np.broadcast_to(
    grey[:, None, None, None], (80, SIDE, SIDE, 3)
  ).astype(np.uint8)
  path = tmp_path_factory.mktemp('data') / 'grey.npz'
  np.savez(path, images=images, labels=np.repeat(np.arange(20), 4))
  return path


def flags(data_file):
  return (
    *TINY, '--dataset=npz', f'--data_file={data_file}', '--shots=5',
    '--queries=7', '--train_queries=7',
  )  # fmt: skip


@pytest.mark.in_ci
def test_a_run_completes_images_of_the_user(
  data_file, launcher, cache, tmp_path
):
  workdir = tmp_path / 'run'
  ended = launcher.run(
    'completion', *flags(data_file), cache, '--steps=2',
    '--checkpoint_every=2', f'--workdir={workdir}',
  )  # fmt: skip
  assert (ended.code, ended.stderr) == (0, ''), ended
  outcome = json.loads((workdir / 'result.json').read_text())
  assert (outcome['algorithm'], outcome['steps']) == ('anp', 2)
  assert '12/4/4 train/validation/test' in outcome['protocol']['split']
  assert outcome['test']['mse'] > 0
  # What is of one grey is known from any of its pixels.
  assert outcome['baseline']['mean_mse'] < 1e-12
  for name in ('learning_curve', 'mse_by_inner_step', 'completed'):
    with Image.open(workdir / f'{name}.png') as image:
      assert np.asarray(image.convert('L')).std() > 5
  page = (workdir / 'report.html').read_text()
  assert page.count('data:image/png') == 3 * 3  # known, completed, true
  assert '5 pixels known' in page


@pytest.mark.parametrize(
  ('flag', 'complaint'),
  [
    ('--shots=30', '--shots: 30 shots + 7 queries, but an image has only'),
    ('--images_on=host', '--images_on: completion has its images on'),
    ('--algorithm=protonet', '--algorithm=protonet: value should be one of'),
  ],
)
def test_what_cannot_be_completed_is_refused(
  flag, complaint, data_file, launcher, cache, tmp_path
):
  ended = launcher.run(
    'completion', *flags(data_file), cache, flag, f'--workdir={tmp_path}/run'
  )
  assert (ended.code, ended.stderr.count('\n')) == (2, 1), ended
  assert ended.stderr.startswith(complaint)
  assert not (tmp_path / 'run').exists()


@pytest.mark.in_ci
def test_pixels_find_their_places_again():
  image = jax.random.uniform(jax.random.key(0), (1, 5, 3, 1))
  task = completion(image, shots=4, queries=11)(jax.random.key(1))
  known, asked = (on_grid(*batch, 5, 3) for batch in task)
  assert jnp.sum(known > 0) == 4
  np.testing.assert_array_equal(known + asked, image[0])
