"""Adapters and predictions over HTTP are those of the learner."""

import base64
import http.client
import json
import re
import threading
import time

import numpy as np
import pytest
from small_servers import (
  SHAPE,
  WAYS,
  Means,
  examples,
  file_of,
  of_images,
  of_numbers,
  of_texts,
  queries_of,
  serving,
)

from experiments.data import own
from metajax.tasks.decoding import Picture


@pytest.fixture(scope='module')
def running():
  with serving(of_images()) as running:
    yield running


def of_class(answer):
  """Probabilities as an array."""
  said = answer.said
  return np.array([
    [row[name] for name in said['classes']] for row in said['probabilities']
  ])  # fmt: skip


def arrays(given):
  return {name: np.array(each) for name, each in given.items()}


def test_what_is_served_is_what_the_learner_says(running):
  support, queries = examples(), queries_of(1, 3)
  adapted = running.post('/adapt', {'support': support})
  assert adapted.status == 200
  assert adapted.said['classes'] == list(support)
  assert adapted.said['examples'] == WAYS
  assert len(adapted.said['adapter']) >= 20
  by_id = running.post(
    '/predict', {'adapter': adapted.said['adapter'], 'queries': queries}
  )
  together = running.post('/predict', {'support': support, 'queries': queries})
  expected = running.learner.adapt(arrays(support)).predict(np.array(queries))
  for answer in (by_id, together):
    assert answer.said['labels'] == expected.labels
    np.testing.assert_allclose(
      of_class(answer), expected.probabilities, atol=1e-5
    )
    assert answer.said['milliseconds'] > 0
  again = running.post('/adapt', {'support': support})
  assert again.said['adapter'] != adapted.said['adapter']


def test_files_are_decoded_as_those_of_a_folder(running):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (6, *SHAPE[:2])).astype(np.uint8)
  files = [file_of(each) for each in pixels]
  answer = running.post(
    '/predict', {'support': {'b': files[:2], 'a': files[2:3]},
                 'queries': files[3:]},
  )  # fmt: skip
  seen = {'b': pixels[:2, ..., None], 'a': pixels[2:3, ..., None]}
  adapted = running.learner.adapt(seen)
  expected = adapted.predict(pixels[3:, ..., None])
  assert answer.said['classes'] == ['b', 'a']
  np.testing.assert_allclose(
    of_class(answer), expected.probabilities, atol=1e-6
  )


def test_drawings_and_photos_are_read_by_the_code_of_predict():
  rng = np.random.default_rng(0)
  what = {
    'kind': 'images', 'shape': list(SHAPE), 'files': {'size': 4, 'ink': True}
  }  # fmt: skip
  photos = 255 - rng.integers(0, 120, (4, 9, 7)).astype(np.uint8)
  files = [file_of(each, kind) for each, kind in
           zip(photos, ['PNG', 'JPEG', 'PNG', 'PNG'], strict=True)]  # fmt: skip
  with serving(of_images(inputs=what)) as running:
    answer = running.post(
      '/predict',
      {'support': {'a': files[:1], 'b': files[1:3]}, 'queries': files[3:]},
    )
    seen = own.pixels_of(
      what,
      [Picture(str(n), base64.b64decode(each)) for n, each in enumerate(files)],
      'all',
    )
    adapted = running.learner.adapt({'a': seen[:1], 'b': seen[1:3]})
    np.testing.assert_allclose(
      of_class(answer), adapted.predict(seen[3:]).probabilities, atol=1e-6
    )


def test_more_queries_than_one_program_takes_are_all_answered(running):
  queries = queries_of(2, 50)
  answer = running.post('/predict', {'support': examples(), 'queries': queries})
  expected = running.learner.adapt(arrays(examples()))
  np.testing.assert_allclose(
    of_class(answer), expected.predict(np.array(queries)).probabilities,
    atol=1e-5,
  )  # fmt: skip


