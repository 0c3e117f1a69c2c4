"""What is wrong, too much or too slow gets one line, and the server stays."""

import base64
import contextlib
import json
import socket
import threading
import time

import numpy as np
import pytest
from small_servers import PATIENCE, examples, file_of, of_images, serving

from experiments.serving.adapters import Adapters
from experiments.serving.limits import Limits, RefusalError
from metajax.trained.portable import Adapted

LIMITS = Limits(
  request_bytes=20_000, body_seconds=0.6, examples=12, queries=5, pixels=400,
  waiting=3, connections=12,
)  # fmt: skip


@pytest.fixture(scope='module')
def running():
  with serving(of_images(), LIMITS) as running:
    yield running


def support(**changes):
  return {'support': examples() | changes}


ONE = examples()['class 0']
GREY = np.zeros((4, 4), np.uint8)
COLOUR = np.zeros((4, 4, 3), np.uint8) + np.array([0, 255, 0], np.uint8)
DEEP = b'[' * 100_000
WRONG = {
  'no JSON': ('/adapt', b'{"support": ', 400, 'no JSON'),
  'not UTF-8': ('/adapt', b'"\xff"', 400, 'no JSON'),
  'NaN': ('/adapt', b'{"support": {"a": [[NaN]]}}', 400, 'NaN'),
  'infinity': ('/adapt', b'{"support": {"a": [[-Infinity]]}}', 400, 'Infinity'),
  'a name twice': ('/adapt', b'{"support": {"a": [], "a": []}}', 400, 'twice'),
  'nested deeply': ('/adapt', DEEP[:15_000], 400, ''),
  'a list': ('/adapt', [], 422, 'is an object'),
  'no support': ('/adapt', {}, 422, 'support'),
  'a wrong name': ('/adapt', {'suport': {}}, 422, 'did you mean support?'),
  'support is a list': ('/adapt', {'support': [1]}, 422, 'is an object'),
  'one class': ('/adapt', {'support': {'a': ONE}}, 422, 'two or more'),
  'no class': ('/adapt', {'support': {}}, 422, ''),
  'too many classes': ('/adapt', support(more=ONE), 422, '3 apart at most'),
  'an empty class': ('/adapt', support(**{'class 0': []}), 422, 'one or more'),
  'no list': ('/adapt', support(**{'class 0': 'x'}), 422, 'list'),
  'a nameless class': ('/adapt', {'support': {' ': ONE, 'b': ONE}}, 422, ''),
  'another size': (
    '/adapt', support(**{'class 0': [[[0.5]]]}), 422, '4 x 4 numbers'),
  'of several sizes': (
    '/adapt', support(**{'class 0': [*ONE, ONE[0][:3]]}), 422, 'does not fit'),
  'a word': (
    '/adapt', support(**{'class 0': [[['a'] * 4] * 4]}), 422, 'numbers'),
  'true': (
    '/adapt', support(**{'class 0': [[[True] * 4] * 4]}), 422, 'numbers'),
  'null': ('/adapt', support(**{'class 0': [None]}), 422, 'numbers'),
  'too bright': (
    '/adapt', support(**{'class 0': [[[255.0] * 4] * 4]}), 422, 'from 0 to 1'),
  'a huge number': (
    '/adapt', support(**{'class 0': [[[10**400] * 4] * 4]}), 422, 'too large'),
  'a large power': (
    '/adapt', json.dumps(support(**{'class 0': [[['x'] * 4] * 4]})).replace(
      '"x"', '1e999').encode(), 422, 'too large'),
  'no base64': ('/adapt', support(**{'class 0': ['-']}), 422, 'files and arr'),
  'files of no base64': (
    '/adapt', {'support': {'a': ['-'], 'b': ['*']}}, 422, 'base64'),
  'no image': (
    '/adapt', {'support': {'a': ['aGFsbG8='], 'b': ['aGFsbG8=']}}, 422, 'PNG'),
  'a GIF': (
    '/adapt', {'support': {'a': [file_of(GREY, 'GIF')], 'b': [file_of(GREY)]}},
    422, 'PNG or JPEG'),
  'half a file': (
    '/adapt', {'support': {
      'a': [base64.b64encode(base64.b64decode(file_of(GREY))[:40]).decode()],
      'b': [file_of(GREY)]}}, 422, 'read'),
  'colours': (
    '/adapt', {'support': {'a': [file_of(COLOUR)], 'b': [file_of(GREY)]}},
    422, 'coloured'),
  'too many pixels': (
    '/adapt', {'support': {'a': [file_of(np.zeros((30, 30), np.uint8))],
                           'b': [file_of(GREY)]}}, 422, '30 x 30 pixels'),
  'a file of another size': (
    '/adapt', {'support': {'a': [file_of(np.zeros((4, 5), np.uint8))],
                           'b': [file_of(GREY)]}}, 422, 'learner sees 4 x 4'),
  'too many examples': (
    '/adapt', {'support': {'a': ONE * 7, 'b': ONE * 7}}, 422, '12 examples'),
  'a seed': ('/adapt', support() | {'seed': -1}, 422, 'seed'),
  'half a seed': ('/adapt', support() | {'seed': 0.5}, 422, 'seed'),
  'neither': ('/predict', {'queries': ONE}, 422, 'either adapter or support'),
  'both': (
    '/predict', support() | {'adapter': 'x', 'queries': ONE}, 422, 'either'),
  'no queries': ('/predict', support(), 422, 'queries'),
  'too many queries': (
    '/predict', support() | {'queries': ONE * 6}, 422, '5 at most'),
  'no id': ('/predict', {'adapter': 7, 'queries': ONE}, 422, 'adapter is'),
  'no adapter': (
    '/predict', {'adapter': 'x', 'queries': ONE}, 404, 'no such adapter'),
}  # fmt: skip


