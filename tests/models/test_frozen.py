"""Weights that stay as they are: no meta-parameters, no constants."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax.equality import Frozen
from metajax.inner import partition
from metajax.models import (
  conv4,
  from_linen,
  mlp,
  multimodal,
  only,
  quantise,
)
from metajax.models.frozen import hold, on_weights, starting_from
from metajax.models.layers import BatchNorm
from metajax.runs.training import make_train_step
from metajax.tasks import sinusoid

SAMPLE = sinusoid(5, 5)
WIDE = mlp([64, 64], 1)
INPUTS = jnp.zeros((1, 1))
# Of the second layer, which is as large as what a program would not hold.
BODY = {'Dense_1': WIDE.init(jax.random.key(7), INPUTS)['Dense_1']}
HELD = hold(WIDE, BODY)


def with_body(params):
  return params | BODY


def maml(model, **options):
  return metajax.maml(model, metajax.mean_squared_error, 0.01, 2, **options)


def tasks(number=2):
  return jax.vmap(SAMPLE)(jax.random.split(jax.random.key(1), number))


METHODS = {
  'maml': maml,
  'reptile': lambda model: metajax.reptile(
    model, metajax.mean_squared_error, 0.01, 2
  ),
  'imaml': lambda model: metajax.imaml(
    model, metajax.mean_squared_error, 0.01, 2
  ),
  'meta_sgd': lambda model: metajax.meta_sgd(
    model, metajax.mean_squared_error, 0.01, 2
  ),
  'r2d2': lambda model: metajax.r2d2(model, metajax.mean_squared_error, None),
  'ensemble': lambda model: metajax.ensemble(maml(model), 2),
}


@pytest.mark.in_ci
@pytest.mark.parametrize('name', METHODS)
def test_every_method_stands_on_a_model_that_does(name):
  learner = METHODS[name](HELD)
  assert isinstance(learner, Frozen)
  held = jax.tree.leaves(learner)
  assert [leaf.shape for leaf in held] == [(64,), (64, 64)]
  params = learner.init(jax.random.key(0), INPUTS)
  shapes = {leaf.shape[-2:] for leaf in jax.tree.leaves(params)}
  assert (64, 64) not in shapes
  gradient, metrics = jax.jit(
    lambda learner, params, tasks: learner.grad(
      jax.random.key(2), params, tasks
    )
  )(learner, params, tasks())
  assert jax.tree.structure(gradient) == jax.tree.structure(params)
  assert np.isfinite(float(metrics['loss']))


@pytest.mark.in_ci
def test_the_meta_gradient_is_that_of_the_others_of_all(float64):
  body = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), BODY)
  held, whole = maml(hold(WIDE, body)), maml(WIDE, adapts=is_no_body)
  params = held.init(jax.random.key(0), INPUTS.astype(jnp.float64))
  drawn = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tasks())
  found, _ = held.grad(jax.random.key(2), params, drawn)
  expected, _ = whole.grad(jax.random.key(2), params | body, drawn)
  for name, own in found.items():
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15),
      own,
      expected[name],
    )


def is_no_body(path: str) -> bool:
  return not path.startswith('Dense_1')


def test_training_has_them_as_arguments_of_one_program():
  learner = maml(HELD)
  train = make_train_step(learner, optax.adam(1e-2), SAMPLE, tasks_per_step=16)
  state = train.init(jax.random.key(0))
  assert 'Dense_1' not in state.meta_params
  state, metrics = train.run(state, 20)
  later, after = train.run(state, 20)
  assert (int(later.step), int(later.skipped)) == (40, 0)
  assert float(after['loss']) < float(metrics['loss'])
  text = train.lower().as_text()
  lines = text.split('\n')
  # A constant of that size would be thousands of digits.
  assert max(map(len, lines)) < 10_000
  assert 'tensor<64x64xf32>' in next(line for line in lines if '@main' in line)


@pytest.mark.in_ci
def test_other_weights_are_evaluated_by_the_same_program():
  learner = maml(HELD)
  params = learner.init(jax.random.key(0), INPUTS)
  other = jax.tree.map(lambda leaf: leaf + 0.1, BODY)

  def judge(body):
    return metajax.evaluate(
      maml(hold(WIDE, body)), metajax.mean_squared_error, params, SAMPLE,
      key=jax.random.key(3), num_tasks=4,
    ).mean['loss']  # fmt: skip

  first = judge(BODY)
  expected = metajax.evaluate(
    maml(WIDE, adapts=is_no_body), metajax.mean_squared_error,
    with_body(params), SAMPLE, key=jax.random.key(3), num_tasks=4,
  ).mean['loss']  # fmt: skip
  np.testing.assert_allclose(first, expected, rtol=1e-5)
  with jax.log_compiles(False), metajax_compilations() as count:
    assert not np.allclose(judge(other), first)
  assert count == []


class metajax_compilations:
  """The names of what is compiled in it."""

  def __enter__(self):
    self.names = []
    self._listen = lambda name, seconds, **_: (
      self.names.append(name) if 'backend_compile' in name else None
    )
    jax.monitoring.register_event_duration_secs_listener(self._listen)
    return self.names

  def __exit__(self, *_):
    jax.monitoring.unregister_event_duration_listener(self._listen)


def test_shapes_alone_are_enough_for_a_look_at_the_program():
  shapes = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), BODY
  )
  train = make_train_step(
    maml(hold(WIDE, shapes)), optax.sgd(0.1), SAMPLE, tasks_per_step=2
  )
  whole = make_train_step(maml(HELD), optax.sgd(0.1), SAMPLE, tasks_per_step=2)
  assert train.cost() == whole.cost()
  assert train.template() == whole.template()


def test_check_refuses_what_does_not_fit_on_them():
  metajax.check(maml(HELD), metajax.mean_squared_error, SAMPLE)
  narrow = {
    'Dense_1': jax.tree.map(lambda leaf: leaf[..., :3], BODY['Dense_1'])
  }
  for weights, message in (
    (narrow, r'Dense_1/bias of the weights has shape \(3,\); the model has'),
    ({'Dense_9': 1.0}, 'the weights have Dense_9, but the model has Dense_0'),
    ({'Dense_1': 1.0}, 'the weights have an array at Dense_1, where the model'),
  ):
    learner = maml(hold(WIDE, weights))
    with pytest.raises(ValueError, match=message):
      metajax.check(learner, metajax.mean_squared_error, SAMPLE)


def test_trajectories_are_of_what_adapts_alone():
  learner = metajax.anil(mlp([8], 2), metajax.cross_entropy, 0.1, 3)
  task = metajax.Batch(jnp.ones((4, 3)), jnp.arange(4) % 2)
  params = learner.init(jax.random.key(0), task.inputs)
  adapted, adaptation = learner.adapt(jax.random.key(1), params, task)
  assert adaptation.trajectory['Dense_0'] == {'bias': None, 'kernel': None}
  assert adaptation.trajectory['head']['kernel'].shape == (4, 8, 2)
  first = adaptation.after(0, adapted)
  jax.tree.map(np.testing.assert_array_equal, first, params)
  jax.tree.map(
    np.testing.assert_array_equal, adaptation.after(3, adapted), adapted
  )


def test_lower_precision_is_kept():
  half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), BODY)
  learner = maml(hold(WIDE, half))
  assert {leaf.dtype for leaf in jax.tree.leaves(learner)} == {
    jnp.dtype('bfloat16')
  }
  params = learner.init(jax.random.key(0), INPUTS)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
    jnp.dtype('float32')
  }


def test_weights_to_start_from_are_learned():
  network = starting_from(WIDE, BODY)
  params = network.init(jax.random.key(0), INPUTS)
  jax.tree.map(
    np.testing.assert_array_equal, params['Dense_1'], BODY['Dense_1']
  )
  learned, _ = partition.split(params, partition.everything)
  assert jax.tree.structure(learned) == jax.tree.structure(params)


def test_a_held_model_may_be_held_further():
  both = hold(HELD, {'head': WIDE.init(jax.random.key(5), INPUTS)['head']})
  assert list(both.init(jax.random.key(0), INPUTS)) == ['Dense_0']


@pytest.mark.parametrize(
  ('model', 'inputs', 'part'),
  [
    (HELD, INPUTS, 'head'),
    (multimodal({'x': HELD}, mlp([], 1), 4), {'x': INPUTS}, 'shared'),
  ],
)
def test_weights_of_a_held_model_become_no_constants(model, inputs, part):
  weights = {part: model.init(jax.random.key(5), inputs)[part]}
  both = on_weights(model, weights, only(partition.head))
  assert len(jax.tree.leaves(both)) == 4
  params = both.init(jax.random.key(0), inputs)
  traced = jax.make_jaxpr(lambda model, *given: model.apply(*given))(
    both, params, inputs
  )
  assert max((np.size(each) for each in traced.consts), default=0) < 64
  single = model.apply({**params['base'], **weights}, inputs)
  np.testing.assert_allclose(both.apply(params, inputs), single, rtol=1e-6)


def test_statistics_are_measured_and_held_fixed_on_them():
  network = from_linen(nn.Sequential([BatchNorm(), nn.Dense(2)]))
  inputs = jax.random.normal(jax.random.key(3), (4, 3))
  params = network.init(jax.random.key(0), inputs)
  first, last = params
  weights, rest = {first: params[first]}, {last: params[last]}
  tuning = only('bias')
  expected = network.measure(params, inputs)
  outputs = network.freeze(expected).apply(params, inputs[:1])
  for model, own in (
    (hold(network, weights), rest),
    (
      on_weights(network, weights, tuning),
      {'base': rest, 'tuning': tuning.init(jax.random.key(0), params)},
    ),
  ):
    found = model.measure(own, inputs)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    np.testing.assert_array_equal(
      model.freeze(found).apply(own, inputs[:1]), outputs
    )


def test_numbers_of_another_kind_are_refused():
  eight = quantise(BODY['Dense_1'])['kernel'].values
  for make in (hold, starting_from):
    model = make(WIDE, {'Dense_1': {'kernel': eight}})
    with pytest.raises(ValueError, match='kernel of the weights is int8; the'):
      jax.eval_shape(model.init, jax.random.key(0), INPUTS)
  ordered = metajax.Model(
    lambda key, inputs: {'order': jnp.arange(2)}, lambda params, inputs: inputs
  )
  with pytest.raises(ValueError, match='order of the weights is float32; the'):
    hold(ordered, {'order': jnp.ones(2)}).init(jax.random.key(0), INPUTS)


@pytest.mark.in_ci
def test_held_in_the_training_of_a_network_with_statistics():
  network = conv4(2, width=4)
  images = jnp.zeros((2, 8, 8, 1))
  params = network.init(jax.random.key(0), images)
  first = next(iter(params))
  held = hold(network, {first: params[first]})
  assert first not in held.init(jax.random.key(1), images)


def test_weights_of_8_bits_are_held_as_they_are():
  weights = {'Dense_1': quantise(BODY['Dense_1'])}
  held = maml(hold(WIDE, weights))
  params = held.init(jax.random.key(0), INPUTS)
  assert 'Dense_1' not in params
  assert weights['Dense_1']['kernel'].shape == (64, 64)
  other = {'Dense_1': quantise({'kernel': jnp.ones((64, 3))})}
  with pytest.raises(ValueError, match=r'has shape \(64, 3\); the model has'):
    hold(WIDE, other).init(jax.random.key(0), INPUTS)
