"""Pictures of tables: a method beside its rivals."""

from experiments.figures.tables import beside_rivals
from metajax.metric import AREA_UNDER_CURVE


def test_what_is_not_known_of_a_rival_is_left_out(tmp_path):
  unknown = {'mean': None, 'ci95': None}
  known = {'mean': 0.5, 'ci95': 0.1, 'difference': 0.1, 'difference_ci95': None}
  found = {
    'metrics': [AREA_UNDER_CURVE._replace(measure=None)._asdict()],
    'rows': [
      {'name': 'maml', 'auc': {'mean': 0.6, 'ci95': 0.1}},
      {'name': 'of one class', 'auc': unknown | {'difference': None}},
      {'name': 'linear', 'auc': known},
    ],
  }
  figure = beside_rivals(tmp_path / 'rivals.png', found, 'made up')
  assert (tmp_path / 'rivals.png').stat().st_size > 1000
  values, differences = figure.axes
  assert len(values.containers) == 2
  assert len(differences.containers) == 1
  names = [label.get_text() for label in values.get_yticklabels()]
  assert names == ['maml', 'of one class', 'linear']
