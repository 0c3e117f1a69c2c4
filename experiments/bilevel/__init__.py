"""Bilevel problems, a file each, and what solves them."""

from experiments.bilevel.architecture import ARCHITECTURE
from experiments.bilevel.augmentation import AUGMENTATION
from experiments.bilevel.cleaning import CLEANING
from experiments.bilevel.distillation import DISTILLATION
from experiments.bilevel.loss import LOSS
from experiments.bilevel.regularisation import REGULARISATION
from experiments.bilevel.setting import Kind

__all__ = ['PROBLEMS']

PROBLEMS: dict[str, Kind] = {
  'cleaning': CLEANING,
  'regularisation': REGULARISATION,
  'augmentation': AUGMENTATION,
  'architecture': ARCHITECTURE,
  'loss': LOSS,
  'distillation': DISTILLATION,
}