@pytest.mark.parametrize('name', WRONG)
def test_what_is_wrong_is_said_in_one_line(running, name):
  route, body, status, words = WRONG[name]
  answer = running.post(route, body)
  assert answer.status == status, answer
  (message,) = answer.said.values()
  assert words in message
  assert '\n' not in message
  assert len(message) <= 500
  assert 'Traceback' not in message
  assert running.ask('GET', '/health').status == 200


def test_files_are_few_pixels_in_all():
  learner = of_images(
    inputs={'kind': 'images', 'shape': [4, 4, 1], 'files': {'size': 4}}
  )
  with serving(learner, LIMITS) as running:
    large = [file_of(np.zeros((18, 18), np.uint8))] * 5
    answers = [
      running.post('/adapt', {'support': {'a': large, 'b': large[:number]}})
      for number in (4, 5)
    ]
  assert [each.status for each in answers] == [200, 422]
  assert 'more than 3200 pixels in all' in answers[1].said['error']


def test_routes_methods_and_kinds_have_their_own_answers(running):
  found = [
    running.ask('GET', '/nothing'), running.ask('GET', '/adapt'),
    running.ask('DELETE', '/'), running.post('/adapt/', {}),
    running.post('/adapt', {}, content_type='text/plain'),
    running.post('/adapt', {}, content_encoding='gzip'),
  ]  # fmt: skip
  assert [each.status for each in found] == [404, 405, 405, 404, 415, 415]
  assert all(list(each.said) == ['error'] for each in found)
  assert found[1].headers['allow'] == 'POST'


@contextlib.contextmanager
def connected(running):
  with socket.create_connection(
    ('127.0.0.1', running.port), PATIENCE
  ) as connection:
    yield connection


def received(connection):
  """All that comes until the server ends the connection."""
  parts = []
  while part := connection.recv(65536):
    parts.append(part)
  return b''.join(parts).decode()


HEAD = b'POST /adapt HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n'


def test_a_request_that_is_too_large_is_refused_whatever_its_head_says(running):
  declared = running.post('/adapt', b' ' * 20_001)
  assert declared.status == 413
  with connected(running) as connection:
    connection.sendall(HEAD + b'transfer-encoding: chunked\r\n\r\n')
    for _ in range(21):
      connection.sendall(b'3e8\r\n' + b' ' * 1000 + b'\r\n')
    connection.sendall(b'0\r\n\r\n')
    assert received(connection).startswith('HTTP/1.1 413')
  with connected(running) as connection:
    connection.sendall(
      HEAD + b'content-length: 99999999\r\nexpect: 100-continue\r\n\r\n'
    )
    assert received(connection).startswith('HTTP/1.1 413')
  assert running.service.slots.held == 0


