"""Training, evaluation, checkpoints, and what a run writes."""
