"""Encoders of several modalities in front of one network that they share."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metajax.base import Model, PyTree
from metajax.equality import by_value
from metajax.models.modes import takes_key, training, without_key

__all__ = ['multimodal']


@by_value
def multimodal(
  encoders: Mapping[str, Model], shared: Model, size: int
) -> Model:
  r"""A model of inputs that are a dictionary by modality.

  .. math:: f(x) = g_{shared}\Big(
    \frac{1}{|M(x)|} \sum_{m \in M(x)} W_m e_m(x_m) + b_m\Big)

  where M(x) are the modalities that the inputs have: all examples of a batch
  the same ones, but support set and queries may have others, so that every
  method learns from texts what images of a class are. Which parts run follows
  from the structure of the inputs, when a program is compiled.

  Args:
    encoders: by modality; each makes features `[examples, features]` of its
      own inputs. One that stands on frozen weights will do.
    shared: a network of `[examples, size]`, whose last layer is called `head`
      if a method needs one.
    size: what a linear layer of each modality brings its features to.

  Returns:
    A model whose parameters are `'shared'`, which
    `partition.matching('^shared/')` selects, and by modality those of the
    `'encoder'` and of the `'projection'`. `init` makes the encoders of the
    modalities that its inputs have: `make_train_step` gives it all that tasks
    of any distribution have.

  Raises:
    ValueError: if a modality is called `shared`, or there is none, or `size` is
      not positive; when it is used, if inputs are no dictionary of these
      modalities, of as many examples each, or features are no vectors.

  Example:
    >>> import jax, jax.numpy as jnp, metajax
    >>> from metajax.models import mlp
    >>> encoders = {'images': mlp([], 8), 'sounds': mlp([], 9)}
    >>> model = multimodal(encoders, mlp([16], 5), size=16)
    >>> inputs = {'images': jnp.zeros((2, 4, 4)), 'sounds': jnp.zeros((2, 9))}
    >>> params = jax.eval_shape(model.init, jax.random.key(0), inputs)
    >>> sorted(params)
    ['images', 'shared', 'sounds']
    >>> sounds_alone = {'sounds': jnp.zeros((3, 9))}
    >>> jax.eval_shape(model.apply, params, sounds_alone).shape
    (3, 5)
  """
  if not encoders or 'shared' in encoders:
    raise ValueError(
      "encoders are by modality, none of them called 'shared'; got"
      f' {", ".join(encoders) or "none"}'
    )

  if size < 1:
    raise ValueError(f'size must be 1 or more, got {size}')

  def encode(
    params: PyTree, name: str, inputs: PyTree, key: jax.Array | None
  ) -> jax.Array:
    apply = encoders[name].apply
    if key is not None:
      apply = training(apply, key, list(encoders).index(name))
    return _checked(name, apply(params, inputs))

  def encoded(
    params: PyTree, inputs: PyTree, key: jax.Array | None = None
  ) -> jax.Array:
    vectors = []
    for name in _modalities(inputs, encoders):
      if name not in params:
        raise ValueError(
          f'there are inputs of {name}, but it was initialised for'
          f' {", ".join(sorted(set(params) - {"shared"}))} alone'
        )
      own = params[name]
      features = encode(own['encoder'], name, inputs[name], key)
      projection = own['projection']
      vectors.append(features @ projection['kernel'] + projection['bias'][None])
    numbers = [len(vector) for vector in vectors]
    if len(set(numbers)) > 1:  # or one would be added to all
      raise ValueError(
        'inputs must have as many examples of each modality; got'
        f' {", ".join(map(str, numbers))} of'
        f' {", ".join(_modalities(inputs, encoders))}'
      )
    mean: jax.Array = sum(vectors[1:], vectors[0]) / len(vectors)
    return mean

  def init(key: jax.Array, inputs: PyTree) -> PyTree:
    params = {}
    for name in _modalities(inputs, encoders):
      # By its place, as inputs may have some of the modalities only.
      own_key = jax.random.fold_in(key, list(encoders).index(name))
      keys = jax.random.split(own_key)
      own = encoders[name].init(keys[0], inputs[name])
      features = encode(own, name, inputs[name], None)
      kernel = jax.nn.initializers.lecun_normal()(
        keys[1], (features.shape[-1], size), features.dtype
      )
      bias = jnp.zeros(size, features.dtype)
      projection = {'kernel': kernel, 'bias': bias}
      params[name] = {'encoder': own, 'projection': projection}
    vector = jnp.zeros((1, size), kernel.dtype)
    shared_key = jax.random.fold_in(key, len(encoders))
    return {**params, 'shared': shared.init(shared_key, vector)}

  def apply(
    params: PyTree, inputs: PyTree, key: jax.Array | None = None
  ) -> PyTree:
    features = encoded(params, inputs, key)
    last = shared.apply
    if key is not None:
      last = training(last, key, len(encoders))
    return last(params['shared'], features)

  parts = [*(each.apply for each in encoders.values()), shared.apply]
  any_takes_key = any(map(takes_key, parts))
  return Model(init, apply if any_takes_key else without_key(apply))


def _modalities(inputs: Any, encoders: Mapping[str, Model]) -> list[str]:
  """Those that the inputs have, in the order of the encoders."""
  if not isinstance(inputs, dict) or not inputs or set(inputs) - set(encoders):
    found = 'an array' if hasattr(inputs, 'shape') else type(inputs).__name__
    if isinstance(inputs, dict):
      found = f'one of {", ".join(map(str, inputs)) or "nothing"}'
    raise ValueError(
      'inputs must be a dictionary by modality, of some of'
      f' {", ".join(encoders)}; got {found}'
    )
  return [name for name in encoders if name in inputs]


def _checked(name: str, features: jax.Array) -> jax.Array:
  if jnp.ndim(features) != 2:
    raise ValueError(
      f'the encoder of {name} must make features [examples, features]; got'
      f' shape {jnp.shape(features)}'
    )
  return features
