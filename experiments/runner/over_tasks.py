"""Means and intervals over tasks that differ, where tasks are drawn again.

A table has few tasks, and a test draws each of them many times. An interval
over draws would be that of other rows of the same tasks, and say nothing of
other tasks: values are means of a task first, and intervals over tasks.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runner.intervals import of_few
from metajax.base import SampleTask
from metajax.objectives import confidence_interval
from metajax.runs.evaluation import Evaluation, example_key

__all__ = [
  'WhichTask',
  'by_task',
  'count_of_tasks',
  'half_interval',
  'keys_of',
  'number_of_tasks',
  'number_tested',
  'of_tasks_that_differ',
  'said_of',
  'tasks_drawn',
  'tested_on',
]

# Of fewer tasks an interval is wide, and what it stands on should be said.
_FEW = 10

# Which task a key draws, of a sampler and a key, as a number.
WhichTask = Callable[[Any, jax.Array], jax.Array]


def keys_of(seed: int, number: int) -> jax.Array:
  """The keys that the tasks of a test are drawn by, `[number]`."""
  of = jax.vmap(lambda index: example_key(jax.random.key(seed), index))
  return of(jnp.arange(number))


def tasks_drawn(
  which: WhichTask | None, sample: SampleTask, seed: int, number: int
) -> np.ndarray | None:
  """Which task each draw of a test is of.

  Args:
    which: says it of a key; None: no two draws are of one task.
    sample: draws the tasks.
    seed: of the test.
    number: of draws.

  Returns:
    int `[number]`, from 0 without gaps; None where all differ.
  """
  if which is None:
    return None
  found = jax.vmap(partial(which, sample))(keys_of(seed, number))
  return np.unique(np.asarray(found), return_inverse=True)[1].reshape(-1)


def number_of_tasks(drawn: np.ndarray) -> int:
  """How many of the tasks that were drawn differ."""
  return len(np.unique(drawn))


def count_of_tasks(number: int) -> str:
  """How many tasks differ, in words: one says nothing of others."""
  if number == 1:
    return '1 task alone'
  return f'{number:,} tasks that differ'


def said_of(tasks: int, draws: int) -> str:
  """What a table of values over tasks that differ stands on, in a sentence."""
  if tasks == 1:
    return (
      f'all {draws:,} draws of the test are of 1 task, so there is no 95%'
      ' interval: what other tasks would show is not known'
    )
  few = ', which are few' if tasks < _FEW else ''
  return (
    f'values are means of a task first, and 95% intervals over the {tasks:,}'
    f" test tasks that differ{few} ({draws:,} draws; Student's t)"
  )


def number_tested(protocol: Mapping[str, Any]) -> int | None:
  """How many tasks a test was of; where some are drawn again, that differ.

  Args:
    protocol: of `result.json`.
  """
  number: int | None = protocol.get(
    'test_tasks_that_differ', protocol.get('test_tasks')
  )
  return number


def tested_on(protocol: Mapping[str, Any]) -> str:
  """The tasks of a test, as a title has them: `8 test tasks`.

  Args:
    protocol: of `result.json`.
  """
  draws = protocol.get('test_tasks')
  differ = protocol.get('test_tasks_that_differ')
  if draws is None:
    return 'test tasks'
  if differ is None:
    return f'{draws:,} test tasks'
  return f'{draws:,} draws of {differ:,} test task{"s" if differ > 1 else ""}'


def by_task(values: np.ndarray, drawn: np.ndarray | None) -> np.ndarray:
  """Means of tasks, `[tasks, ...]` of values `[draws, ...]` of draws.

  Args:
    values: of each draw.
    drawn: which task it is of, see `tasks_drawn`; None: all differ.

  Example:
    >>> by_task(np.array([1.0, 3.0, 5.0]), np.array([1, 1, 0]))
    array([5., 2.])
  """
  if drawn is None:
    return values
  return np.stack(
    [values[drawn == task].mean(axis=0) for task in np.unique(drawn)]
  )


def half_interval(values: np.ndarray, drawn: np.ndarray | None) -> np.ndarray:
  """Half the 95% interval of the mean of tasks, `[...]`; nan of a single one.

  Where tasks are drawn again they are few, so it is that of Student's t.

  Args:
    values: `[tasks, ...]`, of `by_task`.
    drawn: what they were made by.
  """
  if len(values) < 2:
    return np.full(values.shape[1:], np.nan)
  if drawn is None:
    return np.asarray(confidence_interval(jnp.asarray(values)))
  return of_few(values)


def of_tasks_that_differ(
  found: Evaluation, drawn: np.ndarray | None
) -> Evaluation:
  """The same with means and intervals over tasks that differ.

  Args:
    found: a test; its values stay those of draws.
    drawn: which task each draw is of; None leaves all as it is.
  """
  if drawn is None:
    return found
  means = {
    name: by_task(np.asarray(values), drawn)
    for name, values in found.values.items()
  }
  return dataclasses.replace(
    found,
    mean={name: jnp.asarray(each.mean(axis=0)) for name, each in means.items()},
    ci95={
      name: jnp.asarray(half_interval(each, drawn))
      for name, each in means.items()
    },
  )
