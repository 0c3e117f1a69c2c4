"""Pictures of a run on several modalities: a curve for each kind of task."""

from experiments.figures.finished import draw_curves
from experiments.runner.loop import Finished

__all__ = ['draw_multimodal']


def draw_multimodal(run: Finished) -> None:
  """Draws the curves of all kinds of tasks, and a test task with captions."""
  draw_curves(run)
