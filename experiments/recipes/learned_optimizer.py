"""How optimisers are learned on small networks, by estimator; ours."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.runner.opponents import Place
from metajax.adaptation.outer_optimizers import outer_optimizer
from metajax.algorithms.recipe import Recipe, outer_rate
from metajax.base import Model
from metajax.learned import LABELS
from metajax.models import Conv, from_linen, mlp

__all__ = [
  'RECIPES',
  'far_places',
  'outer',
  'training_networks',
  'unseen_networks',
]

_UNROLLED = Recipe(
  network='mlp', width=32, depth=1,
  ways=4, shots=80, queries=80,
  inner_steps=50, inner_batch=32, eval_inner_steps=50,
  outer_lr=3e-3, outer_schedule='cosine', tasks_per_step=6, chunk_size=6,
  steps=200, log_every=10, checkpoint_every=100,
)  # fmt: skip

_TRUNCATED = _UNROLLED._replace(
  steps=1000, log_every=50, checkpoint_every=500,
  tasks_per_step=12, chunk_size=12,
)  # fmt: skip

# By the kind of optimiser, and by the estimator.
_MLP: dict[str, Recipe] = {
  'unrolled': _UNROLLED,
  'truncated': _TRUNCATED,
  'es': _UNROLLED,
  'pes': _TRUNCATED,
}
# Of few weights, which can be moved faster, and as far in less time.
RECIPES: dict[str, dict[str, Recipe]] = {
  'mlp': _MLP,
  'adam': {
    name: each._replace(
      outer_lr=2e-2, steps=3 * each.steps, log_every=50,
      checkpoint_every=each.steps,
    )
    for name, each in _MLP.items()
  },
}  # fmt: skip


def outer(recipe: Recipe) -> optax.GradientTransformation:
  """Adam on clipped meta-gradients; unfinished unrolls move by themselves."""
  return outer_optimizer(
    optax.chain(optax.clip_by_global_norm(1.0), optax.adam(outer_rate(recipe))),
    LABELS,
  )


def training_networks(recipe: Recipe, outputs: int) -> list[Model]:
  """Networks that it is learned on: of the width of the recipe, 1/4 and 3."""
  width, depth = recipe.width or 32, recipe.depth or 1
  widths = (width, max(1, width // 4), 3 * width)
  return [mlp([each] * depth, outputs) for each in widths]


def unseen_networks(recipe: Recipe, outputs: int) -> dict[str, Place]:
  """Networks of other widths, for as many steps."""
  width, depth = recipe.width or 32, recipe.depth or 1
  steps = recipe.eval_inner_steps
  return {
    f'width {each}': Place(mlp([each] * depth, outputs), steps)
    for each in (max(1, width // 2), 2 * width)
  }


def far_places(recipe: Recipe, outputs: int) -> dict[str, Place]:
  """Where it may break: more steps, larger networks, other kinds of them."""
  width, depth = recipe.width or 32, recipe.depth or 1
  steps = recipe.eval_inner_steps
  small = mlp([max(1, width // 2)] * depth, outputs)
  others = {
    f'width {8 * width}': mlp([8 * width] * depth, outputs),
    f'{depth + 2} layers': mlp([width] * (depth + 2), outputs),
    'tanh': from_linen(_Tanh(width, outputs)),
    'convolution': from_linen(_Convolution(outputs)),
  }
  return {
    **{f'{times} x steps': Place(small, times * steps) for times in (2, 5, 10)},
    **{name: Place(model, steps) for name, model in others.items()},
  }


class _Tanh(nn.Module):
  width: int
  outputs: int

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    hidden = nn.Dense(self.width)(inputs.reshape(len(inputs), -1))
    return nn.Dense(self.outputs, name='head')(jnp.tanh(hidden))


class _Convolution(nn.Module):
  outputs: int

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    hidden = inputs
    for _ in range(2):
      hidden = nn.relu(Conv(8, stride=2)(hidden))
    hidden = hidden.reshape(len(hidden), -1)
    return nn.Dense(self.outputs, name='head')(hidden)
