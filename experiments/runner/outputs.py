"""Where what a run measures goes: into files, and onto the terminal."""

from pathlib import Path

from experiments.runner.errors import UsageError
from experiments.runner.problem import Problem
from metajax.devices.distributed import is_primary
from metajax.runs.terminal import Terminal
from metajax.runs.writers import JsonLines, TensorBoard, Writers

__all__ = ['make_terminal', 'make_writers']


def make_terminal(problem: Problem, start: int) -> Terminal | None:
  """What shows the run, where this process is the one that does."""
  if not is_primary():
    return None
  return Terminal(
    problem.recipe.steps,
    tasks_per_step=problem.recipe.tasks_per_step * problem.settings.seeds,
    start_step=start,
    show=[*dict.fromkeys(['loss', 'accuracy', 'mse', problem.metric.name])],
  )


def make_writers(
  problem: Problem, workdir: Path, terminal: Terminal | None, start: int
) -> Writers:
  """Where metrics go, in a workdir and on the terminal, from a step on.

  Raises:
    UsageError: if what the workdir holds cannot go on.
  """
  if terminal is None:
    return Writers()
  try:
    lines = JsonLines(workdir / 'metrics.jsonl', resume_at=start)
  except ValueError as error:
    raise UsageError('workdir', str(error)) from error
  return Writers(
    lines,
    TensorBoard(workdir / 'tensorboard', resume_at=start),
    terminal,
    *problem.writers,
  )
