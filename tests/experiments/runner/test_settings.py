"""Settings: typed, checked, immutable, and each says what follows from it."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments import (
  by_shots,
  compare,
  completion,
  continual,
  hypergradients,
  images,
  incremental,
  multimodal,
  self_destruct,
  sinusoid,
  tables,
  text,
)
from experiments.runner import settings as mechanism
from experiments.runner.errors import UsageError
from experiments.runner.settings import Base, Text, Whole, said, setting

BINARIES = [
  hypergradients,
  by_shots, compare, completion, images, incremental, multimodal, self_destruct,
  sinusoid, tables, text, continual,
]  # fmt: skip
every_binary = pytest.mark.parametrize(
  'binary', BINARIES, ids=lambda binary: binary.__name__.rpartition('.')[2]
)


@every_binary
def test_every_setting_says_what_it_is_and_what_follows(binary):
  for name, each in said(binary.Settings).items():
    assert each.of in mechanism.Part.__args__, name
    assert isinstance(each.resume, bool), name
    assert isinstance(each.forwarded, bool), name
    assert each.text, name


def test_a_setting_that_says_nothing_is_refused():
  with pytest.raises(TypeError, match=r'Silent.new must be made by `setting`'):

    @mechanism.settings
    class Silent(Base):
      new: int = 3

  with pytest.raises(TypeError, match="'resume'"):
    setting(3, Whole(), 'text', of='test')
  with pytest.raises(TypeError, match="'of'"):
    setting(3, Whole(), 'text', resume=True)


def test_a_resume_may_change_nothing_that_has_shaped_the_parameters():
  changeable = {
    name for name, each in said(images.Settings).items() if each.resume
  }
  assert changeable == {
    'steps', 'eval_inner_steps', 'eval_tasks', 'evaluation', 'validation_tasks',
    'test_checkpoint', 'log_every', 'checkpoint_every', 'resume', 'workdir',
    'data_dir', 'data_file', 'split_dir', 'cache_dir', 'download', 'track',
    'mesh', 'shard', 'distributed', 'num_processes', 'process_id',
    'track_uri',
    'distributed_timeout', 'heartbeat_seconds', 'stall_seconds', 'profile',
    'dry_run', 'images_on', 'max_image_pixels', 'max_unpacked_mebibytes',
  }  # fmt: skip


def test_a_comparison_hands_on_what_it_has_of_every_run():
  handed_on = {
    name
    for name, each in said(images.Settings).items()
    if each.forwarded and name in said(compare.Settings)
  }
  assert {
    'dataset', 'data_dir', 'ways', 'shots', 'seed', 'eval_tasks', 'width',
    'validation_tasks', 'cache_dir', 'split_seed', 'rotate', 'plugin',
  } <= handed_on  # fmt: skip
  assert not {'workdir', 'methods', 'queries', 'train_ways'} & handed_on


@pytest.mark.parametrize('binary', [images, sinusoid, text])
def test_a_comparison_has_all_that_it_is_to_hand_on(binary):
  forwarded = {
    name for name, each in said(binary.Settings).items() if each.forwarded
  }
  assert forwarded <= set(said(compare.Settings))


@every_binary
def test_settings_come_back_from_json(binary):
  usual = binary.Settings()
  again = binary.Settings(**json.loads(json.dumps(usual.given())))
  assert again == usual
  assert hash(again) == hash(usual)


def test_settings_cannot_be_changed_but_replaced():
  usual = images.Settings(steps=3)
  with pytest.raises(dataclasses.FrozenInstanceError):
    usual.steps = 4
  assert usual.replace(steps=4).steps == 4
  assert usual.steps == 3


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    (
      {'step': 3},
      '--step: there is no such flag, did you mean --steps? --help lists all',
    ),
    ({'frobnicate': 1}, '--frobnicate: there is no such flag; --help lists'),
    ({'steps': '3'}, '--steps=3: must be a whole number from 1'),
    ({'steps': 2.5}, '--steps=2.5: must be a whole number from 1'),
    ({'steps': True}, '--steps=True: must be a whole number from 1'),
    ({'steps': 0}, '--steps=0: must be a whole number from 1'),
    ({'eval_tasks': None}, '--eval_tasks: must be a whole number from 2'),
    ({'inner_lr': '0.1'}, '--inner_lr=0.1: must be a finite number > 0'),
    ({'inner_lr': float('nan')}, '--inner_lr=nan: must be a finite number > 0'),
    ({'inner_lr': -1}, '--inner_lr=-1: must be a finite number > 0'),
    ({'resume': 1}, '--resume=1: must be true or false'),
    ({'workdir': 3}, '--workdir=3: must be a path'),
    ({'dataset': 'mnist'}, '--dataset=mnist: must be one of strokes, omniglot'),
    ({'dataset': 3}, '--dataset=3: must be one of strokes, omniglot'),
    ({'chunk_size': 0}, '--chunk_size=0: must be auto, or a whole number from'),
    ({'plugin': 5}, '--plugin=5: must be a list of texts'),
    ({'plugin': None}, '--plugin: must be a list of texts, got None'),
    ({'set': None}, '--set: must be NAME=VALUE,NAME=VALUE,..., got None'),
    ({'dataset': ['x']}, "--dataset=['x']: must be one of strokes"),
    ({'shard': 7}, '--shard=7: must be a list of texts'),
    ({'set': 'width'}, '--set=width: must be NAME=VALUE,NAME=VALUE,...'),
    (
      {'set': {'shots': '3,queries=4'}},
      "--set={'shots': '3,queries=4'}: names and values have neither , nor =",
    ),
    ({'set': {'a=b': 1}}, "--set={'a=b': 1}: names and values have neither"),
  ],
)
def test_what_is_wrong_is_one_line_as_of_the_flag(given, message):
  with pytest.raises(UsageError) as refused:
    images.Settings(**given)
  assert str(refused.value).startswith(message)
  assert '\n' not in str(refused.value)


def test_an_unknown_method_is_refused_with_those_that_have_a_recipe():
  with pytest.raises(UsageError, match=r'--algorithm=mamal: .*<.*\|maml\|.*>; '
                                       'did you mean maml'):  # fmt: skip
    images.Settings(algorithm='mamal')
  with pytest.raises(UsageError, match=r'--algorithm=protonet: .*<.*\|maml\|'):
    sinusoid.Settings(algorithm='protonet')


@pytest.mark.in_ci
@pytest.mark.parametrize('flag', ['--steps=0', '--step=3', '--dataset=mnist'])
def test_the_flag_and_the_setting_say_the_same(launcher, flag):
  name, _, text = flag.removeprefix('--').partition('=')
  value = int(text) if text.isdigit() else text
  with pytest.raises(UsageError) as refused:
    images.Settings(**{name: value})
  assert launcher.run('images', flag).stderr.rstrip() == str(refused.value)


def test_values_are_kept_as_what_they_mean():
  given = images.Settings(
    inner_lr=1, workdir=Path('somewhere'), shard=['a=task', 'task'],
    set={'eval_inner_batch': 3, 'second_order': 'reverse'},
  )  # fmt: skip
  assert isinstance(given.inner_lr, float)
  assert given.workdir == 'somewhere'
  assert given.shard == ('a=task', 'task')
  assert given.set == 'eval_inner_batch=3,second_order=reverse'


def test_what_shapes_a_result_is_identity_and_where_it_runs_is_not():
  parts = {name: each.of for name, each in said(images.Settings).items()}
  assert parts['inner_lr'] == 'method'
  for name in ('seed', 'shots', 'ways', 'inner_lr', 'eval_tasks', 'network'):
    assert mechanism.is_identity(parts[name]), name
  for name in ('workdir', 'mesh', 'data_dir', 'profile', 'chunk_size'):
    assert not mechanism.is_identity(parts[name]), name


def test_a_text_is_a_text():
  assert Text().check(Path('x')) == 'x'
  with pytest.raises(ValueError, match='must be a text'):
    Text().check(b'x')
