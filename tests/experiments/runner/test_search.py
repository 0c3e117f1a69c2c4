"""What a search may say, and at which column it is wrong."""

import pytest

from experiments import images, sinusoid
from experiments.runner.errors import UsageError
from experiments.runner.flagfile import flagfile
from experiments.runner.search import Searched, as_settings, parse


def parsed(text, **given):
  return parse(text, images.Settings, images.Settings(**given))


def test_ranges_and_choices_are_of_the_kind_of_their_setting():
  found = {each.name: each for each in parsed(
    'inner_lr = log:0.01:1, inner_steps=1:5,algorithm=maml|leo,width=8|16'
  )}  # fmt: skip
  assert found['inner_lr'] == Searched('inner_lr', 0.01, 1.0, log=True)
  assert found['inner_steps'] == Searched('inner_steps', 1, 5)
  assert found['algorithm'].choices == ('maml', 'leo')
  assert found['width'].choices == (8, 16)
  assert [
    found[name].is_continuous for name in ('inner_lr', 'inner_steps')
  ] == [
    True,
    False,
  ]


def test_options_of_a_method_are_searched_where_it_has_them():
  (found,) = parsed('code_size=16:64', algorithm='leo')
  assert found == Searched('code_size', 16, 64)
  settings = as_settings(
    images.Settings(algorithm='leo', set='kl_weight=0.1'), {'code_size': 16}
  )
  assert settings.set == 'kl_weight=0.1,code_size=16'
  with pytest.raises(UsageError, match="column 1, 'code_size': there is no su"):
    parsed('code_size=16:64,algorithm=leo|maml')


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('inner_lr', "at column 1, 'inner_lr': must be NAME=RANGE"),
    ('inner_lr=log:1:2,', "at column 18, ''"),
    ('inner_lr=lgo:0.01:1', "at column 10, 'lgo:0.01:1': must be log:LOW:HIGH"),
    ('inner_lr=0.1', "at column 10, '0.1': must be log:LOW:HIGH"),
    ('inner_lr=log:0:1', "at column 14, '0': a logarithmic range is above 0"),
    (
      'outer_lr=0.1:1, inner_lr=1:0.5',
      "26, '1:0.5': the range is empty",
    ),
    ('inner_lr=1:1', 'the range is empty'),
    ('inner_lr=a:1', "at column 10, 'a': must be a finite number"),
    ('inner_steps=1.5:3', "at column 13, '1.5': must be a whole number"),
    (
      'iner_lr=0.1:1',
      "'iner_lr': there is no such setting; did you mean in",
    ),
    ('eval_tasks=2:9', 'is a setting of the test, and a search is of settings'),
    ('steps=2:9', 'is the same for all trials; give it as a flag'),
    ('min_ways=2:4', 'is the same for all trials; give it as a flag'),
    ('evaluation=support|transductive', 'is the same for all trials'),
    ('checkpoint_every=2:9', 'has no meaning for a sweep'),
    ('rotate=true|maybe', "column 13, 'maybe': must be true or false"),
    ('algorithm=maml|mamll', "column 16, 'mamll': .*did you mean maml"),
    ('width=8|8', 'names a choice twice'),
    ('width=8:16,width=16:32', "at column 12, 'width': is searched twice"),
  ],
)
def test_what_is_wrong_is_said_with_its_column(text, message):
  with pytest.raises(UsageError, match=message):
    parsed(text)


def test_what_is_true_or_false_is_searched():
  (found,) = parsed('rotate=true|false')
  assert found.choices == (True, False)
  assert as_settings(images.Settings(), {'rotate': True}).rotate is True


def test_what_is_searched_is_not_given_too():
  with pytest.raises(UsageError, match='given by --inner_lr; leave one'):
    parsed('inner_lr=0.1:1', inner_lr=0.2)


def test_the_best_settings_are_a_file_of_flags():
  given = sinusoid.Settings(steps=50, shard=('a=b', 'c'))
  text = flagfile(given, {'inner_lr': 0.25, 'algorithm': 'meta_sgd'})
  assert text.splitlines() == [
    '--algorithm=meta_sgd', '--inner_lr=0.25', '--shard=a=b', '--shard=c',
    '--steps=50',
  ]  # fmt: skip
