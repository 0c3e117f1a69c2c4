"""The peers: second-order MAML in PyTorch, in the ways that people write it.

They share the networks, the outer step and the tasks; what differs is how a
task is adapted to. All of them run on a GPU where torch sees one.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from experiments.benchmark.speed.base import (
  IMAGES_PER_CLASS,
  SEED,
  Problem,
  Program,
  Tasks,
  Weights,
  Workload,
  noise_images,
)
from experiments.benchmark.speed.torch_networks import Tensors, torch_network

__all__ = ['in_higher', 'in_loop', 'in_torch_func', 'in_torchopt']

Batch = tuple[torch.Tensor, torch.Tensor]
# Support sets and queries, each [tasks, examples, ...], channels first.
Episodes = tuple[Batch, Batch]
Network = Callable[[Tensors, torch.Tensor], torch.Tensor]
Loss = Callable[[Tensors, Batch], torch.Tensor]
# Adds the gradient of the mean loss over tasks to the `grad` of the weights;
# returns that loss.
Backward = Callable[[Episodes], torch.Tensor]
# From the loss, the weights and the workload.
MakeBackward = Callable[[Loss, Tensors, Workload], Backward]


def in_loop(problem: Problem) -> Program:
  """A Python loop over tasks, with `torch.autograd.grad`."""
  return _program(problem, _loop)


def _loop(loss: Loss, weights: Tensors, workload: Workload) -> Backward:
  def adapt(support: Batch) -> Tensors:
    adapted = weights
    for _ in range(workload.inner_steps):
      gradients = torch.autograd.grad(
        loss(adapted, support), list(adapted.values()), create_graph=True
      )
      adapted = {
        name: weight - workload.inner_lr * gradient
        for (name, weight), gradient in zip(
          adapted.items(), gradients, strict=True
        )
      }
    return adapted

  return _by_task(lambda support, query: loss(adapt(support), query))


def in_torch_func(problem: Problem) -> Program:
  """`torch.func`: `vmap` over tasks, `grad` inside and outside."""
  return _program(problem, _func)


def _func(loss: Loss, weights: Tensors, workload: Workload) -> Backward:
  slope = torch.func.grad(loss)

  def task_loss(weights: Tensors, support: Batch, query: Batch) -> torch.Tensor:
    for _ in range(workload.inner_steps):
      gradient = slope(weights, support)
      weights = {
        name: weight - workload.inner_lr * gradient[name]
        for name, weight in weights.items()
      }
    return loss(weights, query)

  if workload.network == 'lora':
    return _func_by_task(task_loss, weights)

  def mean_loss(weights: Tensors, episodes: Episodes) -> torch.Tensor:
    every = torch.func.vmap(task_loss, in_dims=(None, 0, 0))
    return every(weights, *episodes).mean()

  both = torch.func.grad_and_value(mean_loss)

  def backward(episodes: Episodes) -> torch.Tensor:
    gradient, value = both(
      {name: weight.detach() for name, weight in weights.items()}, episodes
    )
    for name, weight in weights.items():
      weight.grad = gradient[name]
    return value

  return backward


def _func_by_task(
  task_loss: Callable[[Tensors, Batch, Batch], torch.Tensor], weights: Tensors
) -> Backward:
  """Task by task: all at once take a multiple of a large network's memory."""
  both = torch.func.grad_and_value(task_loss)

  def backward(episodes: Episodes) -> torch.Tensor:
    support, query = episodes
    number = len(support[0])
    start = {name: weight.detach() for name, weight in weights.items()}
    total = torch.zeros(())
    for index in range(number):
      gradient, value = both(
        start,
        (support[0][index], support[1][index]),
        (query[0][index], query[1][index]),
      )
      total = total + value / number
      for name, weight in weights.items():
        own = gradient[name] / number
        weight.grad = own if weight.grad is None else weight.grad + own
    return total

  return backward


def in_higher(problem: Problem) -> Program:
  """The library higher."""
  return _program(problem, _higher)


