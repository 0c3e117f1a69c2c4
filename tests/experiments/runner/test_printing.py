"""What is printed of names from outside, and of warnings."""

import warnings

import pytest

from experiments.runner import flags, report, runs, tables
from experiments.runner.errors import UsageError, printable, shown, suggestion
from experiments.runner.settings import Base, YesNo, setting, settings

HOSTILE = 'a\x1b]0;owned\x07\x9b31m[red]b[/red] \udcff'
TAMED = r'a\x1b]0;owned\x07\x9b31m[red]b[/red] \udcff'


@settings
class Settings(Base):
  """Of a binary."""

  skip_unreadable: bool = setting(
    False, YesNo(), 'leave them out', of='method', resume=False
  )


def test_a_name_is_printed_as_what_can_be_printed(capsys):
  assert printable(HOSTILE) == TAMED
  assert printable('Größe 数') == 'Größe 数'
  assert str(UsageError('data_dir', HOSTILE)) == f'--data_dir: {TAMED}'
  failed = {}
  with runs.noted(failed, HOSTILE):
    raise runs.FailedError('it failed')
  assert capsys.readouterr().err == f'{TAMED}: it failed\n'


def test_nothing_in_a_table_is_markup_or_speaks_to_the_terminal(
  capsys, monkeypatch
):
  monkeypatch.setenv('COLUMNS', '200')
  tables.show([['run', HOSTILE], [HOSTILE, '[bold]x']], title=HOSTILE)
  printed = capsys.readouterr().out
  assert printed.count(TAMED) == 3
  assert '[bold]x' in printed
  assert (
    tables.markdown([['run', 'x'], [f'|{HOSTILE}', '1']]).splitlines()[-1]
    == rf'| \|{TAMED} | 1 |'
  )
  assert report.describe({'dataset': 'x'}) == 'dataset x'


def test_a_warning_is_a_line(capsys):
  def run():
    warnings.warn('two\n lines\x1b', stacklevel=1)
    return 3

  shown_before = warnings.showwarning
  with warnings.catch_warnings():
    warnings.simplefilter('default')
    assert flags.one_line(Settings, run) == 3
  assert capsys.readouterr().err == 'warning: two lines\\x1b\n'
  assert warnings.showwarning is shown_before


@pytest.mark.parametrize(
  ('message', 'line'),
  [
    ('x; skip_unreadable leaves them out', 'x; --skip_unreadable leaves them'),
    ('skip_unreadable=3: no', '--skip_unreadable=3: no'),
    ("/skip_unreadable/x and 'skip_unreadable'", '/skip_unreadable/x and'),
    ('skip_unreadable.txt is', 'skip_unreadable.txt is'),
    ('other_names stay', 'other_names stay'),
  ],
)
def test_parameters_are_flags_at_the_door(message, line, capsys):
  def run():
    raise UsageError('data_dir', message)

  assert flags.one_line(Settings, run) == 2
  assert capsys.readouterr().err.startswith(f'--data_dir: {line}')


def test_values_are_quoted_in_part():
  assert shown('x\x1b') == r"'x\x1b'"
  assert len(shown(['x'] * 1000)) < 250


@pytest.mark.parametrize(
  ('given', 'meant'),
  [
    ('maml++', 'maml_plus_plus'), ('MAML', 'maml'), ('Meta-SGD', 'meta_sgd'),
    ('protonets', 'protonet'), ('zzz', None),
  ],
)  # fmt: skip
def test_names_that_are_nearly_right_get_a_suggestion(given, meant):
  names = ['maml', 'maml_plus_plus', 'meta_sgd', 'protonet', 'reptile']
  expected = f'; did you mean {meant}?' if meant else ''
  assert suggestion(given, names) == expected
