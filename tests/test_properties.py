"""What holds for any input, not only for the ones that someone thought of."""

import contextlib
import json
import tempfile
import unicodedata
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays
from numpy_draws import at

import metajax
from experiments import images, sinusoid
from experiments.runner.errors import UsageError
from experiments.runner.settings import said
from metajax.base import Batch, Task, Weighted
from metajax.objectives import weighted_mean
from metajax.tasks import (
  DataError,
  LabelledImages,
  episode_places,
  load_folder,
  load_npz,
  pad_task,
  rotate_classes,
  split_by_seed,
)
from metajax.tasks.errors import printable
from metajax.tasks.folder import LISTS
from metajax.tasks.names import normal_file_name, normal_name
from metajax.tasks.splits import split_sizes

# The same examples every time, so that a failure is one of the change; and as
# many seconds as they need.
settings.register_profile(
  'metajax', derandomize=True, deadline=None, database=None, max_examples=50
)
settings.load_profile('metajax')

SEEDS = some.integers(0, 2**31 - 1)
NUMBERS = some.floats(-1e3, 1e3, width=32)
PIXELS = arrays.arrays(
  np.uint8,
  some.tuples(
    some.just(6),
    some.integers(1, 5),
    some.integers(1, 5),
    some.sampled_from([1, 3]),
  ),
)
NAMES = some.lists(
  some.text('abcdefgh\N{GREEK SMALL LETTER BETA}0123456789_-', min_size=1),
  min_size=3,
  max_size=12,
  unique=True,
)


def labelled(names: list[str], seed: int) -> LabelledImages:
  """A few images of every class, in any order; each is told by its pixels."""
  generator = np.random.default_rng(seed)
  labels = generator.permutation(np.repeat(np.arange(len(names)), 2))
  pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None]
  return LabelledImages(pixels, labels.astype(np.int32), tuple(names))


# --- splits ---


@pytest.mark.in_ci
@given(NAMES, SEEDS)
def test_a_split_divides_classes_and_changes_no_image(names, seed):
  train, validation = split_sizes(len(names))
  both = labelled(names, seed)
  splits = split_by_seed(both, train, validation, seed)
  assert sorted(sum((part.names for part in splits), ())) == sorted(names)
  assert all(part.names for part in splits)
  found = {}
  for part in splits:
    for image, label in zip(part.images, part.labels, strict=True):
      found[image.item()] = part.names[label]
  assert found == {
    image.item(): names[label]
    for image, label in zip(both.images, both.labels, strict=True)
  }


@given(NAMES, SEEDS)
def test_a_split_depends_on_names_and_seed_alone(names, seed):
  train, validation = split_sizes(len(names))
  split = [
    split_by_seed(labelled(each, order), train, validation, seed)
    for order, each in enumerate((names, names[::-1]))
  ]
  for one, other in zip(*split, strict=True):
    assert set(one.names) == set(other.names)


@given(some.integers(3, 10**6))
def test_every_split_has_a_class(classes):
  train, validation = split_sizes(classes)
  assert 1 <= validation < train < classes


@given(PIXELS)
def test_four_turns_are_none(pixels):
  pixels = pixels[:, : pixels.shape[2], : pixels.shape[1]]
  data = LabelledImages(pixels, np.arange(6, dtype=np.int32) % 3, tuple('abc'))
  turned = rotate_classes(data)
  assert len(turned.images) == 24
  by_name = {
    (turned.names[label], image.tobytes())
    for image, label in zip(turned.images, turned.labels, strict=True)
  }
  for image, label in zip(data.images, data.labels, strict=True):
    for turns in range(4):
      name = f'{data.names[label]}/rot{90 * turns:03}'
      wanted = {
        (name, np.ascontiguousarray(np.rot90(image, k)).tobytes())
        for k in (turns, -turns)  # either way round
      }
      assert by_name & wanted


@given(some.text())
def test_a_name_has_one_spelling(text):
  name = normal_name(text)
  assert normal_name(name) == name
  for other in (f' {text}\r\n', unicodedata.normalize('NFD', name)):
    assert normal_name(other) == name
  assert printable(name).isprintable() or not name


@given(some.text(), some.text())
def test_a_file_name_has_one_spelling(folder, text):
  name = normal_file_name(text)
  assert normal_file_name(name) == name
  if not name.startswith('/'):  # a directory in front of it would be another
    assert normal_file_name(f'./{name}') == name
  if '..' not in name and not name.startswith('/'):
    inside = normal_file_name(f'a/../{name}')
    assert inside == name


# --- tasks ---


@settings(max_examples=5)
@given(
  some.lists(some.integers(3, 6), min_size=2, max_size=5),
  some.integers(1, 2),
  some.data(),
)
def test_tasks_have_the_classes_and_examples_they_should(counts, shots, data):
  """Of any labels: shots and queries of every class, none of them twice."""
  ways = data.draw(some.integers(2, len(counts)))
  labels = np.random.default_rng(0).permutation(
    np.repeat(np.arange(len(counts)) * 7 - 3, counts)
  )
  sample = episode_places(labels, ways, shots, 1)
  tasks = jax.jit(lambda keys: jax.vmap(sample)(keys))(
    jax.random.split(jax.random.key(data.draw(SEEDS)), 50)
  )
  for number in range(50):
    support, query = at(tasks, number)
    places = np.concatenate([support.inputs, query.inputs])
    assert len(set(places.tolist())) == len(places) == ways * (shots + 1)
    targets = np.concatenate([support.targets, query.targets])
    classes = labels[places]
    assert len({*zip(targets.tolist(), classes.tolist(), strict=True)}) == ways
    assert np.bincount(support.targets).tolist() == [shots] * ways
    assert np.bincount(query.targets).tolist() == [1] * ways


