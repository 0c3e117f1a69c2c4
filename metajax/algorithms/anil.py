r"""ANIL: almost no inner loop, MAML that adapts the last layer alone.

.. math::
  \theta_i^{t+1} = (\phi_{body},\;
    \theta_{head}^t - \alpha \nabla_{head} L(\theta_i^t, S_i))

References:
  Raghu, Raghu, Bengio, Vinyals (2020), Rapid learning or feature reuse?
  Towards understanding the effectiveness of MAML,
  https://arxiv.org/abs/1909.09157
"""

from functools import partial

from metajax.algorithms.maml import maml
from metajax.inner import partition

anil = partial(maml, adapts=partition.head)
anil.__doc__ = """ANIL: `maml` that adapts only the layer called `head`.

Takes the arguments of `maml`, and raises its errors.

Example:
  >>> import metajax
  >>> from metajax.models import conv4
  >>> learner = metajax.anil(conv4(5), metajax.cross_entropy, 0.4, 1)
"""

# Doctest looks for examples in functions and classes alone.
__test__ = {'anil': anil.__doc__}
