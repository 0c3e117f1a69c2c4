"""Whether pretrained weights are still those that a run has learned on.

Checkpoints hold what is learned on them and not the weights themselves; on
others it would mean nothing.
"""

from collections.abc import Mapping
from types import NoneType
from typing import Any

from experiments.runner.errors import UsageError
from experiments.runner.records import Missing

__all__ = ['WEIGHTS', 'WEIGHTS_ENTRY', 'check_same_weights']

# Its name in `config.json`, beside those of settings.
WEIGHTS = 'weights_digest'
# What a record may have under this name.
WEIGHTS_ENTRY = {WEIGHTS: (str, NoneType, Missing)}


def check_same_weights(
  settings: Any, before: Mapping[str, Any], now: str | None, owner: str
) -> None:
  """Refuses pretrained weights that are not those of a record.

  Args:
    settings: those that name the weights at hand.
    before: the record.
    now: the digest of the weights at hand, if there are any.
    owner: how the message calls those of the record.

  Raises:
    UsageError: if they differ.
  """
  then = before.get(WEIGHTS)
  if then == now:
    return
  given = getattr(settings, 'model_dir', None)
  had, has = (
    f'weights with the SHA-256 {digest[:12]}...' if digest else 'no weights'
    for digest in (then, now)
  )
  raise UsageError(
    'model_dir',
    f'{given}: these are {has}, and {owner} has learned on {had}; name the'
    ' folder of those',
  )
