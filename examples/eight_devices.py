"""The same training on eight devices as on one.

  python examples/eight_devices.py

`make_mesh` arranges devices along an axis of tasks, and a train step that is
given the mesh has every device draw its own share of the tasks and adapt to it;
the meta-gradients are averaged in one all-reduce. The tasks of a step depend on
its key alone, so the result is that of one device but for rounding. The devices
here are eight threads of the CPU, which shows that it is right, not that it is
fast; on a machine that has accelerators the program takes those.

It prints the mean loss of both, and how far their parameters are from each
other in the end. It takes about 25 s on two CPU cores.
"""

import jax
import numpy as np
import optax

import metajax
from metajax.models import mlp
from metajax.tasks import sinusoid


def train(mesh: jax.sharding.Mesh | None, steps: int) -> metajax.TrainState:
  """Trains MAML on a mesh, or on one device if there is none."""
  learner = metajax.maml(
    mlp([40, 40], 1), metajax.mean_squared_error, inner_lr=0.01, num_steps=1
  )
  train_step = metajax.make_train_step(
    learner,
    optax.adam(1e-3),
    sinusoid(shots=10, queries=10),
    tasks_per_step=16,  # a multiple of the devices
    mesh=mesh,
  )
  state, metrics = train_step.run(train_step.init(jax.random.key(0)), steps)
  places = {leaf.sharding for leaf in jax.tree.leaves(state.meta_params)}
  number = max(len(place.device_set) for place in places)
  print(f'{number} device(s): loss {metrics["loss"]:.6f}')
  return state


def main(steps: int = 200) -> float:
  """Trains twice; returns the largest difference between parameters."""
  one = train(None, steps)
  many = train(metajax.make_mesh({'task': jax.device_count()}), steps)
  apart = jax.tree.map(
    # On the host, since they lie on different devices.
    lambda a, b: np.max(np.abs(np.asarray(a) - np.asarray(b))),
    one.meta_params,
    many.meta_params,
  )
  largest = float(max(jax.tree.leaves(apart)))
  print(f'largest difference between parameters: {largest:.1e}')
  return largest


if __name__ == '__main__':
  jax.config.update('jax_num_cpu_devices', 8)  # before the first use of one
  main()
