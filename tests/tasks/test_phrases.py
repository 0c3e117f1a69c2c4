"""The generated language: what it has, and that words alone do not tell it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.adaptation.bag_of_words import bag_of_words_scores
from metajax.base import sample_tasks
from metajax.tasks import episodes, groups_of
from metajax.tasks.phrases import (
  LENGTH,
  phrase_classes,
  phrase_tokenizer,
  phrases,
)


def test_splits_share_no_class_and_depend_on_their_seed():
  parts = [phrase_classes(part) for part in ('train', 'validation', 'test')]
  assert list(map(len, parts)) == [360, 120, 120]
  assert len(set().union(*parts)) == 600
  assert set(phrase_classes('test', seed=1)) != set(parts[2])
  # Each action and each thing of test is among those of training too.
  for half in (0, 1):
    train, test = (
      {name.split('/')[1].split('-')[half] for name in parts[place]}
      for place in (0, 2)
    )
    assert test <= train


def test_phrases_are_the_same_for_a_seed_and_all_different_in_a_class():
  made, again = phrases('test', 30, 10), phrases('test', 30, 10)
  assert made.texts.texts.tolist() == again.texts.texts.tolist()
  np.testing.assert_array_equal(made.tokens, again.tokens)
  # These words are drawn alike by every version of Python.
  assert made.texts.texts[0] == FIRST
  for number in range(10):
    assert len(set(made.texts.texts[made.texts.labels == number])) == 30
  assert phrases('test', 30, 1, seed=1).texts.texts[0] != FIRST


FIRST = 'please start the radiator'


def test_tokens_say_all_and_have_room():
  made, tokenize = phrases('train', 5), phrase_tokenizer()
  assert made.tokens.shape == (1800, LENGTH)
  assert 200 < tokenize.vocabulary < 400
  assert made.tokens.max() < tokenize.vocabulary
  assert not (made.tokens == 0).any()  # no word is unknown
  assert (made.tokens[:, -1] == -1).all()  # none is cut off
  for text, tokens in zip(made.texts.texts, made.tokens, strict=True):
    assert tokenize.decode(tokens) == text


@pytest.mark.in_ci
def test_words_alone_tell_some_of_it():
  made = phrases('test', 20)
  for groups, low, high in (
    (None, 0.5, 0.65), (groups_of(made.texts), 0.45, 0.6),
  ):  # fmt: skip
    sample = episodes(made.tokens, made.texts.labels, 5, 1, 10, groups=groups)
    tasks = sample_tasks(sample, jax.random.key(0), 200)

    @jax.jit
    @jax.vmap
    def accuracy(task):
      scores = bag_of_words_scores(task.support, task.query.inputs, 5)
      return jnp.mean(scores.argmax(-1) == task.query.targets)

    assert low < accuracy(tasks).mean() < high


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'split': 'tests'}, "one of train, validation, test; got 'tests'"),
    ({'each': 0}, 'each must be from 1 to 10000; got 0'),
    ({'num_classes': 0}, 'num_classes must be from 1 to 360'),
    ({'num_classes': 361}, 'got 361'),
  ],
)
def test_what_cannot_be_made_is_refused(given, message):
  with pytest.raises(ValueError, match=message):
    phrases(**given)
