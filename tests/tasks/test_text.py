"""Texts of known classes: what is read of files, and what is wrong there."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from metajax.tasks.errors import DataError
from metajax.tasks.splits import (
  groups_of,
  split_by_files,
  split_by_groups,
  split_by_seed,
)
from metajax.tasks.text import (
  Duplicates,
  Texts,
  count_duplicates,
  load_banking77,
  load_clinc150,
  load_csv,
  load_jsonl,
)


def write(folder: Path, held: str | bytes, name: str = 'mine.csv') -> Path:
  path = folder / name
  path.write_bytes(held.encode() if isinstance(held, str) else held)
  return path


def texts_of(pairs: list[tuple[str, int]], names: str) -> Texts:
  texts = np.array([text for text, _ in pairs], object)
  labels = np.array([label for _, label in pairs], np.int32)
  return Texts(texts, labels, tuple(names.split()))


# What is read.


@pytest.mark.parametrize(
  ('held', 'texts'),
  [
    ('text,label\na b,x\nc,y\n', ['a b', 'c']),
    ('label,text\r\nx,a\r\ny,"b, ""c"""\r\n', ['a', 'b, "c"']),
    ('\ufefftext , label,more\na,x,1\n\n\ufeffb ,y,2', ['a', 'b']),
    ('text,label\n"a\nb",x\n"c\r\nd",y\n', ['a\nb', 'c\r\nd']),
    ('text,label\ra,x\rb,y\r', ['a', 'b']),
    ('\ntext,label\n  a ,x\nb, y \n', ['a', 'b']),
    (f'text,label\n{"a" * 131072},x\nb,y', ['a' * 131072, 'b']),
  ],
)
def test_csv_is_read_as_it_says(tmp_path, held, texts):
  data = load_csv(write(tmp_path, held))
  assert data.texts.tolist() == texts
  assert data.labels.tolist() == [0, 1]
  assert data.names == ('x', 'y')
  assert (data.texts.dtype, data.labels.dtype) == (object, np.int32)


def test_classes_have_one_spelling_and_are_in_order(tmp_path):
  held = 'say,to\na,caf\u00e9  au lait\nb,NA\nc, cafe\u0301 au\u200b lait\n'
  data = load_csv(write(tmp_path, held), 'say', 'to')
  assert data.names == ('NA', 'caf\u00e9 au lait')
  assert data.labels.tolist() == [1, 0, 1]


def test_lines_of_json_are_read_as_csv(tmp_path):
  lines = [
    {'text': ' a "b"\n', 'label': 'x'}, {'label': 3.0, 'text': 'c', 'z': [1]},
    {'text': '\u2028d\u2028e', 'label': 3},
  ]  # fmt: skip
  text = '\r\n\r\n'.join(json.dumps(line, ensure_ascii=False) for line in lines)
  data = load_jsonl(write(tmp_path, '\ufeff' + text))
  assert data.texts.tolist() == ['a "b"', 'c', 'd\u2028e']
  assert data.names == ('3', 'x')
  assert data.labels.tolist() == [1, 0, 0]


# What is refused.

GOOD = 'text,label\na,x\nb,y\n'


