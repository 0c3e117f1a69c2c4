"""Tasks of several modalities: from settings to what a run alternates between.

`MultimodalData` are the settings of what is drawn; `load` makes samplers.
"""

import math
from typing import Any, NamedTuple

from experiments.data.samplers import Wanted, sizes
from experiments.runner.errors import UsageError
from experiments.runner.problem import Tested
from experiments.runner.settings import Base, Listed, setting, settings
from metajax import tasks
from metajax.base import SampleTask
from metajax.runs.mixture import Alternating, alternate

__all__ = ['TASKS', 'Mixed', 'MultimodalData', 'load', 'shares_of']

# What is given, and what is asked for.
TASKS = {
  'texts_to_images': ('texts', 'images'),
  'images_to_texts': ('images', 'texts'),
  'images': ('images', 'images'),
  'texts': ('texts', 'texts'),
}

# Signs that are drawn before training, and examples of each.
_CLASSES = {'train': 2000, 'validation': 300, 'test': 500}
_EACH = 12


@settings
class MultimodalData(Base):
  """What is trained on, and tested."""

  tasks: tuple[str, ...] = setting(
    tuple(TASKS), Listed(),
    'what steps alternate between, NAME or NAME:SHARE of the steps with commas'
    f' between them, of {", ".join(TASKS)}; each is tested, and the first is'
    ' the headline',
    of='tasks', resume=False, forwarded=True,
  )  # fmt: skip


class Mixed(NamedTuple):
  """Samplers of a run."""

  train: Alternating
  tested: dict[str, Tested]  # by name, the headline first
  protocol: dict[str, Any]


def shares_of(given: MultimodalData) -> dict[str, float]:
  """The share of each kind of task.

  Raises:
    UsageError: if one is unknown, there twice, or its share is not positive.
  """
  shares: dict[str, float] = {}
  for text in given.tasks:
    name, colon, share = text.partition(':')
    if name not in TASKS:
      raise UsageError(
        'tasks', f'there is no {name!r}; it is of {", ".join(TASKS)}'
      )
    if name in shares:
      raise UsageError('tasks', f'{name} is there twice; give it one share')
    shares[name] = _positive(text, share) if colon else 1.0
  if not shares:
    raise UsageError('tasks', f'names none; it is of {", ".join(TASKS)}')
  return shares


def _positive(text: str, share: str) -> float:
  try:
    value = float(share)
  except ValueError:
    value = math.nan
  if not 0 < value < math.inf:
    raise UsageError(
      'tasks', f'{text}: a share is a number above 0, such as images:0.5'
    )
  return value


def load(wanted: Wanted) -> Mixed:
  """Makes the samplers that the settings name."""
  shares = shares_of(wanted.settings)
  samplers = {
    split: _samplers(wanted, shares, split, number)
    for split, number in _CLASSES.items()
  }
  mixture = alternate(samplers['train'], shares)
  described = zip(shares, mixture.shares, strict=True)
  counts = '/'.join(map(str, _CLASSES.values()))
  return Mixed(
    mixture,
    {
      name: Tested(samplers['validation'][name], samplers['test'][name])
      for name in shares
    },
    {
      'split': f'{counts} train/validation/test classes',
      'shares': ', '.join(f'{name} {share:.3g}' for name, share in described),
    },
  )


def _samplers(
  wanted: Wanted, shares: dict[str, float], split: str, number: int
) -> dict[str, SampleTask]:
  size = sizes(wanted.recipe, training=split == 'train')
  signs = tasks.described_strokes(split, number, max(_EACH, sum(size[1:])))
  examples = {
    'images': tasks.Examples(signs.images, signs.labels),
    'texts': tasks.Examples(signs.texts, signs.labels),
  }
  return {name: _sampler(examples, size, *TASKS[name]) for name in shares}


def _sampler(
  examples: dict[str, tasks.Examples],
  size: tuple[int, int, int],
  support: str,
  query: str,
) -> SampleTask:
  try:
    made: SampleTask = tasks.modal_episodes(
      examples, *size, support=support, query=query
    )
  except ValueError as error:
    raise UsageError('ways', str(error)) from error
  return made
