r"""Distillation: a learner that learns from another one, which is larger.

.. math::
  (1 - \lambda) \, L(o_i, Q_i) + \lambda \, T^2 \,
    \mathrm{KL}\big(\mathrm{softmax}(t_i / T) \,\|\,
    \mathrm{softmax}(o_i / T)\big)

with o the outputs of the student and t those of the teacher for the queries of
a task, each after it adapted to the support set. The teacher may be any learner
that has been trained: a wide network, or an ensemble.

Both may be learned. Weights by the uncertainty of the two terms
(`metajax.wrappers.weighting`); the temperature, between 1 and 20, *against* the
student, to where the term of the teacher is the highest, since a temperature
that makes it low would teach nothing.

References:
  Hinton, Vinyals, Dean (2015), Distilling the knowledge in a neural network,
  https://arxiv.org/abs/1503.02531
  Li et al. (2023), Curriculum temperature for knowledge distillation,
  https://arxiv.org/abs/2211.16231 (without its curriculum)
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp

from metajax.adaptation.classes import check_classes
from metajax.base import (
  Adaptation,
  Batch,
  Learner,
  MetaLearner,
  Metrics,
  Objective,
  PyTree,
  Task,
  values_and_weights,
)
from metajax.equality import EqualPartial, Frozen, as_frozen, by_value
from metajax.estimators import gradient_of, query_loss
from metajax.objectives import loss_and_metrics, weighted_mean
from metajax.wrappers.weighting import uncertainty_weighted

__all__ = ['TaughtParams', 'distil', 'divergence']

_LOWEST, _HIGHEST = 1.0, 20.0  # temperatures that are learned
_Teach = Callable[[jax.Array, Task], jax.Array]


class TaughtParams(NamedTuple):
  """Meta-parameters of a student, and how it is taught."""

  params: PyTree  # of the student
  # `temperature`, a logit; and s by loss, `task` and `teacher`; what is set is
  # not there.
  teaching: dict[str, PyTree]


def distil(
  student: Learner | MetaLearner | Frozen,
  teacher: Learner | MetaLearner | Frozen,
  teacher_params: PyTree,
  objective: Objective,
  *,
  weight: float | Literal['learned'] = 0.5,
  temperature: float | Literal['learned'] = 4.0,
) -> Frozen:
  """Trains a student on the queries and on a teacher's predictions for them.

  The gradient is that of backpropagation through the student's adaptation, in
  place of the estimator that the student may have of its own.

  Args:
    student: any method that adapts differentiably, and whose meta-parameters
      hold no counts of steps, as those of MAML++ and Reptile do.
    teacher: any method whose outputs are logits of the same classes.
    teacher_params: its meta-parameters; they are not changed, and are arguments
      of compiled programs.
    objective: of the queries, for the student.
    weight: lambda, what the teacher counts, from 0 (nothing) to 1 (all);
      `'learned'`: both terms have weights that are meta-parameters, 1 at first.
    temperature: T; the higher it is, the more the classes count that the
      teacher thinks unlikely; `'learned'`: from 4, see above.

  Returns:
    A `MetaLearner` (`metajax.equality.Frozen`, on the teacher) with the
    meta-parameters of the student, or `TaughtParams` where anything is learned.
    Its metrics have in addition `divergence`, the Kullback-Leibler term, and
    `temperature`, `task_weight` and `teacher_weight` where these are learned.

  Raises:
    ValueError: if `weight` is not in [0, 1] or `temperature` is not positive;
      in `grad`, if targets are not classes, the student counts its steps, or
      the teacher scores other classes.

  Example:
    >>> import jax, metajax
    >>> from metajax.models import mlp
    >>> wide, narrow = (
    ...   metajax.maml(mlp([width], 5), metajax.cross_entropy, 0.4, 1)
    ...   for width in (64, 8))
    >>> trained = wide.init(jax.random.key(0), jax.numpy.zeros((5, 4)))
    >>> learner = distil(narrow, wide, trained, metajax.cross_entropy)
  """
  _check(weight, temperature)
  on = as_frozen(teacher)
  taught = Frozen(EqualPartial(_teach, on.make), (on.arrays, teacher_params))
  # What is frozen comes in the place of a method, and so it goes.
  made: Any = _distil(
    cast(Learner, student), cast(_Teach, taught), objective, weight, temperature
  )
  return cast(Frozen, made)


def _check(weight: float | str, temperature: float | str) -> None:
  if weight != 'learned' and (isinstance(weight, str) or not 0 <= weight <= 1):
    raise ValueError(f"weight must be from 0 to 1, or 'learned'; got {weight}")
  if temperature != 'learned' and (
    isinstance(temperature, str) or not 0 < temperature < math.inf
  ):
    raise ValueError(
      f"temperature must be above 0, or 'learned'; got {temperature}"
    )


def _teach(
  make: Callable[[PyTree], Learner], arrays: tuple[PyTree, PyTree]
) -> _Teach:
  """What a teacher makes of the queries of a task."""
  below, params = arrays
  teacher = make(below)

  def outputs(key: jax.Array, task: Task) -> jax.Array:
    adapted, _ = teacher.adapt(key, params, task.support)
    return jax.lax.stop_gradient(teacher.predict(adapted, task.query.inputs))

  return outputs


@by_value
def _distil(
  student: Learner,
  teach: _Teach,
  objective: Objective,
  weight: float | str,
  temperature: float | str,
) -> MetaLearner:
  """The student, as it is trained."""
  names = []
  if weight == 'learned':
    names += ['task', 'teacher']
  if temperature == 'learned':
    names += ['temperature']

  def params_of(meta_params: PyTree) -> PyTree:
    return meta_params.params if names else meta_params

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    params = student.init(key, inputs)
    if not names:
      return params
    first = {'task': 0.0, 'teacher': 0.0, 'temperature': _logit(4.0)}
    teaching = {name: jnp.asarray(first[name]) for name in names}
    return TaughtParams(params, teaching)

  def adapt(
    key: jax.Array, meta_params: PyTree, support: Batch
  ) -> tuple[PyTree, Adaptation]:
    return student.adapt(key, params_of(meta_params), support)

  def task_loss(
    key: jax.Array, meta_params: PyTree, task: Task
  ) -> tuple[jax.Array, Metrics]:
    check_classes(task.query.targets)
    expected = teach(key, task)
    teaching = meta_params.teaching if names else {}
    heat: float | jax.Array = _heat(teaching, temperature)

    def mixed(outputs: jax.Array, targets: PyTree) -> tuple[jax.Array, Metrics]:
      loss, metrics = loss_and_metrics(objective, outputs, targets)
      _, weights = values_and_weights(targets)
      apart = divergence(expected, outputs, heat, weights)
      more = {'divergence': apart}
      if temperature == 'learned':
        more['temperature'] = jnp.asarray(heat)
      losses = {'task': loss, 'teacher': heat**2 * apart}
      if weight == 'learned':
        variances = {name: teaching[name] for name in losses}
        both = uncertainty_weighted(losses, variances)
        for name, each in variances.items():
          more[f'{name}_weight'] = jnp.exp(-each)
      else:
        assert not isinstance(weight, str)
        both = (1 - weight) * loss + weight * losses['teacher']
      return both, {**metrics, **more}

    adapted, _ = student.adapt(key, params_of(meta_params), task.support)
    return query_loss(student, mixed, adapted, task, key)

  return MetaLearner(init, adapt, student.predict, gradient_of(task_loss))


def _logit(temperature: float) -> float:
  share = (temperature - _LOWEST) / (_HIGHEST - _LOWEST)
  return math.log(share / (1 - share))


def _heat(
  teaching: dict[str, PyTree], temperature: float | str
) -> float | jax.Array:
  """The temperature; one that is learned has its gradient reversed."""
  if not isinstance(temperature, str):
    return temperature
  logit = teaching['temperature']
  logit = 2 * jax.lax.stop_gradient(logit) - logit
  return _LOWEST + (_HIGHEST - _LOWEST) * jax.nn.sigmoid(logit)


def divergence(
  teacher: jax.Array,
  student: jax.Array,
  temperature: float | jax.Array,
  weights: jax.Array | None = None,
) -> jax.Array:
  """The Kullback-Leibler divergence of softened predictions, in nats.

  Args:
    teacher: logits `[examples, classes]`.
    student: logits of the same shape.
    temperature: what both are divided by.
    weights: `[examples]`, how much each counts; all the same by default.

  Returns:
    The weighted mean over examples.

  Raises:
    ValueError: if the shapes differ; they are never broadcast.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 0.0]])
    >>> float(divergence(logits, logits + 3, 2.0))
    0.0
  """
  if jnp.shape(teacher) != jnp.shape(student):
    raise ValueError(
      'teacher and student must score the same classes; got logits of shape'
      f' {jnp.shape(teacher)} and {jnp.shape(student)}'
    )
  expected, actual = (
    jax.nn.log_softmax(logits / temperature) for logits in (teacher, student)
  )
  terms = jnp.exp(expected) * (expected - actual)
  return weighted_mean(jnp.sum(terms, axis=-1), weights)
