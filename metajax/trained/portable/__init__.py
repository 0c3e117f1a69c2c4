"""A trained learner: adapts to a few examples and predicts others.

This folder needs nothing of metajax: an exported learner has a copy of it, and
runs with jax, numpy and flatbuffers alone (texts of a pretrained model need
tokenizers, too):

  learner = load('DIR')
  adapted = learner.adapt({'cat': cats, 'dog': dogs})
  adapted.predict(images)
  online = learner.update({'cat': cats, 'dog': dogs})  # and more, later
"""

from .drift import DriftAlarm
from .examples import LearnerError
from .exported import FORMAT, MANIFEST, digest_of, load
from .learner import Adapted, Prediction, Programs, TrainedLearner, Values
from .online import Online

__all__ = [
  'FORMAT',
  'MANIFEST',
  'Adapted',
  'DriftAlarm',
  'LearnerError',
  'Online',
  'Prediction',
  'Programs',
  'TrainedLearner',
  'Values',
  'digest_of',
  'load',
]