def test_users_that_wait_together_run_together_and_get_their_own():
  learner = of_images()
  with serving(learner) as running:
    ids = [
      running.post('/adapt', {'support': examples(seed)}).said['adapter']
      for seed in range(5)
    ]
    queries = [queries_of(seed)[: 2 + seed % 2]
               for seed in range(5)]  # fmt: skip
    learner.programs.begun.clear()
    learner.programs.gate.clear()
    seen = len(learner.programs.calls)

    answers = [None] * 5

    def ask(number):
      answers[number] = running.post(
        '/predict', {'adapter': ids[number], 'queries': queries[number]}
      )

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(5)]
    threads[0].start()
    assert learner.programs.begun.wait(30)
    for thread in threads[1:]:
      thread.start()
    running.until(lambda: running.service.batcher.waiting == 4)
    learner.programs.gate.set()
    for thread in threads:
      thread.join(30)
    tasks = [shape[0] for shape in learner.programs.calls[seen:]]
    assert tasks == [1, 4]
    for number, answer in enumerate(answers):
      expected = learner.adapt(arrays(examples(number)))
      np.testing.assert_allclose(
        of_class(answer),
        expected.predict(np.array(queries[number])).probabilities, atol=1e-5,
      )  # fmt: skip
    text = running.ask('GET', '/metrics').body.decode()
    assert 'metajax_batch_tasks_bucket{le="4.0",program="predict"} 2.0' in text


def test_tasks_that_are_no_quicker_together_run_one_by_one():
  class Slow(Means):
    # Far apart, as the machine may have other work.
    def adapt(self, inputs, targets, keys):
      time.sleep(0.02)
      return super().adapt(inputs, targets, keys)

    def predict(self, state, support, queries):
      time.sleep(0.02 * len(queries) ** 2)
      return super().predict(state, support, queries)

  learner = of_images()
  learner.programs = Slow()
  with serving(learner, supports=(WAYS,)) as running:
    tasks = {
      shape.kind: max(each.tasks for each in running.service.batcher._ready
                      if each.kind == shape.kind)
      for shape in running.service.batcher._ready
    }  # fmt: skip
  assert tasks == {'adapt': 4, 'predict': 1}


def test_queries_that_share_statistics_are_never_filled_up():
  learner = of_images(normalisation='transductive')
  with serving(learner) as running:
    queries = queries_of()
    answer = running.post(
      '/predict', {'support': examples(), 'queries': queries}
    )
    assert learner.programs.calls[-1][:2] == (1, 3)
    expected = learner.adapt(arrays(examples())).predict(np.array(queries))
    np.testing.assert_allclose(of_class(answer), expected.probabilities)


def test_other_numbers_of_examples_get_so_many_programs_and_no_more():
  with serving(of_images(), more=2) as running:
    full = examples(0, 3)
    sizes = [{'class 0': full['class 0'][:2], 'class 1': full['class 1'][:n]}
             for n in (2, 3)]  # fmt: skip
    assert running.post('/adapt', {'support': sizes[0]}).status == 200
    assert running.post('/adapt', {'support': sizes[0]}).status == 200
    assert running.post('/adapt', {'support': sizes[1]}).status == 200
    answer = running.post(
      '/adapt', {'support': {**sizes[1], 'class 2': full['class 2'][:2]}}
    )
    assert answer.status == 422
    assert 'for 3 or 4 or 5 or 6 examples' in answer.said['error']
    assert running.post('/adapt', {'support': examples()}).status == 200


def test_texts_are_served_and_cuts_are_said():
  with serving(of_texts()) as running:
    support = {'short': ['a b', 'b a c'], 'long': ['several words']}
    queries = ['a c', 'various terms in a row of them']
    answer = running.post('/predict', {'support': support, 'queries': queries})
    assert answer.said['labels'][0] == 'short'
    assert '1 of 2 texts have more than 4 tokens' in answer.said['warnings'][0]
    broken = running.post(
      '/predict', {'support': support, 'queries': ['\ud800']}
    )
    assert broken.status == 422
    assert 'half of a character' in broken.said['error']


def test_numbers_are_served_in_their_own_units():
  with serving(of_numbers()) as running:
    inputs, targets = [[1.0, 2.0], [0.5, 3], [2, 2]], [[1.0], [2.0], [4]]
    queries = [[1, 1], [0.0, 2.5]]
    support = {'inputs': inputs, 'targets': targets}
    answer = running.post('/predict', {'support': support, 'queries': queries})
    expected = running.learner.adapt((inputs, targets)).predict(queries)
    np.testing.assert_allclose(answer.said['values'], expected.values)
    assert answer.said['names'] == ['y']
    wrong = running.post('/adapt', {'support': {**support, 'targets': [[1]]}})
    assert wrong.status == 422


