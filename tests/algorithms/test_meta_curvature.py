"""Meta-Curvature: its products of modes, and MAML as its start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_draws import in_double, numbers_like, sinusoids

import metajax
from metajax.algorithms.meta_curvature import multiply
from metajax.models import mlp
from metajax.testing import slopes

KEY = jax.random.key(0)
MODEL = mlp([4], 1)
OBJECTIVE = metajax.mean_squared_error


def tasks_and_start(learner):
  tasks = sinusoids(3)
  meta_params = jax.jit(learner.init)(KEY, tasks.support.inputs[0])
  return tasks, in_double(meta_params)


@pytest.mark.parametrize(
  ('shape', 'equation'),
  [
    ((5,), 'ai,i->a'),
    ((4, 3), 'ai,bj,ij->ab'),
    ((2, 3, 4, 5), 'ai,bj,ck,ijk->abc'),
  ],
)
def test_each_mode_of_a_gradient_is_multiplied_by_its_matrix(
  float64, shape, equation
):
  generator = np.random.default_rng(0)
  gradient = generator.normal(size=shape)
  flat = gradient.reshape((-1, *shape[-2:])) if len(shape) > 2 else gradient
  factors = [generator.normal(size=(size, size)) for size in flat.shape]
  expected = np.einsum(equation, *factors, flat).reshape(shape)
  result = jax.jit(multiply)(gradient, tuple(factors))
  np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_it_starts_as_maml(float64):
  learner = metajax.meta_curvature(MODEL, OBJECTIVE, 0.05, 2)
  tasks, meta_params = tasks_and_start(learner)
  gradient, metrics = jax.jit(learner.grad)(KEY, meta_params, tasks)
  maml = metajax.maml(MODEL, OBJECTIVE, 0.05, 2)
  expected, values = jax.jit(maml.grad)(KEY, meta_params.params, tasks)
  np.testing.assert_allclose(metrics['loss'], values['loss'], rtol=1e-12)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13),
    gradient.params,
    expected,
  )


@pytest.mark.in_ci
def test_its_matrices_are_learned(float64):
  learner = metajax.meta_curvature(MODEL, OBJECTIVE, 0.05, 2)
  tasks, meta_params = tasks_and_start(learner)
  meta_params = jax.tree.map(
    lambda leaf, noise: leaf + 0.2 * noise,
    meta_params,
    numbers_like(meta_params),
  )
  along = slopes(learner, meta_params, tasks)
  np.testing.assert_allclose(along.by_gradient, along.by_differences, rtol=1e-5)


def test_a_kernel_has_a_matrix_for_its_window_its_inputs_and_its_outputs():
  model = metajax.models.conv4(3, width=4)
  learner = metajax.meta_curvature(model, metajax.cross_entropy)
  meta_params = jax.eval_shape(learner.init, KEY, jnp.zeros((1, 28, 28, 1)))
  shapes = [leaf.shape for leaf in meta_params.inner['Conv_1']['kernel']]
  assert shapes == [(9, 9), (4, 4), (4, 4)]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'inner_lr': -1.0}, 'inner_lr must be above 0, got -1.0'),
    ({'num_steps': -1}, 'num_steps must be 0 or more, got -1'),
  ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    metajax.meta_curvature(MODEL, OBJECTIVE, **options)
