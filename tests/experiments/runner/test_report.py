"""What a result says of a test."""

from types import SimpleNamespace

import jax.numpy as jnp

from experiments.runner import report
from experiments.runner.problem import Trained
from metajax.metric import ACCURACY, MEAN_SQUARED_ERROR
from metajax.runs.evaluation import Evaluation

MEANS = {
  'loss': jnp.array([2.0, 1.0]),
  'accuracy': jnp.array([0.25, 0.75]),
  'mse': jnp.array([4.0, jnp.nan]),
}


def outcome(metric):
  halves = {name: values / 8 for name, values in MEANS.items()}
  problem = SimpleNamespace(
    metric=metric, mesh=None, protocol={'dataset': 'made up'}, which_task=None
  )
  return problem, report.result(
    problem,
    {'algorithm': 'nothing'},
    Trained({}, 0, 0, None, None, 0.0),
    {},
    Evaluation(MEANS, halves, {}),
    {f'zero_{metric.name}': 0.5},
  )


def test_a_result_has_every_metric_that_was_measured():
  test = outcome(ACCURACY)[1]['test']
  assert test['accuracy_by_step'] == [0.25, 0.75]
  assert (test['accuracy_before'], test['accuracy']) == (0.25, 0.75)
  assert test['metrics']['loss'] == {'mean': 1.0, 'ci95': 0.125}
  assert test['metrics']['accuracy'] == {'mean': 0.75, 'ci95': 0.09375}
  assert set(test['metrics']) == set(MEANS)


def test_a_table_is_written_as_its_metric_is(capsys):
  report.show(*outcome(ACCURACY))
  shown = capsys.readouterr().out
  for text in ('accuracy %', '75.0', '\N{PLUS-MINUS SIGN} 9.4', '50.0'):
    assert text in shown
  report.show(*outcome(MEAN_SQUARED_ERROR))
  shown = capsys.readouterr().out
  for text in ('mse', '4.000', '\N{PLUS-MINUS SIGN} 0.500', 'nan', '0.500'):
    assert text in shown


def test_tables_of_a_problem_are_shown_as_they_are(capsys):
  problem, found = outcome(ACCURACY)
  found['tables'] = {'made of cheese': [['moon', 'holes'], ['Io', '[17]']]}
  report.show(problem, found)
  shown = capsys.readouterr().out
  assert all(x in shown for x in ('made of cheese', 'holes', 'Io', '[17]'))


def test_a_table_of_seeds_has_both_intervals_and_every_seed(capsys):
  problem, found = outcome(ACCURACY)
  found['test'] |= {
    'ci95_over_seeds': 0.2, 'ci95_over_seeds_by_step': [0.1, 0.2]
  }  # fmt: skip
  found['seeds'] = [
    {'seed': 3, 'accuracy': 0.7, 'ci95': 0.1},
    {'seed': 4, 'accuracy': None, 'ci95': None, 'gave_up_at_step': 45},
  ]
  report.show(problem, found)
  shown = capsys.readouterr().out
  for text in (
    '95% over tasks', '95% over seeds', '\N{PLUS-MINUS SIGN} 20.0', 'seed 3',
    'gave up', 'at step 45',
  ):  # fmt: skip
    assert text in shown
