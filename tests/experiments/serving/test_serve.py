"""The binary: its port, its end, and the answers of an exported learner."""

import base64
import http.client
import json
import re
import shutil
import signal
import socket
import threading

import numpy as np
import pytest

import metajax
from experiments import serve
from experiments.benchmark import serving
from experiments.data import own
from experiments.runner.errors import UsageError
from metajax.tasks.decoding import Picture

pytestmark = pytest.mark.in_ci


def port_of(run):
  said = run.until(lambda: re.search(r':(\d+)\n', run.printed()))
  return int(said[1])


def ask(port, route, body=None):
  connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
  method = 'GET' if body is None else 'POST'
  kind = {} if body is None else {'content-type': 'application/json'}
  sent = None if body is None else json.dumps(body)
  connection.request(method, route, sent, kind)
  answer = connection.getresponse()
  found = json.loads(answer.read())
  connection.close()
  return answer.status, found


def started(launcher, exported, cache, *flags):
  run = launcher.start(
    'serve', f'--model={exported}', '--port=0', cache, '--shots=1',
    '--max_batch=2', *flags,
  )  # fmt: skip
  run.until(lambda: 'ready' in run.printed())
  return run, port_of(run)


def encoded(paths):
  return [base64.b64encode(path.read_bytes()).decode() for path in paths]


def test_an_exported_learner_is_served_and_ends_when_all_is_answered(
  launcher, exported, drawings, cache
):
  run, port = started(launcher, exported, cache)
  support = {name: encoded(paths[:1]) for name, paths in drawings.items()}
  queries = [path for paths in drawings.values() for path in paths[1:]]
  body = {'support': support, 'queries': encoded(queries)}
  status, found = ask(port, '/predict', body)
  assert status == 200
  assert found['labels'] == ['left', 'left', 'right', 'right']
  learner = metajax.load(exported)
  what = learner.manifest['inputs']

  def pixels(paths):
    return own.pixels_of(what, [Picture(p.name, p) for p in paths], 'x')

  adapted = learner.adapt(
    {name: pixels(paths[:1]) for name, paths in drawings.items()}
  )
  np.testing.assert_allclose(
    [[row[name] for name in found['classes']]
     for row in found['probabilities']],
    adapted.predict(pixels(queries)).probabilities, atol=1e-5,
  )  # fmt: skip
  # Half of a request is there when the server is told to end.
  text = json.dumps(body).encode()
  with socket.create_connection(('127.0.0.1', port), 60) as slow:
    slow.sendall(
      b'POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n'
      + f'content-length: {len(text)}\r\n\r\n'.encode() + text[:100]
    )  # fmt: skip
    assert ask(port, '/health') == (200, {'status': 'ready'})
    run.kill(signal.SIGTERM)

    def refuses():
      try:
        socket.create_connection(('127.0.0.1', port), 60).close()
      except ConnectionRefusedError:
        return True
      return False

    run.until(refuses)
    slow.sendall(text[100:])
    answer = b''
    while part := slow.recv(65536):
      answer += part
  assert answer.startswith(b'HTTP/1.1 200')
  assert json.loads(answer.partition(b'\r\n\r\n')[2])['labels'] == found[
    'labels']  # fmt: skip
  ended = run.wait()
  assert ended.code == 0
  assert ended.stderr == ''
  assert 'all that was begun is answered' in ended.stdout


def test_it_may_be_stopped_while_it_compiles(launcher, exported, tmp_path):
  run = launcher.start(
    'serve', f'--model={exported}', '--port=0', f'--cache_dir={tmp_path}'
  )
  port = port_of(run)
  status, found = ask(port, '/health')
  assert status == 200 or found['status'] == 'starting'
  run.kill(signal.SIGTERM)
  assert run.wait().code == 0


def test_a_port_in_use_is_one_line_before_anything_is_compiled(
  launcher, exported, cache
):
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    port = taken.getsockname()[1]
    ended = launcher.run(
      'serve', f'--model={exported}', f'--port={port}', cache
    )
  assert ended.code == 2
  assert ended.stdout == ''
  assert ended.stderr == (
    f'--port={port}: Address already in use; name another, or 0 for any\n'
  )


def test_what_is_no_whole_export_is_refused(exported, tmp_path):
  copy = tmp_path / 'model'
  shutil.copytree(exported, copy)
  program = copy / 'adapt.jax'
  program.write_bytes(program.read_bytes()[:-1])
  for given, words in (
    ({'model': str(copy)}, 'not as it was written'),
    ({'model': str(tmp_path)}, 'holds no exported learner'),
    ({}, 'is not given'),
    ({'model': str(exported), 'port': 65536}, '65535 at most'),
    ({'model': str(exported), 'shots': (200,)}, 'more than max_examples'),
    ({'model': str(exported), 'host': 'no.such.host.invalid'}, 'name another'),
  ):
    with pytest.raises(UsageError, match=words):
      serve.run(serve.Settings(**given))


def test_nobody_else_is_let_in_unless_that_is_said():
  assert serve.Settings().host == '127.0.0.1'


def test_twice_what_it_can_do_is_refused_and_nothing_is_lost(exported, capfd):
  settings = serving.Settings(model=str(exported), seconds=1.5, users=4)
  assert serving.run(settings) == 0
  said = capfd.readouterr().out
  lines = [line for line in said.splitlines() if line.startswith('│ ')]
  assert len(lines) == 5
  for line in lines:
    _, name, rate, *_, answered, _, lost, _ = map(str.strip, line.split('│'))
    assert float(rate) > 0, name
    assert int(answered) > 0
    assert int(lost) == 0
  assert 'the server ended with exit code 0' in said
  with pytest.raises(UsageError, match='holds no exported learner'):
    serving.run(settings.replace(model='no/such/directory'))


def test_answers_are_the_same_however_many_users_there_are(
  launcher, exported, drawings, cache
):
  run, port = started(launcher, exported, cache)
  bodies = [
    {'support': {name: encoded(paths[n : n + 1])
                 for name, paths in drawings.items()},
     'queries': encoded([drawings['left'][2 - n]])}
    for n in range(3)
  ]  # fmt: skip
  alone = [ask(port, '/predict', body)[1]['probabilities'] for body in bodies]
  found = [[] for _ in range(9)]

  def many(number):
    for _ in range(10):
      found[number].append(ask(port, '/predict', bodies[number % 3]))

  threads = [threading.Thread(target=many, args=(n,)) for n in range(9)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(120)
  for number, answers in enumerate(found):
    assert len(answers) == 10
    for status, answer in answers:
      assert status == 200
      for row, expected in zip(
        answer['probabilities'], alone[number % 3], strict=True
      ):
        assert row == pytest.approx(expected, abs=1e-5)
  run.kill(signal.SIGTERM)
  assert run.wait().code == 0
