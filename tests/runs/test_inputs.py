"""What networks are initialised with."""

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Batch, Task
from metajax.runs.inputs import init_inputs, sampled_inputs
from metajax.runs.mixture import alternate
from metajax.tasks import sinusoid

SINUSOID = sinusoid(3, 3)


def test_what_init_is_given():
  inputs = init_inputs(SINUSOID(jax.random.key(0)))
  np.testing.assert_array_equal(inputs, np.zeros((3, 1)))
  environment = {'state': jnp.ones((2, 3))}
  whole = init_inputs(Task(environment, None))
  np.testing.assert_array_equal(whole['state'], np.zeros((2, 3)))


def test_queries_add_the_modalities_that_support_lacks():
  support = Batch({'texts': jnp.ones((2, 7), int)}, jnp.arange(2))
  query = Batch({'images': jnp.ones((4, 3)), 'texts': jnp.ones(4)}, None)
  inputs = init_inputs(Task(support, query))
  shapes = {name: leaf.shape for name, leaf in inputs.items()}
  assert shapes == {'texts': (2, 7), 'images': (4, 3)}


def test_all_distributions_of_a_mixture_add_theirs():
  def of(name: str, size: int):
    batch = Batch({name: jnp.ones((2, size))}, jnp.ones((2, 1)))
    return lambda key: Task(batch, batch)

  inputs = sampled_inputs(alternate({'a': of('one', 3), 'b': of('two', 4)}))
  shapes = {name: leaf.shape for name, leaf in inputs.items()}
  assert shapes == {'one': (2, 3), 'two': (2, 4)}
  assert sampled_inputs(SINUSOID).shape == (3, 1)
