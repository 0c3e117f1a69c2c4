"""How fast metajax is, beside the same computation in other ways.

  python -m experiments.benchmark --suite=quick

measures one outer step of second-order MAML: `sinusoid` (MLP 40-40, 25 tasks),
`conv4_max_pool` and `conv4_stride` (5-way 1-shot, 15 queries, 5 inner steps),
`omniglot` (the recipe of the main job, sampling included), `transformer` (20
inner steps of Adam), and `lora` (low-rank adapters and a head on a pretrained
BERT as large as MiniLM, 5-way 5-shot texts of 32 tokens). The implementations
are metajax as its users get it, plain JAX written by hand
(`jit(grad(mean(vmap)))`, `lax.conv`), and as peers the libraries higher and
TorchOpt, `torch.func`, and a PyTorch loop over tasks
(`pip install -e '.[benchmark]'`); `native` and `reverse` are other ways of
metajax itself: the convolutions of the backend, and reverse over reverse mode,
which is faster and larger. The quick suite takes about ten minutes on two CPU
cores, the full one, with its scaling curves, more than an hour.

Every implementation has a process of its own, starts from the same weights and
the same tasks, and must have the same first loss, or there is no table. They
take turns, so that whatever else the machine does hits all of them; figures are
medians over `--rounds` turns. Each meta-gradient is checked in float64 against
central differences of its own loss. The workdir receives `benchmark.json`,
`report.html` and PNG pictures, which are written after every workload and every
point of a curve.

  python -m experiments.benchmark --methods=all

times an outer step of every method of the table instead, by its recipe for
Omniglot, in turns with that of MAML (about fifteen minutes).
See docs/performance.md.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmark.kinds import Names
from experiments.benchmark.speed.base import Implementation, Precision, Workload
from experiments.benchmark.speed.measure import DisagreementError
from experiments.benchmark.speed.methods import MethodStep, trained_methods
from experiments.benchmark.speed.processes import WorkerError
from experiments.benchmark.speed.record import RECORD, open_record
from experiments.benchmark.speed.session import (
  ALL_CURVES,
  time_methods,
  time_workloads,
)
from experiments.benchmark.speed.workloads import (
  METAJAX,
  NAMES,
  PEERS,
  PLAIN,
  SUITES,
)
from experiments.runner import flags
from experiments.runner.paths import Place
from experiments.runner.settings import (
  Base,
  OneOf,
  Part,
  Whole,
  setting,
  settings,
)

__all__ = ['Settings', 'run']


def _names(
  default: tuple[str, ...] | None, allowed: Sequence[str], text: str, of: Part
) -> Any:
  """The setting of some names."""
  return setting(
    default, Names(allowed), text, of=of, resume=False, forwarded=False
  )


@settings
class Settings(Base):
  """What is measured, beside what, and how often."""

  suite: str = setting(
    'quick', OneOf(list(SUITES)), 'what to measure',
    of='tasks', resume=False, forwarded=False,
  )  # fmt: skip
  workloads: tuple[str, ...] | None = _names(
    None, NAMES, 'of the full suite, instead of one', of='tasks'
  )
  methods: tuple[str, ...] | None = _names(
    None, ['all', *trained_methods()],
    'whose outer steps to time beside that of MAML, instead of workloads',
    of='method',
  )  # fmt: skip
  peers: tuple[str, ...] = _names(
    ('all',), [*PEERS, 'all', 'none'], 'what to compare with', of='method'
  )
  curves: tuple[str, ...] | None = _names(
    None, [*ALL_CURVES, 'none'],
    'what to vary [default: all with --suite=full, none else]',
    of='tasks',
  )  # fmt: skip
  precision: Precision = setting(
    'float32', OneOf(['float32', 'bfloat16']), 'of the networks',
    of='method', resume=False, forwarded=False,
  )  # fmt: skip
  rounds: int = setting(
    7, Whole(), 'turns of an implementation; fewer of a slow one',
    of='test', resume=False, forwarded=False,
  )  # fmt: skip
  workdir: str = setting(
    'runs/benchmark', Place(), f'where {RECORD} goes',
    of='machine', resume=True, forwarded=False,
  )  # fmt: skip

  @property
  def chosen_methods(self) -> list[str]:
    """The methods to time, if it is methods that are."""
    chosen = self.methods or ()
    return trained_methods() if 'all' in chosen else list(chosen)

  @property
  def chosen_workloads(self) -> list[Workload]:
    """The workloads by name, or else those of the suite."""
    if self.workloads is None:
      return list(SUITES[self.suite])
    return [row for row in SUITES['full'] if row.name in self.workloads]

  @property
  def implementations(self) -> list[Implementation]:
    """Metajax, plain JAX, and the peers."""
    peers = set() if 'none' in self.peers else set(self.peers)
    return [
      METAJAX,
      PLAIN,
      *(row for name, row in PEERS.items() if {'all', name} & peers),
    ]

  @property
  def chosen_curves(self) -> list[str]:
    """The curves by name, or else all of them with the full suite."""
    if self.curves is None:
      full = self.suite == 'full' and self.workloads is None
      return list(ALL_CURVES) if full else []
    return [name for name in ALL_CURVES if name in self.curves]


def run(settings: Settings) -> int:
  """Runs the benchmark; exit code 1 if it cannot be trusted."""
  record = open_record(Path(settings.workdir), settings)
  try:
    if settings.methods is not None:
      steps = list(map(MethodStep, settings.chosen_methods))
      time_methods(steps, record, settings.rounds)
      return 0
    time_workloads(
      settings.chosen_workloads,
      settings.implementations,
      record,
      settings.rounds,
      settings.precision,
      curves=settings.chosen_curves,
    )
  except (DisagreementError, WorkerError) as error:
    print(error, file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(flags.main(Settings, run))
