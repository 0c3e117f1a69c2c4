"""Networks over sequences: all at once is step by step, and causal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.models.sequences import decoder, gru

MODELS = {
  'gru': gru(3, width=8),
  'decoder': decoder(3, width=8, depth=2, heads=2),
}
every_model = pytest.mark.parametrize('model', MODELS.values(), ids=MODELS)
STEPS = 6


def made(model):
  inputs = jax.random.normal(jax.random.key(1), (2, STEPS, 4))
  params = model.init(jax.random.key(0), inputs)
  # Positions and biases start near zero, where a mistake would not be seen.
  params = jax.tree.map(
    lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(2), leaf.shape),
    params,
  )
  return params, inputs


@every_model
def test_all_steps_at_once_are_one_after_the_other(model):
  params, inputs = made(model)

  def stepped(sequence):
    return jax.lax.scan(
      lambda memory, at: model.step(params, memory, at),
      model.start(params),
      sequence,
    )[1]

  np.testing.assert_allclose(
    model.apply(params, inputs), jax.vmap(stepped)(inputs), atol=2e-6
  )


@every_model
def test_an_output_knows_nothing_of_later_inputs(model):
  params, inputs = made(model)
  changed = inputs.at[:, 3].add(1.0)
  before, after = model.apply(params, inputs), model.apply(params, changed)
  np.testing.assert_array_equal(before[:, :3], after[:, :3])
  # Those from there on do.
  assert (jnp.abs(before[:, 3:] - after[:, 3:]).max((0, 2)) > 1e-4).all()


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: gru(0), 'num_outputs must be 1 or more, got 0'),
    (lambda: decoder(2, depth=0), 'depth must be 1 or more, got 0'),
    (
      lambda: decoder(2, width=6, heads=4),
      '4 heads do not divide a width of 6',
    ),
  ],
)
def test_what_cannot_be_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