@pytest.mark.parametrize(
  ('held', 'message'),
  [
    ('', 'the file is empty; it needs a line of names'),
    ('text,label\n', 'there is no row of text; the file is empty'),
    ('text,label\na,x\nb,x', "all 2 texts have the label 'x'; two classes"),
    ('text;label\na;x', "the first line is 'text;label'; separate names and"),
    (
      'Texts,label\na,x',
      "there is no column 'text'; did you mean 'Texts'? the columns are",
    ),
    ('text,label,text\na,x,b', "several columns of the name 'text'"),
    (GOOD + 'c\n', 'row 4: the row has 1 cells, but the header has 2'),
    (GOOD + 'c,\nd,z\ne, \n', 'row 4: there is no label (and in 1 other rows)'),
    (GOOD + 'c,NaN\n', 'row 4: there is no label; fill it in'),
    ('text,label\n"a\nb",x\n,y\n', 'row 4: there is no text; fill it in'),
    (GOOD + ' \u200b\u00a0,x\n', 'row 4: there is no text'),
    (GOOD + '"c,x\nd,y\n', 'row 4: unexpected end of data; is a quotation'),
    (GOOD + '"c"d,x\n', "row 4: ',' expected after '\"'; is a quotation"),
    (GOOD + 'c' * 131073 + ',x', 'row 4: a cell has more than 131072 charac'),
    (GOOD.encode('utf-16'), 'is in UTF-16; save it in UTF-8'),
    (GOOD.encode('utf-16-le'), 'is a binary file (line 1 has a byte of 0)'),
    (GOOD.encode() + b'caf\xe9,x\n', 'row 4: byte 0xe9 is not of UTF-8'),
    (b'\xef\xbb\xbf' + b'caf\xe9', 'row 1: byte 0xe9 is not of UTF-8'),
    (b'\x1f\x8b\x08\x00\x12', 'is a binary file'),
  ],
)
def test_bad_csv_is_one_line(tmp_path, held, message):
  with pytest.raises(DataError) as refused:
    load_csv(write(tmp_path, held))
  assert message in str(refused.value)
  assert str(refused.value).startswith(str(tmp_path / 'mine.csv'))
  assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
  ('held', 'message'),
  [
    ('', 'there is no row of text; the file is empty'),
    ('text,label\na,x\n', 'row 1: is not one JSON object a line (Expecting'),
    ('[1, 2]', 'row 1: the line is no JSON object, such as {"text": "a'),
    ('{"txt": "a", "label": 1}', "no column 'text'; did you mean 'txt'?"),
    ('{"text": "a", "label": NaN}', 'row 1: there is no label'),
    ('{"text": "a", "label": null}', 'row 1: there is no label'),
    ('\n{"text": "a", "label": 1}\n{"text": "a"}', 'row 3: there is no label'),
    ('{"text": "a", "label": 1.5}', 'row 1: the label 1.5 is neither text nor'),
    ('{"text": "a", "label": 1e999}', 'row 1: the label Infinity is neither'),
    ('{"text": "a", "label": true}', 'row 1: the label true is neither text'),
    ('{"text": "a", "label": ["x"]}', 'row 1: the label ["x"] is neither'),
    ('{"text": "a", "label": 1, "label": 2}', "has the name 'label' twice"),
    ('{"text": "a", "label": 1, " text": "b"}', "has the name ' text' twice"),
    ('{"text": 7, "label": 1}', "row 1: the text '7' is int, not text"),
    ('{"text": "\\ud800", "label": 1}', 'row 1: U+D800 is half of a charact'),
    ('{"text": "a", "label": "\\udc00"}', 'row 1: U+DC00 is half of a char'),
    ('{"text": "\\u200b", "label": 1}', 'row 1: there is no text'),
    ('[' * 100000, 'row 1: is not one JSON object a line'),
    ('{"text": "a", "label": ' + '9' * 5000 + '}', 'row 1: is not one JSON'),
    ('{"text": "%s", "label": 1}' % ('a' * 131073), 'row 1: the text has 131'),
    ('{"text": "a", "label": 1}\n' * 2, "all 2 texts have the label '1'"),
  ],
)  # fmt: skip
def test_bad_lines_of_json_are_one_line(tmp_path, held, message):
  with pytest.raises(DataError, match=re.escape(message)) as refused:
    load_jsonl(write(tmp_path, held))
  assert len(str(refused.value)) < 400


def test_what_is_no_file_or_one_column_twice(tmp_path):
  for path, message in (
    (tmp_path, 'is a directory; name a file of texts'),
    (tmp_path / 'none.csv', 'there is no such file'),
  ):
    for load in (load_csv, load_jsonl):
      with pytest.raises(DataError, match=message):
        load(path)
  path = write(tmp_path, GOOD)
  with pytest.raises(DataError, match='as text and as label') as refused:
    load_csv(path, 'label', ' label')
  assert refused.value.parameter == 'label_column'
  with pytest.raises(DataError, match="no column 'lable'; did") as refused:
    load_csv(path, label_column='lable')
  assert refused.value.parameter == 'label_column'


# Splits and duplicates.


def test_texts_are_divided_as_images_are(tmp_path):
  data = texts_of(
    [(f'text {i}', i % 6) for i in range(12)], 'a/x a/y b/x b/y c/x c/y'
  )
  by_seed = split_by_seed(data, 4, 1, seed=0)
  assert [len(part.names) for part in by_seed] == [3, 1, 2]
  for part in by_seed:
    for text, label in zip(part.texts, part.labels, strict=True):
      assert data.names[int(text[5:]) % 6] == part.names[label]
  groups = split_by_groups(data, ['c'], ['a'], ['b'])
  assert groups.train.texts.tolist() == ['text 4', 'text 5', 'text 10',
                                         'text 11']  # fmt: skip
  assert groups_of(data).tolist() == [0, 0, 1, 1, 2, 2]
  for part, line in (('train', 'a/y'), ('val', 'b/x'), ('test', 'c/y/rot000')):
    write(tmp_path, line, f'{part}.txt')
  by_files = split_by_files(data, tmp_path)
  assert by_files.test.texts.tolist() == ['text 5', 'text 11']
  write(tmp_path, 'c/yy', 'test.txt')
  with pytest.raises(DataError, match=r"class 'c/yy'; the data .* 'c/y'$"):
    split_by_files(data, tmp_path)
  write(tmp_path, 'c/y/rot090', 'test.txt')
  with pytest.raises(DataError, match='only images can be turned by 90'):
    split_by_files(data, tmp_path)


