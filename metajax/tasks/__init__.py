"""Task distributions: functions `sample(key) -> Task` that run inside jit."""

from metajax.tasks.episodes import HostEpisodes, episodes, split_episode
from metajax.tasks.labelled import (
  DataError,
  LabelledImages,
  Splits,
  load_npz,
  rotate_classes,
  split_by_files,
  split_by_seed,
)
from metajax.tasks.sinusoid import sinusoid
from metajax.tasks.strokes import strokes

__all__ = [
  'DataError',
  'HostEpisodes',
  'LabelledImages',
  'Splits',
  'episodes',
  'load_npz',
  'rotate_classes',
  'sinusoid',
  'split_by_files',
  'split_by_seed',
  'split_episode',
  'strokes',
]
