"""The README keeps its promises."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / 'README.md').read_text()


def _blocks(language: str) -> list[str]:
  return re.findall(rf'```{language}\n(.*?)```', README, re.DOTALL)


def test_example_trains_and_adapts(capsys):
  (example,) = _blocks('python')
  namespace: dict = {}
  exec(example, namespace)
  before, after = namespace['result'].mean['mse']
  assert after < before / 2
  assert capsys.readouterr().out.startswith('[')


def test_test_command_is_what_continuous_integration_runs():
  (command,) = [line for line in _blocks('sh') if 'pytest' in line]
  script = (REPOSITORY / '.ci' / 'run').read_text()
  assert command.strip() in script.splitlines()


@pytest.mark.parametrize('document', ['README.md', 'CONTRIBUTING.md'])
def test_links_and_pictures_exist(document):
  text = (REPOSITORY / document).read_text()
  targets = re.findall(r'\]\(([^)#]+)\)', text)
  local = [target for target in targets if '://' not in target]
  missing = [one for one in local if not (REPOSITORY / one).exists()]
  assert not missing


def test_the_table_of_methods_is_what_the_command_prints():
  from experiments import methods

  text = (REPOSITORY / 'docs' / 'methods.md').read_text()
  _, block, _ = re.split('<!-- (?:end of )?methods -->\n', text)
  _, _, *written = block.splitlines()
  printed = {line[0]: line for line in methods.table()}
  assert len(written) >= 35
  for line in written:
    cells = [cell.strip() for cell in line.strip('|').split('|')]
    assert cells == printed[cells[0]]
