"""Training, evaluation, checkpoints, and what a run writes."""

from metajax.runs import checkpoint, evaluation, terminal, training, writers

__all__ = ['checkpoint', 'evaluation', 'terminal', 'training', 'writers']
