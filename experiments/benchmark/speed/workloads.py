"""The rows of the benchmark: what is computed, and by whom."""

from typing import get_args

from experiments.benchmark.speed.base import Implementation, Network, Workload
from experiments.recipes import images, regression
from experiments.recipes.kinds import published

__all__ = [
  'CURVES', 'CURVE_PEERS', 'LORA', 'MEMORY_CURVE', 'METAJAX', 'NAMES',
  'OMNIGLOT', 'PEERS', 'PLAIN', 'RESNET', 'SUITES', 'TRANSFORMER',
]  # fmt: skip

_METAJAX = 'experiments.benchmark.speed.in_metajax'
_PLAIN = 'experiments.benchmark.speed.in_plain_jax'
_TORCH = 'experiments.benchmark.speed.in_torch'
_FEW_SHOT: tuple[Network, ...] = (
  'mlp', 'conv4_stride', 'conv4_max_pool', 'lora',
)  # fmt: skip

METAJAX = Implementation(
  'metajax', f'{_METAJAX}:in_metajax', networks=get_args(Network)
)
PLAIN = Implementation('plain JAX', f'{_PLAIN}:in_plain_jax')


def _peer(name: str, function: str, *needs: str) -> Implementation:
  return Implementation(
    name,
    f'{_TORCH}:{function}',
    needs=('torch', *needs),
    given_tasks=True,
    networks=_FEW_SHOT,
  )


_LOOP = _peer('torch loop', 'in_loop')
# They are nobody else's, but other ways of metajax itself.
_NATIVE = Implementation(
  'native',
  f'{_METAJAX}:in_native_lowering',
  networks=('conv4_stride', 'conv4_max_pool', 'resnet12'),
)
_REVERSE = Implementation(
  'reverse', f'{_METAJAX}:in_reverse_mode', networks=('lora',)
)
PEERS = {
  row.name: row
  for row in (
    _NATIVE,
    _REVERSE,
    _peer('higher', 'in_higher', 'higher'),
    _peer('torchopt', 'in_torchopt', 'torchopt'),
    _peer('torch.func', 'in_torch_func'),
    _LOOP,
  )
}


def _sinusoid(inner_steps: int) -> Workload:
  recipe = published(regression, 'maml')
  return Workload(
    'sinusoid', 'mlp', recipe.tasks_per_step, inner_steps, recipe.inner_lr,
    recipe.outer_lr, shots=recipe.shots,
    queries=recipe.train_queries or recipe.queries, width=40,
  )  # fmt: skip


def _conv4(network: str, tasks: int) -> Workload:
  """At a rate at which the losses of both sets fall."""
  assert network in ('conv4_stride', 'conv4_max_pool')
  return Workload(network, network, tasks, 5, 0.1, ways=5, queries=15)  # type: ignore[arg-type]


def _omniglot() -> Workload:
  """The recipe, sampling included, with as many classes as in training."""
  recipe = published(images, 'maml')
  return Workload(
    'omniglot', 'conv4_stride', recipe.tasks_per_step, recipe.inner_steps,
    recipe.inner_lr, recipe.outer_lr, ways=recipe.ways, shots=recipe.shots,
    queries=recipe.queries, classes=4400, sampling=True,
  )  # fmt: skip


# Eight sequences to adapt to, and eight to be judged by.
TRANSFORMER = Workload(
  'transformer', 'transformer', 1, 20, 1e-3, ways=8, width=256, side=128
)
# A BERT as large as MiniLM, 6 blocks of 384, of which adapters and a new head
# are learned.
LORA = Workload(
  'lora', 'lora', 4, 5, 0.1, ways=5, shots=5, queries=15, width=384, side=32,
  depth=6, vocabulary=30522,
)  # fmt: skip
OMNIGLOT = _omniglot()
RESNET = Workload(
  'resnet12', 'resnet12', 4, 1, 0.1, ways=5, shots=1, queries=1, side=32
)

_FULL = (
  _sinusoid(1),
  _sinusoid(5),
  _conv4('conv4_max_pool', 8),
  _conv4('conv4_max_pool', 32),
  _conv4('conv4_stride', 8),
  _conv4('conv4_stride', 32),
  OMNIGLOT,
  RESNET,
  TRANSFORMER,
  LORA,
)
SUITES = {
  'quick': (_FULL[0], _FULL[2], OMNIGLOT),
  'full': _FULL,
}
NAMES = list(dict.fromkeys(row.name for row in _FULL))

# What the scaling curves vary, and who takes part.
CURVES: dict[str, tuple[int, ...]] = {
  'tasks': (1, 2, 4, 8, 16, 32, 64),
  'inner_steps': (1, 2, 4, 8, 16, 32),
  'width': (32, 64, 128, 256),
}
CURVE_PEERS = (_LOOP.name,)
MEMORY_CURVE = (5, 10, 20, 40, 70, 100)  # inner steps of the transformer
