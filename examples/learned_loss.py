"""An inner loss that is itself learned, for labels that cannot be trusted.

  python examples/learned_loss.py

In the inner loop a small network, the judge, takes a prediction and its target
and says how bad that is. Its parameters are meta-parameters, like the start of
the regressor. A fifth of the support targets is wrong, the queries are right,
and the outer loss is the squared error on these: so the judge learns a loss
that adapts well in spite of such targets.

The method is a `Learner` made by hand, `descend` on the learned loss, with
`backprop` as its estimator. It prints the error on new tasks before and after
one inner step, of MAML, whose inner loss is the squared error, and with the
learned loss; and how hard the judge pulls at a prediction, by how far away its
target is: what is too far away to be true pulls less. It takes about 45 s on
two CPU cores.
"""

import jax
import jax.numpy as jnp
import optax

import metajax
from metajax.models import mlp

SQUARED = metajax.mean_squared_error
INNER_LR = 0.05


def corrupted_wave(key: jax.Array) -> metajax.Task:
  """A sine wave, of whose support targets a fifth is moved far away."""
  wave_key, x_key, far_key, which_key = jax.random.split(key, 4)
  amplitude, phase = jax.random.uniform(wave_key, (2,), minval=0.5, maxval=3.0)
  x = jax.random.uniform(x_key, (40, 1), minval=-3.0, maxval=3.0)
  y = amplitude * jnp.sin(x - phase)
  is_wrong = jax.random.bernoulli(which_key, 0.2, (20, 1))
  far = jnp.where(is_wrong, 6 * jax.random.normal(far_key, (20, 1)), 0.0)
  return metajax.Task(
    metajax.Batch(x[:20], y[:20] + far), metajax.Batch(x[20:], y[20:])
  )


def draw_judge(key: jax.Array, width: int = 32) -> dict[str, jax.Array]:
  """Parameters of the judge."""
  first, second = jax.random.split(key)
  return {
    'first': jax.random.normal(first, (2, width)) / 2,
    'offset': jnp.zeros((1, width)),
    'second': jax.random.normal(second, (width,)) / width**0.5,
  }


def judge(params: dict, outputs: jax.Array, targets: jax.Array) -> jax.Array:
  """The learned loss, a mean over examples; smooth, and never negative."""
  pairs = jnp.concatenate([outputs, targets], axis=1)
  hidden = jnp.tanh(pairs @ params['first'] + params['offset'])
  return jnp.mean(jax.nn.softplus(hidden @ params['second']))


def learned_loss(model: metajax.Model) -> metajax.MetaLearner:
  """MAML that learns its inner loss along with the start."""

  def init(key, inputs):
    return {
      'start': model.init(jax.random.fold_in(key, 0), inputs),
      'judge': draw_judge(jax.random.fold_in(key, 1)),
    }

  def adapt(key, meta_params, support):
    del key  # nothing is drawn

    def loss(params, step):
      del step  # the whole support set, every time
      outputs = model.apply(params, support.inputs)
      return judge(meta_params['judge'], outputs, support.targets)

    adapted, descent = metajax.descend(
      loss, meta_params['start'], optax.sgd(INNER_LR), num_steps=1
    )
    return adapted, metajax.Adaptation(descent.losses, descent.trajectory)

  learner = metajax.Learner(init, adapt, model.apply)
  return metajax.MetaLearner(*learner, grad=metajax.backprop(learner, SQUARED))


def main(steps: int = 2000) -> dict[str, jax.Array]:
  """Trains both; returns their errors before and after one step."""
  network = mlp([40, 40], 1)
  learners = {
    'squared error': metajax.maml(network, SQUARED, INNER_LR, num_steps=1),
    'learned loss': learned_loss(network),
  }
  errors = {}
  for name, learner in learners.items():
    train = metajax.make_train_step(
      learner, optax.adam(1e-3), corrupted_wave, tasks_per_step=16
    )
    state, _ = train.run(train.init(jax.random.key(0)), steps)
    evaluation = metajax.evaluate(
      learner,
      SQUARED,
      state.meta_params,
      corrupted_wave,
      key=jax.random.key(1),
      num_tasks=500,
      chunk_size=50,
    )
    errors[name] = evaluation.mean['mse']
    before, after = errors[name]
    print(f'{name:>15} {before:.2f} -> {after:.2f}')

  pull = jax.grad(judge, argnums=1)
  print('target away by  pull')
  for away in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0):
    target = jnp.full((1, 1), away)
    slope = pull(state.meta_params['judge'], jnp.zeros((1, 1)), target)[0, 0]
    print(f'{away:14.1f} {-slope:5.2f}')
  return errors


if __name__ == '__main__':
  main()
