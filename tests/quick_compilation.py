"""Flags of XLA for programs that are run once, and worth no optimisation.

Compilation is most of the time that the tests take.
"""

import jax

FLAGS = [
  '--xla_llvm_disable_expensive_passes=true',
  '--xla_backend_optimization_level=0',
]
if jax.__version_info__ < (0, 11):  # a newer compiler has one way, and refuses
  FLAGS.append('--xla_cpu_use_fusion_emitters=false')
