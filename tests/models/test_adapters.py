"""Modules of other libraries as models."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import metajax
from metajax.base import Batch, Task
from metajax.models import (
  conv4,
  from_linen,
  from_nnx,
  from_tree,
  mlp,
  resnet12,
  transformer,
)
from metajax.models.modes import takes_key


def test_linen_and_nnx_compute_the_same():
  linen = from_linen(nn.Dense(3))
  other = from_nnx(lambda rngs: nnx.Linear(2, 3, rngs=rngs))
  inputs = jax.random.normal(jax.random.key(0), (5, 2))
  params = other.init(jax.random.key(1), inputs)
  np.testing.assert_allclose(
    linen.apply(params, inputs), other.apply(params, inputs), rtol=1e-6
  )
  # Another key, other parameters; the same key, the same ones.
  for seed, same in ((1, True), (2, False)):
    again = other.init(jax.random.key(seed), inputs)
    assert np.array_equal(again['kernel'], params['kernel']) == same


def test_an_nnx_module_learns_by_maml():
  class Network(nnx.Module):
    def __init__(self, rngs):
      self.body = nnx.Linear(1, 8, rngs=rngs)
      self.head = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, inputs):
      return self.head(jnp.tanh(self.body(inputs)))

  learner = metajax.anil(
    from_nnx(Network), metajax.mean_squared_error, 0.1, num_steps=2
  )
  inputs = jnp.linspace(-1, 1, 12).reshape(3, 4, 1)
  batch = Batch(inputs, inputs**2)
  params = learner.init(jax.random.key(0), inputs[0])
  gradient, _ = jax.jit(learner.grad)(
    jax.random.key(1), params, Task(batch, batch)
  )
  assert jax.tree.structure(gradient) == jax.tree.structure(params)
  assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


INPUTS = jax.random.normal(jax.random.key(0), (6, 3))


def standardised(values):
  return (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-5)


class Regularised(nn.Module):
  """What is not stateless in flax: one flag for two kinds of layers."""

  @nn.compact
  def __call__(self, inputs, train=False):
    hidden = nn.Dense(4, name='body')(inputs)
    hidden = nn.BatchNorm(use_running_average=not train, name='norm')(hidden)
    return nn.Dropout(0.5, deterministic=not train)(hidden)


class RegularisedNnx(nnx.Module):
  """The same in nnx."""

  def __init__(self, rngs):
    self.body = nnx.Linear(3, 4, rngs=rngs)
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, inputs):
    return self.dropout(self.norm(self.body(inputs)))


both = pytest.mark.parametrize(
  'model', [from_linen(Regularised()), from_nnx(RegularisedNnx)],
  ids=['linen', 'nnx'],
)  # fmt: skip


@both
def test_dropout_draws_from_the_key_of_training_and_not_at_test(model):
  params = model.init(jax.random.key(1), INPUTS)
  at_test = model.apply(params, INPUTS)
  np.testing.assert_array_equal(model.apply(params, INPUTS), at_test)
  drawn = [
    model.apply(params, INPUTS, key=jax.random.key(seed)) for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(drawn[0], drawn[1])
  assert not np.array_equal(drawn[0] == 0, drawn[2] == 0)
  for each in drawn:
    kept = each != 0
    assert kept.any() != kept.all()
    np.testing.assert_allclose(each[kept], 2 * at_test[kept], rtol=1e-5)


@both
def test_batch_norm_is_by_the_batch_at_hand_or_by_what_was_measured(model):
  params = model.init(jax.random.key(1), INPUTS)
  assert sorted(params) == ['body', 'norm']
  hidden = np.asarray(INPUTS @ params['body']['kernel'])  # biases are zero
  np.testing.assert_allclose(
    model.apply(params, INPUTS), standardised(hidden), atol=1e-5
  )
  measured = model.measure(params, INPUTS)
  np.testing.assert_allclose(
    measured['norm']['mean'], hidden.mean(0), atol=1e-6
  )
  np.testing.assert_allclose(measured['norm']['var'], hidden.var(0), atol=1e-6)
  frozen = model.freeze(measured)
  np.testing.assert_allclose(
    frozen.apply(params, INPUTS[:1]), standardised(hidden)[:1], atol=1e-5
  )
  assert np.any(frozen.apply(params, INPUTS, key=jax.random.key(0)) == 0)


@pytest.mark.in_ci
@both
def test_an_inner_loop_trains_and_a_prediction_does_not(model):
  learner = metajax.maml(model, metajax.cross_entropy, 0.1, 2)
  params = learner.init(jax.random.key(0), INPUTS)
  support = Batch(INPUTS, jnp.arange(6) % 4)
  adapted, other = (
    learner.adapt(jax.random.key(seed), params, support) for seed in (0, 1)
  )
  kernels = [each[0]['body']['kernel'] for each in (adapted, other)]
  assert not np.array_equal(*kernels)
  np.testing.assert_array_equal(
    learner.predict(adapted[0], INPUTS), model.apply(adapted[0], INPUTS)
  )


def test_the_loss_on_queries_trains_too():
  model = from_linen(nn.Dropout(0.5))
  learner = metajax.maml(model, metajax.mean_squared_error, 0.1, 0)
  ones = jnp.ones((1, 64, 1))
  tasks = Task(Batch(ones, ones), Batch(ones, ones))
  losses = [
    learner.grad(jax.random.key(seed), {}, tasks)[1]['loss'] for seed in (0, 1)
  ]
  # Outputs are 0 or 2, each one off by 1.
  np.testing.assert_allclose(losses, 1.0)
  assert learner.grad(jax.random.key(0), {}, tasks)[0] == {}
  assert metajax.mean_squared_error(learner.predict({}, ones), ones)[0] == 0


class Shifted(nn.Module):
  @nn.compact
  def __call__(self, inputs):
    shift = self.variable('tables', 'shift', lambda: jnp.ones(3))
    return nn.Dense(3)(inputs) + shift.value[None]


class ShiftedNnx(nnx.Module):
  def __init__(self, rngs):
    self.shift = nnx.Variable(jnp.ones(3))
    self.layer = nnx.Linear(3, 3, rngs=rngs)

  def __call__(self, inputs):
    return self.layer(inputs) + self.shift[None]


@pytest.mark.parametrize(
  'model', [from_linen(Shifted()), from_nnx(ShiftedNnx)], ids=['linen', 'nnx']
)
def test_constants_stand_beside_the_parameters_and_do_not_adapt(model):
  learner = metajax.maml(model, metajax.mean_squared_error, 0.1, 1)
  params = learner.init(jax.random.key(0), INPUTS)
  assert sorted(params) == ['constants', 'params']
  adapted, _ = learner.adapt(
    jax.random.key(1), params, Batch(INPUTS, jnp.zeros((6, 3)))
  )
  for name, same in (('constants', True), ('params', False)):
    leaves = zip(
      *map(jax.tree.leaves, (adapted[name], params[name])), strict=True
    )
    assert all(np.array_equal(*pair) == same for pair in leaves)
  # A constant is used: a change of it is one of the outputs.
  moved = {
    **params,
    'constants': jax.tree.map(jnp.add, *[params['constants']] * 2),
  }
  np.testing.assert_allclose(
    model.apply(moved, INPUTS), model.apply(params, INPUTS) + 1, rtol=1e-6
  )


class Counting(nn.Module):
  @nn.compact
  def __call__(self, inputs):
    count = self.variable('state', 'count', lambda: jnp.zeros(()))
    count.value += 1
    return inputs


class CountingNnx(nnx.Module):
  def __init__(self, rngs):
    self.count = nnx.Variable(jnp.zeros(()))

  def __call__(self, inputs):
    self.count[...] += 1
    return inputs


class NoisyNnx(nnx.Module):
  def __init__(self, rngs):
    self.rngs = rngs

  def __call__(self, inputs):
    return inputs + jax.random.normal(self.rngs.noise(), inputs.shape)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: from_linen(Counting()), 'from_linen.*changes its variables'),
    (lambda: from_nnx(CountingNnx), 'from_nnx.*changes its variables count'),
    (lambda: from_linen(nn.Dropout(0.5, deterministic=False)),
     'from_linen: this module draws random numbers at test too'),
    (lambda: from_nnx(NoisyNnx), 'from_nnx: this module draws random.*rngs'),
    (lambda: from_linen(nn.SpectralNorm(nn.Dense(3)),
                        lambda training: {'update_stats': training}),
     'from_linen.*kernel/u'),
    (lambda: from_nnx(lambda rngs: nnx.SpectralNorm(
      nnx.Linear(3, 3, rngs=rngs), rngs=rngs)), 'from_nnx.*sigma'),
  ],
)  # fmt: skip
def test_what_is_no_function_of_parameters_and_inputs_is_refused(make, message):
  def use():
    model = make()
    return model.apply(model.init(jax.random.key(0), INPUTS), INPUTS)

  with pytest.raises(ValueError, match=message):
    use()


@pytest.mark.parametrize(
  'model',
  [
    from_linen(nn.RNN(nn.SimpleCell(2))),
    from_nnx(lambda rngs: nnx.RNN(nnx.SimpleCell(3, 2, rngs=rngs), rngs=rngs)),
  ],
  ids=['linen', 'nnx'],
)
def test_a_recurrent_network_starts_anew_at_every_call(model):
  inputs = INPUTS.reshape(2, 3, 3)
  params = model.init(jax.random.key(0), inputs)
  outputs = model.apply(params, inputs)
  assert outputs.shape == (2, 3, 2)
  np.testing.assert_array_equal(model.apply(params, inputs), outputs)


@pytest.mark.parametrize(
  'model',
  [
    from_linen(nn.Sequential([lambda x: x.reshape(len(x), -1)])),
    from_nnx(lambda rngs: nnx.Sequential(lambda x: x.reshape(len(x), -1))),
  ],
  ids=['linen', 'nnx'],
)
def test_a_module_without_parameters_adapts_to_itself(model):
  learner = metajax.maml(model, metajax.cross_entropy, 0.1, 1)
  params = learner.init(jax.random.key(0), INPUTS)
  assert params == {}
  adapted, _ = learner.adapt(
    jax.random.key(0), params, Batch(INPUTS, jnp.arange(6) % 3)
  )
  np.testing.assert_array_equal(learner.predict(adapted, INPUTS), INPUTS)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
  """A module as equinox has them."""

  kernel: jax.Array
  order: jax.Array
  activation: Callable  # a leaf that is no array
  rate: float

  def __call__(self, inputs, key=None):
    outputs = self.activation(inputs[self.order] @ self.kernel)
    if key is not None:
      outputs *= jax.random.bernoulli(key, 1 - self.rate)
    return outputs


def make_layer(key):
  kernel = jax.random.normal(key, (3, 2))
  return Layer(kernel, jnp.array([2, 0, 1]), jnp.tanh, 0.5)


def test_a_module_that_is_a_tree_learns_by_its_arrays():
  model = from_tree(make_layer, lambda module, inputs: jax.vmap(module)(inputs))
  params = model.init(jax.random.key(0), INPUTS)
  assert params.activation is params.rate is None
  np.testing.assert_allclose(
    model.apply(params, INPUTS),
    jnp.tanh(INPUTS[:, [2, 0, 1]] @ params.kernel),
    rtol=1e-6,
  )
  learner = metajax.maml(model, metajax.mean_squared_error, 0.1, 1)
  batch = jax.tree.map(lambda x: x[None], Batch(INPUTS, INPUTS[:, :2]))
  gradient, _ = jax.jit(learner.grad)(
    jax.random.key(1), params, Task(batch, batch)
  )
  assert jnp.abs(gradient.kernel).min() > 0
  np.testing.assert_array_equal(gradient.order, [0, 0, 0])


def test_a_module_that_is_a_tree_may_take_a_key():
  model = from_tree(
    make_layer,
    lambda module, inputs, key=None: jax.vmap(
      module, in_axes=(0, None)
    )(inputs, key),
  )  # fmt: skip
  params = model.init(jax.random.key(0), INPUTS)
  keys = jax.random.split(jax.random.key(0), 8)
  dropped = [not model.apply(params, INPUTS, key=key).any() for key in keys]
  assert any(dropped) != all(dropped)
  assert model.apply(params, INPUTS).all()


@pytest.mark.parametrize(
  ('model', 'inputs'),
  [
    (mlp([4], 2), (2, 3)),
    (conv4(2, width=2), (2, 16, 16, 1)),
    (resnet12(2, widths=(2, 2)), (2, 4, 4, 1)),
    (transformer(2, width=4, depth=1, heads=1), (2, 3, 1)),
  ],
  ids=['mlp', 'conv4', 'resnet12', 'transformer'],
)
def test_networks_of_the_library_follow_inputs_in_double_precision(
  float64, model, inputs
):
  for dtype in map(jnp.dtype, ('float64', 'float32')):
    shapes = jax.eval_shape(
      lambda dtype=dtype: model.init(jax.random.key(0), jnp.ones(inputs, dtype))
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {dtype}


def test_streams_of_flax_draw_different_numbers():
  class Noisy(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
      if not train:
        return inputs
      drawn = [
        jax.random.uniform(self.make_rng(name)) for name in ('dropout', 'noise')
      ]
      return inputs + jnp.stack(drawn)[None]

  outputs = from_linen(Noisy()).apply(
    {}, jnp.zeros((1, 2)), key=jax.random.key(0)
  )
  assert outputs[0, 0] != outputs[0, 1]


def test_a_default_of_an_attribute_does_not_decide():
  class Both(nn.Module):
    train: bool = False

    @nn.compact
    def __call__(self, inputs, train=False):
      return nn.Dropout(0.5)(inputs, deterministic=not train)

  assert takes_key(from_linen(Both()).apply)


def test_what_is_no_module_is_refused():
  with pytest.raises(ValueError, match='from_linen wants a module'):
    from_linen(nn.Dense)
  with pytest.raises(ValueError, match=r'from_nnx wants what makes a module'):
    from_nnx(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))


def test_an_argument_that_may_tell_the_mode_is_not_passed_over():
  class Mode(nn.Module):
    @nn.compact
    def __call__(self, inputs, train_mode=False):
      return nn.Dropout(0.5)(inputs, deterministic=not train_mode)

  with pytest.raises(ValueError, match=r"mode=lambda training: {'train_mode'"):
    from_linen(Mode())
  model = from_linen(Mode(), mode=lambda training: {'train_mode': training})
  assert takes_key(model.apply)
