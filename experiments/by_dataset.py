"""Which experiment learns from a data set."""

from types import ModuleType
from typing import NamedTuple

from experiments import images, sinusoid, text
from experiments.data.text import DATASETS as OF_TEXTS
from experiments.recipes import images as on_images
from experiments.recipes import regression as on_waves
from experiments.recipes import text as on_texts
from experiments.runner.common import Common

__all__ = ['Learned', 'learned_from']


class Learned(NamedTuple):
  """An experiment, as others start it."""

  experiment: ModuleType  # with its `Settings`
  recipes: ModuleType  # of its methods

  @property
  def settings(self) -> type[Common]:
    """Its settings."""
    made: type[Common] = self.experiment.Settings
    return made


def learned_from(dataset: str) -> Learned:
  """The experiment that learns from a data set, by the name of this.

  Example:
    >>> learned_from('phrases').experiment.__name__
    'experiments.text'
  """
  if dataset == 'sinusoid':
    return Learned(sinusoid, on_waves)
  if dataset in OF_TEXTS:
    return Learned(text, on_texts)
  return Learned(images, on_images)
