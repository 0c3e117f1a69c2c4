"""Features of texts that nothing changes: computed once for all of them.

With `--adapt=head`, and for the baseline of frozen features, every text goes
through the pretrained transformer once, and tasks draw its features.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.runner.progress import shown
from metajax import tasks
from metajax.base import Model, PyTree
from metajax.equality import by_value
from metajax.tasks.episodes import stored_parts

__all__ = [
  'Encode',
  'encoding',
  'features_of',
  'given_features',
  'with_features',
]

# Of a batch of tokens; the weights are its arguments.
Encode = jax.tree_util.Partial

_BATCH = 128


def encoding(model: Any, params: PyTree) -> Encode:
  """What makes features of tokens, by weights that are trained."""
  # On one device, whatever the mesh is that they were trained on.
  held = jax.device_put(jax.device_get(params))
  return jax.tree_util.Partial(_encode, model, held)


def _encode(model: Any, params: PyTree, tokens: jax.Array) -> jax.Array:
  features: jax.Array = model.apply(params, tokens)
  return features


@by_value
def given_features() -> Model:
  """Stands for a network whose features are the inputs."""
  return Model(init=lambda key, inputs: {}, apply=lambda params, inputs: inputs)


def features_of(sample: Any, encode: Encode) -> Any:
  """The tasks of a sampler of tokens, of features.

  Args:
    sample: of texts as tokens.
    encode: makes features `[texts, width]` of tokens.
  """
  tokens, places = stored_parts(sample)
  (features,) = _encoded([tokens], encode)
  return tasks.device_tasks(features, places)


def with_features(
  data: Any,
  encode: Encode,
  *,
  in_shape_only: bool = False,
  parts: Sequence[str] = ('train', 'validation', 'test'),
) -> Any:
  """Data with features in the place of all tokens that are tested or trained.

  Args:
    data: of texts, `experiments.data.samplers.Data`.
    encode: makes features `[texts, width]` of tokens.
    in_shape_only: whether they are zeros, since nobody will look at them.
    parts: those of the data that get features; others keep their tokens.
  """
  held = {name: stored_parts(getattr(data, name)) for name in parts}
  apart = data.text.out_of_scope or ()
  arrays = [*(tokens for tokens, _ in held.values()), *apart]
  if in_shape_only:
    features = _zeros(arrays, encode)
  else:
    features = _encoded(arrays, encode)
  samplers = {
    name: tasks.device_tasks(own, places)
    for own, (name, (_, places)) in zip(features, held.items(), strict=False)
  }
  text = data.text
  if apart:
    text = text._replace(out_of_scope=type(apart)(*features[len(held) :]))
  return data._replace(**samplers, text=text)


def _encoded(arrays: list[Any], encode: Encode) -> list[np.ndarray]:
  """Features of several arrays of tokens; a bar shows how far it is."""
  found = list[np.ndarray]()
  number = sum(map(len, arrays))
  with shown('features of texts') as stage:
    for tokens in arrays:
      before = sum(map(len, found))

      def show(done: int, own: int, before: int = before) -> None:
        del own  # of this array alone
        stage(before + done, number)

      found.append(
        tasks.map_array(tokens, encode, batch_size=_BATCH, progress=show)
      )
  return found


def _zeros(arrays: list[Any], encode: Encode) -> list[np.ndarray]:
  found = list[np.ndarray]()
  for tokens in arrays:
    # Of weights too only shapes may be there.
    each = jax.eval_shape(_call, encode, tokens)
    found.append(np.zeros(each.shape, each.dtype))
  return found


def _call(encode: Encode, tokens: jax.Array) -> jax.Array:
  features: jax.Array = encode(tokens)
  return features
