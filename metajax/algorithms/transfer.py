r"""Transfer: learn all training classes at once, then make a new head.

The four baselines here are trained alike, by the cross-entropy over all
classes of training with a head that knows them all,

.. math::
  \min_{\phi, W} \; \mathrm{E}_{x, y} \, L(h_W(f_\phi(x)), y)

and differ in their heads and in what they do with a new task: `baseline` fits
a new linear head to features that stay as they are, `baseline_plus_plus` a head
of cosines, `transfer` goes on training everything, and `nearest_mean` takes the
nearest class mean of the features.

References:
  Chen, Liu, Kira, Wang, Huang (2019), A closer look at few-shot
  classification, https://arxiv.org/abs/1904.04232
  Nearest class mean of trained features: Mensink, Verbeek, Perronnin, Csurka
  (2013), Distance-based image classification.
"""

import jax
import optax

from metajax.adaptation.classes import check_num_classes
from metajax.adaptation.gradient_learner import InnerOptimizer, gradient_learner
from metajax.adaptation.heads import (
  TransferParams,
  cosine_head,
  fit_head,
  linear_head,
  with_head,
)
from metajax.algorithms.maml import maml
from metajax.algorithms.protonet import Prototypes, protonet
from metajax.base import (
  Adapt,
  Adaptation,
  Batch,
  MetaLearner,
  Model,
  Objective,
  Predict,
)
from metajax.equality import by_value
from metajax.models.modes import at_test

__all__ = ['baseline', 'baseline_plus_plus', 'nearest_mean', 'transfer']


@by_value
def baseline(
  model: Model,
  objective: Objective,
  num_classes: int,
  train_classes: int,
  inner_lr: float = 0.05,
  num_steps: int = 100,
) -> MetaLearner:
  """Trains on all classes; at test, a new linear head on frozen features.

  Adaptation counts as one step, since the loss of the head is convex: what is
  descended `num_steps` times is near its minimum. The head starts from zero,
  where all classes are equally likely.

  Args:
    model: an embedding, `[examples, ...]` to `[examples, features]`.
    objective: takes logits, such as `cross_entropy`.
    num_classes: classes per task.
    train_classes: all classes of training. The targets of training tasks are
      below it, see `metajax.tasks.classification`.
    inner_lr: rate of the steps of a new head, for a loss that is a mean.
    num_steps: how many.

  Returns:
    A `MetaLearner` of `TransferParams`.

  Raises:
    ValueError: if a number of classes or `inner_lr` is not positive, or
      `num_steps` is negative.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = baseline(conv4(None), metajax.cross_entropy, 5, 1200)
  """
  _check_classes(num_classes, train_classes)
  new = linear_head(num_classes)
  return _trained_on_classes(
    with_head(model, linear_head(train_classes)),
    objective,
    fit_head(model, new, objective, inner_lr, num_steps),
    with_head(model, new).apply,
  )


@by_value
def baseline_plus_plus(
  model: Model,
  objective: Objective,
  num_classes: int,
  train_classes: int,
  inner_lr: float = 0.05,
  num_steps: int = 100,
  *,
  train_scale: float = 10.0,
  scale: float = 2.0,
  learn_scale: bool = False,
) -> MetaLearner:
  """`baseline` whose heads compare by cosine, in training and at test.

  Args:
    model: as for `baseline`.
    objective: as for `baseline`.
    num_classes: as for `baseline`.
    train_classes: as for `baseline`.
    inner_lr: as for `baseline`.
    num_steps: as for `baseline`.
    train_scale: factor of the cosines in training; with more classes, more is
      needed to be sure of one.
    scale: factor of the cosines of a new head.
    learn_scale: learn both factors, from these values.

  Returns:
    A `MetaLearner` of `TransferParams`.

  Raises:
    ValueError: as for `baseline`, and if a scale is not positive.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = baseline_plus_plus(
    ...   conv4(None), metajax.cross_entropy, 5, 1200)
  """
  _check_classes(num_classes, train_classes)
  new = cosine_head(num_classes, scale, learn_scale)
  return _trained_on_classes(
    with_head(model, cosine_head(train_classes, train_scale, learn_scale)),
    objective,
    fit_head(model, new, objective, inner_lr, num_steps),
    with_head(model, new).apply,
  )


