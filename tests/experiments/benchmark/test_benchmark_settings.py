"""What the benchmarks are told, and what they make of it."""

import re

import pytest

from experiments.benchmark import inner_memory
from experiments.benchmark.__main__ import Settings
from experiments.runner.errors import UsageError


def names(rows):
  return [row.name for row in rows]


def test_the_quick_suite_has_no_curves_and_every_peer():
  usual = Settings()
  assert names(usual.chosen_workloads)[0] == 'sinusoid'
  assert names(usual.implementations)[:2] == ['metajax', 'plain JAX']
  assert len(usual.implementations) > 2
  assert usual.chosen_curves == []
  assert usual.chosen_methods == []


def test_what_is_named_is_what_is_measured():
  chosen = Settings(
    workloads=('resnet12',),
    peers=('native',),
    curves=('memory', 'tasks'),
    methods=('protonet',),
  )
  assert names(chosen.chosen_workloads) == ['resnet12']
  assert names(chosen.implementations) == ['metajax', 'plain JAX', 'native']
  assert chosen.chosen_curves == ['tasks', 'memory']
  assert chosen.chosen_methods == ['protonet']


def test_all_and_none_stand_for_many():
  full = Settings(suite='full', peers=('none',), methods=('all',))
  assert full.chosen_curves == ['tasks', 'inner_steps', 'width', 'memory']
  assert names(full.implementations) == ['metajax', 'plain JAX']
  assert 'maml' in full.chosen_methods
  assert 'pixels' not in full.chosen_methods  # nothing of it is trained
  assert Settings(suite='full', curves=('none',)).chosen_curves == []


def test_numbers_of_inner_steps_are_numbers():
  assert inner_memory.Settings(steps=(2, '3')).steps == (2, 3)
  assert inner_memory.Settings(steps='2,3').steps == (2, 3)
  for wrong in ('', 'a', '0', '1,,x', (1.5,), (True,), 3):
    with pytest.raises(UsageError, match='whole numbers from 1'):
      inner_memory.Settings(steps=wrong)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--steps='], r'--steps=\[\]: must be whole numbers from 1, with commas'),
    (['--steps=5,x'], r"--steps=\['5', 'x'\]: must be whole numbers"),
    (['--chunks=3'], r'--chunks: is 3, and 8 sequences cannot be cut'),
    (['--checkpoint=nest'], r'--checkpoint=nest: .*; did you mean nested\?'),
    (['--seconds'], r'--seconds: there is no such flag'),
    (['20'], r"'20' is not a flag"),
  ],
)
def test_misuse_of_inner_memory_is_one_line(launcher, flags, message):
  ended = launcher.run('inner_memory', *flags)
  assert (ended.code, ended.stdout) == (2, ''), ended
  assert ended.stderr.count('\n') == 1
  assert re.match(message, ended.stderr), ended.stderr
