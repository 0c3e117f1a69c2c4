"""A network that normalises each example by itself, as streams want it."""

import jax
import numpy as np
import pytest

from metajax.models import conv4

KEY = jax.random.key(0)


@pytest.mark.parametrize('downsample', ['stride', 'max_pool'])
def test_an_example_alone_is_as_among_others(downsample):
  model = conv4(
    None, width=4, halvings=2, downsample=downsample, normalisation='example'
  )
  inputs = jax.random.uniform(KEY, (3, 8, 8, 1))
  params = model.init(KEY, inputs)
  together = model.apply(params, inputs)
  np.testing.assert_allclose(
    model.apply(params, inputs[1:2]), together[1:2], atol=1e-5
  )


def test_another_normalisation_is_refused():
  with pytest.raises(ValueError, match="'batch' or 'example', got 'layer'"):
    conv4(None, normalisation='layer')
