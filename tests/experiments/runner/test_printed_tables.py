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


def test_a_wide_table_is_in_parts_that_fit_and_no_cell_is_cut(capsys):
  header = ['method', *(f'figure {number}' for number in range(12))]
  lines = [
    [name, *(f'{number}.5 \N{PLUS-MINUS SIGN} 0.1' for number in range(12))]
    for name in ('maml', 'protonet_hallucination')
  ]
  tables.show([header, *lines], title='Omniglot')
  printed = capsys.readouterr().out
  assert max(map(len, printed.splitlines())) <= 80
  for cell in lines[0][1:]:
    assert printed.count(f' {cell} ') == 2
  assert printed.count('protonet_hallucination') == printed.count(' maml ') > 1
  assert printed.count('Omniglot') == 1


def test_a_line_is_wrapped_between_words(capsys):
  words = [f'accuracy_{number}.png' for number in range(20)]
  tables.say(f'runs/x: {" ".join(words)}')
  printed = capsys.readouterr().out
  assert max(map(len, printed.splitlines())) <= 80
  assert printed.split() == ['runs/x:', *words]
