"""Whether a teacher still knows what a run has learned from it.

A teacher may have been trained on in between. A run that goes on with what it
knows then would not be the run that was begun.
"""

import hashlib
from collections.abc import Mapping
from types import NoneType
from typing import Any

import jax
import numpy as np

from experiments.runner.data_digest import add_array
from experiments.runner.errors import UsageError, printable
from experiments.runner.records import Missing
from metajax.base import PyTree

__all__ = ['TEACHER', 'TEACHER_ENTRY', 'check_same_teacher', 'teacher_digest']

# Its name in `config.json`, beside those of settings.
TEACHER = 'teacher_digest'
# What a record may have under this name.
TEACHER_ENTRY = {TEACHER: (str, NoneType, Missing)}


def teacher_digest(step: int, meta_params: PyTree) -> str:
  """The step that a teacher has come to, and the SHA-256 of what it knows."""
  found = hashlib.sha256()
  leaves, _ = jax.tree.flatten_with_path(meta_params)
  for path, leaf in leaves:
    found.update(jax.tree_util.keystr(path).encode())
    add_array(found, np.asarray(leaf))
  return f'step {step}, SHA-256 {found.hexdigest()}'


def check_same_teacher(
  settings: Any, before: Mapping[str, Any], now: str | None, owner: str
) -> None:
  """Refuses a teacher that is not what it was.

  Args:
    settings: those that name the teacher.
    before: the record; older ones do not say.
    now: the digest of the teacher at hand, if there is any.
    owner: how the message calls the run of the record.

  Raises:
    UsageError: if it differs.
  """
  then = before.get(TEACHER)
  if then is None or now is None or then == now:
    return
  had, has = (f'{printable(each)[:40]}...' for each in (then, now))
  raise UsageError(
    'teacher',
    f'{settings.teacher} is at {has}, and {owner} has learned from it at {had};'
    ' bring that back, or begin again in another --workdir',
  )