def test_duplicates_are_those_of_a_double_loop():
  rng = np.random.default_rng(0)
  parts = [
    texts_of(
      [(f't{rng.integers(9)} ', rng.integers(2)) for _ in range(9)], 'a b'
    )
    for _ in range(3)
  ]
  rows = [
    (text.strip(), split, label)
    for split, part in enumerate(parts)
    for text, label in zip(part.texts, part.labels, strict=True)
  ]
  classes: dict[str, set] = {}
  for text, split, label in rows:
    classes.setdefault(text, set()).add((split, label))
  assert count_duplicates(parts) == Duplicates(
    len(rows) - len(set(rows)),
    sum(len(found) > 1 for found in classes.values()),
    sum(len({split for split, _ in found}) > 1 for found in classes.values()),
  )


# Data sets.


def clinc(folder: Path, **changes: object) -> Path:
  parts = {
    'train': [['pay it', 'pay'], ['go home', 'trip']],
    'val': [['pay now', 'pay']], 'test': [['go now', 'trip']],
    'oos_train': [['how', 'oos']], 'oos_val': [['what', 'oos']],
    'oos_test': [['why', 'oos']],
  }  # fmt: skip
  domains = changes.pop('domains', {'bank': ['pay'], 'travel': ['trip']})
  write(folder, json.dumps(parts | changes), 'data_full.json')
  write(folder, json.dumps(domains), 'domains.json')
  return folder


def test_classes_of_clinc150_are_named_by_domain(tmp_path):
  texts, apart = load_clinc150(clinc(tmp_path))
  assert texts.names == ('bank/pay', 'travel/trip')
  assert [part.tolist() for part in apart] == [['how'], ['what'], ['why']]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'val': [['a', 'flee']]}, "row 1 of 'val': intent 'flee' is in no dom"),
    ({'val': [['a']]}, "row 1 of 'val': is no pair of a text and an intent"),
    ({'val': [['a', 3]]}, "row 1 of 'val': is no pair"),
    *(
      ({part: []}, f"data_full.json, '{part}': there is no row of text")
      for part in ('train', 'val', 'test', 'oos_train', 'oos_val', 'oos_test')
    ),
    ({'oos_test': 3}, "there is no list 'oos_test' of texts"),
    ({'oos_test': [[' ', 'oos']]}, 'row 1: there is no text'),
    ({'domains': []}, 'domains.json: is no JSON object of domains'),
    ({'domains': {'a': 'pay'}}, "domain 'a' is no list of intents"),
    ({'domains': {'a': ['pay', 'trip'], 'b': ['pay']}}, "'pay' is in two"),
    ({'domains': {'a': ['pay', 'trip', 'z']}}, "intent 'z' has no text in"),
  ],
)
def test_bad_files_of_clinc150_are_one_line(tmp_path, changes, message):
  with pytest.raises(DataError, match=re.escape(message)):
    load_clinc150(clinc(tmp_path, **changes))


def test_folders_that_lack_files(tmp_path):
  for load in (load_clinc150, load_banking77):
    with pytest.raises(DataError, match='there is no such folder'):
      load(tmp_path / 'none')
    with pytest.raises(DataError, match='there is no such file'):
      load(tmp_path)


@pytest.mark.parametrize('empty', ['train.csv', 'test.csv'])
def test_an_empty_file_of_banking77_is_refused(tmp_path, empty):
  for name in ('train.csv', 'test.csv'):
    rows = '' if name == empty else 'pay it,pay\ngo home,trip\n'
    write(tmp_path, f'text,category\n{rows}', name)
  with pytest.raises(DataError, match=rf'{empty}: there is no row of text'):
    load_banking77(tmp_path)


def test_the_real_data_sets(shared_data):
  folder = shared_data / 'banking77'
  if not folder.is_dir():
    pytest.skip(f'{folder} is not here')
  data = load_banking77(folder)
  assert (len(data.texts), len(data.names)) == (13083, 77)
  assert count_duplicates([data]) == Duplicates(12, 0, 0)
  folder = shared_data / 'clinc150'
  texts, apart = load_clinc150(folder)
  assert (len(texts.texts), len(texts.names)) == (22500, 150)
  assert np.bincount(texts.labels).tolist() == [150] * 150
  assert list(map(len, apart)) == [100, 100, 1000]