@by_value
def transfer(
  model: Model,
  objective: Objective,
  num_classes: int,
  train_classes: int,
  inner_lr: float = 1e-3,
  num_steps: int = 50,
  *,
  inner_optimizer: InnerOptimizer = optax.adam,
) -> MetaLearner:
  """Trains on all classes; at test, goes on with everything and a new head.

  Args:
    model: as for `baseline`.
    objective: as for `baseline`.
    num_classes: as for `baseline`.
    train_classes: as for `baseline`.
    inner_lr: rate of the steps at test.
    num_steps: steps at test.
    inner_optimizer: makes the optimiser of these steps from its rate.

  Returns:
    A `MetaLearner` of `TransferParams`.

  Raises:
    ValueError: as for `baseline`.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = transfer(conv4(None), metajax.cross_entropy, 5, 1200)
  """
  _check_classes(num_classes, train_classes)
  head = linear_head(num_classes)
  new = with_head(model, head)
  tuner = gradient_learner(
    new, objective, inner_lr, num_steps, inner_optimizer=inner_optimizer
  )

  def adapt(
    key: jax.Array, meta_params: TransferParams, support: Batch
  ) -> tuple[TransferParams, Adaptation]:
    head_key, adapt_key = jax.random.split(key)
    params = meta_params.params
    features = jax.eval_shape(model.apply, params, support.inputs)
    start = TransferParams(params, head.init(head_key, features))
    return tuner.adapt(adapt_key, start, support)

  return _trained_on_classes(
    with_head(model, linear_head(train_classes)), objective, adapt, new.apply
  )


@by_value
def nearest_mean(
  model: Model, objective: Objective, num_classes: int, train_classes: int
) -> MetaLearner:
  """Trains on all classes; at test, the nearest class mean of the features.

  Args:
    model: as for `baseline`.
    objective: as for `baseline`.
    num_classes: as for `baseline`.
    train_classes: as for `baseline`.

  Returns:
    A `MetaLearner` of `TransferParams`.

  Raises:
    ValueError: if a number of classes is not positive.

  Example:
    >>> import metajax
    >>> from metajax.models import conv4
    >>> learner = nearest_mean(conv4(None), metajax.cross_entropy, 5, 1200)
  """
  _check_classes(num_classes, train_classes)
  by_means = protonet(at_test(model), objective, num_classes)

  def adapt(
    key: jax.Array, meta_params: TransferParams, support: Batch
  ) -> tuple[Prototypes, Adaptation]:
    return by_means.adapt(key, meta_params.params, support)

  return _trained_on_classes(
    with_head(model, linear_head(train_classes)),
    objective,
    adapt,
    by_means.predict,
  )


def _trained_on_classes(
  classifier: Model, objective: Objective, adapt: Adapt, predict: Predict
) -> MetaLearner:
  """A method whose training is that of a classifier of all classes.

  Args:
    classifier: what is trained, on the queries; there is nothing to adapt to.
    objective: of training.
    adapt: from the parameters of the classifier, at test.
    predict: with what `adapt` makes of them.

  Returns:
    A `MetaLearner` whose meta-parameters are those of the classifier.
  """
  trained = maml(classifier, objective, num_steps=0)
  return MetaLearner(trained.init, adapt, predict, trained.grad)


def _check_classes(num_classes: int, train_classes: int) -> None:
  check_num_classes(num_classes)
  if train_classes < 2:
    raise ValueError(f'train_classes must be 2 or more, got {train_classes}')
