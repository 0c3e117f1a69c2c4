"""Losses beside that of the method: of words, and of a teacher's outputs."""

from collections.abc import Callable
from typing import Any

import jax

from experiments.runner.encoders import (
  on_pretrained,
  small_config,
  words_model,
)
from experiments.runner.errors import UsageError
from experiments.runner.paths import Place
from experiments.runner.settings import Base, Positive, setting, settings
from experiments.runner.transformers import uses_features
from metajax.algorithms.recipe import Recipe
from metajax.algorithms.table import ALGORITHMS
from metajax.base import MetaLearner, Metrics, PyTree, Task
from metajax.equality import Frozen, by_value
from metajax.estimators import TaskLoss
from metajax.models import pretrained
from metajax.wrappers.auxiliary import with_auxiliary

__all__ = ['MoreLosses', 'PositiveOrLearned', 'with_words_loss']


class PositiveOrLearned(Positive):
  """A finite number above zero, or the word `learned`."""

  allowed = 'learned, or a finite number > 0'

  def check(self, value: Any) -> Any:
    """Returns the number or `'learned'`, or raises ValueError."""
    return value if value == 'learned' else super().check(value)

  def parse(self, text: str) -> Any:
    """Reads what the command line has."""
    return text if text == 'learned' else super().parse(text)


@settings
class MoreLosses(Base):
  """What a method is trained on beside its own loss."""

  masked_words_weight: float | str | None = setting(
    None, PositiveOrLearned(),
    'what the loss of words of the queries counts beside that of the method, or'
    ' learned: masked words, or the next word in a causal transformer, such as'
    ' the one that is drawn at random [default: there is none]',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip

  teacher: str | None = setting(
    None, Place(), 'the workdir of a run of this experiment, on the same texts'
    ' with the same tokens; the method learns from its predictions, too',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  distil_weight: float | str = setting(
    0.5, PositiveOrLearned(), 'what --teacher counts, up to 1 (nothing but it),'
    ' or learned, and so is the weight of the loss of the method',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  distil_temperature: float | str = setting(
    4.0, PositiveOrLearned(), 'of the predictions of --teacher, or learned',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip


Around = Callable[[Any], MetaLearner | Frozen]


def with_words_loss(
  given: Any,
  recipe: Recipe,
  vocabulary: int,
  found: pretrained.Pretrained | None,
) -> Around | None:
  """What adds the loss of words to a method, where the settings want it.

  Args:
    given: settings, of `Transformer`, `MoreLosses` and `Common`.
    recipe: of the method.
    vocabulary: tokens there are, where nothing is pretrained.
    found: the transformer that is, if one is.

  Raises:
    UsageError: if nothing would learn from it, or words cannot be masked.
  """
  _refuse_without_teacher(given)
  weight, name = given.masked_words_weight, given.algorithm
  if weight is None:
    return None
  weights = ALGORITHMS[name].weights
  if weights is None:
    raise UsageError(
      'masked_words_weight',
      f'is given, but {name} learns nothing before a task; leave it out',
    )
  if uses_features(given):
    raise UsageError(
      'masked_words_weight',
      'is given, but by --adapt=head nothing of the transformer is learned;'
      ' take another, or leave it out',
    )
  loss: Any
  if found is None:
    config = small_config(given, recipe, vocabulary)
    loss = pretrained.next_words(words_model(given, config), config)
  else:
    model = on_pretrained(given, found, words_model(given, found.config))
    loss = _of_pretrained(given, found, model)
  of_tasks = _of_queries(loss, weights)
  return lambda learner: with_auxiliary(learner, of_tasks, weight)


def _refuse_without_teacher(given: Any) -> None:
  for name in ('distil_weight', 'distil_temperature'):
    value = getattr(given, name)
    if given.teacher is None and value != getattr(MoreLosses, name):
      raise UsageError(
        name, f'is {value}, but has a meaning only with --teacher; leave it out'
      )


def _of_pretrained(given: Any, found: pretrained.Pretrained, model: Any) -> Any:
  config, tokenizer = found.config, found.tokenizer
  if config.causal:
    return pretrained.next_words(model, config)
  assert tokenizer is not None  # or there are no tokens
  try:
    mask = tokenizer.id_of('[MASK]')
  except ValueError as error:
    raise UsageError(
      'masked_words_weight',
      f'{given.model_dir} has no token [MASK] to hide words by; leave it out',
    ) from error
  return pretrained.masked_words(model, config, mask, tokenizer.special)


@by_value
def _of_queries(
  loss: pretrained.WordLoss, weights: Callable[[PyTree], PyTree]
) -> TaskLoss:
  """The loss of the words of a task, of the weights of the network."""

  def task_loss(
    key: jax.Array, meta_params: PyTree, task: Task
  ) -> tuple[jax.Array, Metrics]:
    return loss(key, weights(meta_params), task.query.inputs), {}

  return task_loss