@pytest.mark.in_ci
def test_who_is_slow_is_not_waited_for(running):
  started = time.monotonic()
  for sent in (
    b'', b'POST /ad', HEAD, HEAD + b'content-length: 100\r\n\r\n{"support"'
  ):  # fmt: skip
    with connected(running) as connection:
      connection.sendall(sent)
      answer = received(connection)
      assert answer.startswith('HTTP/1.1 408'), sent
      assert '"error"' in answer
  assert time.monotonic() - started < 20
  with connected(running) as connection:  # bytes one by one gain nothing
    connection.sendall(HEAD + b'content-length: 100\r\n\r\n')
    for _ in range(4):
      time.sleep(0.2)
      with contextlib.suppress(OSError):
        connection.sendall(b' ')
    assert received(connection).startswith('HTTP/1.1 408')
  assert running.service.slots.held == 0


@pytest.mark.in_ci
def test_what_is_answered_before_it_is_there_is_not_read_for_ever(running):
  with connected(running) as connection:
    connection.sendall(b'POST /nothing HTTP/1.1\r\nhost: x\r\n')
    connection.sendall(b'content-length: 1000000\r\n\r\n')
    started = time.monotonic()
    with contextlib.suppress(OSError):
      while time.monotonic() - started < 10:
        connection.sendall(b' ')
        time.sleep(0.05)
    assert time.monotonic() - started < 5


def test_what_is_no_http_gets_a_line(running):
  with connected(running) as connection:
    connection.sendall(b'hello\r\n\r\n')
    answer = received(connection)
  assert answer.startswith('HTTP/1.1 400')
  assert answer.endswith('{"error": "Invalid HTTP request received."}')


def test_too_many_connections_are_refused(running):
  with contextlib.ExitStack() as stack:
    for _ in range(12):
      stack.enter_context(connected(running))
    with connected(running) as connection:
      assert received(connection).startswith('HTTP/1.1 429')
  running.until(lambda: running.ask('GET', '/health').status == 200)


def test_more_requests_than_may_wait_are_refused_and_the_rest_answered():
  learner = of_images()
  with serving(learner, LIMITS) as running:
    learner.programs.gate.clear()
    found = []

    def ask():
      found.append(running.post('/adapt', support()).status)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
      thread.start()
    running.until(lambda: running.service.slots.taken == 3)
    refused = running.post('/adapt', support())
    assert refused.status == 429
    assert refused.headers['retry-after'] == '1'
    assert running.ask('GET', '/health').status == 200
    learner.programs.gate.set()
    for thread in threads:
      thread.join(PATIENCE)
    assert found == [200] * 3
    assert running.post('/adapt', support()).status == 200
    assert running.service.slots.taken == 0


def test_who_has_waited_too_long_is_let_go():
  learner = of_images()
  with serving(learner, LIMITS._replace(seconds=0.3)) as running:
    learner.programs.gate.clear()
    answer = running.post('/adapt', support())
    assert answer.status == 429
    assert 'too much to do' in answer.said['error']
    learner.programs.gate.set()
    assert running.post('/adapt', support()).status == 200


def test_adapters_are_bounded_by_bytes_too():
  def of(number):
    return Adapted(None, None, [np.zeros((1, number), np.uint8)],
                   np.zeros(0), ())  # fmt: skip

  adapters = Adapters(10, 100)
  names = [adapters.put(of(40)) for _ in range(3)]
  assert len(adapters) == 2
  assert adapters.bytes == 80
  with pytest.raises(RefusalError, match='no such adapter'):
    adapters.get(names[0])
  with pytest.raises(RefusalError, match='has 101 bytes'):
    adapters.put(of(101))
  assert adapters.get(names[2])
