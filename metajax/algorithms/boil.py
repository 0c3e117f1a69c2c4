r"""BOIL: adapt the body and leave the last layer alone, ANIL's contrary.

.. math::
  \theta_i^{t+1} = (\theta_{body}^t - \alpha \nabla_{body} L(\theta_i^t, S_i),\;
    \phi_{head})

Classes have to be told apart by what the body makes of images: the
representation changes with the task instead of being used again.

References:
  Oh, Yoo, Kim, Yun (2021), BOIL: towards representation change for few-shot
  learning, https://arxiv.org/abs/2008.08882
"""

from functools import partial

from metajax.algorithms.maml import maml
from metajax.inner import partition

boil = partial(maml, adapts=partition.body)
boil.__doc__ = """BOIL: `maml` that adapts all but the layer called `head`.

Takes the arguments of `maml`, and raises its errors.

Example:
  >>> import metajax
  >>> from metajax.models import conv4
  >>> learner = metajax.boil(conv4(5), metajax.cross_entropy, 0.5, 1)
"""

# Doctest looks for examples in functions and classes alone.
__test__ = {'boil': boil.__doc__}
