"""MetaICL: a decoder that reads a task as one text."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax
from metajax import testing
from metajax.algorithms.metaicl import metaicl
from metajax.base import Batch, Task, Weighted
from metajax.models.pretrained import TransformerConfig, language_model

KEY = jax.random.key(0)
WAYS, SHOTS, QUERIES, LENGTH, LABELS = 3, 2, 4, 4, 5
WORDS = 9  # of texts; what is above stands for classes
CONFIG = TransformerConfig(
  'llama', WORDS + LABELS, 8, 2, 2, 12, 64, activation='silu',
  attention_bias=False, feed_forward_bias=False,
)  # fmt: skip
MODEL = language_model(CONFIG)


def learner(**options) -> metajax.MetaLearner:
  return metaicl(
    MODEL, metajax.cross_entropy, WAYS, **{'labels': LABELS, **options}
  )


@cache
def tasks(number: int = 3) -> Task:
  generator = np.random.default_rng(0)

  def batch(each: int) -> Batch:
    shape = (number, WAYS * each, LENGTH)
    tokens = generator.integers(0, WORDS, shape, np.int32)
    lengths = generator.integers(1, LENGTH + 1, shape[:2])
    tokens[np.arange(LENGTH) >= lengths[..., None]] = -1
    targets = np.repeat(np.arange(WAYS, dtype=np.int32), each)
    return Batch(tokens, np.tile(targets, (number, 1)))

  return Task(batch(SHOTS), batch(QUERIES))


def first_task() -> Task:
  return jax.tree.map(lambda leaf: leaf[0], tasks())


@cache
def params():
  drawn = jax.jit(MODEL.init)(KEY, first_task().query.inputs)
  return jax.tree.map(lambda leaf: 8 * leaf, drawn)  # far from all alike


@cache
def compiled(direction: str):
  made = learner(direction=direction)

  @jax.jit
  def outputs(key, params, task):
    adapted, _ = made.adapt(key, params, task.support)
    return adapted, made.predict(adapted, task.query.inputs)

  return outputs


@pytest.mark.in_ci
@pytest.mark.parametrize(
  'direction', ['direct', pytest.param('channel', marks=pytest.mark.in_ci)]
)
def test_exchanging_classes_exchanges_outputs(direction):
  task, order = first_task(), np.array([2, 0, 1])
  moved = task._replace(
    support=task.support._replace(
      targets=order[task.support.targets].astype(np.int32)
    )
  )
  _, before = compiled(direction)(KEY, params(), task)
  _, after = compiled(direction)(KEY, params(), moved)
  np.testing.assert_array_equal(after[:, order], before)
  assert np.ptp(before, axis=1).min() > 1e-3


@pytest.mark.parametrize(
  'direction', ['direct', pytest.param('channel', marks=pytest.mark.in_ci)]
)
def test_it_reads_the_support_set_and_the_query_as_one_text(direction):
  task = first_task()
  adapted, outputs = compiled(direction)(KEY, params(), task)
  text = [int(token) for token in adapted.text if token >= 0]
  assert (np.asarray(adapted.text)[len(text) :] == -1).all()
  pairs = []
  for row, target in zip(*task.support, strict=True):
    words = [int(word) for word in row if word >= 0]
    label = [int(adapted.labels[target])]
    pairs.append(words + label if direction == 'direct' else label + words)
  # In some order.
  assert sorted(text) == sorted(token for pair in pairs for token in pair)
  rest = text
  while rest:
    found = next(each for each in pairs if rest[: len(each)] == each)
    pairs.remove(found)
    rest = rest[len(found) :]
  assert not pairs
  query = [int(word) for word in task.query.inputs[0] if word >= 0]
  expected = []
  for label in np.asarray(adapted.labels):
    whole = [*text, *query] if direction == 'direct' else [*text, label, *query]
    scores = MODEL.apply(params(), np.array([whole], np.int32))[0]
    if direction == 'direct':
      expected.append(scores[-1, label])
      continue
    logs = jax.nn.log_softmax(scores)
    places = np.arange(len(text), len(whole) - 1)
    expected.append(logs[places, np.array(query)].sum())
  np.testing.assert_allclose(outputs[0], expected, rtol=1e-4, atol=1e-4)


def test_labels_and_order_are_drawn_anew():
  texts = [
    np.asarray(compiled('direct')(key, params(), first_task())[0].text)
    for key in jax.random.split(KEY, 4)
  ]
  assert len({each.tobytes() for each in texts}) == 4
  labels = {int(each) for text in texts for each in text if each >= WORDS}
  assert len(labels) > WAYS


def test_padding_is_not_read_and_what_is_absent_is_ruled_out():
  task = first_task()
  weights = (task.support.targets < 2).astype(np.float32)
  support = task.support._replace(
    targets=Weighted(task.support.targets, weights)
  )
  made = learner()
  adapted, _ = jax.jit(made.adapt)(KEY, params(), support)
  held = task.support.inputs[weights > 0]
  assert (adapted.text >= 0).sum() == (held >= 0).sum() + len(held)
  assert adapted.present.tolist() == [True, True, False]


@pytest.mark.in_ci
@pytest.mark.parametrize('direction', ['direct', 'channel'])
def test_it_does_all_that_a_method_must(direction):
  testing.check_method(
    learner(direction=direction), tasks=tasks(), adapts_at_random=True
  )


@pytest.mark.in_ci
def test_it_learns_to_look_up():
  """Texts are a word each, and so is a query: that of its class."""

  def sample(key):
    words = jax.random.permutation(key, WORDS)[:2, None].astype(jnp.int32)
    targets = jnp.arange(2, dtype=jnp.int32)
    return Task(Batch(words, targets), Batch(words, targets))

  made = metaicl(
    language_model(CONFIG), metajax.cross_entropy, 2, labels=LABELS
  )
  train = metajax.make_train_step(
    made, optax.adam(1e-2), sample, tasks_per_step=32
  )
  state, _ = train.run(train.init(KEY), 600)
  _, metrics = train.run(state, 20)
  assert metrics['accuracy'] > 0.6  # of two


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'direction': 'sideways'}, 'direction must be direct or channel, got'),
    ({'labels': 2}, 'labels must be 3 different tokens or more'),
    ({'labels': (1, 2, 2)}, 'labels must be 3 different tokens or more'),
    ({'labels': (-1, -2, -3)}, r'labels must be tokens.*got \(-1, -2, -3\)'),
    ({'labels': (1.0, 2.0, 3.0)}, 'labels must be tokens, numbers from 0'),
    ({'labels': (1, 2, 2**31)}, 'labels must be tokens, numbers from 0'),
  ],
)
def test_options_that_cannot_be_meant_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    learner(**options)


@pytest.mark.parametrize('labels', [32, WORDS + LABELS + 1, (0, 1, 14)])
def test_labels_beyond_the_vocabulary_are_refused(labels):
  made = learner(labels=labels)
  with pytest.raises(ValueError, match='the model knows 14 tokens, from 0 to'):
    jax.eval_shape(made.adapt, KEY, params(), first_task().support)


@pytest.mark.parametrize('direction', ['direct', 'channel'])
def test_an_example_of_no_class_is_seen_in_all_outputs(direction):
  task = first_task()
  for wrong in (-1, WAYS):
    targets = task.support.targets.copy()
    targets[3] = wrong
    support = task.support._replace(targets=targets)
    _, outputs = compiled(direction)(
      KEY, params(), task._replace(support=support)
    )
    assert np.isnan(outputs).all()


@pytest.mark.parametrize('direction', ['direct', 'channel'])
def test_padding_may_stand_anywhere_in_a_query(direction):
  task = first_task()
  inputs = np.full_like(task.query.inputs, -1)
  inputs[:4] = [[1, 2, 3, -1], [-1, 1, 2, 3], [1, -1, 2, 3], [-1, -1, -1, -1]]
  query = task.query._replace(inputs=inputs)
  _, outputs = compiled(direction)(KEY, params(), task._replace(query=query))
  outputs = np.asarray(outputs)
  np.testing.assert_allclose(outputs[1:3], outputs[[0, 0]], rtol=1e-6)
  assert np.isfinite(outputs[:3]).all()
  assert np.isnan(outputs[3:]).all()  # without a token


def test_what_is_no_text_is_refused():
  support = first_task().support
  numbers = support._replace(inputs=support.inputs.astype(np.float32))
  with pytest.raises(ValueError, match='tokens must be integers'):
    learner().adapt(KEY, params(), numbers)
  # Nor has every transformer room for it, or reads from left to right.
  short = TransformerConfig('llama', 20, 8, 1, 2, 12, 8)
  both_ways = TransformerConfig('bert', 20, 8, 1, 2, 12, 64, types=2)
  for config, message in (
    (short, 'more than the 8 positions'),
    (both_ways, 'bert is not causal'),
  ):
    model = language_model(config)
    made = metaicl(model, metajax.cross_entropy, WAYS, labels=3)
    weights = jax.eval_shape(model.init, KEY, support.inputs)

    def outputs(weights, made=made):
      adapted, _ = made.adapt(KEY, weights, support)
      return made.predict(adapted, support.inputs)

    with pytest.raises(ValueError, match=message):
      jax.eval_shape(outputs, weights)
