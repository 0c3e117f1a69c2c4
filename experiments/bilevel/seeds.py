"""All that is measured with one seed."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.bilevel.searching import Bench, Learned
from experiments.bilevel.setting import Data, Rival

__all__ = ['BY_SOLVES', 'BY_TIME', 'LEARNED', 'of_seed']

LEARNED = 'hyper-gradients'
BY_SOLVES, BY_TIME = 'random search, as many', 'random search, as long'


def of_seed(
  bench: Bench, seed: int, progress: Callable[[int], None]
) -> dict[str, Any]:
  """Learns, searches, and tests what was found and its rivals.

  Args:
    bench: of the problem.
    seed: of the split of the data, of networks, and of random draws.
    progress: is told how many hundredths are done.

  Returns:
    By the names of distributions, `''` where there is but one: `rows` of
    metrics by name, the `curve` of validation by outer step, the `search`, and
    of the first seed what pictures `show`.
  """
  kind = bench.kind
  data = kind.data(seed)
  learned = dict[str, Learned]()
  found = dict[str, Any]()
  shares = 100 / len(data)
  for place, (name, own) in enumerate(data.items()):

    def tell(done: int, of: int, begun: float, place: int = place) -> None:
      share = begun + 0.5 * done / max(1, of)
      progress(min(99, int(shares * (place + share))))

    made = learned[name] = bench.descend(
      seed, own, lambda done, of: tell(done, of, 0.0)
    )
    search = bench.search(
      seed, own, made.seconds, lambda done, of: tell(done, of, 0.5)
    )
    rows = {
      LEARNED: bench.judge(seed, own, _settled(bench, seed, own, made)),
      BY_SOLVES: search.pop('solves'),
      BY_TIME: search.pop('time'),
    }
    rows |= {
      rival: bench.judge(seed, own, each) for rival, each in own.rivals.items()
    }
    found[name] = {
      'rows': rows,
      'curve': made.curve,
      'search': search,
      'seconds': made.seconds,
      'skipped': made.skipped,
      'show': kind.show(own, made.hyperparams) if seed == 0 else None,
    }
  for name, own in data.items():  # what suits the others
    for other, made in learned.items():
      if other != name:
        chosen = _settled(bench, seed, data[other], made)
        found[name]['rows'][f'what was learned of {other}'] = bench.judge(
          seed, own, chosen
        )
  return {
    'seed': seed,
    'distributions': found,
    'seconds': sum(
      each['seconds'] + each['search']['seconds'] for each in found.values()
    ),
  }


def _settled(bench: Bench, seed: int, data: Data, made: Learned) -> Rival:
  """What is tested of what was learned: the best in validation of a few."""
  few = bench.kind.settle(made.hyperparams)
  if len(few) == 1:
    return Rival(few[0])
  losses = [bench.validate(seed, data, each) for each in few]
  return Rival(few[int(np.argmin(losses))])
