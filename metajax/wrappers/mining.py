r"""Hard-task mining: of every few tasks, learn from the hardest.

.. math::
  g = \frac{1}{n} \sum_{i=1}^{n} \nabla_\phi L_{i, j^*(i)}, \qquad
  j^*(i) = \arg\max_j L_{ij}(\phi)

Candidates are drawn in small groups, each of which gives one task, instead of
taking the hardest of one large batch: so it is the same computation in
microbatches and on any number of devices.

  >>> import jax, optax, metajax
  >>> from metajax.models import mlp
  >>> from metajax.tasks import sinusoid
  >>> objective = metajax.mean_squared_error
  >>> learner = metajax.maml(mlp([8], 1), objective, 0.01, 1)
  >>> train = metajax.make_train_step(
  ...   hardest(learner, objective), optax.adam(1e-3),
  ...   candidates(sinusoid(5, 5), 3), tasks_per_step=4)
  >>> state, metrics = train.run(train.init(jax.random.key(0)), 2)

References:
  Sun, Liu, Chua, Schiele (2019), Meta-transfer learning for few-shot learning,
  section 4.3, mine classes; tasks are mined here.
"""

import jax
import jax.numpy as jnp

from metajax.base import (
  ByStep,
  MetaLearner,
  Metrics,
  Objective,
  PyTree,
  SampleTask,
  Task,
  as_argument,
  map_tasks,
  sample_tasks,
)
from metajax.equality import EqualPartial, by_value
from metajax.estimators import query_loss

__all__ = ['candidates', 'hardest']


def candidates(
  sample: SampleTask, number: int
) -> jax.tree_util.Partial | ByStep:
  """A sampler of groups of tasks, of which `hardest` keeps one each.

  Args:
    sample: the task distribution.
    number: tasks in a group.

  Returns:
    `(key) -> Task` with leaves `[number, ...]`; `ByStep` if `sample` is.

  Raises:
    ValueError: if `number` is below 2.
  """
  if number < 2:
    raise ValueError(
      f'number must be 2 or more, or there is no choice; got {number}'
    )
  if isinstance(sample, ByStep):
    at_step = EqualPartial(_draw_group_at_step, number)
    return ByStep(jax.tree_util.Partial(at_step, sample), sample.step)
  return jax.tree_util.Partial(
    EqualPartial(_draw_group, number), as_argument(sample)
  )


def _draw_group_at_step(
  number: int, sample: ByStep, key: jax.Array, step: jax.Array
) -> Task:
  return sample_tasks(sample.at(step), key, number)


def _draw_group(number: int, sample: SampleTask, key: jax.Array) -> Task:
  return sample_tasks(sample, key, number)


@by_value
def hardest(meta_learner: MetaLearner, objective: Objective) -> MetaLearner:
  """Any method, trained on the hardest task of each group of `candidates`.

  Args:
    meta_learner: any method that trains on tasks.
    objective: of the queries after adaptation, by which tasks are compared. A
      loss that is not finite is never the highest.

  Returns:
    A `MetaLearner` whose `grad` takes groups, leaves `[tasks, number, ...]`;
    it adapts and predicts as before, to single tasks (`metajax.check` wants
    the method itself, and single tasks). Its metrics are those of the tasks
    kept.
  """

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    return meta_learner.init(key, jax.tree.map(lambda leaf: leaf[0], inputs))

  def grad(
    key: jax.Array, meta_params: PyTree, tasks: Task
  ) -> tuple[PyTree, Metrics]:
    def choose(key: jax.Array, group: Task) -> Task:
      def loss_of(task: Task) -> jax.Array:
        adapted, _ = meta_learner.adapt(key, meta_params, task.support)
        loss, _ = query_loss(meta_learner, objective, adapted, task)
        return jnp.where(jnp.isfinite(loss), loss, -jnp.inf)

      chosen = jnp.argmax(jax.vmap(loss_of)(group))
      return jax.tree.map(lambda leaf: leaf[chosen], group)

    return meta_learner.grad(key, meta_params, map_tasks(choose, key, tasks))

  return meta_learner._replace(init=init, grad=grad)