@pytest.mark.in_ci
@settings(max_examples=10)
@given(some.integers(1, 5), some.integers(0, 4), SEEDS)
def test_padding_of_numbers_changes_no_loss(examples, more, seed):
  generator = np.random.default_rng(seed)
  inputs, targets, outputs = generator.normal(size=(3, examples, 2))
  batch = Batch(inputs, targets)
  padded = pad_task(Task(batch, batch), None, examples + more, examples)
  np.testing.assert_array_equal(
    padded.support.targets.values[:examples], targets
  )
  filled = np.concatenate([outputs, np.full((more, 2), 1e9)])
  loss, _ = metajax.mean_squared_error(filled, padded.support.targets)
  expected, _ = metajax.mean_squared_error(outputs, targets)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.in_ci
@settings(max_examples=5)
@given(some.integers(2, 4), some.integers(1, 2), some.integers(0, 3), SEEDS)
def test_padding_of_classes_changes_no_loss(ways, each, more, seed):
  generator = np.random.default_rng(seed)
  targets = generator.permutation(np.repeat(np.arange(ways), each))
  batch = Batch(generator.normal(size=(len(targets), 1)), targets)
  size = len(targets) + more
  padded = pad_task(Task(batch, batch), ways + 1, size, size)
  outputs = generator.normal(size=(size, ways + 1))
  found = metajax.cross_entropy(outputs, padded.query.targets)
  expected = metajax.cross_entropy(outputs[: len(targets)], targets)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected
  )


@pytest.mark.in_ci
@given(
  arrays.arrays(np.float32, some.integers(1, 9), elements=NUMBERS), some.data()
)
def test_a_weighted_mean_is_that_of_numpy(values, data):
  weights = data.draw(
    arrays.arrays(
      np.float32, len(values), elements=some.floats(0, 10, width=32)
    )
  )
  found = weighted_mean(np.where(weights == 0, np.nan, values), weights)
  expected = 0.0
  if weights.astype(np.float64).sum() > 1e-30:
    expected = np.average(
      values.astype(np.float64), weights=weights.astype(np.float64)
    )
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)
  one_by_one = metajax.mean_squared_error(
    values[:, None], Weighted(np.zeros((len(values), 1), np.float32), weights)
  )
  assert np.isfinite(one_by_one[0])


# --- files ---


@given(PIXELS)
def test_image_files_are_read_as_they_were_written(pixels):
  with tempfile.TemporaryDirectory() as folder:
    for number, name in enumerate(LISTS):
      lines = ['filename,label']
      for which in range(2):
        image = pixels[2 * number + which]
        image = image[..., 0] if image.shape[-1] == 1 else image
        PIL.Image.fromarray(image).save(Path(folder, f'{number}{which}.png'))
        lines.append(f'{number}{which}.png,class {number}{which}')
      Path(folder, name).write_text('\n'.join(lines))
    splits = load_folder(folder)
  for number, part in enumerate(splits):
    assert part.names == (f'class {number}0', f'class {number}1')
    expected = pixels[2 * number : 2 * number + 2]
    np.testing.assert_array_equal(
      part.images.reshape(expected.shape), expected[part.labels]
    )


@given(
  some.one_of(
    some.lists(some.integers(-(2**40), 2**40), min_size=4, max_size=9),
    some.lists(
      some.text(some.characters(categories=['L', 'N']), min_size=1, max_size=5),
      min_size=4,
      max_size=9,
    ),
  )
)
def test_labels_of_a_file_stay_what_they_are(labels):
  pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 2, 3), 'u1')
  pixels[0] = 255
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, 'data.npz')
    np.savez(path, images=pixels, labels=np.array(labels))
    try:
      data = load_npz(path)
    except DataError:
      assert len(set(labels)) < 2 or len({*map(ascii, labels)}) != len(labels)
      return
  np.testing.assert_array_equal(data.images.reshape(pixels.shape), pixels)
  assert [data.names[label] for label in data.labels] == [*map(str, labels)]


# --- settings ---


@given(some.data(), some.sampled_from([images, sinusoid]))
def test_a_setting_is_right_or_refused(data, module):
  """By text or by value; and written as JSON it is the same setting."""
  known = said(module.Settings)
  name = data.draw(some.sampled_from(sorted(known)))
  value = data.draw(
    some.one_of(
      some.text(max_size=8), some.integers(), some.floats(), some.booleans(),
      some.none(), some.lists(some.text(max_size=3), max_size=2),
      some.dictionaries(some.text(max_size=2), some.integers(), max_size=1),
    )
  )  # fmt: skip
  if name == 'plugin':  # imports what it is given
    return
  try:
    made = module.Settings(**{name: value})
  except UsageError as error:
    refused = error
  else:
    again = module.Settings(**json.loads(json.dumps(made.given())))
    assert again == made
    return
  assert refused.setting == name


@given(some.text(max_size=12), some.sampled_from(sorted(said(images.Settings))))
def test_a_flag_is_read_or_refused(text, name):
  if name == 'plugin':  # imports what it is given
    return
  with contextlib.suppress(ValueError, UsageError):
    value = said(images.Settings)[name].kind.parse(text)
    made = getattr(images.Settings(**{name: value}), name)
    assert made == value or str(made) == text


@given(some.integers(-10, 2**33))
def test_whole_numbers_have_limits(number):
  if 1 <= number < 2**31:
    assert images.Settings(steps=number).steps == number
  else:
    with pytest.raises(UsageError, match='--steps'):
      images.Settings(steps=number)
