"""Training, evaluation, checkpoints, and what a run writes."""

__all__ = ['checkpoint', 'evaluation', 'terminal', 'training', 'writers']
