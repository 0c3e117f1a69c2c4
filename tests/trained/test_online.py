"""Learning after deployment: exact sums, further steps, files, and an alarm."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from small_learners import make_learner

import metajax
from metajax.trained import DriftAlarm, LearnerError, export

SHAPE = (4, 4, 1)


def images(number, seed=0):
  return np.random.default_rng(seed).uniform(size=(number, *SHAPE))


def examples():
  return {'a': images(3, 1), 'b': images(2, 2), 'c': images(4, 3)}


def outputs(online):
  return online.adapted().outputs(images(5, 9))


@pytest.mark.parametrize('name', ['protonet', 'pixels'])
def test_updates_are_one_adaptation_on_all(name):
  learner = make_learner(name)
  whole = learner.adapt(examples())
  online = learner.update({'a': examples()['a'][:1]})
  online.update({'b': examples()['b']})
  online.update({'a': examples()['a'][1:], 'c': examples()['c']})
  assert online.classes == whole.classes
  assert online.counts == {'a': 3, 'b': 2, 'c': 4}
  np.testing.assert_allclose(
    outputs(online), whole.outputs(images(5, 9)), rtol=1e-4, atol=1e-5
  )


def test_no_order_and_no_division_matters_to_the_last_bit():
  learner = make_learner('protonet')
  at_once = learner.update(examples())
  online = learner.update({name: part[:1] for name, part in examples().items()})
  for name in ('c', 'a', 'b'):
    for one in examples()[name][:0:-1]:
      online.update({name: one[None]})
  np.testing.assert_array_equal(outputs(at_once), outputs(online))


@pytest.mark.in_ci
def test_gradient_methods_take_further_steps_from_where_they_are():
  learner = make_learner('maml')
  online = learner.update(examples())
  np.testing.assert_array_equal(
    outputs(online), learner.adapt(examples()).outputs(images(5, 9))
  )
  before = outputs(online)
  new = {'b': images(3, 8)}
  online.update(new)
  told = learner.adapt(examples())
  programs, inputs = learner.programs, learner.inputs(new['b'])
  state = programs.go_on(
    told.state, inputs[None], np.ones((1, 3), np.int32), np.zeros((1, 2), 'u4')
  )
  assert np.abs(outputs(online) - before).max() > 1e-4
  np.testing.assert_array_equal(
    outputs(online), told._replace(state=state).outputs(images(5, 9))
  )
  # Of the new examples it has learned.
  sure = online.predict(new['b']).probabilities[:, 1].mean()
  assert sure > told.predict(new['b']).probabilities[:, 1].mean()


@pytest.mark.parametrize(
  ('name', 'batch_norm', 'text'),
  [
    ('r2d2', False, 'r2d2 keeps no sums or weights to go on from'),
    ('protonet', True, 'protonet normalises by the support set here'),
  ],
)
def test_what_cannot_go_on_says_why_in_one_line(name, batch_norm, text):
  with pytest.raises(LearnerError, match=text) as error:
    make_learner(name, batch_norm).update(examples())
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('given', 'text'),
  [
    ({}, 'there are no examples'),
    ({'a': np.zeros((1, 5, 5, 1))}, "class 'a': images are"),
    ({name: images(1) for name in 'abcd'}, 'of 4 classes'),
    ((images(3), ['a', 'b']), '3 inputs and 2 labels'),
    ({'a': np.full((1, *SHAPE), np.nan)}, 'finite'),
  ],
)
def test_what_is_wrong_is_refused_and_changes_nothing(given, text):
  online = make_learner('protonet').update(examples())
  before = outputs(online)
  with pytest.raises(LearnerError, match=text):
    online.update(given)
  np.testing.assert_array_equal(outputs(online), before)
  assert online.counts == {'a': 3, 'b': 2, 'c': 4}


def test_one_class_alone_answers_nothing():
  online = make_learner('protonet').update({'a': images(2)})
  with pytest.raises(LearnerError, match='two or more are told apart'):
    online.predict(images(1))


# Files.


@pytest.mark.parametrize('name', ['protonet', 'maml'])
def test_after_a_restart_every_bit_is_as_before(tmp_path, name):
  learner = make_learner(name)
  online = learner.update(examples())
  online.alarm = DriftAlarm(0.3, 0.1, 4.0, level=0.7, seen=12)
  online.save(tmp_path / 'state')
  again = learner.resume(tmp_path / 'state')
  np.testing.assert_array_equal(outputs(online), outputs(again))
  assert (again.counts, again.alarm) == (online.counts, online.alarm)
  for each in (online, again):
    each.update({'b': images(1, 7)})
  np.testing.assert_array_equal(outputs(online), outputs(again))


def test_a_flipped_byte_is_noticed(tmp_path):
  path = tmp_path / 'state'
  learner = make_learner('protonet')
  learner.update(examples()).save(path)
  data = bytearray(path.read_bytes())
  for place in (3, 20, 90, len(data) // 2, len(data) - 1):
    changed = bytearray(data)
    changed[place] ^= 1
    path.write_bytes(changed)
    with pytest.raises(LearnerError, match=r'not as it was|no state'):
      learner.resume(path)


def test_the_state_of_another_learner_is_refused(tmp_path):
  make_learner('pixels').update(examples()).save(tmp_path / 'state')
  with pytest.raises(LearnerError, match='by another learner, a pixels'):
    make_learner('protonet').resume(tmp_path / 'state')
  with pytest.raises(LearnerError, match='is not readable'):
    make_learner('protonet').resume(tmp_path / 'none')


_KILLED = """
import os, signal, sys
from pathlib import Path
from metajax.trained.portable import online
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
online._replace(Path(sys.argv[1]), b'new')
"""


@pytest.mark.in_ci
def test_a_process_killed_before_the_file_is_whole_keeps_the_old_one(tmp_path):
  path = tmp_path / 'state'
  path.write_bytes(b'old')
  done = subprocess.run(
    [sys.executable, '-c', _KILLED, str(path)],
    env={**os.environ, 'PYTHONPATH': os.getcwd(), 'JAX_PLATFORMS': 'cpu'},
    check=False,
  )
  assert done.returncode == -signal.SIGKILL
  assert path.read_bytes() == b'old'


# The alarm.


def test_an_alarm_has_the_rate_of_false_alarms_that_was_asked_for():
  rng = np.random.default_rng(0)
  alarm = DriftAlarm.calibrated(
    rng.gamma(2, size=4000), horizon=200, false_alarms=0.1
  )
  raised = 0
  for _ in range(400):
    alarm.reset()
    raised += alarm.update(rng.gamma(2, size=200))
  assert 0.05 < raised / 400 < 0.16


def test_tasks_that_are_not_all_as_hard_have_a_higher_threshold():
  rng = np.random.default_rng(0)
  scores = rng.normal(size=(20, 100))
  harder = scores + np.linspace(-1, 1, 20)[:, None]
  pooled = DriftAlarm.calibrated(harder.reshape(-1), horizon=200)
  by_task = DriftAlarm.calibrated(harder, horizon=200)
  assert by_task.threshold > 2 * pooled.threshold
  one = DriftAlarm.calibrated(scores, horizon=200)
  assert one.threshold < by_task.threshold


def _false_alarms(alarm, streams):
  """The share of streams with an alarm."""
  raised = 0
  for stream in streams:
    alarm.reset()
    raised += alarm.update(stream)
  return raised / len(streams)


def test_an_alarm_of_few_scores_has_about_the_rate_that_was_asked_for():
  """5%; with the moments of the scores as they are it is 14%."""
  shares = []
  for seed in range(40):
    rng = np.random.default_rng(seed)
    alarm = DriftAlarm.calibrated(rng.beta(0.3, 1, size=50), horizon=100)
    streams = rng.beta(0.3, 1, size=(20, 100))
    shares.append(_false_alarms(alarm, streams))
  assert 0.005 < np.mean(shares) < 0.07


def test_an_alarm_keeps_its_rate_on_other_tasks_like_those_it_is_of():
  """5%; where the task to come does not count it is 8%, of 20 tasks."""
  shares = []
  for seed in range(40):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(60, 1)) + rng.normal(size=(60, 100))
    alarm = DriftAlarm.calibrated(scores[:20], horizon=100)
    shares.append(_false_alarms(alarm, scores[20:]))
  assert 0.01 < np.mean(shares) < 0.06


def test_an_alarm_comes_soon_after_scores_rise_and_says_when():
  rng = np.random.default_rng(1)
  alarm = DriftAlarm.calibrated(rng.normal(size=1000), horizon=200)
  assert not alarm.update(rng.normal(size=100))
  assert alarm.update(rng.normal(2, 1, size=30))
  assert 100 < alarm.raised_at < 120


@pytest.mark.parametrize(
  ('scores', 'options', 'text'),
  [
    ([1.0] * 29, {}, '30 scores or more'),
    ([1.0] * 40, {}, 'all scores are equal'),
    ([float('nan')] * 40, {}, 'not finite'),
    (list(range(40)), {'false_alarms': 0}, 'false_alarms'),
    (list(range(40)), {'horizon': 2.5}, 'horizon a whole number'),
    (list(range(40)), {'slack': float('inf')}, 'slack 0 or more'),
    (list(range(40)), {'seed': -1}, 'seed is a whole number'),
    ([1e300, -1e300] * 20, {}, 'too large'),
    ('abc', {}, 'real numbers'),
    ([1j] * 40, {}, 'real numbers'),
    ([0.0] * 39 + [1.0], {}, 'nearly all scores are equal'),
    (
      np.arange(90.0).reshape(3, 30),
      {},
      'false_alarms=0.05 takes scores of 19 tasks or more, got 3',
    ),
  ],
)
def test_an_alarm_that_cannot_be_is_refused(scores, options, text):
  with pytest.raises(LearnerError, match=text):
    DriftAlarm.calibrated(scores, **options)


def test_watching_asks_the_alarm():
  online = make_learner('protonet').update(examples())
  with pytest.raises(LearnerError, match='no alarm'):
    online.watch(images(1))
  scores = online.scores(images(60, 4))
  assert ((scores >= 0) & (scores < 1)).all()
  online.alarm = DriftAlarm.calibrated(scores, horizon=100)
  assert not online.watch(images(5, 5))
  assert online.alarm.seen == 5


@pytest.mark.in_ci
def test_an_exported_learner_goes_on_too_where_it_can(tmp_path):
  learner = make_learner('protonet')
  export(learner, tmp_path / 'protonet', platforms=('cpu',))
  online = metajax.load(tmp_path / 'protonet').update(examples())
  np.testing.assert_allclose(
    outputs(online), outputs(learner.update(examples())), atol=1e-5
  )
  online.save(tmp_path / 'state')
  again = metajax.load(tmp_path / 'protonet').resume(tmp_path / 'state')
  np.testing.assert_array_equal(outputs(again), outputs(online))
  export(make_learner('maml'), tmp_path / 'maml', platforms=('cpu',))
  with pytest.raises(LearnerError, match='an exported maml has no program'):
    metajax.load(tmp_path / 'maml').update(examples())


@pytest.mark.parametrize(
  'numbers',
  [
    (float('nan'), 1, 1),
    (0, 0, 1),
    (0, -1, 1),
    (0, float('inf'), 1),
    (0, 1, float('nan')),
    (0, 1, -1),
    ('a', 1, 1),
  ],
)
def test_an_alarm_that_would_never_ring_is_none(numbers):
  with pytest.raises(LearnerError, match=r'of an alarm|is a number'):
    DriftAlarm(*numbers)


def test_places_alarms_and_seeds_that_are_none_are_told_in_a_line():
  learner = make_learner('protonet')
  online = learner.update(examples())
  for do in (lambda: online.save('a\0b'), lambda: learner.resume('a\0b')):
    with pytest.raises(LearnerError, match=r'a\?b'):
      do()
  for seed in (1.5, None, 2**70, 'a'):
    with pytest.raises(LearnerError, match='seed is'):
      online.update(examples(), seed=seed)
  online.alarm = 'rings'
  with pytest.raises(LearnerError, match='no DriftAlarm'):
    online.save('nowhere')
  with pytest.raises(LearnerError, match='no alarm'):
    online.watch(images(1))


def test_steps_that_diverge_leave_what_was_known():
  learner = make_learner('maml')
  online = learner.update(examples())
  before = outputs(online)
  programs = learner.programs
  go_on = type(programs).go_on
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      type(programs),
      'go_on',
      lambda *a: [np.nan * np.asarray(each) for each in go_on(*a)],
    )
    with pytest.raises(LearnerError, match='diverge'):
      online.update(examples())
  np.testing.assert_array_equal(outputs(online), before)
