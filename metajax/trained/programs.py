"""Adapt-and-predict of a method, as functions of arrays on batches of tasks."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Batch, Learner, MetaLearner, PyTree, Task
from metajax.equality import Frozen, as_frozen
from metajax.normalisation import Normalisation, predict_queries

__all__ = ['Built', 'Compiled', 'build']


class Built(NamedTuple):
  """Functions of arrays: weights `[...]`, all else `[tasks, ...]`.

  What is adapted and equal to a weight, such as an embedding that does not
  adapt, is no part of the state.
  """

  adapt: Callable[..., list[Any]]  # (weights, inputs, targets, keys) -> state
  # (weights, state, support inputs, queries) -> outputs
  predict: Callable[..., Any]
  weights: list[Any]  # meta-parameters, and what the learner stands on
  names: list[str]  # of the weights
  support: Batch  # shapes of a support set
  # (weights, state, inputs, targets, keys) -> state, from that state on; None:
  # what was adapted is not of the form of what was learned before.
  go_on: Callable[..., list[Any]] | None = None


class Compiled:
  """Programs that are compiled when they are called (`portable.Programs`)."""

  def __init__(self, built: Built) -> None:
    self.built = built
    self._weights = built.weights
    self._adapt, self._predict = jax.jit(built.adapt), jax.jit(built.predict)
    self._go_on = None if built.go_on is None else jax.jit(built.go_on)

  def adapt(self, inputs: Any, targets: Any, keys: Any) -> list[Any]:
    """What was adapted, of a batch of tasks."""
    return list(self._adapt(self._weights, inputs, targets, keys))

  def predict(self, state: list[Any], support: Any, queries: Any) -> Any:
    """Outputs for queries, of a batch of tasks."""
    return self._predict(self._weights, state, support, queries)

  @property
  def goes_on(self) -> bool:
    """Whether a method can adapt further, from what it has adapted."""
    return self._go_on is not None

  def go_on(
    self, state: list[Any], inputs: Any, targets: Any, keys: Any
  ) -> list[Any]:
    """Adapts from a state in place of what was learned before."""
    assert self._go_on is not None  # or `goes_on` says so
    return list(self._go_on(self._weights, state, inputs, targets, keys))

  def digest(self) -> str:
    """SHA-256 of the weights."""
    total = hashlib.sha256()
    for each in self._weights:
      total.update(np.asarray(each).tobytes())
    return total.hexdigest()

  def num_outputs(self) -> int:
    """How many numbers are predicted for a query; nothing is computed."""

    def outputs(weights: list[Any], inputs: Any, targets: Any) -> Any:
      keys = jnp.zeros((1, 2), jnp.uint32)
      state = self.built.adapt(weights, inputs, targets, keys)
      return self.built.predict(weights, state, inputs, inputs)

    support = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), self.built.support
    )
    found = jax.eval_shape(outputs, self._weights, *support)
    return int(found.shape[-1])


def build(
  learner: Learner | MetaLearner | Frozen,
  meta_params: PyTree,
  support: Batch,
  normalisation: Normalisation,
) -> Built:
  """Takes a learner apart into functions of arrays.

  Args:
    learner: any method.
    meta_params: of the learner.
    support: an example of a support set, or its shapes.
    normalisation: what a query shares its batch statistics with; where a model
      has none, or has them fixed, `'transductive'` is the less work.

  Returns:
    The functions, and the weights that they are to be given.
  """
  frozen = as_frozen(learner)
  tree = (meta_params, frozen.arrays)
  paths, structure = jax.tree_util.tree_flatten_with_path(tree)
  weights = [leaf for _, leaf in paths]

  def made(weights: list[Any]) -> tuple[Any, PyTree]:
    meta_params, arrays = jax.tree.unflatten(structure, weights)
    return frozen.make(arrays), meta_params

  def adapt_all(
    weights: list[Any], inputs: Any, targets: Any, key: Any
  ) -> PyTree:
    learner, meta_params = made(weights)
    support = Batch(inputs, targets)
    return learner.adapt(jax.random.wrap_key_data(key), meta_params, support)[0]

  form = _form(adapt_all, weights, support)
  learned = jax.tree.structure(meta_params)

  def adapt(
    weights: list[Any], inputs: Any, targets: Any, key: Any
  ) -> list[Any]:
    leaves = jax.tree.leaves(adapt_all(weights, inputs, targets, key))
    each = zip(leaves, form.same, strict=True)
    return [leaf for leaf, same in each if same is None]

  def leaves_of(weights: list[Any], state: list[Any]) -> list[Any]:
    own = iter(state)
    return [next(own) if s is None else weights[s] for s in form.same]

  def go_on(
    weights: list[Any], state: list[Any], inputs: Any, targets: Any, key: Any
  ) -> list[Any]:
    # What was learned before stands first among the weights.
    start = leaves_of(weights, state)
    return adapt([*start, *weights[len(start) :]], inputs, targets, key)

  def predict(
    weights: list[Any], state: list[Any], support: Any, queries: Any
  ) -> Any:
    learner, _ = made(weights)
    leaves = leaves_of(weights, state)
    adapted = jax.tree.unflatten(form.structure, leaves)
    task = Task(Batch(support, None), Batch(queries, None))
    return predict_queries(learner, adapted, task, normalisation)

  return Built(
    _over_tasks(adapt),
    _over_tasks(predict),
    weights,
    [
      jax.tree_util.keystr(path, simple=True, separator='/')
      for path, _ in paths
    ],
    support,
    _over_tasks(go_on) if form.structure == learned else None,
  )


class _Form(NamedTuple):
  """What an adaptation returns."""

  structure: Any
  same: list[int | None]  # the weight that a leaf is, where it is one


def _form(adapt: Any, weights: list[Any], support: Batch) -> _Form:
  key = jax.random.key_data(jax.random.key(0))
  traced, shapes = jax.make_jaxpr(adapt, return_shape=True)(
    weights, support.inputs, support.targets, key
  )
  places = {
    id(v): at for at, v in enumerate(traced.jaxpr.invars[: len(weights)])
  }
  same = [places.get(id(variable)) for variable in traced.jaxpr.outvars]
  return _Form(jax.tree.structure(shapes), same)


def _over_tasks(function: Callable[..., Any]) -> Callable[..., Any]:
  """The function over a leading axis of all arguments but the first."""

  def over_tasks(weights: list[Any], *rest: Any) -> Any:
    if isinstance(rest[-1].shape[0], int) and rest[-1].shape[0] == 1:
      # An axis of length 1 would hide from the compiler that products are
      # plain.
      only = function(weights, *jax.tree.map(lambda leaf: leaf[0], rest))
      return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), only)
    mapped = jax.vmap(function, in_axes=(None, *(0 for _ in rest)))
    return mapped(weights, *rest)

  return over_tasks
