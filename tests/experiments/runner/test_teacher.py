"""A run that another one learns from is made again as it was started."""

import json

import pytest

from experiments import sinusoid
from experiments.runner.errors import UsageError
from experiments.runner.teacher import settings_of


def read(workdir, **changes):
  record = sinusoid.Settings(steps=4, width=8).given() | changes
  (workdir / 'config.json').write_text(json.dumps(record))
  return settings_of(
    workdir, sinusoid.Settings, sinusoid.make_recipe, 'teacher'
  )


def test_what_it_began_with_is_no_part_of_it(tmp_path):
  begun = {'load': 'runs/x', 'load_seed': 2, 'load_share': 0.5}
  assert read(tmp_path, **begun) == sinusoid.Settings(steps=4, width=8)


def test_it_is_of_one_seed(tmp_path):
  with pytest.raises(UsageError, match='is of several seeds'):
    read(tmp_path, seeds=2)
