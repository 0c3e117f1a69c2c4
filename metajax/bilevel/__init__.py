"""Hyper-gradients: derivatives of what training reaches, by what it depends on.

.. math::
  \\min_\\eta F(\\theta^*(\\eta), \\eta) \\quad\\text{where}\\quad
  \\theta^*(\\eta) = \\arg\\min_\\theta J(\\theta, \\eta)

Hyper-parameters :math:`\\eta` are the meta-parameters of a learner, the data
that it trains on are its support set, those of validation its queries.
"""

from metajax.bilevel.hypergradients import Hypergradient, Info, hypergradient
from metajax.bilevel.learner import Problem, bilevel_learner
from metajax.bilevel.solvers import (
  SOLVES,
  Solved,
  SolveName,
  Solver,
  inner_solver,
  neumann_series,
)

__all__ = [
  'SOLVES',
  'Hypergradient',
  'Info',
  'Problem',
  'SolveName',
  'Solved',
  'Solver',
  'bilevel_learner',
  'hypergradient',
  'inner_solver',
  'neumann_series',
]