def test_the_least_recently_used_adapter_goes():
  with serving(of_images(), adapters=2) as running:
    queries = examples()['class 0']
    a, b = (running.post('/adapt', {'support': examples()}).said['adapter']
            for _ in range(2))  # fmt: skip
    assert running.post(
      '/predict', {'adapter': a, 'queries': queries}
    ).status == 200  # fmt: skip
    running.post('/adapt', {'support': examples()})
    statuses = [
      running.post('/predict', {'adapter': each, 'queries': queries}).status
      for each in (a, b)
    ]
    assert statuses == [200, 404]


def test_the_description_has_every_route_and_error(running):
  described = running.ask('GET', '/openapi.json').said
  assert described['openapi'].startswith('3.')
  assert set(described['paths']) == {
    '/', '/adapt', '/predict', '/health', '/metrics', '/model', '/openapi.json'
  }  # fmt: skip
  for path, methods in described['paths'].items():
    for method in methods:
      assert running.ask(method.upper(), path).status != 405
  schema = described['paths']['/predict']['post']['requestBody']['content'][
    'application/json']['schema']  # fmt: skip
  assert schema['properties']['support']['maxProperties'] == WAYS


def test_metrics_are_those_of_prometheus(running):
  from prometheus_client.parser import text_string_to_metric_families

  running.post('/adapt', {'support': examples()})
  running.ask('GET', '/nothing/here')
  answer = running.ask('GET', '/metrics')
  assert answer.headers['content-type'].startswith('text/plain')
  found = {
    (sample.name, *sorted(sample.labels.items())): sample.value
    for family in text_string_to_metric_families(answer.body.decode())
    for sample in family.samples
  }
  assert found[
    'metajax_requests_total', ('route', 'other'), ('status', '404')
  ] == 1  # fmt: skip
  assert found['metajax_adapters',] >= 1
  assert found['metajax_queue_length',] == 0
  assert found['process_resident_memory_bytes',] > 1e6
  assert found['metajax_request_seconds_count', ('route', '/adapt')] >= 1


def test_the_page_needs_no_other_host(running):
  page = running.ask('GET', '/')
  assert page.headers['content-type'].startswith('text/html')
  assert "default-src 'none'" in page.headers['content-security-policy']
  assert not re.search(r'https?://', page.body.decode())


def test_a_server_is_not_ready_before_its_programs_are():
  learner = of_images()
  learner.programs.gate.clear()
  with serving(learner, waits=False) as running:
    assert learner.programs.begun.wait(30)
    health = running.ask('GET', '/health')
    assert (health.status, health.said['status']) == (503, 'starting')
    assert health.said['programs'].startswith('0 of ')
    early = running.post('/adapt', {'support': examples()})
    assert early.status == 503
    assert early.headers['retry-after'] == '1'
    learner.programs.gate.set()
    running.until(lambda: running.service.ready)
    assert running.ask('GET', '/health').said == {'status': 'ready'}
    # Those of several tasks, which come beside, are none of these.
    done, number = running.service.batcher.begun
    assert done == number < running.service.batcher.compiled


def test_what_nobody_has_foreseen_is_one_line_and_the_server_stays(
  running, caplog
):
  running.learner.programs.fault = RuntimeError('a secret\nof the server')
  try:
    answer = running.post('/adapt', {'support': examples()})
  finally:
    running.learner.programs.fault = None
  assert answer.status == 500
  assert answer.said == {'error': 'something is wrong with the server'}
  running.until(lambda: 'a secret' in caplog.text)
  assert running.post('/adapt', {'support': examples()}).status == 200


def test_an_answer_that_is_not_finite_is_refused(running):
  support = examples()
  adapted = running.post('/adapt', {'support': support}).said['adapter']
  running.service.adapters.get(adapted).state[0][:] = np.nan
  answer = running.post(
    '/predict', {'adapter': adapted, 'queries': support['class 0']}
  )
  assert answer.status == 422
  assert 'no finite answer' in answer.said['error']
  assert json.loads(answer.body)


def test_an_answer_does_not_wait_for_an_acknowledgement(running):
  connection = http.client.HTTPConnection('127.0.0.1', running.port, 60)
  times = []
  for _ in range(8):
    started = time.perf_counter()
    connection.request('GET', '/health')
    connection.getresponse().read()
    times.append(time.perf_counter() - started)
  connection.close()
  assert sorted(times)[2] < 0.03
