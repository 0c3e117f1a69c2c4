"""What MLflow serves of a run: its exported learner, which needs no metajax.

MLflow keeps this file as it is (a model from code) beside the directory that
`experiments.export` writes. A request is a support set, and queries:

  model = mlflow.pyfunc.load_model('models:/NAME/1')
  model.predict({'support': {'cat': cats, 'dog': dogs}, 'queries': images})

Of numbers the support set is `{'inputs': ..., 'targets': ...}`.
"""

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import mlflow
import numpy as np

__all__ = ['Served']

_PAIRS = (('inputs', 'targets'), ('inputs', 'labels'))
_ASKED = {'support', 'queries', 'seed'}


with warnings.catch_warnings():
  # MLflow wants hints of types of which it would make a schema, as of a table.
  warnings.simplefilter('ignore')

  class Served(mlflow.pyfunc.PythonModel):
    """A learner that adapts to the support set of each request."""

    def load_context(self, context: Any) -> None:
      """Loads the learner by the package that is exported with it."""
      folder = Path(context.artifacts['learner'])
      # Under a name of its own: several models may be in one process.
      name = f'learner_{abs(hash(str(folder)))}'
      spec = importlib.util.spec_from_file_location(
        name,
        folder / 'learner' / '__init__.py',
        submodule_search_locations=[str(folder / 'learner')],
      )
      assert spec is not None
      assert spec.loader is not None
      module = sys.modules[name] = importlib.util.module_from_spec(spec)
      spec.loader.exec_module(module)
      self._learner = module.load(folder)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
      """Adapts and predicts.

      Args:
        context: of MLflow.
        model_input: `support`, `queries`, and optionally `seed`.
        params: of MLflow, none.

      Returns:
        `labels`, `probabilities` and `classes`; or `values` and `names` of what
        predicts numbers.

      Raises:
        ValueError: if the request has no such parts, or the learner refuses it.
      """
      del context, params
      given = dict(model_input)
      if not {'support', 'queries'} <= set(given) <= _ASKED:
        raise ValueError(
          'a request has support and queries, and may have a seed; got'
          f' {", ".join(map(str, given)) or "nothing"}'
        )
      support = given['support']
      for names in _PAIRS:
        if isinstance(support, dict) and set(support) == set(names):
          support = tuple(_array(support[name]) for name in names)
      if isinstance(support, dict):
        support = {str(name): _array(each) for name, each in support.items()}
      adapted = self._learner.adapt(support, seed=int(given.get('seed', 0)))
      found = adapted.predict(_array(given['queries']))
      return {
        name: each.tolist() if isinstance(each, np.ndarray) else list(each)
        for name, each in found._asdict().items()
      }


def _array(value: Any) -> Any:
  """Numbers as an array; texts as they are."""
  array = np.asarray(value)
  return array if array.dtype.kind in 'biuf' else list(value)


mlflow.models.set_model(Served())
