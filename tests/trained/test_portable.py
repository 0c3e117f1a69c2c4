"""Examples are what a learner was trained on, or refused in one line."""

import jax.numpy as jnp
import numpy as np
import pytest
from small_learners import examples_for, make_learner

from metajax.trained import LearnerError, Prediction, TrainedLearner, Values


def images(number: int = 2) -> np.ndarray:
  return np.linspace(0, 1, number * 16).reshape(number, 4, 4, 1)


def test_bytes_and_fractions_and_no_axis_of_channels_are_the_same():
  learner = make_learner('protonet')
  whole = np.arange(0, 240, 15, np.uint8).reshape(1, 4, 4)
  found = [
    learner.inputs(whole),
    learner.inputs(whole[..., None]),
    learner.inputs(whole / 255),
  ]
  for each in found:
    np.testing.assert_allclose(each, found[0], atol=1e-7)
  assert found[0].shape == (1, 4, 4, 1)
  assert found[0].max() <= 1


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    (np.zeros((1, 5, 5, 1)), r'images are \[n, 4, 4, 1\].*got \[1, 5, 5, 1\]'),
    (np.zeros((0, 4, 4, 1)), r'got \[0, 4, 4, 1\]'),
    (np.full((1, 4, 4, 1), 255.0), 'go from 255 to 255, so divide them'),
    (np.full((1, 4, 4, 1), -1.0), 'fractions go from 0 to 1'),
    (np.full((1, 4, 4, 1), np.nan), 'finite numbers; that at'),
    (np.zeros((1, 4, 4, 1), np.int64), 'uint8, from 0 to 255, or fractions'),
    (['a text'], 'images are numbers'),
    ([np.zeros((4, 4)), np.zeros((5, 5))], 'of several sizes'),
    (np.array([None]), 'images are numbers; got object'),
  ],
)
def test_other_images_are_refused(given, message):
  learner = make_learner('protonet')
  with pytest.raises(LearnerError, match=message) as error:
    learner.adapt({'a': images(), 'b': given})
  assert "class 'b'" in str(error.value)
  assert '\n' not in str(error.value)
  adapted = learner.adapt({'a': images(), 'b': 1 - images()})
  with pytest.raises(LearnerError, match=message):
    adapted.predict(given)


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'a': images()}, 'of 1 class'),
    ({}, 'there are no examples'),
    ({str(i): images() for i in range(4)}, '4 classes, and this learner tells'),
    ({1: images(), '1': images()}, 'two classes have one name'),
    ((images(2), ['a']), '2 inputs and 1 labels'),
    ((images(2), ['a', None]), 'texts or integers, .* got .None. .NoneType'),
    ((images(2), [0.0, np.nan]), "texts or integers, .* got 'nan'"),
    ((images(2), [0.5, 1]), "texts or integers, .* got '0.5'"),
    ((images(2), np.eye(2)), 'texts or integers, .* .list.'),
    ((images(2), [b'a', b'b']), 'texts or integers, .* .bytes.'),
    ((images(2), 'ab'), 'labels are a list, one for each example; got str'),
    ((images(2), 3), 'labels are a list, one for each example; got int'),
    ((None, [0, 1]), 'inputs are a list or an array; got NoneType'),
    (('ab', ['a', 'b']), 'inputs are a list or an array; got str'),
    (images(), 'inputs by the name of their class'),
    (7, 'inputs by the name of their class'),
  ],
)
def test_other_support_sets_are_refused(given, message):
  with pytest.raises(LearnerError, match=message):
    make_learner('protonet').adapt(given)


def test_labels_are_names_in_any_order():
  learner = make_learner('maml')
  support, queries = examples_for(learner)
  first = learner.adapt(support).predict(queries)
  assert isinstance(first, Prediction)
  inputs = np.concatenate([support[name] for name in sorted(support)])
  labels = sorted(support)
  order = np.random.default_rng(1).permutation(len(inputs))
  again = learner.adapt((inputs[order], [labels[i] for i in order])).predict(
    queries
  )
  assert again.classes == first.classes
  np.testing.assert_allclose(
    again.probabilities, first.probabilities, atol=1e-6
  )


