"""Memory and arithmetic of a long inner loop: a transformer under Adam.

  python -m experiments.inner_memory --steps=20 --second_order=mixed \
    --checkpoint=nested --chunks=8

prints the temporaries of the compiled meta-gradient in MiB, its arithmetic in
GFLOP, the ratio to that of plain reverse over reverse mode, and with `--time`
the seconds that one meta-gradient takes.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import app, flags

from metajax.devices.cost import cost
from metajax.inner.accumulate import accumulate
from metajax.inner.descend import INNER_GRADIENT, descend
from metajax.models import transformer

LENGTH, VOCABULARY, SEQUENCES = 128, 256, 8

STEPS = flags.DEFINE_list('steps', ['20'], 'Inner steps, one row each.')
SECOND_ORDER = flags.DEFINE_enum(
  'second_order', 'mixed', ['mixed', 'reverse'], 'See metajax.descend.'
)
CHECKPOINT = flags.DEFINE_enum(
  'checkpoint',
  'nested',
  ['none', 'step', 'nested', INNER_GRADIENT],
  'See metajax.descend; the last is a policy that saves inner gradients.',
)
CHUNKS = flags.DEFINE_integer(
  'chunks', 1, f'Parts that the {SEQUENCES} sequences are accumulated over.'
)
REMATERIALISE = flags.DEFINE_bool(
  'rematerialise', False, 'Compute blocks of the transformer again.'
)
TIME = flags.DEFINE_bool('time', False, 'Run it as well.')


def meta_gradient(
  steps: int, second_order: str, checkpoint: Any, chunks: int, again: bool
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
  """The gradient of a loss after an inner loop, and shapes to call it with."""
  model = transformer(
    VOCABULARY,
    vocabulary=VOCABULARY,
    causal=True,
    pool='none',
    rematerialise=again,
  )

  def loss(params: Any, tokens: jax.Array) -> jax.Array:
    outputs = model.apply(params, tokens[:, :-1])
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(outputs, tokens[:, 1:])
    )

  whole = accumulate(loss, chunks) if chunks > 1 else loss
  if checkpoint == INNER_GRADIENT:
    checkpoint = jax.checkpoint_policies.save_only_these_names(INNER_GRADIENT)

  def outer(params: Any, support: jax.Array, query: jax.Array) -> jax.Array:
    last, _ = descend(
      lambda params, step: whole(params, support),
      params,
      optax.adam(1e-3, eps_root=1e-8),
      steps,
      second_order=second_order,  # type: ignore[arg-type]
      checkpoint=checkpoint,
    )
    return whole(last, query)

  tokens = jax.ShapeDtypeStruct((SEQUENCES, LENGTH + 1), jnp.int32)
  params = jax.eval_shape(
    lambda key: model.init(key, jnp.zeros((1, LENGTH), jnp.int32)),
    jax.random.key(0),
  )
  return jax.grad(outer), (params, tokens, tokens)


def main(argv: Sequence[str]) -> None:
  """Prints one row for every number of inner steps."""
  del argv
  how = (
    SECOND_ORDER.value,
    CHECKPOINT.value,
    CHUNKS.value,
    REMATERIALISE.value,
  )
  for steps in map(int, STEPS.value):
    plain, shapes = meta_gradient(steps, 'reverse', 'none', 1, False)
    function, _ = meta_gradient(steps, *how)
    flops = cost(function, *shapes).flops
    compiled = jax.jit(function).lower(*shapes).compile()
    analysis: Any = compiled.memory_analysis()
    temporaries = analysis.temp_size_in_bytes
    row = (
      f'{steps} steps, {how}: {temporaries / 2**20:.0f} MiB,'
      f' {flops / 1e9:.0f} GFLOP, {flops / cost(plain, *shapes).flops:.3f}'
    )
    if TIME.value:
      args = jax.tree.map(
        lambda leaf: (
          jax.random.randint(jax.random.key(0), leaf.shape, 0, VOCABULARY)
          if leaf.dtype == jnp.int32
          else 0.05 * jax.random.normal(jax.random.key(1), leaf.shape)
        ),
        shapes,
      )
      jax.block_until_ready(compiled(*args))
      start = time.perf_counter()
      jax.block_until_ready(compiled(*args))
      row += f', {time.perf_counter() - start:.1f} s'
    print(row, flush=True)


if __name__ == '__main__':
  app.run(main)