def _higher(loss: Loss, weights: Tensors, workload: Workload) -> Backward:
  import higher

  module = _Module(loss, weights)
  optimizer = torch.optim.SGD(module.parameters(), lr=workload.inner_lr)

  def task_loss(support: Batch, query: Batch) -> torch.Tensor:
    with higher.innerloop_ctx(
      module, optimizer, copy_initial_weights=False
    ) as (adapted, inner):
      for _ in range(workload.inner_steps):
        inner.step(adapted(support))
      value: torch.Tensor = adapted(query)
      return value

  return _by_task(task_loss)


def in_torchopt(problem: Problem) -> Program:
  """The library TorchOpt, its differentiable optimiser."""
  return _program(problem, _torchopt)


def _torchopt(loss: Loss, weights: Tensors, workload: Workload) -> Backward:
  import torchopt

  module = _Module(loss, weights)
  optimizer = torchopt.MetaSGD(module, lr=workload.inner_lr)
  start = [
    torchopt.extract_state_dict(each, by='reference')
    for each in (module, optimizer)
  ]

  def task_loss(support: Batch, query: Batch) -> torch.Tensor:
    for _ in range(workload.inner_steps):
      optimizer.step(module(support))
    value: torch.Tensor = module(query)
    for each, state in zip((module, optimizer), start, strict=True):
      torchopt.recover_state_dict(each, state)
    return value

  return _by_task(task_loss)


class _Module(torch.nn.Module):
  """The loss as a module, which is what these libraries want."""

  def __init__(self, loss: Loss, weights: Tensors) -> None:
    super().__init__()
    self._loss = loss
    self._names = list(weights)
    for name, weight in weights.items():
      self.register_parameter(name, weight)

  def forward(self, batch: Batch) -> torch.Tensor:
    """The loss of a batch."""
    return self._loss(
      {name: getattr(self, name) for name in self._names}, batch
    )


def _by_task(
  task_loss: Callable[[Batch, Batch], torch.Tensor],
) -> Backward:
  """One task after the other, so that only one graph is alive."""

  def backward(episodes: Episodes) -> torch.Tensor:
    support, query = episodes
    number = len(support[0])
    total = torch.zeros(())
    for index in range(number):
      value = (
        task_loss(
          (support[0][index], support[1][index]),
          (query[0][index], query[1][index]),
        )
        / number
      )
      value.backward()
      total = total + value.detach()
    return total

  return backward


def _program(problem: Problem, make: MakeBackward) -> Program:
  workload = problem.workload
  device = _device()
  # JAX does so; torch does it for convolutions alone unless it is told to.
  torch.backends.cuda.matmul.allow_tf32 = True
  torch.manual_seed(SEED)
  weights = _parameters(problem.weights, device)
  optimizer = torch.optim.Adam(
    list(weights.values()), lr=workload.outer_lr, fused=True
  )
  make_loss = cache(partial(_make_loss, problem))
  loss = make_loss()
  backward = make(loss, weights, workload)
  episodes = _all_episodes(problem, device)

  def advance(num_steps: int) -> float:
    for _ in range(num_steps):
      optimizer.zero_grad()
      value = backward(next(episodes))
      optimizer.step()
    if device.type == 'cuda':
      torch.cuda.synchronize()
    return float(value)

  def meta_gradient(weights: Weights, tasks: Tasks) -> tuple[float, Weights]:
    parameters = _parameters(weights, device)
    dtype = next(iter(parameters.values())).dtype
    value = make(make_loss(dtype), parameters, workload)(
      _tensors(tasks, device)
    )
    return float(value), {
      name: _like_jax(parameters[name].grad) for name in weights
    }

  return Program(
    advance,
    meta_gradient,
    device_bytes=lambda: (
      torch.cuda.max_memory_allocated() if device.type == 'cuda' else None
    ),
    variants=_thread_counts() if device.type == 'cpu' else {},
  )


def _thread_counts() -> dict[str, Callable[[], None]]:
  """One thread, and one per core: small operations are faster with one."""
  counts = sorted({1, len(os.sched_getaffinity(0))})
  return {
    f'{count} thread{"s"[: count - 1]}': partial(torch.set_num_threads, count)
    for count in counts
  }


