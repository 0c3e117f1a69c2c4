"""CIFAR-FS and FC100: few-shot tasks of the hundred classes of CIFAR-100.

Both use all 600 images of every class, of `cifar100` as tensorflow-datasets
has prepared it. They differ in how classes are divided: CIFAR-FS at random,
by the lists of Bertinetto et al. (2019), Meta-learning with differentiable
closed-form solvers, which are their authors' to give (see `split_by_files`);
FC100 by superclass, so that what is tested is of another kind, after Oreshkin,
Rodriguez, Lacoste (2018), TADAM: task dependent adaptive metric for improved
few-shot learning.
"""

from pathlib import Path

from metajax.tasks.decoding import Progress
from metajax.tasks.labelled import LabelledImages
from metajax.tasks.prepared import load_prepared
from metajax.tasks.splits import Splits, split_by_groups

__all__ = ['FC100', 'load_cifar100', 'load_fc100']

# The superclasses of FC100, 12 / 4 / 4 of 20, with five classes each.
FC100 = {
  'train': (
    'fish',
    'flowers',
    'food_containers',
    'fruit_and_vegetables',
    'household_electrical_devices',
    'household_furniture',
    'large_man-made_outdoor_things',
    'large_natural_outdoor_scenes',
    'reptiles',
    'trees',
    'vehicles_1',
    'vehicles_2',
  ),
  'validation': (
    'large_carnivores',
    'large_omnivores_and_herbivores',
    'non-insect_invertebrates',
    'small_mammals',
  ),
  'test': ('aquatic_mammals', 'insects', 'medium_mammals', 'people'),
}


def load_cifar100(
  data_dir: str | Path, *, progress: Progress | None = None
) -> LabelledImages:
  """Loads the 60,000 images of CIFAR-100, with its hundred classes.

  Args:
    data_dir: a tensorflow-datasets directory that has `cifar100`.
    progress: is told how many images have been read, and of how many.

  Returns:
    Images `[examples, 32, 32, 3]`; classes are named like `aquarium_fish`.

  Raises:
    DataError: as `load_prepared`.
  """
  return load_prepared('cifar100', data_dir, progress=progress)


def load_fc100(
  data_dir: str | Path, *, progress: Progress | None = None
) -> Splits:
  """Loads FC100: CIFAR-100, divided by superclass into 60 / 20 / 20 classes.

  Args:
    data_dir: a tensorflow-datasets directory that has `cifar100`.
    progress: is told how many images have been read, and of how many.

  Returns:
    Three sets; classes are named like `fish/aquarium_fish`.

  Raises:
    DataError: as `load_prepared`, and if a superclass is missing.
  """
  data = load_prepared(
    'cifar100', data_dir, group='coarse_label', progress=progress
  )
  return split_by_groups(data, **FC100)
