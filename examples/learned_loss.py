"""An inner loss that is itself learned, for labels that cannot be trusted.

  python examples/learned_loss.py

In the inner loop a small network, the judge (`metajax.learned.learned_loss`),
says how bad a prediction is for its target. Its parameters are meta-parameters,
like the start of the regressor. A fifth of the support targets is wrong; the
outer loss is the squared error on queries, which are right: so the judge learns
to adapt in spite of such targets.

The method is a `Learner` made by hand, `descend` on the learned loss, with
`backprop` as its estimator. It prints the error on new tasks before and after
one inner step, of MAML and with the learned loss; and how hard the judge pulls
at a prediction: a target that is too far away to be true pulls less.
"""

import jax
import jax.numpy as jnp
import optax

import metajax
from metajax import learned
from metajax.models import mlp

SQUARED = metajax.mean_squared_error
INNER_LR = 0.05


def corrupted_wave(key: jax.Array) -> metajax.Task:
  """A sine wave, of whose support targets a fifth is moved far away."""
  wave_key, x_key, far_key, which_key = jax.random.split(key, 4)
  amplitude, phase = jax.random.uniform(wave_key, (2,), minval=0.5, maxval=3.0)
  x = jax.random.uniform(x_key, (40, 1), minval=-3.0, maxval=3.0)
  y = amplitude * jnp.sin(x - phase)
  far = 6 * jax.random.normal(far_key, (20, 1))
  far *= jax.random.bernoulli(which_key, 0.2, (20, 1))
  support = metajax.Batch(x[:20], y[:20] + far)
  return metajax.Task(support, metajax.Batch(x[20:], y[20:]))


def judge(params, outputs, targets):
  """The learned loss, a mean over examples; smooth, and never negative."""
  return learned.learned_loss(params)(outputs, targets)[0]


def learned_loss(model: metajax.Model) -> metajax.MetaLearner:
  """MAML that learns its inner loss along with the start."""

  def init(key, inputs):
    keys = jax.random.split(key)
    start = model.init(keys[0], inputs)
    return {'start': start, 'judge': learned.init_learned_loss(keys[1])}

  def adapt(key, meta_params, support):
    def loss(params, step):  # of the whole support set, in every step
      outputs = model.apply(params, support.inputs)
      return judge(meta_params['judge'], outputs, support.targets)

    start, rate = meta_params['start'], optax.sgd(INNER_LR)
    adapted, descent = metajax.descend(loss, start, rate, num_steps=1)
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
    errors[name] = metajax.evaluate(
      learner, SQUARED, state.meta_params, corrupted_wave,
      key=jax.random.key(1), num_tasks=500, chunk_size=50,
    ).mean['mse']  # fmt: skip
    print(f'{name:>15} {errors[name][0]:.2f} -> {errors[name][-1]:.2f}')

  for away in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0):
    pair = jnp.zeros((1, 1)), jnp.full((1, 1), away)
    slope = jax.grad(judge, argnums=1)(state.meta_params['judge'], *pair)
    print(f'target away by {away:.1f}, pull {-slope[0, 0]:.2f}')
  return errors


if __name__ == '__main__':
  main()
