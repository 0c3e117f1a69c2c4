"""A run that nobody has made, as its workdir would hold it."""

import copy
import json

NASTY = '<script>alert(1)</script> & "quoted" \'too\''
PIXEL = (
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4'
  '2mP4DwABAQEAG7buVgAAAABJRU5ErkJggg=='
)

OUTCOME = {
  'algorithm': 'maml',
  'dataset': 'made up',
  'protocol': {
    'dataset': 'made up', 'ways': 2, 'shots': 1, 'queries_per_class': 1,
    'evaluation': 'transductive', 'test_tasks': 4, 'test_seed': 1,
  },
  'metric': {
    'name': 'accuracy', 'higher_is_better': True, 'unit': '%', 'label': '',
    'measure': None,
  },
  'steps': 30,
  'skipped_steps': 0,
  'test': {
    'accuracy_before': 0.5, 'accuracy': 0.87654321, 'ci95': 0.012345678,
    'accuracy_by_step': [0.5, 0.8, 0.87654321],
    'ci95_by_step': [0.02, 0.015, 0.012345678],
    'metrics': {
      'accuracy': {'mean': 0.87654321, 'ci95': 0.012345678},
      'nll': {'mean': 0.3, 'ci95': None},
    },
  },
  'baseline': {'pixel_accuracy': 0.4321, 'pixel_ci95': 0.01},
  'tasks_per_second': 321.5,
  'seconds_to_first_step': 2.5,
  'training_seconds': 12.25,
  'parameters': 1234567,
  'config': {'algorithm': 'maml', 'tasks_per_step': 4},
  'devices': ['cpu', 'cpu'],
  'versions': {'python': '3.11', 'jax': '0.10'},
}  # fmt: skip

_EXAMPLE = {'image': PIXEL, 'width': 1, 'height': 1, 'text': ''}
_TASK = {
  'kind': 'classes', 'is_text': False, 'has_names': True, 'which': 'first',
  'number': 0, 'value': 0.5, 'before': 0.0, 'classes_left_out': 0,
  'classes': [
    {
      'label': label, 'name': NASTY, 'support': [_EXAMPLE],
      'support_left_out': 0, 'queries_left_out': 3,
      'queries': [
        {**_EXAMPLE, 'before': 1, 'after': label, 'probability': 0.75}
      ],
    }
    for label in range(2)
  ],
}  # fmt: skip
_TEXT = {'image': '', 'text': NASTY}

DATA = {
  'version': 1,
  'experiment': 'experiments.images',
  'given': {'steps': 30, 'workdir': 'it is', 'rotate': False},
  'values': [0.5, 1.0, 1.0, None],
  'tasks': [
    _TASK,
    {
      **_TASK, 'which': 'worst', 'number': 3, 'value': None, 'is_text': True,
      'classes': [
        {**row, 'support': [_TEXT], 'queries': [
          {**_TEXT, 'before': None, 'after': 0, 'probability': None}]}
        for row in _TASK['classes']
      ],
    },
    {**_TASK, 'which': 'best', 'number': 1, 'value': 1.0},
  ],
  'confusion': {
    'tasks': 4, 'queries': 8, 'wrong': 1, 'pairs': [[NASTY, 'other', 1, 4]],
    'classes': [NASTY, 'other'], 'taken': [[3, 1], [0, 4]],
    'chances': [[4, 4], [4, 4]],
  },
  'calibration': {
    'tasks': 4, 'queries': 8, 'not_finite': 0,
    'bins': [{'low': 0.6, 'high': 2 / 3, 'confidence': 0.65, 'accuracy': 0.875,
              'queries': 8}],
    'expected_calibration_error': 0.225,
  },
}  # fmt: skip

METRICS = [
  {'step': 10, 'accuracy': 0.5},
  {'step': 20, 'accuracy': 0.6, 'validation/accuracy': 0.55,
   'validation/accuracy_ci95': 0.05},
  {'step': 30, 'accuracy': 0.7, 'validation/accuracy': 0.65,
   'validation/accuracy_ci95': 0.05},
]  # fmt: skip


def workdir(folder, outcome=OUTCOME, data=DATA, metrics=METRICS):
  """Writes what the workdir of a run holds; None leaves a file out."""
  folder.mkdir(parents=True, exist_ok=True)
  config = {**outcome['config'], 'seed': 0, 'note': NASTY}
  (folder / 'config.json').write_text(json.dumps(config))
  (folder / 'result.json').write_text(json.dumps(outcome))
  if data is not None:
    (folder / 'report.json').write_text(json.dumps(data))
  if metrics is not None:
    lines = [json.dumps(each) + '\n' for each in metrics]
    (folder / 'metrics.jsonl').write_text(''.join(lines))
  return folder


def changed(record, **entries):
  """A copy of a record with other values, `a__b` for those within."""
  record = copy.deepcopy(record)
  for names, value in entries.items():
    *path, last = names.split('__')
    at = record
    for name in path:
      at = at[name]
    at[last] = value
  return record
