r"""FOMAML: MAML without the second derivatives.

.. math::
  g = \sum_i \nabla_\theta L(\theta_i^K, Q_i)

the query gradient at the adapted parameters, used as if it were taken at the
initialisation.

References:
  Finn, Abbeel, Levine (2017), Model-agnostic meta-learning for fast
  adaptation of deep networks, section 5.2, https://arxiv.org/abs/1703.03400
"""

from functools import partial

from metajax.algorithms.maml import maml

fomaml = partial(maml, first_order=True)
fomaml.__doc__ = """First-order MAML: `maml` with `first_order=True`.

Takes the arguments of `maml`, and raises its errors.

Example:
  >>> import metajax
  >>> from metajax.models import conv4
  >>> learner = metajax.fomaml(conv4(5), metajax.cross_entropy, 0.4, 1)
"""

# Doctest looks for examples in functions and classes alone.
__test__ = {'fomaml': fomaml.__doc__}
