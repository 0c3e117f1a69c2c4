"""What of a model adapts: few learned arrays beside many that stay."""

from metajax.models.tuning.kernels import LowRank, Quantised
from metajax.models.tuning.low_rank import lora
from metajax.models.tuning.parts import last, only, together
from metajax.models.tuning.prompts import prefix, soft_prompt
from metajax.models.tuning.quantised import quantise
from metajax.models.tuning.tunings import Tuning, fold, materialised, tuned

__all__ = [
  'LowRank',
  'Quantised',
  'Tuning',
  'fold',
  'last',
  'lora',
  'materialised',
  'only',
  'prefix',
  'quantise',
  'soft_prompt',
  'together',
  'tuned',
]
