"""Memory and arithmetic of a long inner loop: a transformer under Adam.

  python -m experiments.inner_memory --steps=20 --second_order=mixed
      --checkpoint=nested --chunks=8

prints the temporaries of the compiled meta-gradient in MiB, its arithmetic in
GFLOP, the ratio to that of plain reverse over reverse mode, and with `--time`
the seconds that one meta-gradient takes. The workdir receives `report.html`.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.benchmark.kinds import Counts
from experiments.reports import of_measurement
from experiments.runner import flags, tables
from experiments.runner.errors import UsageError
from experiments.runner.paths import Place
from experiments.runner.settings import (
  Base,
  OneOf,
  Whole,
  YesNo,
  setting,
  settings,
)
from experiments.runner.workdir import make_directory
from metajax.devices.cost import cost
from metajax.inner.accumulate import accumulate
from metajax.inner.descend import INNER_GRADIENT, descend
from metajax.models import transformer

__all__ = ['Settings', 'meta_gradient', 'run']

LENGTH, VOCABULARY, SEQUENCES = 128, 256, 8
_HEADER = 'inner steps', 'MiB', 'GFLOP', 'of reverse mode', 'seconds'


@settings
class Settings(Base):
  """How the inner loop is differentiated."""

  steps: tuple[int, ...] = setting(
    (20,), Counts(), 'Inner steps, one row each.',
    of='method', resume=False, forwarded=False,
  )  # fmt: skip
  second_order: str = setting(
    'mixed', OneOf(['mixed', 'reverse']), 'See metajax.descend.',
    of='method', resume=False, forwarded=False,
  )  # fmt: skip
  checkpoint: str = setting(
    'nested', OneOf(['none', 'step', 'nested', INNER_GRADIENT]),
    'See metajax.descend; the last is a policy that saves inner gradients.',
    of='method', resume=False, forwarded=False,
  )  # fmt: skip
  chunks: int = setting(
    1, Whole(),
    f'Parts that the {SEQUENCES} sequences are accumulated over.',
    of='method', resume=False, forwarded=False,
  )  # fmt: skip
  rematerialise: bool = setting(
    False, YesNo(), 'Compute blocks of the transformer again.',
    of='method', resume=False, forwarded=False,
  )  # fmt: skip
  time: bool = setting(
    False, YesNo(), 'Run it as well.',
    of='test', resume=False, forwarded=False,
  )  # fmt: skip
  workdir: str = setting(
    'runs/inner_memory', Place(), 'Where report.html goes.',
    of='machine', resume=True, forwarded=False,
  )  # fmt: skip


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


def run(settings: Settings) -> int:
  """Prints one row for every number of inner steps."""
  if SEQUENCES % settings.chunks:
    raise UsageError(
      'chunks',
      f'is {settings.chunks}, and {SEQUENCES} sequences cannot be cut into as'
      ' many equal parts',
    )
  workdir = Path(settings.workdir)
  make_directory(workdir)
  cells = [list(_HEADER[: None if settings.time else -1])]
  print(tables.markdown(cells, 1), end='', flush=True)
  for steps in settings.steps:
    cells.append(_row(settings, steps))
    print(tables.markdown_lines(cells[-1:]), end='', flush=True)
  of_measurement.write(
    workdir, settings,
    title='Memory and arithmetic of a long inner loop',
    lead=f'A transformer adapts to {SEQUENCES} sequences of {LENGTH} tokens by'
    ' Adam; figures are of the compiled meta-gradient.',
    cells=cells, caption='Arithmetic beside that of reverse over reverse mode',
  )  # fmt: skip
  return 0


def _row(settings: Settings, steps: int) -> list[str]:
  how = (
    settings.second_order,
    settings.checkpoint,
    settings.chunks,
    settings.rematerialise,
  )
  plain, shapes = meta_gradient(steps, 'reverse', 'none', 1, False)
  function, _ = meta_gradient(steps, *how)
  flops = cost(function, *shapes).flops
  compiled = jax.jit(function).lower(*shapes).compile()
  analysis: Any = compiled.memory_analysis()
  row = [
    str(steps),
    f'{analysis.temp_size_in_bytes / 2**20:.0f}',
    f'{flops / 1e9:.0f}',
    f'{flops / cost(plain, *shapes).flops:.3f}',
  ]
  return [*row, f'{_seconds(compiled, shapes):.1f}'] if settings.time else row


def _seconds(compiled: Callable[..., Any], shapes: Any) -> float:
  """How long the second run takes, on random numbers of these shapes."""
  arguments = jax.tree.map(
    lambda leaf: (
      jax.random.randint(jax.random.key(0), leaf.shape, 0, VOCABULARY)
      if leaf.dtype == jnp.int32
      else 0.05 * jax.random.normal(jax.random.key(1), leaf.shape)
    ),
    shapes,
  )
  jax.block_until_ready(compiled(*arguments))
  start = time.perf_counter()
  jax.block_until_ready(compiled(*arguments))
  return time.perf_counter() - start


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