def test_integers_are_names_whatever_holds_them():
  learner = make_learner('protonet')
  for labels in (
    [0, 1], [0.0, 1.0], ['0', '1'], np.array([0, 1]), np.array([0.0, 1.0]),
    list(np.array([0, 1])), list(jnp.array([0, 1])), (0, '1'),
  ):  # fmt: skip
    assert learner.adapt((images(2), labels)).classes == ('0', '1')


def test_answers_that_are_not_finite_are_none():
  for name in ('protonet', 'cnp'):
    learner = make_learner(name)
    support, queries = examples_for(learner)
    adapted = learner.adapt(support)
    state = [jnp.full_like(each, jnp.nan) for each in adapted.state]
    with pytest.raises(LearnerError, match=f'{name} has no finite answer'):
      adapted._replace(state=state).predict(queries)


def test_probabilities_are_divided_by_the_temperature():
  learner = make_learner('protonet')
  support, queries = examples_for(learner)
  adapted = learner.adapt(support)
  logits = adapted.outputs(queries).astype(float) / 0.5
  powers = np.exp(logits - logits.max(axis=1, keepdims=True))
  expected = powers / powers.sum(axis=1, keepdims=True)
  found = adapted.predict(queries)
  np.testing.assert_allclose(found.probabilities, expected, atol=1e-9)
  assert found.labels == [f'class {i}' for i in expected.argmax(axis=1)]


def test_numbers_are_in_their_own_units():
  learner = make_learner('cnp')
  (inputs, targets), queries = examples_for(learner)
  adapted = learner.adapt((inputs, targets))
  found = adapted.predict(queries)
  assert isinstance(found, Values)
  assert found.names == ('y',)
  np.testing.assert_allclose(
    found.values, adapted.outputs(queries) * 10 + 3, rtol=1e-6
  )
  scaled = learner.inputs(inputs)
  np.testing.assert_allclose(
    scaled, (inputs - [1, -2]) / [2, 0.5], rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ((np.zeros((2, 3)), np.zeros(2)), r'numbers \[n, 2\] \(u, v\); got \[2, 3'),
    ((np.zeros((2, 2)), np.zeros(3)), r'numbers \[2, 1\]'),
    ((np.zeros((2, 2)), [1.0, np.inf]), 'targets are finite'),
    ((np.zeros((2, 2)), [1.0, 1e300]), '1e.300 is further from'),
    ((np.full((2, 2), -1e300), np.zeros(2)), '-1e.300 is further from'),
    ({'a': np.zeros((2, 2))}, 'a pair of inputs and targets'),
  ],
)
def test_other_rows_are_refused(given, message):
  with pytest.raises(LearnerError, match=message):
    make_learner('cnp').adapt(given)


def texts_learner(tokenize) -> TrainedLearner:
  manifest = {
    'method': 'protonet', 'inputs': {'kind': 'texts', 'length': 4},
    'outputs': {'classes': 2}, 'normalisation': 'none', 'temperature': 1.0,
  }  # fmt: skip
  return TrainedLearner(manifest, None, tokenize)


def test_texts_become_tokens_of_one_length():
  learner = texts_learner(lambda texts, most: (np.array([[1, 2]]), 0))
  assert learner.inputs(['hi there']).tolist() == [[1, 2, -1, -1]]
  assert learner.inputs(np.array([[5]])).tolist() == [[5, -1, -1, -1]]
  cut = texts_learner(lambda texts, most: (np.array([[1, 2, 3, 4]]), 1))
  with pytest.warns(UserWarning, match='1 of 1 texts have more than 4 tokens'):
    cut.inputs(['a b c d e'])


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ('a text', 'give a list of them'),
    ([], 'there are no texts'),
    (['a', ' '], 'text 1 of 2 is empty'),
    ([1, 2], 'inputs are texts'),
    (np.zeros((1, 5), np.int32), r'tokens are \[texts, 4\]'),
    (np.zeros((1, 4, 4, 1)), 'inputs are texts'),
    (['a'], 'there is no tokenizer'),
    ({'a': 1}, 'give a list of them'),
    (5, 'give a list of them'),
    (np.array([[-2]]), 'tokens go from 0, .* go from -2 to -2'),
    (np.array([[1, 2**40]]), f'go from 1 to {2**40}'),
    (np.array([[1, -1], [-1, -1]]), 'text 1 of 2 has no tokens'),
  ],
)
def test_other_texts_are_refused(given, message):
  with pytest.raises(LearnerError, match=message):
    texts_learner(None).inputs(given)
