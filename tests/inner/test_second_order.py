"""The derivative of an inner loop: every way to take it is the same."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.base import Model, PyTree
from metajax.devices.cost import cost
from metajax.inner.accumulate import accumulate
from metajax.inner.descend import descend
from metajax.inner.second_order import value_and_gradient
from metajax.models import (
  BatchNorm,
  Conv,
  conv4,
  from_linen,
  mlp,
  transformer,
)

STEPS = 3
SAVE_GRADIENTS = jax.checkpoint_policies.save_only_these_names('inner_gradient')
CHECKPOINTS = ['none', 'step', 'nested', SAVE_GRADIENTS]
WAYS = [
  (second_order, checkpoint)
  for second_order in ('mixed', 'reverse')
  for checkpoint in CHECKPOINTS
]
SOME_WAYS = [('mixed', 'none'), ('mixed', 'nested'), ('reverse', 'step')]


def normal(*shape: int) -> np.ndarray:
  return np.random.default_rng(0).normal(size=shape)


def meta_parameters(model: Model, inputs: np.ndarray) -> PyTree:
  """Everything that an outer loop may learn about an inner one."""
  params = jax.jit(model.init)(jax.random.key(1), inputs)
  params = jax.tree.map(lambda leaf: np.asarray(leaf, inputs.dtype), params)
  return {
    'params': params,
    'rates': jax.tree.map(lambda leaf: np.full_like(leaf, 0.1), params),
    'decay': np.asarray(0.01, inputs.dtype),
    'labels': np.random.default_rng(2).normal(size=(len(inputs), 3)),
    'weights': np.linspace(0.5, 1.5, len(inputs), dtype=inputs.dtype),
  }


def meta_loss(
  meta, model, inputs, second_order, checkpoint, steps=STEPS
) -> jax.Array:
  """Learned start, rates, loss, soft labels and weights of examples."""

  def loss(params, step):
    outputs = jax.nn.log_softmax(model.apply(params, inputs))
    labels = jax.nn.softmax(meta['labels'])
    decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
    return -jnp.mean(
      meta['weights'] * jnp.sum(labels * outputs, axis=1)
    ) + meta['decay'] * decay / (1 + step)

  rates = optax.stateless(
    lambda updates, params: jax.tree.map(
      lambda rate, update: -rate * update, meta['rates'], updates
    )
  )
  last, descent = descend(
    loss,
    meta['params'],
    rates,
    steps,
    second_order=second_order,
    checkpoint=checkpoint,
  )
  outputs = model.apply(last, inputs[::-1] ** 2)
  return jnp.mean(outputs**2) + 0.1 * jnp.sum(descent.losses)


def meta_gradient(model, shape, second_order, checkpoint) -> PyTree:
  """Differentiates the mean of the losses of two tasks."""
  inputs = normal(2, 4, *shape)
  meta = meta_parameters(model, inputs[0])

  def mean_loss(meta):
    return jnp.mean(
      jax.vmap(
        lambda inputs: meta_loss(meta, model, inputs, second_order, checkpoint)
      )(inputs)
    )

  # Compiling is all that takes time here.
  quickly = {'xla_backend_optimization_level': 0}
  return jax.jit(jax.grad(mean_loss), compiler_options=quickly)(meta)


def one_pool():
  """One layer of Conv-4 with pooling, and a head."""

  def flat(images):
    return images.reshape(len(images), -1)

  return from_linen(
    nn.Sequential([Conv(2), BatchNorm(pool=2), nn.relu, flat, nn.Dense(3)])
  )


MODELS = {
  'mlp': (mlp([6], 3), (5,)),
  'one_pool': (one_pool(), (4, 4, 1)),
  'conv4': (conv4(3, width=2, downsample='stride'), (8, 8, 1)),
  'max_pool': (conv4(3, width=2, downsample='max_pool'), (16, 16, 1)),
  'transformer': (transformer(3, width=4, heads=2, depth=1), (3, 2)),
}


@pytest.mark.parametrize(
  ('name', 'ways'),
  [
    ('mlp', SOME_WAYS),
    pytest.param('mlp', WAYS, marks=pytest.mark.in_ci),
    pytest.param('conv4', SOME_WAYS, marks=pytest.mark.long),
    pytest.param('one_pool', [('mixed', 'nested')], marks=pytest.mark.in_ci),
    pytest.param('max_pool', [('mixed', 'nested')], marks=pytest.mark.in_ci),
    pytest.param('transformer', SOME_WAYS, marks=pytest.mark.long),
    pytest.param('conv4', WAYS, marks=pytest.mark.long),
    pytest.param('transformer', WAYS, marks=pytest.mark.long),
  ],
)
def test_all_ways_agree(float64, name, ways):
  model, shape = MODELS[name]
  expected = meta_gradient(model, shape, 'reverse', 'none')
  for way in ways:
    if way != ('reverse', 'none'):
      same(meta_gradient(model, shape, *way), expected)
  assert all(
    np.abs(leaf).max() > 1e-6
    for name, part in expected.items()
    for leaf in jax.tree.leaves(part)[-1:]
  )


def same(found: PyTree, expected: PyTree) -> None:
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13),
    found,
    expected,
  )


@pytest.mark.in_ci
@pytest.mark.parametrize('second_order', ['mixed', 'reverse'])
def test_long_loops_agree(float64, second_order):
  """Some of so many steps have gradients that are computed again too."""
  data = normal(4, 3)

  def outer(start, checkpoint):
    last, descent = descend(
      lambda params, step: jnp.mean(jnp.tanh(data @ params - step / 9) ** 2),
      start['params'],
      optax.adam(start['rate'], eps_root=1e-4),
      24,
      second_order=second_order,
      checkpoint=checkpoint,
    )
    # Through everything that comes out.
    return (
      jnp.sum(last**2)
      + jnp.sum(jnp.sin(descent.trajectory))
      + jnp.sum(descent.losses**2)
      + jnp.sum(descent.optimizer_state[0].nu)
    )

  start = {'params': np.array([0.3, -1.2, 0.8]), 'rate': np.asarray(0.1)}
  expected, *others = [
    jax.jit(jax.value_and_grad(lambda s, c=c: outer(s, c)))(start)
    for c in CHECKPOINTS
  ]
  for found in others:
    same(found, expected)


@pytest.mark.parametrize('second_order', ['mixed', 'reverse'])
def test_central_differences(float64, second_order):
  model, shape = MODELS['mlp']
  inputs = normal(4, *shape)
  meta = meta_parameters(model, inputs)
  flat = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(meta)])

  @jax.jit
  @jax.value_and_grad
  def both(flat):
    _, unravel = jax.flatten_util.ravel_pytree(meta)
    return meta_loss(unravel(flat), model, inputs, second_order, 'none')

  _, gradient = both(flat)
  step = 1e-5
  differences = [
    (float(both(flat + shift)[0]) - float(both(flat - shift)[0])) / (2 * step)
    for shift in step * np.eye(len(flat))
  ]
  np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-9)


def test_what_the_loss_closes_over_is_differentiated(float64):
  """d/dc of the gradient of c * x ** 3, with c traced and closed over."""

  def slope(factor, exponent_key):
    both = value_and_gradient(
      # A key is traced and closed over too, and has no derivative.
      lambda x, step: factor * x**3 * (1 + 0 * jax.random.normal(exponent_key))
    )
    return both(jnp.asarray(2.0), jnp.asarray(0))[1]

  for transform in (lambda f: f, jax.jit):
    derivative = transform(jax.grad(slope))(5.0, jax.random.key(0))
    np.testing.assert_allclose(derivative, 12.0)


def test_third_order(float64):
  def end(start, second_order):
    last, _ = descend(
      lambda x, step: jnp.sum(jnp.sin(x) * x),
      start,
      optax.sgd(0.1),
      2,
      second_order=second_order,
    )
    return jnp.sum(last**2)

  start = np.array([0.3, -1.2])
  twice = [
    jax.jit(jax.jacrev(jax.grad(end)), static_argnums=1)(start, second_order)
    for second_order in ('mixed', 'reverse')
  ]
  np.testing.assert_allclose(*twice, rtol=1e-12)


def equations(jaxpr):
  """All of a program, with those of functions that it calls."""
  for equation in jaxpr.eqns:
    yield equation
    for called in equation.params.values():
      if hasattr(called, 'jaxpr'):
        yield from equations(called.jaxpr)


def test_images_and_labels_cost_no_gradient():
  """Only what is perturbed is differentiated on the way back."""
  inputs = normal(4, 5).astype(np.float32)

  def outer(params):
    both = value_and_gradient(lambda p, step: jnp.sum(jnp.tanh(inputs @ p)))
    return jnp.sum(both(params, 0)[1])

  jaxpr = jax.make_jaxpr(jax.grad(outer))(np.ones((5, 3), np.float32))
  # A gradient with respect to the inputs would have their shape.
  products = [
    equation.outvars[0].aval.shape
    for equation in equations(jaxpr.jaxpr)
    if equation.primitive.name == 'dot_general'
  ]
  assert products
  assert (4, 5) not in products


def memory(num_steps: int, **how) -> int:
  """Bytes of temporaries of a compiled meta-gradient."""
  inputs = jnp.asarray(np.ones((64, 32), np.float32))

  def outer(params):
    last, _ = descend(
      lambda p, step: jnp.mean(jnp.tanh(jnp.tanh(inputs @ p) @ p) ** 2),
      params,
      optax.sgd(0.1),
      num_steps,
      **how,
    )
    return jnp.sum(last)

  compiled = (
    jax.jit(jax.grad(outer)).lower(np.eye(32, dtype=np.float32)).compile()
  )
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.in_ci
def test_memory_of_a_long_inner_loop():
  """Mixed keeps inputs alone; nested grows with the root of the steps."""
  assert memory(65, second_order='mixed') < 0.6 * memory(
    65, second_order='reverse'
  )
  growth = memory(257, checkpoint='nested') / memory(17, checkpoint='nested')
  assert growth < 6  # 4 for the square root, 16 if every step were kept


def transformer_loss(checkpoint, num_chunks, second_order='mixed', steps=20):
  """A transformer under Adam, more sequences than parameters, and its start."""
  model = transformer(
    16, vocabulary=16, width=16, heads=2, depth=2, causal=True, pool='none'
  )
  tokens = jax.random.randint(jax.random.key(0), (8, 33), 0, 16)
  params = model.init(jax.random.key(1), tokens[:, :-1])

  def loss(params, tokens):
    outputs = model.apply(params, tokens[:, :-1])
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(outputs, tokens[:, 1:])
    )

  loss = accumulate(loss, num_chunks)

  def outer(params):
    last, _ = descend(
      lambda params, step: loss(params, tokens),
      params,
      optax.adam(1e-3, eps_root=1e-8),
      steps,
      second_order=second_order,
      checkpoint=checkpoint,
    )
    return loss(last, tokens[::-1])

  return jax.grad(outer), params


@pytest.mark.long
def test_arithmetic_of_a_long_inner_loop():
  """Gradients are kept or computed once more; states cost no product."""

  def flops(checkpoint, second_order='mixed', steps=20):
    return cost(*transformer_loss(checkpoint, 8, second_order, steps)).flops

  for steps in (20, 100):
    assert flops('nested', steps=steps) <= 1.34 * flops('none', steps=steps)
  # 1.29 in the size that docs/performance.md speaks of.
  assert flops('nested') <= 1.32 * flops('none', 'reverse')


@pytest.mark.long
def test_memory_of_a_transformer():
  def temporaries(*how, **more):
    outer, params = transformer_loss(*how, **more)
    quickly = {'xla_backend_optimization_level': 0}
    compiled = jax.jit(outer, compiler_options=quickly).lower(params).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  nested = temporaries('nested', 8)
  assert nested < 0.5 * temporaries('none', 8)
  assert nested < 0.6 * temporaries('nested', 1)
  assert temporaries('nested', 8, steps=80) < 2.5 * nested


def test_an_unknown_way_names_the_known_ones():
  with pytest.raises(
    ValueError, match="one of mixed, reverse, none; got 'forward'"
  ):
    value_and_gradient(lambda x, step: x, 'forward')
  with pytest.raises(
    ValueError, match=r"none, step, nested, or a policy.*'no'"
  ):
    descend(lambda x, step: x, 1.0, optax.sgd(0.1), 1, checkpoint='no')


@pytest.mark.in_ci
@pytest.mark.parametrize('num_steps', [1, 4])
@pytest.mark.parametrize('checkpoint', ['none', 'nested'])
def test_numpy_arrays_may_be_closed_over_under_vmap(checkpoint, num_steps):
  """Inside `jit`, where JAX's own derivative rules refuse them."""
  starts = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
  inputs = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 4, 3)

  def outer(scale, start, inputs):
    last, _ = descend(
      lambda params, step: scale * jnp.mean(jnp.sin(inputs @ params) ** 2),
      start,
      optax.sgd(0.5),
      num_steps,
      checkpoint=checkpoint,
    )
    return jnp.sum(last**2)

  @jax.jit
  def found(scale):
    return [
      jax.vmap(function, (None, 0, 0))(scale, starts, inputs)
      for function in (outer, jax.grad(outer))
    ]

  expected = jax.jit(
    jax.vmap(jax.value_and_grad(outer), (None, 0, 0))
  )(2.0, starts, inputs)  # fmt: skip
  for one, other in zip(found(2.0), expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-6)
