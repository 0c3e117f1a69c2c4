"""Pictures of texts: what is in the file and in the figure."""

import numpy as np
import pytest
from drawn import TITLE, assert_nothing_is_cut, count, pixels, texts

from experiments.figures import texts as pictures
from experiments.figures.images import RIGHT, WRONG

LONG = 'one two three ' * 20 + 'the end'


def task(ways=2, queries=2):
  labels = np.repeat(np.arange(ways), queries)
  return {
    'support_texts': [f'example {label}' for label in range(ways)],
    'support_labels': np.arange(ways),
    'query_texts': [f'query {number}' for number in range(len(labels))],
    'query_labels': labels,
    'predictions_before': (labels + 1) % ways,
    'predictions_after': labels.copy(),
  }


def colors(figure):
  return {
    text.get_text(): text.get_color()
    for text in figure.axes[0].texts
    if text.get_text().startswith('query')
  }


def test_what_is_right_and_what_is_wrong_is_told_apart(tmp_path):
  data = task()
  data['predictions_after'][1] = 1
  figure = pictures.text_task(tmp_path / 'a.png', **data, title=TITLE)
  right, wrong = RIGHT, WRONG
  assert list(colors(figure).values()) == [right, wrong, right, right]
  # Not by colours alone.
  assert texts(figure).count('\N{MULTIPLICATION X}') == 1
  image = pixels(tmp_path / 'a.png')
  assert_nothing_is_cut(image)
  assert count(image, WRONG) > 0 < count(image, RIGHT)


def test_what_is_long_or_strange_is_shortened(tmp_path):
  data = task()
  data['query_texts'][:2] = [LONG, 'a\nb $x$ \N{CJK UNIFIED IDEOGRAPH-65E5}']
  figure = pictures.text_task(
    tmp_path / 'a.png', **data, title=TITLE, class_names={0: LONG}
  )
  assert_nothing_is_cut(pixels(tmp_path / 'a.png'))
  shown = texts(figure)
  (name, query) = sorted((x for x in shown if x.startswith('one')), key=len)
  assert len(name) < len(query) < 80
  assert name.endswith('the end')
  assert 'a b $x$ ?' in shown


def test_of_a_large_task_a_part_is_shown_which_is_said(tmp_path):
  data = task(ways=30, queries=9)
  figure = pictures.text_task(tmp_path / 'a.png', **data, title=TITLE)
  image = pixels(tmp_path / 'a.png')
  assert image.shape[0] < 2600
  assert_nothing_is_cut(image)
  note = texts(figure)[-2].replace('\n', ' ')
  assert 'The first 10 of 30 classes' in ' '.join(texts(figure)).replace(
    '\n', ' '
  ), note
  assert len(colors(figure)) == 40


def test_lengths_that_do_not_fit_are_refused(tmp_path):
  data = task()
  data['query_texts'] = data['query_texts'][1:]
  with pytest.raises(ValueError, match='query_texts and query_labels must'):
    pictures.text_task(tmp_path / 'a.png', **data, title=TITLE)
