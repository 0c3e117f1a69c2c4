"""What of a run is kept for use: its learner, by which it predicts.

A workdir has `learner.json`, which says what inputs are and how the network is
made, and `learner/`, the meta-parameters. Neither data nor checkpoints are
needed for it.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.runner.calibrating import (
  calibrated,
  normalisation_of,
  shares_statistics,
)
from experiments.runner.errors import UsageError
from experiments.runner.judging import make_judge, unwrapped, weights_of
from experiments.runner.problem import Judge, Problem, no_tasks
from experiments.runner.reading import Network
from experiments.runner.records import (
  RECORD,
  Missing,
  check_record,
  read_record,
)
from experiments.runner.teacher import settings_in
from experiments.runner.teacher_digest import teacher_digest
from experiments.runner.weights_digest import check_same_weights
from experiments.runner.workdir import as_json, write_json
from metajax.base import Batch, PyTree, values_and_weights
from metajax.metric import ACCURACY
from metajax.runs.checkpoint import Checkpointer, CheckpointError
from metajax.trained import (
  Compiled,
  LearnerError,
  TrainedLearner,
  build,
)
from metajax.trained.loading import LEARNER
from metajax.trained.portable import digest_of

__all__ = ['Served', 'keep', 'restore', 'served']

_FORMAT = 1
_FOLDER = 'learner'


class Served(NamedTuple):
  """A method as it answers whoever uses it: each query by itself."""

  judge: Judge
  prepared: PyTree  # meta-parameters as the judge wants them, whole
  calibration: dict[str, Any] | None  # of classes


def served(
  problem: Problem, meta_params: PyTree, whole: Callable[[PyTree], PyTree]
) -> Served:
  """Prepares what was trained for use, and measures how sure it is.

  Args:
    problem: that was trained, with a `reading`.
    meta_params: as they are trained.
    whole: gathers what lies in pieces.
  """
  problem = problem._replace(around=None)
  judge = make_judge(problem)
  if judge.normalisation == 'transductive' and shares_statistics(problem):
    judge = judge._replace(normalisation='support')
  prepared = judge.prepare(unwrapped(meta_params))
  calibration = None
  if not problem.reading or not problem.reading.outputs:
    calibration = calibrated(problem, judge, prepared)
  return Served(judge, whole(prepared), calibration)


def keep(
  problem: Problem, used: Served, outcome: Mapping[str, Any], workdir: Path
) -> None:
  """Writes the learner of a run; `learner.json` is there when all is.

  Args:
    problem: that was trained, with a `reading`.
    used: what is served.
    outcome: what `result.json` holds.
    workdir: of the run.
  """
  reading = problem.reading
  assert reading is not None  # or nobody calls this
  support = jax.eval_shape(problem.test, jax.random.key(0)).support
  if reading.inputs['kind'] == 'texts':  # tasks may be of their features
    shape = len(support.targets), reading.inputs['length']
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
    support = support._replace(inputs=tokens)
  classes, _ = values_and_weights(support.targets)
  shapes = support._replace(targets=classes)._asdict()
  sureness = outcome.get('calibration', {})
  (workdir / LEARNER).unlink(missing_ok=True)
  shutil.rmtree(workdir / _FOLDER, ignore_errors=True)
  with Checkpointer(workdir / _FOLDER) as checkpointer:
    checkpointer.save(outcome['steps'], used.prepared)
  record = as_json(
    {
      'format': _FORMAT,
      'experiment': reading.experiment,
      'method': outcome['algorithm'],
      'inputs': reading.inputs,
      'outputs': reading.outputs or {'classes': problem.recipe.ways},
      'network': reading.network,
      'train_classes': problem.recipe.train_classes,
      'support': {
        name: {'shape': list(each.shape), 'dtype': each.dtype.name}
        for name, each in shapes.items()
      },
      'normalisation': normalisation_of(problem, used.judge),
      'temperature': sureness.get('temperature', 1.0),
      'calibrated': sureness.get('validation_tasks', 0) > 0,
      'random': problem.algorithm.adapts_at_random,
      'protocol': outcome['protocol'],
      'test': _test_of(outcome, problem.metric.name),
      'served': {name: sureness[name] for name in _SERVED if name in sureness},
      'versions': outcome['versions'],
      # Those of this test: a resume may have others than `config.json`.
      'settings': outcome['config'],
      'learned': teacher_digest(outcome['steps'], used.prepared),
    }
  )
  write_json(workdir / LEARNER, {**record, 'digest': digest_of(record)})


def _test_of(outcome: Mapping[str, Any], metric: str) -> dict[str, Any]:
  """How what is kept was tested: of several seeds, the first that has ended."""
  for each in outcome.get('seeds', ()):
    if 'gave_up_at_step' not in each:
      return {name: each[name] for name in (metric, 'ci95', 'seed')}
  return {name: outcome['test'][name] for name in (metric, 'ci95')}


def restore(
  experiment: Any,
  workdir: Path,
  normalisation: str | None = None,
  model_dir: str | Path | None = None,
) -> TrainedLearner:
  """Reads the learner of a run.

  Args:
    experiment: `Experiment` that the run is of.
    workdir: of the run.
    normalisation: what a query shares batch statistics with; by default that
      by which one alone gets the same answer as among others.
    model_dir: where the pretrained transformer is now that it stands on.

  Raises:
    LearnerError: if it is damaged, or does not fit.
  """
  try:
    record = _record(workdir)
    path = workdir / LEARNER
    before = record.get('settings') or read_record(workdir / RECORD, 'run')
    given = settings_in(
      before, path, experiment.settings, experiment.recipe, 'run'
    )
    if model_dir is not None:
      if not getattr(given, 'model_dir', None):
        raise LearnerError(
          f'the run in {workdir} stands on no pretrained transformer; leave'
          ' model_dir out'
        )
      given = given.replace(model_dir=str(model_dir))
    recipe = experiment.recipe(given)
    network = experiment.network(
      given,
      recipe._replace(train_classes=record['train_classes']),
      record['network'],
    )
    check_same_weights(given, before, network.digests, f'the run in {workdir}')
  except UsageError as error:
    named = '' if error.setting == 'run' else f'--{error.setting}: '
    raise LearnerError(f'{named}{error.message}') from error
  problem = _problem_of(experiment, given, network)
  judge, chosen = _judge_of(problem, record, normalisation)
  support = Batch(*(_shape(record['support'][x]) for x in Batch._fields))
  prepared = _restored(problem, workdir, record, support)
  if record['normalisation'] == 'population' and chosen != 'population':
    prepared, _ = prepared

  def programs(judge: Judge) -> Compiled:
    return Compiled(
      build(judge.learner, prepared, support, judge.normalisation)
    )

  def for_classes(ways: int) -> Compiled:
    other = problem._replace(recipe=problem.recipe._replace(ways=ways))
    return _checked(programs(_judge_of(other, record, normalisation)[0]), ways)

  manifest = {
    name: record[name]
    for name in (
      'method', 'inputs', 'outputs', 'random', 'protocol', 'test', 'versions'
    )
  }  # fmt: skip
  return TrainedLearner(
    {**manifest, 'normalisation': chosen, **_as_served(record, chosen)},
    programs(judge),
    network.tokenize,
    for_classes if 'classes' in record['outputs'] else None,
    network.files,
  )


def _as_served(record: Mapping[str, Any], chosen: str) -> dict[str, Any]:
  """What was fitted and measured, if it was for this normalisation."""
  if chosen != record['normalisation']:
    return {'temperature': 1.0, 'calibrated': False, 'served': {}}
  return {
    'temperature': record['temperature'],
    'calibrated': record.get('calibrated', True),
    'served': record.get('served', {}),
  }


def _record(workdir: Path) -> dict[str, Any]:
  path = workdir / LEARNER
  record = read_record(path, 'run')
  check_record(record, {'format': (int,)}, path, 'run')
  if record['format'] > _FORMAT:
    raise UsageError(
      'run',
      f'{path} is of format {record["format"]}, and this version reads up to'
      f' {_FORMAT}; take a newer one',
    )
  check_record(record, _ENTRIES, path, 'run')
  if record.get('digest') not in (None, digest_of(record)):
    raise UsageError('run', f'{path} is not as it was written; {_AGAIN}')
  return record


_AGAIN = (
  'bring it back, or --resume, with the flags of the run, tests it again and'
  ' keeps another'
)
# How good it is as it is served, where that was measured.
_SERVED = 'accuracy', 'ci95', 'normalisation'
_SHAPE = {'shape': (list,), 'dtype': (str,)}
_ENTRIES = {
  'method': (str,), 'inputs.kind': (str,), 'outputs': (dict,),
  'network': (dict,), 'train_classes': (int, type(None)),
  'normalisation': (str,), 'temperature': (float,), 'random': (bool,),
  'protocol': (dict,), 'test': (dict,), 'versions': (dict,),
  # Older ones have none, and the settings of `config.json`.
  'settings': (dict, Missing), 'calibrated': (bool, Missing),
  'served': (dict, Missing),
  'learned': (str, Missing), 'digest': (str, Missing),
  **{f'support.{part}.{name}': kinds for part in Batch._fields
     for name, kinds in _SHAPE.items()},
}  # fmt: skip


def _shape(entry: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(tuple(entry['shape']), jnp.dtype(entry['dtype']))


def _problem_of(experiment: Any, given: Any, network: Network) -> Problem:
  """A problem without tasks."""
  return Problem(
    name='',
    settings=given,
    recipe=network.recipe,
    objective=experiment.objective,
    model=network.model,
    train=no_tasks,
    validation=no_tasks,
    test=no_tasks,
    metric=ACCURACY,
    protocol={},
    baseline=no_tasks,
    draw=no_tasks,
  )


_NORMALISATIONS = ('support', 'population', 'transductive')


def _judge_of(
  problem: Problem, record: Mapping[str, Any], wanted: str | None
) -> tuple[Judge, str]:
  """The method as it is served, and what queries share statistics with."""
  kept = record['normalisation']
  if wanted is not None and wanted not in _NORMALISATIONS:
    raise LearnerError(
      f'normalisation is one of {", ".join(_NORMALISATIONS)}, got {wanted!r}'
    )
  if kept == 'none':  # there is nothing to share
    wanted = None
  if wanted == 'population' != kept:
    raise LearnerError(
      'normalisation=population wants statistics of training, which the run'
      ' has not kept; train it with --evaluation=population'
    )
  chosen = wanted or kept
  recipe = problem.recipe._replace(
    evaluation='population' if chosen == 'population' else 'transductive'
  )
  judge = make_judge(problem._replace(recipe=recipe))
  if chosen == 'support':
    judge = judge._replace(normalisation='support')
  return judge, chosen


def _restored(
  problem: Problem,
  workdir: Path,
  record: Mapping[str, Any],
  support: Batch,
) -> PyTree:
  """Meta-parameters of the run, with statistics of a population if it has."""
  inputs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), support.inputs)
  learner = problem.meta_learner()

  def initial(key: jax.Array) -> PyTree:
    params = learner.init(key, inputs)
    if record['normalisation'] != 'population':
      return params
    measure = problem.model.measure
    assert measure is not None
    return params, measure(weights_of(problem, params), inputs)

  template = jax.eval_shape(initial, jax.random.key(0))
  folder = workdir / _FOLDER
  try:
    with Checkpointer(folder) as checkpointer:
      found = checkpointer.restore(template)
  except CheckpointError as error:
    raise LearnerError(f'{folder}: {error}') from error
  wanted = record.get('learned')
  if wanted not in (None, teacher_digest(found.step, found.state)):
    raise LearnerError(
      f'{folder} is not what {workdir / LEARNER} was written with; {_AGAIN}'
    )
  return found.state


def _checked(programs: Compiled, ways: int) -> Compiled:
  """Refuses another number of classes than a network has outputs for."""
  outputs = programs.num_outputs()
  if outputs != ways:
    raise LearnerError(
      f'the examples are of {ways} classes, and this learner tells {outputs}'
      ' apart at most; give fewer, or train it with more --ways'
    )
  return programs
