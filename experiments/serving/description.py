"""What a server is, for programs and for the page."""

from typing import Any

import metajax
from experiments.serving.limits import Limits
from metajax.trained import TrainedLearner

__all__ = ['about', 'openapi']

_ERRORS = {
  400: 'what was sent is no JSON',
  404: 'there is no such adapter, or no such route',
  405: 'the route has another method',
  408: 'the request came too slowly',
  413: 'the request has too many bytes',
  415: 'the request is not application/json',
  422: 'it does not fit the learner, or is more than the server takes',
  429: 'too many requests wait; retry-after says when to try again',
  500: 'something is wrong with the server; its log says what',
  503: 'the server is starting',
}


def about(learner: TrainedLearner, limits: Limits) -> dict[str, Any]:
  """The learner, and the limits of the server, for `GET /model`."""
  manifest = learner.manifest
  inputs = {
    name: manifest['inputs'][name]
    for name in ('kind', 'shape', 'length', 'names', 'files')
    if name in manifest['inputs']
  }
  outputs = {
    name: manifest['outputs'][name]
    for name in ('classes', 'names')
    if name in manifest['outputs']
  }
  return {
    'method': manifest['method'],
    'inputs': inputs,
    'outputs': outputs,
    'normalisation': manifest['normalisation'],
    'protocol': manifest.get('protocol', {}),
    'test': manifest.get('test', {}),
    'served': manifest.get('served', {}),
    'limits': limits._asdict(),
  }


def openapi(learner: TrainedLearner, limits: Limits) -> dict[str, Any]:
  """The description of the routes, in OpenAPI 3.1."""
  example = _example(learner)
  examples = {
    'type': 'array', 'items': example, 'minItems': 1,
    'maxItems': limits.examples,
  }  # fmt: skip
  seed = {
    'type': 'integer', 'minimum': 0, 'maximum': 2**31 - 1, 'default': 0,
    'description': 'of methods that draw something at random',
  }  # fmt: skip
  support = _support(learner, examples)
  queries = {**examples, 'maxItems': limits.queries}
  milliseconds = {'type': 'number'}
  adapted = {
    'adapter': {'type': 'string', 'description': 'id, for /predict'},
    'examples': {'type': 'integer'},
    'classes': {'type': 'array', 'items': {'type': 'string'}},
    'warnings': {'type': 'array', 'items': {'type': 'string'}},
    'milliseconds': milliseconds,
  }
  predicted = {
    **_prediction(learner),
    'warnings': adapted['warnings'],
    'milliseconds': milliseconds,
  }
  predict = _object(
    {
      'adapter': adapted['adapter'], 'support': support, 'queries': queries,
      'seed': seed,
    },
    ['queries'],
  )  # fmt: skip
  predict['oneOf'] = [{'required': ['adapter']}, {'required': ['support']}]
  return {
    'openapi': '3.1.0',
    'info': {
      'title': f'{learner.manifest["method"]}, served by metajax',
      'version': metajax.__version__,
    },
    'paths': {
      '/adapt': {
        'post': _post(
          'Adapts to a support set, and keeps that',
          _object({'support': support, 'seed': seed}, ['support']),
          _object(adapted, ['adapter', 'examples', 'milliseconds']),
        )
      },
      '/predict': {
        'post': _post(
          'Predicts by an adapter, or by a support set of this request alone',
          predict,
          _object(predicted, ['milliseconds']),
        )
      },
      '/health': {
        'get': _get('Whether programs are compiled', 'application/json', [503])
      },
      '/metrics': {'get': _get('Counters, for Prometheus', 'text/plain')},
      '/model': {
        'get': _get('The learner, and the limits', 'application/json')
      },
      '/openapi.json': {'get': _get('This', 'application/json')},
      '/': {'get': _get('A page to try it', 'text/html')},
    },
  }


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
  return {
    'type': 'object',
    'properties': properties,
    'required': required,
    'additionalProperties': False,
  }


def _example(learner: TrainedLearner) -> dict[str, Any]:
  what = learner.manifest['inputs']
  if what['kind'] == 'texts':
    return {'type': 'string', 'minLength': 1}
  pixels: dict[str, Any] = {'type': 'number'}
  if what['kind'] == 'images':
    pixels |= {'minimum': 0, 'maximum': 1}
  array = dict(pixels)
  for size in reversed(what['shape']):
    array = {
      'type': 'array', 'items': array, 'minItems': size, 'maxItems': size
    }  # fmt: skip
  if what['kind'] == 'numbers':
    return {**array, 'description': ', '.join(what.get('names', []))}
  file = {
    'type': 'string',
    'contentEncoding': 'base64',
    'description': 'a PNG or JPEG file',
  }
  return {'anyOf': [file, array]}


def _support(
  learner: TrainedLearner, examples: dict[str, Any]
) -> dict[str, Any]:
  if not learner.classifies:
    targets = {
      'type': 'array',
      'items': {'type': 'array', 'items': {'type': 'number'}},
      'description': ', '.join(learner.manifest['outputs']['names']),
    }
    return _object(
      {'inputs': examples, 'targets': targets}, ['inputs', 'targets']
    )
  return {
    'type': 'object',
    'description': 'lists of examples, by the name of a class',
    'additionalProperties': examples,
    'minProperties': 2,
    'maxProperties': learner.manifest['outputs']['classes'],
  }


def _prediction(learner: TrainedLearner) -> dict[str, Any]:
  strings = {'type': 'array', 'items': {'type': 'string'}}
  number = {'type': 'number'}
  if not learner.classifies:
    rows = {'type': 'array', 'items': {'type': 'array', 'items': number}}
    return {'values': rows, 'names': strings}
  by_class = {'type': 'object', 'additionalProperties': number}
  return {
    'labels': strings,
    'probabilities': {'type': 'array', 'items': by_class},
    'classes': strings,
  }


def _post(
  summary: str, request: dict[str, Any], answer: dict[str, Any]
) -> dict[str, Any]:
  error = _object({'error': {'type': 'string'}}, ['error'])
  return {
    'summary': summary,
    'requestBody': {
      'required': True,
      'content': {'application/json': {'schema': request}},
    },
    'responses': {
      '200': {
        'description': 'done',
        'content': {'application/json': {'schema': answer}},
      },
      **{
        str(status): {
          'description': text,
          'content': {'application/json': {'schema': error}},
        }
        for status, text in _ERRORS.items()
      },
    },
  }


def _get(
  summary: str, kind: str, errors: tuple[int, ...] | list[int] = ()
) -> dict[str, Any]:
  return {
    'summary': summary,
    'responses': {
      '200': {'description': 'done', 'content': {kind: {}}},
      **{str(status): {'description': _ERRORS[status]} for status in errors},
    },
  }
