"""Trains a small network, as one of several processes where it is a script.

  python several_processes.py FOLDER HOST:PORT NUM_PROCESSES PROCESS_ID

FOLDER holds a checkpoint in `one`, which a single process has written. This
process writes `ID.json`, what it has seen, and `ID.npz`, the states it has come
to; all of them together write a checkpoint in `several`. Without arguments it
looks for a cluster.
"""

import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metajax
from metajax.devices.distributed import (
  agree,
  collect,
  gather,
  initialize,
  is_lost_connection,
  is_primary,
)
from metajax.devices.mesh import largest_dimension, make_mesh, replicated
from metajax.models import mlp
from metajax.runs.checkpoint import Checkpointer
from metajax.tasks import sinusoid

NUM_STEPS = 20


def network():
  """A small network, in the precision of its inputs."""
  model = mlp([8], 1)

  def init(key, inputs):
    # It is drawn in float32, whose last bit depends on what XLA fuses.
    params = model.init(key, inputs)
    return jax.tree.map(
      lambda leaf: (jnp.round(leaf * 1024) / 1024).astype(inputs.dtype), params
    )

  return model._replace(init=init)


# Three inner steps, for the first one stands outside of the loop.
LEARNER = metajax.maml(network(), metajax.mean_squared_error, 0.01, 3)


def make_train(mesh=None, rule=replicated, **options):
  """The outer loop, the same on whatever devices."""
  options = {'sample': sinusoid(4, 4), 'tasks_per_step': 8, **options}
  return metajax.make_train_step(
    LEARNER, optax.adam(1e-2), mesh=mesh, rule=rule, **options
  )


def start(train):
  """A state after no steps."""
  return train.init(jax.random.key(0))


def in_pieces(mesh):
  """The rule that divides all that can be divided over the tasks' devices."""
  return largest_dimension(mesh, 'task', at_least=1)


def on_the_host(state):
  """Every leaf of a state by its path; each process has to call it."""

  def whole(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    return np.array(gather(leaf))

  return {
    jax.tree_util.keystr(path): whole(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }


def main(folder, coordinator, num_processes, process_id):
  """Joins the others and does with them whatever needs several processes."""
  initialize(coordinator, int(num_processes), int(process_id), timeout=120)
  jax.config.update('jax_enable_x64', True)
  folder, index = Path(folder), jax.process_index()
  seen = exchange(index)

  mesh = make_mesh({'task': jax.device_count()})
  train = make_train(mesh, in_pieces(mesh))
  state, metrics = train.run(start(train), NUM_STEPS)
  states = {'trained': on_the_host(state)}
  kernel = state.meta_params['Dense_0']['kernel']
  seen['piece'] = list(kernel.addressable_data(0).shape)
  seen['metrics'] = {name: float(value) for name, value in metrics.items()}

  with Checkpointer(folder / 'several') as checkpoints:
    checkpoints.save(NUM_STEPS, state, seen['metrics'])
    checkpoints.wait()
    restored = checkpoints.restore(train.template())
  states['restored'] = on_the_host(restored.state)
  states['resumed'] = on_the_host(train.run(restored.state, 1)[0])
  states['went on'] = on_the_host(train.run(state, 1)[0])
  with Checkpointer(folder / 'one') as checkpoints:
    restored = checkpoints.restore(train.template())
  states['of one'] = on_the_host(restored.state)

  np.savez(
    folder / f'{index}.npz',
    **{
      f'{name}/{path}': leaf
      for name, leaves in states.items()
      for path, leaf in leaves.items()
    },
  )
  facts = folder / f'{index}.json'
  facts.write_text(json.dumps(seen))
  if jax.process_count() == 2:
    facts.write_text(json.dumps({**seen, 'lost': lose_the_last()}))
    os._exit(0)  # nobody is left to wait for


def exchange(index):
  """Facts that every process tells the others."""
  lengthy = {'process': index, 'text': 'é' * (10 * index)}
  return {
    'process': index,
    'processes': jax.process_count(),
    'devices': [jax.local_device_count(), jax.device_count()],
    'is_primary': is_primary(),
    'collected': collect(lengthy),
    'agreed': agree(f'as process {index} says'),
    'gathered number': gather(index),
  }


def lose_the_last():
  """One process leaves without a word; what the other one makes of it."""
  if not is_primary():
    os._exit(0)
  try:
    collect('anybody there?')
  except Exception as error:
    others = (error, ValueError('shapes differ'))
    return [is_lost_connection(each) for each in others]
  return None


if __name__ == '__main__':
  if len(sys.argv) == 1:
    initialize(timeout=1)
  else:
    main(*sys.argv[1:])
