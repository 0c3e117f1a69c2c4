"""CAVIA: the context is what the papers say, and nothing else adapts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_draws import at, parameters, sinusoids

import metajax
from metajax.models import conv4, mlp
from metajax.testing import slopes

KEY = jax.random.key(0)
MODEL = mlp([4, 4], 1)
OBJECTIVE = metajax.mean_squared_error


def drawn(learner, tasks):
  """A context of zeros, as by the method, and all else of NumPy."""
  inputs = tasks.support.inputs[0]
  context = jax.jit(lambda: learner.init(KEY, inputs).context)()
  meta_params = parameters(learner.init, inputs)
  return meta_params._replace(context=np.asarray(context, np.float64))


def first_layer(path: str) -> bool:
  return path == 'Dense_0/bias'


@pytest.mark.in_ci
def test_all_but_the_context_is_learned_and_its_start_is_zero(float64):
  tasks = sinusoids(3)
  learner = metajax.cavia(MODEL, OBJECTIVE, 0.1, 2, num_context=3)
  meta_params = drawn(learner, tasks)
  assert not meta_params.context.any()
  along = slopes(learner, meta_params, tasks)
  np.testing.assert_allclose(along.by_gradient, along.by_differences, rtol=1e-5)
  gradient, _ = jax.jit(learner.grad)(KEY, meta_params, tasks)
  assert not np.asarray(gradient.context).any()
  assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient.directions))


def test_only_the_context_adapts(float64):
  tasks = sinusoids(1)
  support = at(tasks.support, 0)
  learner = metajax.cavia(MODEL, OBJECTIVE, 0.1, 2, num_context=3)
  meta_params = drawn(learner, tasks)
  adapted, _ = jax.jit(learner.adapt)(KEY, meta_params, support)
  jax.tree.map(np.testing.assert_array_equal, adapted[:2], meta_params[:2])
  assert np.abs(adapted.context).min() > 0


def test_moving_the_first_bias_is_to_concatenate_context_and_inputs(float64):
  """The authors' network for regression, in plain JAX."""
  tasks = sinusoids(1)
  support = at(tasks.support, 0)
  learner = metajax.cavia(
    MODEL, OBJECTIVE, 0.1, 3, num_context=2, moves=first_layer
  )
  meta_params = drawn(learner, tasks)
  params = meta_params.params
  first = np.concatenate([
    params['Dense_0']['kernel'], meta_params.directions['Dense_0']['bias']
  ])  # fmt: skip

  @jax.jit
  def by_hand(context):
    def loss(context):
      shared = jnp.broadcast_to(context[None], (len(support.inputs), 2))
      hidden = jnp.concatenate([support.inputs, shared], axis=1) @ first
      hidden = jax.nn.relu(hidden + params['Dense_0']['bias'][None])
      for name in ('Dense_1', 'head'):
        layer = params[name]
        hidden = hidden @ layer['kernel'] + layer['bias'][None]
        hidden = jax.nn.relu(hidden) if name != 'head' else hidden
      return jnp.mean((hidden - support.targets) ** 2)

    for _ in range(3):
      context = context - 0.1 * jax.grad(loss)(context)
    return context

  adapted, _ = jax.jit(learner.adapt)(KEY, meta_params, support)
  np.testing.assert_allclose(adapted.context, by_hand(np.zeros(2)), rtol=1e-10)


def test_in_the_network_for_images_the_context_modulates_features():
  learner = metajax.cavia(conv4(3, width=4), metajax.cross_entropy)
  meta_params = jax.eval_shape(learner.init, KEY, jnp.zeros((1, 28, 28, 1)))
  shapes = [leaf.shape for leaf in jax.tree.leaves(meta_params.directions)]
  assert shapes == [(100, 4)] * 8  # a scale and a bias for each of four layers


def test_a_model_without_anything_to_move_is_refused():
  learner = metajax.cavia(mlp([], 1), OBJECTIVE)
  with pytest.raises(ValueError, match='shifts selects none of the parameters'):
    jax.eval_shape(learner.init, KEY, np.zeros((1, 1)))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'inner_lr': 0.0}, 'inner_lr must be above 0, got 0.0'),
    ({'num_steps': -1}, 'num_steps must be 0 or more, got -1'),
    ({'num_context': 0}, 'num_context must be 1 or more, got 0'),
  ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    metajax.cavia(MODEL, OBJECTIVE, **options)
