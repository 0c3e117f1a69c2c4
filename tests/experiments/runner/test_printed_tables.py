"""Tables for people and for files."""

from experiments.runner import tables

TABLE = [['method', 'accuracy %'], ['maml', '98.1'], ['pixels', '43.8']]


def test_figures_are_flush_right_in_markdown():
  assert tables.markdown(TABLE) == (
    '| method | accuracy % |\n'
    '| --- | ---: |\n'
    '| maml | 98.1 |\n'
    '| pixels | 43.8 |\n'
  )


def test_a_table_is_printed_with_its_title(capsys):
  tables.show(TABLE, title='Omniglot')
  printed = capsys.readouterr().out
  assert 'Omniglot' in printed
  for cell in (cell for line in TABLE for cell in line):
    assert cell in printed


def test_figures_have_three_digits_and_no_exponent():
  values = 0.0123456, 7.281, 999.4, 999.6, 1284.3
  assert [tables.three_digits(value) for value in values] == [
    '0.0123', '7.28', '999', '1,000', '1,284',
  ]  # fmt: skip


def test_a_wide_table_is_not_cut_in_a_file(capsys):
  cells = [f'{number}' * 30 for number in range(6)]
  tables.show([cells, cells])
  printed = capsys.readouterr().out
  assert all(printed.count(cell) == 2 for cell in cells)
