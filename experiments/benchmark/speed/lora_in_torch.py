"""A pretrained transformer with low-rank adapters, by the library transformers.

As its users write it: `from_pretrained`, adapters in the place of the layers
that they are beside, and `torch.func.functional_call` with what is learned.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

from experiments.benchmark.speed.base import LORA_RANK, Problem, folder_of
from experiments.benchmark.speed.torch_networks import Tensors

__all__ = ['adapted_bert']


def adapted_bert(
  problem: Problem, dtype: torch.dtype, device: torch.device
) -> Callable[[Tensors, torch.Tensor], torch.Tensor]:
  """The network of a problem.

  Args:
    problem: its files are loaded.
    dtype: of the weights.
    device: that they are on.

  Returns:
    Outputs, of adapters and head by the names that metajax has for them, and of
    tokens, below 0 where there is none.
  """
  from transformers import BertModel

  with folder_of(problem) as folder:
    # The fused attention has no second derivative.
    bert = BertModel.from_pretrained(
      folder, add_pooling_layer=False, attn_implementation='eager', dtype=dtype
    )
  module = _Classifier(bert, problem.workload.ways).to(device, dtype).eval()
  module.requires_grad_(requires_grad=False)

  def network(weights: Tensors, tokens: torch.Tensor) -> torch.Tensor:
    named = {_name(path): weight for path, weight in weights.items()}
    outputs: torch.Tensor = torch.func.functional_call(module, named, (tokens,))
    return outputs

  return network


class _LowRank(torch.nn.Module):
  """A linear layer and its adapter."""

  def __init__(self, linear: torch.nn.Linear) -> None:
    super().__init__()
    self.linear = linear
    self.a = torch.nn.Parameter(torch.zeros(linear.in_features, LORA_RANK))
    self.b = torch.nn.Parameter(torch.zeros(LORA_RANK, linear.out_features))

  def forward(self, inputs: torch.Tensor) -> torch.Tensor:
    """The sum of the two."""
    outputs: torch.Tensor = self.linear(inputs)
    return outputs + inputs @ self.a @ self.b


class _Classifier(torch.nn.Module):
  """A head on the mean over the tokens."""

  def __init__(self, bert: torch.nn.Module, ways: int) -> None:
    super().__init__()
    self.bert = bert
    for layer in bert.encoder.layer:
      attention = layer.attention.self
      attention.query = _LowRank(attention.query)
      attention.value = _LowRank(attention.value)
    width = bert.config.hidden_size
    self.kernel = torch.nn.Parameter(torch.zeros(width, ways))
    self.bias = torch.nn.Parameter(torch.zeros(ways))

  def forward(self, tokens: torch.Tensor) -> torch.Tensor:
    """Outputs `[texts, ways]`."""
    real = tokens >= 0
    hidden = self.bert(
      input_ids=tokens.clamp(min=0), attention_mask=real.long()
    ).last_hidden_state
    weights = real.to(hidden.dtype)[..., None]
    features = (hidden * weights).sum(1) / weights.sum(1)
    return functional.linear(features, self.kernel.T, self.bias)


def _name(path: str) -> str:
  """What a weight of metajax is called here."""
  *place, name = path.split('/')
  if place[0] == 'base':
    return name
  _, block, _, layer, _ = place
  index = block.removeprefix('block_')
  return f'bert.encoder.layer.{index}.attention.self.{layer}.{name}'
