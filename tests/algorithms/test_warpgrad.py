"""WarpGrad: what adapts, what its objective is, and what warps are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_draws import at, in_double, sinusoids

import metajax
from metajax.base import map_tasks
from metajax.inner import partition
from metajax.models import conv4, mlp
from metajax.testing import slopes

KEY = jax.random.key(0)
MODEL = mlp([4, 3], 1, warps=True)
OBJECTIVE = metajax.mean_squared_error


@functools.cache
def tasks_and_start():
  tasks, generator = sinusoids(3), np.random.default_rng(0)
  params = in_double(jax.jit(MODEL.init)(KEY, tasks.support.inputs[0]))
  for name in ('warp_0', 'warp_1'):
    kernel = params[name]['kernel']
    noise = generator.normal(size=kernel.shape)
    params[name]['kernel'] = kernel + 0.2 * noise
  return tasks, params


def test_warps_do_not_adapt_and_all_else_does(float64):
  tasks, params = tasks_and_start()
  learner = metajax.warpgrad(MODEL, OBJECTIVE, 0.05, 2)
  adapted, _ = jax.jit(learner.adapt)(KEY, params, at(tasks.support, 0))
  adapted = jax.tree.map(np.asarray, adapted)
  for name, layer in params.items():
    moved = np.abs(adapted[name]['kernel'] - layer['kernel']).max() > 0
    assert moved == (not name.startswith('warp'))


@pytest.mark.in_ci
def test_it_learns_a_step_from_every_place_with_the_places_held_constant(
  float64,
):
  tasks, params = tasks_and_start()
  learner = metajax.warpgrad(MODEL, OBJECTIVE, 0.05, 3)
  gradient, _ = jax.jit(learner.grad)(KEY, params, tasks)

  def error(params, batch):
    outputs = MODEL.apply(params, batch.inputs)
    return jnp.mean((outputs - batch.targets) ** 2)

  def after_a_step(params, task):
    slopes = jax.grad(error)(params, task.support)
    return error(
      {
        name: layer
        if name.startswith('warp')
        else jax.tree.map(lambda p, g: p - 0.05 * g, layer, slopes[name])
        for name, layer in params.items()
      },
      task.query,
    )

  @jax.jit
  def by_hand(params, tasks):
    def of_task(key, task):
      end, adaptation = learner.adapt(key, params, task.support)
      places = jax.tree.map(lambda leaf: leaf[:-1], adaptation.trajectory)
      each = jax.vmap(
        lambda place: jax.grad(after_a_step)(partition.merge(place, end), task)
      )(places)
      return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), each)

    each = map_tasks(of_task, KEY, tasks)
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), each)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
    gradient,
    by_hand(params, tasks),
  )


@pytest.mark.in_ci
def test_with_a_single_step_it_is_the_derivative_of_what_it_reports(float64):
  tasks, params = tasks_and_start()
  learner = metajax.warpgrad(MODEL, OBJECTIVE, 0.05, 1)
  along = slopes(learner, params, tasks)
  np.testing.assert_allclose(along.by_gradient, along.by_differences, rtol=1e-5)
  approximate = metajax.warpgrad(MODEL, OBJECTIVE, 0.05, 1, second_order='none')
  along = slopes(approximate, params, tasks)
  assert not np.allclose(along.by_gradient, along.by_differences, rtol=1e-2)


@pytest.mark.parametrize(
  ('plain', 'warped', 'inputs'),
  [
    (mlp([4], 2), mlp([4], 2, warps=True), (3, 5)),
    (conv4(2, width=4), conv4(2, width=4, warps=True), (3, 28, 28, 1)),
  ],
)
def test_warps_are_the_identity_at_first(plain, warped, inputs):
  images = np.random.default_rng(0).normal(size=inputs)
  params = jax.jit(warped.init)(KEY, images)
  without = {
    name: layer for name, layer in params.items() if 'warp' not in name
  }
  assert len(without) < len(params)
  np.testing.assert_allclose(
    jax.jit(warped.apply)(params, images),
    jax.jit(plain.apply)(without, images),
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'inner_lr': 0.0}, 'inner_lr must be above 0, got 0.0'),
    ({'num_steps': 0}, 'num_steps must be 1 or more, got 0'),
  ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    metajax.warpgrad(MODEL, OBJECTIVE, **options)
