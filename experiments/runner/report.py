"""What an experiment says at its end: a table, and `result.json`."""

import importlib.metadata
import platform
from typing import Any

import jax
import rich.console
import rich.table

from experiments.runner.problem import Problem, Trained
from metajax.base import PyTree
from metajax.runs.evaluation import Evaluation


def result(
  problem: Problem,
  settings: dict[str, Any],
  trained: Trained,
  meta_params: PyTree,
  evaluation: Evaluation,
  baseline: dict[str, float],
) -> dict[str, Any]:
  """Collects what `result.json` holds; shares are in [0, 1]."""
  metric = problem.metric
  mean = [float(value) for value in evaluation.mean[metric]]
  ci95 = [float(value) for value in evaluation.ci95[metric]]
  return {
    'algorithm': settings['algorithm'],
    'dataset': problem.protocol['dataset'],
    'protocol': problem.protocol,
    'steps': trained.step,
    'skipped_steps': trained.skipped,
    'test': {
      f'{metric}_before': mean[0],
      metric: mean[-1],
      'ci95': ci95[-1],
      f'{metric}_by_step': mean,
      'ci95_by_step': ci95,
    },
    'baseline': baseline,
    'tasks_per_second': trained.tasks_per_second,
    'seconds_to_first_step': trained.seconds_to_first_step,
    'training_seconds': trained.training_seconds,
    'parameters': sum(leaf.size for leaf in jax.tree.leaves(meta_params)),
    'config': settings,
    'devices': [device.device_kind for device in _devices(problem)],
    'versions': versions(),
  }


def _devices(problem: Problem) -> list[jax.Device]:
  """Those that train and test: their number decides how results round."""
  if problem.mesh is None:
    return [jax.devices()[0]]
  return list(problem.mesh.devices.flat)


def versions() -> dict[str, str]:
  """Of Python, of the machine's backend, and of what computes."""
  packages = ('metajax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint')
  found = {
    'python': platform.python_version(),
    'backend': jax.default_backend(),
  }
  for package in packages:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = 'not installed'
  return found


def show(problem: Problem, outcome: dict[str, Any]) -> None:
  """Prints the result with the protocol under it."""
  metric, test = problem.metric, outcome['test']
  table = rich.table.Table(
    title=f'{outcome["algorithm"]} on {outcome["dataset"]}, held-out tasks'
  )
  table.add_column('inner steps', justify='right')
  percent = metric == 'accuracy'
  table.add_column('accuracy %' if percent else metric, justify='right')
  table.add_column('95% interval', justify='right')
  scale = 100 if percent else 1
  digits = 1 if percent else 3
  for step, (mean, half) in enumerate(
    zip(test[f'{metric}_by_step'], test['ci95_by_step'], strict=True)
  ):
    if _is_shown(step, len(test[f'{metric}_by_step'])):
      table.add_row(
        'before' if step == 0 else str(step),
        f'{scale * mean:.{digits}f}',
        f'\N{PLUS-MINUS SIGN} {scale * half:.{digits}f}',
      )
  table.add_section()
  for name, value in outcome['baseline'].items():
    if value is not None and not name.endswith('ci95'):
      label = f'{name.removesuffix(f"_{metric}")} baseline'
      table.add_row(label, f'{scale * value:.{digits}f}', '')
  console = rich.console.Console()
  console.print(table)
  console.print(
    describe(outcome['protocol']), markup=False, highlight=False, soft_wrap=True
  )


def _is_shown(step: int, length: int) -> bool:
  """All of a short list; of a long one the first ten and every tenth."""
  return length <= 21 or step <= 10 or step % 10 == 0 or step == length - 1


def describe(protocol: dict[str, Any]) -> str:
  """The protocol in one line."""
  return '; '.join(
    f'{name.replace("_", " ")} {value}' for name, value in protocol.items()
  )
