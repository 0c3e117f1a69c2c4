"""Training, evaluation, checkpoints, and what a run writes."""

__all__: list[str] = []
