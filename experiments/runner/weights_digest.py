"""Whether a transformer is still the one that a run has learned on.

Checkpoints hold what is learned on its weights, and not these themselves; on
others, with other tokens or in another form, it would mean nothing.
"""

from collections.abc import Mapping
from types import NoneType
from typing import Any

from experiments.runner.errors import UsageError, printable
from experiments.runner.records import Missing

__all__ = ['WEIGHTS', 'WEIGHTS_ENTRY', 'check_same_weights']

# Its name in `config.json`, beside those of settings.
WEIGHTS = 'weights_digest'
# What a record may have under this name: those of `pretrained.load`, or, where
# it is older, that of the weights alone.
WEIGHTS_ENTRY = {WEIGHTS: (dict, str, NoneType, Missing)}

# What each digest is of.
_FILES = {
  'weights': 'weights', 'config': 'a config.json', 'tokenizer':
  'a tokenizer.json',
}  # fmt: skip


def check_same_weights(
  settings: Any,
  before: Mapping[str, Any],
  now: Mapping[str, str] | None,
  owner: str,
) -> None:
  """Refuses a pretrained transformer that is not the one of a record.

  Args:
    settings: those that name the one at hand.
    before: the record.
    now: the digests of the one at hand, if there is any.
    owner: how the message calls that of the record.

  Raises:
    UsageError: if they differ.
  """
  then, now = before.get(WEIGHTS) or {}, now or {}
  if isinstance(then, str):
    then = {'weights': then}
  # Older records say nothing of the others.
  compared = _FILES if len(then) != 1 else ['weights']
  of = next((each for each in compared if then.get(each) != now.get(each)), '')
  if not of:
    return
  given = getattr(settings, 'model_dir', None)
  had, has = (
    f'{_FILES[of]} with the SHA-256 {printable(str(each[of]))[:12]}...'
    if of in each
    else f'no {of}'
    for each in (then, now)
  )
  raise UsageError(
    'model_dir',
    f'{given}: there {"are" if of == "weights" else "is"} {has}, and {owner}'
    f' has learned on {had}; name the folder of that',
  )
