"""What `--help` shows of every binary, and for people to read."""

import importlib
import re

import pytest

from experiments import learned_optimizer, self_destruct, sweep
from experiments.runner import help as helping
from experiments.runner.settings import (
  OneOf,
  Whole,
  YesNo,
  said,
  setting,
  settings,
)

BINARIES = (
  'images', 'text', 'sinusoid', 'tables', 'completion', 'multimodal', 'control',
  'hypergradients', 'incremental', 'self_destruct', 'compare', 'by_shots',
  'methods', 'predict', 'export', 'sweep', 'benchmark', 'weak_scaling',
  'overheads', 'inner_memory', 'car', 'learned_optimizer', 'continual',
  'combine',
)  # fmt: skip
# What is refused, and not shown.
HIDDEN = {
  'self_destruct': {*self_destruct._UNUSED, 'adapt'},
  'sweep': set(sweep._UNUSED),
  'learned_optimizer': set(learned_optimizer._UNUSED),
}
GROUPS = ['Of this experiment', *helping._PARTS.values(), 'Help']


def settings_of(name):
  """The class of settings of a binary."""
  if name == 'sweep':
    return sweep.settings_of('images')
  if name in ('weak_scaling', 'overheads', 'inner_memory'):
    name = f'benchmark.{name}'
  elif name == 'benchmark':
    name = 'benchmark.__main__'
  return importlib.import_module(f'experiments.{name}').Settings


@pytest.mark.parametrize(
  'name',
  [
    each
    if each in ('images', 'self_destruct', 'compare')
    else pytest.param(each, marks=pytest.mark.in_ci)
    for each in BINARIES
  ],
)
def test_help_has_every_flag_once_in_its_group_within_80_columns(
  name, launcher
):
  ended = launcher.run(name, '--help')
  assert (ended.code, ended.stderr) == (0, '')
  lines = ended.stdout.splitlines()
  assert max(map(len, lines)) <= 80
  assert '2147483647' not in ended.stdout
  flags = re.findall(r'^  --(?:\[no\])?(\w+):', ended.stdout, re.MULTILINE)
  wanted = {*said(settings_of(name))} - HIDDEN.get(name, set())
  assert sorted(flags) == sorted({*wanted, 'help', 'helpfull'})
  headings = [line for line in lines if line in GROUPS]
  assert headings == [each for each in GROUPS if each in headings]
  assert headings[-1] == 'Help'


@settings
class Few:
  """Settings to describe."""

  method: str = setting(
    'conv4', OneOf(['conv4', *(f'n{i}' * 4 for i in range(20))]),
    'what adapts', of='method', resume=False,
  )  # fmt: skip
  number: int = setting(
    3, Whole(), 'how many there are of what is so long to say that a line ends',
    of='tasks', resume=False,
  )  # fmt: skip
  fast: bool = setting(False, YesNo(), 'fast', of='machine', resume=True)


def test_help_breaks_no_word_and_leaves_out_what_is_hidden():
  text = helping.described(Few, hidden=('fast',))
  assert 'fast' not in text
  assert '[default: 3]' in text  # in one line
  words = re.findall(r'\w+', text)
  assert {f'n{i}' * 4 for i in range(20)} <= set(words)
  assert '(a whole number from 1)' in text


@pytest.mark.parametrize(
  ('name', 'wrong'),
  [
    ('control', 'examples per class'),
    ('car', 'examples per class'),
    ('learned_optimizer', 'channels of every'),
    ('learned_optimizer', '(Reptile)'),
    ('learned_optimizer', '--model_dir'),
    ('images', '--model_dir'),
  ],
)
def test_help_does_not_speak_of_other_experiments(name, wrong):
  text = helping.described(settings_of(name), HIDDEN.get(name, set()))
  assert wrong not in ' '.join(text.split())
