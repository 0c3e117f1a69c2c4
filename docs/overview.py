"""Draws the picture of the first page.

  python docs/overview.py

Left, a start in the plane of two parameters, and a gradient step from it to
each of three tasks; right, the same on sine waves: one network, a step on ten
points of each wave. Both starts are learned here, by second-order MAML; it
takes a minute on two CPU cores. The waves are three of those on which it does
well: their mean squared errors are 0.07 to 0.12, that of all waves is 0.34.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import optax

import metajax
from metajax.models import mlp
from metajax.tasks import sinusoid

HERE = Path(__file__).resolve().parent
COLORS = ('C0', 'C1', 'C2')
RATE = 0.45
# Where the floor of a bowl is, by how much it is turned, and both curvatures.
BOWLS = jnp.array(
  [
    [-1.7, 0.6, 0.2, 1.9, 1.2],
    [1.2, 1.5, 1.2, 1.9, 1.0],
    [0.9, -1.6, 2.4, 1.9, 1.0],
  ]
)


def value(theta, bowl):
  """The loss of a task at two parameters."""
  cosine, sine = jnp.cos(bowl[2]), jnp.sin(bowl[2])
  turned = jnp.array([[cosine, sine], [-sine, cosine]]) @ (theta - bowl[:2])
  return jnp.sum(bowl[3:] * turned**2) / 2


def adapted(phi, bowl):
  """The parameters after one inner step."""

  def loss(theta, step):
    del step  # the same in every step
    return value(theta, bowl)

  return metajax.descend(loss, phi, optax.sgd(RATE), 1)[0]


def after(phi):
  """The mean loss after adaptation."""
  return jnp.mean(jax.vmap(lambda b: value(adapted(phi, b), b))(BOWLS))


def draw_plane(place):
  """The bowls, the path of the start, and its steps."""

  def step(phi, _):
    return phi - 2 * jax.grad(after)(phi), phi

  _, path = jax.lax.scan(step, jnp.array([-1.5, -2.0]), None, 300)
  x, y = jnp.meshgrid(
    jnp.linspace(-2.7, 2.5, 150), jnp.linspace(-2.5, 2.5, 150)
  )
  for bowl, color in zip(BOWLS, COLORS, strict=True):
    rows = jax.vmap(jax.vmap(value, (0, None)), (0, None))
    height = rows(jnp.stack([x, y], axis=-1), bowl)
    place.contour(x, y, height, (0.05, 0.2, 0.45), colors=color, alpha=0.6)
    place.plot(*bowl[:2], '*', color=color, ms=13)
    place.annotate(
      '',
      adapted(path[-1], bowl),
      path[-1],
      arrowprops={'arrowstyle': '-|>', 'lw': 2.2, 'color': color},
    )
  place.plot(*path.T, '--', color='C6', lw=1.3)
  place.plot(*path[-1], 'o', color='k', ms=8)
  place.annotate(
    'learned start', path[-1], (16, -4), textcoords='offset points'
  )
  place.annotate('training', path[0], (8, 2), textcoords='offset points')
  place.set(
    title='A start from which one step goes far',
    xlabel='first parameter',
    ylabel='second parameter',
    aspect='equal',
  )
  place.grid(False)


def draw_waves(place):
  """Three waves, and one network before and after a step on each."""
  network = mlp([40, 40], 1)
  learner = metajax.maml(network, metajax.mean_squared_error, 0.01, 1)
  train = metajax.make_train_step(
    learner, optax.adam(1e-3), sinusoid(10, 10), tasks_per_step=25
  )
  state, _ = train.run(train.init(jax.random.key(0)), 60_000)
  grid = jnp.linspace(-5, 5, 300)[:, None]
  before = network.apply(state.meta_params, grid)
  place.plot(grid, before, '--', color='C6', label='before')
  for seed, color in zip((47, 70, 75), COLORS, strict=True):
    task = sinusoid(10, 500)(jax.random.key(seed))
    params, _ = learner.adapt(
      jax.random.key(0), state.meta_params, task.support
    )
    order = jnp.argsort(task.query.inputs[:, 0])
    place.plot(
      task.query.inputs[order], task.query.targets[order], ':', color=color
    )
    place.plot(grid, network.apply(params, grid), color=color)
    place.plot(
      task.support.inputs, task.support.targets, 'o', color=color, ms=5
    )
  place.plot([], [], color='C0', label='after one step')
  place.plot([], [], 'o', color='C0', label='its ten points')
  place.plot([], [], ':', color='C0', label='the wave')
  place.set(
    title='The same on sine waves',
    xlabel='x (radians)',
    ylabel='y',
    ylim=(-6, 6),
  )
  place.legend(
    ncols=4, loc='upper center', bbox_to_anchor=(0.5, -0.14), fontsize=9
  )


def main() -> None:
  """Draws both, and writes `images/overview.png`."""
  matplotlib.use('agg')
  plt.style.use(HERE / 'notebooks' / 'site.mplstyle')
  figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
  draw_plane(left)
  draw_waves(right)
  figure.savefig(HERE / 'images' / 'overview.png')


if __name__ == '__main__':
  main()
