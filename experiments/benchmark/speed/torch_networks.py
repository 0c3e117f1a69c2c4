"""The networks of the peers, of the weights that those of metajax have."""

import torch
from torch.nn import functional

from experiments.benchmark.speed.base import EPSILON, Workload

__all__ = ['Tensors', 'torch_network']

Tensors = dict[str, torch.Tensor]


def torch_network(
  workload: Workload, weights: Tensors, inputs: torch.Tensor
) -> torch.Tensor:
  """The network of a workload, with metajax's weights."""
  if workload.network == 'mlp':
    return _mlp(weights, inputs)
  return _conv4(workload.network == 'conv4_max_pool', weights, inputs)


def _mlp(weights: Tensors, inputs: torch.Tensor) -> torch.Tensor:
  *hidden, head = sorted({name.partition('/')[0] for name in weights})
  for layer in hidden:
    inputs = _dense(layer, weights, inputs).relu()
  return _dense(head, weights, inputs)


def _dense(layer: str, weights: Tensors, inputs: torch.Tensor) -> torch.Tensor:
  return inputs @ weights[f'{layer}/kernel'] + weights[f'{layer}/bias']


def _conv4(
  pooled: bool, weights: Tensors, inputs: torch.Tensor
) -> torch.Tensor:
  for index in range(4):
    kernel = weights[f'Conv_{index}/kernel']
    if pooled:
      outputs = functional.conv2d(inputs, kernel, padding=1)
    else:
      side = inputs.shape[-1]
      total = 2 * -(-side // 2) + 1 - side  # SAME padding, as XLA divides it
      pad = total // 2, total - total // 2
      outputs = functional.conv2d(
        functional.pad(inputs, pad + pad), kernel, stride=2
      )
    inputs = functional.batch_norm(
      outputs,
      None,
      None,
      weights[f'BatchNorm_{index}/scale'],
      weights[f'BatchNorm_{index}/bias'],
      True,
      eps=EPSILON,
    ).relu()
    if pooled:
      inputs = functional.max_pool2d(inputs, 2)
  return _dense('head', weights, inputs.mean((2, 3)))