def _device() -> torch.device:
  return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def _parameters(weights: Weights, device: torch.device) -> Tensors:
  """Leaves, with the axes where PyTorch wants those of a convolution."""
  return {
    name: torch.nn.Parameter(
      torch.tensor(
        (leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf).copy(),
        device=device,
      )
    )
    for name, leaf in weights.items()
  }


def _like_jax(gradient: torch.Tensor | None) -> np.ndarray:
  assert gradient is not None
  leaf: np.ndarray = gradient.cpu().numpy()
  return leaf.transpose(2, 3, 1, 0) if leaf.ndim == 4 else leaf


def _tensors(tasks: Tasks, device: torch.device) -> Episodes:
  def tensor(array: np.ndarray) -> torch.Tensor:
    if array.ndim == 5:  # images: channels come first in PyTorch
      array = array.transpose(0, 1, 4, 2, 3)
    if array.dtype.kind == 'i':  # classes
      array = array.astype(np.int64)
    return torch.tensor(array.copy(), device=device)

  support, query = tasks
  return (
    (tensor(support[0]), tensor(support[1])),
    (tensor(query[0]), tensor(query[1])),
  )


def _all_episodes(problem: Problem, device: torch.device) -> Iterator[Episodes]:
  """Tasks without end; those of the first step are everybody's."""
  given = [_tensors(tasks, device) for tasks in problem.tasks]
  yield given[0]
  if problem.workload.sampling:
    yield from _sampled(problem.workload, device)
  while True:
    yield from given[1:]
    yield given[0]


def _sampled(workload: Workload, device: torch.device) -> Iterator[Episodes]:
  """Episodes of images that stay on the device, classes times rotations."""
  images = torch.tensor(
    noise_images(workload.classes // 4, workload.side), device=device
  )
  each = workload.shots + workload.queries

  def drawn() -> torch.Tensor:
    chosen = torch.randperm(4 * len(images))[: workload.ways]
    return torch.stack(
      [
        torch.rot90(
          images[index // 4, torch.randperm(IMAGES_PER_CLASS)[:each]],
          int(index % 4),
          (1, 2),
        )
        for index in chosen
      ]
    )

  def batch(images: torch.Tensor) -> Batch:
    # [tasks, ways, of each class, height, width]
    labels = torch.arange(workload.ways, device=device)
    labels = labels.repeat_interleave(images.shape[2])
    return (
      images.flatten(1, 2)[:, :, None].float() / 255,
      labels.expand(len(images), -1),
    )

  while True:
    tasks = torch.stack([drawn() for _ in range(workload.tasks)])
    yield (
      batch(tasks[:, :, : workload.shots]),
      batch(tasks[:, :, workload.shots :]),
    )


def _make_loss(problem: Problem, dtype: torch.dtype | None = None) -> Loss:
  """The loss of a problem; of float32 weights, unless another type is given."""
  if problem.workload.network == 'lora':
    from experiments.benchmark.speed.lora_in_torch import adapted_bert

    network = adapted_bert(problem, dtype or torch.float32, _device())
  else:
    network = partial(torch_network, problem.workload)
  # In the type of its arguments, whatever the precision of the steps.
  precision = problem.precision if dtype is None else 'float32'
  return partial(_loss, problem.workload, precision, network)


def _loss(
  workload: Workload,
  precision: str,
  network: Network,
  weights: Tensors,
  batch: Batch,
) -> torch.Tensor:
  inputs, targets = batch
  with _autocast(precision, inputs.device.type):
    outputs = network(weights, inputs)
    if workload.network == 'mlp':
      return functional.mse_loss(outputs, targets)
    return functional.cross_entropy(outputs, targets)


def _autocast(
  precision: str, device: str
) -> contextlib.AbstractContextManager[Any]:
  if precision == 'float32':
    return contextlib.nullcontext()
  context: contextlib.AbstractContextManager[Any] = torch.autocast(
    device, torch.bfloat16
  )
  return context
