"""Stores that runs are tracked in: MLflow, and Weights & Biases offline.

Whatever these raise is for `runner.tracking`, which never loses a run by it.
"""

import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

__all__ = ['MLflow', 'Tracker', 'Wandb']

_CODE = Path(__file__).with_name('mlflow_model.py')
_AT_ONCE = 100  # settings in a request; MLflow takes no more
_LONGEST = 6000  # characters of a setting
# What a served model needs beside MLflow.
_NEEDS = ('jax', 'jaxlib', 'numpy', 'flatbuffers')


class Tracker(Protocol):
  """One run in a store."""

  @property
  def identity(self) -> str:
    """What the run is called there, to go on with it."""

  def begin(self, settings: Mapping[str, Any]) -> None:
    """The run goes on; says what it was told."""

  def write(
    self, step: int, metrics: Mapping[str, float], *, anew: bool = False
  ) -> None:
    """Records metrics; those of a step that it has already change nothing.

    Args:
      step: that they are of.
      metrics: the same.
      anew: whether they take the place of what it has, as those of a test that
        was made again.
    """

  def files(self, paths: Sequence[Path]) -> None:
    """Keeps files."""

  def model(self, directory: Path, name: str, digest: str) -> None:
    """Keeps an exported learner, and registers it by a name."""

  def end(self, status: str) -> None:
    """The run is `FINISHED`, `FAILED` or `KILLED`."""


class MLflow:
  """A run in MLflow.

  Args:
    uri: of the store, such as `sqlite:////home/me/runs/mlflow.db`.
    artifacts: where files go, if the store is a database.
    experiment: what MLflow calls runs of one kind.
    name: of the run.
    identity: of a run that goes on; another begins if there is none such.
  """

  def __init__(
    self,
    uri: str,
    artifacts: Path,
    experiment: str,
    name: str,
    identity: str | None,
  ) -> None:
    # No reports to its makers, no bars, no retries that last for minutes.
    for variable, value in (
      ('MLFLOW_DISABLE_TELEMETRY', 'true'),
      ('MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR', 'false'),
      ('MLFLOW_HTTP_REQUEST_MAX_RETRIES', '1'),
      ('MLFLOW_HTTP_REQUEST_TIMEOUT', '10'),
    ):
      os.environ.setdefault(variable, value)
    with _quiet():
      import mlflow
      from mlflow.exceptions import MlflowException

      self._client = mlflow.MlflowClient(uri, uri)
      self.identity = ''
      if identity is not None:
        try:
          self.identity = self._client.get_run(identity).info.run_id
        except MlflowException as error:
          if error.error_code != 'RESOURCE_DOES_NOT_EXIST':
            raise
      if not self.identity:
        of = self._experiment(uri, experiment, artifacts)
        self.identity = self._client.create_run(of, run_name=name).info.run_id
    self._last = dict[str, int]()
    self._values = dict[str, float]()

  def _experiment(self, uri: str, name: str, artifacts: Path) -> str:
    from mlflow.exceptions import MlflowException

    found = self._client.get_experiment_by_name(name)
    if found is None:
      # A server knows where its files go; a database would take this folder.
      served = uri.startswith('http')
      location = None if served else artifacts.resolve().as_uri()
      try:
        made: str = self._client.create_experiment(name, location)
        return made
      except MlflowException:  # another run was faster
        found = self._client.get_experiment_by_name(name)
        if found is None:
          raise
    return str(found.experiment_id)

  def begin(self, settings: Mapping[str, Any]) -> None:
    """Keeps settings; of a run that goes on those that are others as tags."""
    from mlflow.entities import Param, RunTag

    with _quiet():
      found = self._client.get_run(self.identity).data
      given = {name: str(value)[:_LONGEST] for name, value in settings.items()}
      new = [
        Param(name, value)
        for name, value in given.items()
        if name not in found.params
      ]
      changed = [
        RunTag(f'resumed.{name}', value)
        for name, value in given.items()
        if found.params.get(name, value) != value
      ]
      for start in range(0, len(new), _AT_ONCE):
        self._client.log_batch(
          self.identity, params=new[start : start + _AT_ONCE]
        )
      if changed:
        self._client.log_batch(self.identity, tags=changed)
      self._client.set_terminated(self.identity, 'RUNNING')
      self._last = {
        name: max(
          each.step
          for each in self._client.get_metric_history(self.identity, name)
        )
        for name in found.metrics
      }
      self._values = dict(found.metrics)

  def write(
    self, step: int, metrics: Mapping[str, float], *, anew: bool = False
  ) -> None:
    """Records metrics that it does not have yet."""
    from mlflow.entities import Metric

    now, new = int(1000 * time.time()), list[Metric]()
    for name, value in metrics.items():
      last = self._last.get(name, -1)
      if step > last or (anew and value != self._values[name]):
        # Of the highest step is what MLflow shows of a run.
        new.append(Metric(name, float(value), now, max(step, last)))
    if new:
      self._client.log_batch(self.identity, metrics=new)
      self._last |= {each.key: each.step for each in new}
      self._values |= {each.key: each.value for each in new}

  def files(self, paths: Sequence[Path]) -> None:
    """Keeps files."""
    with _quiet():
      for path in paths:
        self._client.log_artifact(self.identity, str(path))

  def model(self, directory: Path, name: str, digest: str) -> None:
    """Keeps a learner as a model that MLflow serves, and registers it once."""
    with _quiet():
      import mlflow.pyfunc
      from mlflow.exceptions import MlflowException

      query = f"run_id='{self.identity}'"
      for version in self._client.search_model_versions(query):
        if version.tags.get('digest') == digest:
          return
      folder = directory.parent / 'model'
      mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(_CODE),
        artifacts={'learner': str(directory)},
        pip_requirements=_requirements(directory),
      )
      kept = f'model-{digest[:12]}'
      self._client.log_artifacts(self.identity, str(folder), kept)
      try:
        self._client.create_registered_model(name)
      except MlflowException as error:
        if error.error_code != 'RESOURCE_ALREADY_EXISTS':
          raise
      self._client.create_model_version(
        name,
        f'runs:/{self.identity}/{kept}',
        self.identity,
        tags={'digest': digest},
      )

  def end(self, status: str) -> None:
    """Says how the run has ended."""
    with _quiet():
      self._client.set_terminated(self.identity, status)


def _requirements(directory: Path) -> list[str]:
  import importlib.metadata

  names = ['mlflow', *_NEEDS]
  if (directory / 'tokenizer.json').exists():
    names.append('tokenizers')
  return [f'{name}=={importlib.metadata.version(name)}' for name in names]


@contextmanager
def _quiet() -> Iterator[None]:
  """Keeps what libraries say off the terminal, but for errors."""
  disabled = logging.root.manager.disable
  logging.disable(logging.WARNING)
  with warnings.catch_warnings():
    # Filters are not enough: MLflow sets its own.
    warnings.showwarning = lambda *args, **options: None
    try:
      yield
    finally:
      logging.disable(disabled)


class Wandb:
  """A run of Weights & Biases, in files that `wandb sync` sends.

  Args:
    workdir: where these files go.
    project: what it calls runs of one kind.
    name: of the run.
    identity: of a run that goes on.
  """

  def __init__(
    self, workdir: Path, project: str, name: str, identity: str | None
  ) -> None:
    for variable, value in (
      ('WANDB_SILENT', 'true'),
      ('WANDB_ERROR_REPORTING', 'false'),
    ):
      os.environ.setdefault(variable, value)
    with _quiet():
      import wandb

      self._wandb = wandb
      self._run = wandb.init(
        project=project,
        name=name,
        id=identity,
        resume='allow',
        dir=str(workdir),
        mode=os.environ.get('WANDB_MODE', 'offline'),
        settings=wandb.Settings(silent=True, console='off'),
      )
      self._run.define_metric('*', step_metric='step')
    self.identity: str = self._run.id

  def begin(self, settings: Mapping[str, Any]) -> None:
    """Keeps settings."""
    self._run.config.update(dict(settings), allow_val_change=True)

  def write(
    self, step: int, metrics: Mapping[str, float], *, anew: bool = False
  ) -> None:
    """Records metrics; those that are written again are last in its charts."""
    del anew
    finite = {
      name: each for name, each in metrics.items() if math.isfinite(each)
    }
    self._run.log({**finite, 'step': step})

  def files(self, paths: Sequence[Path]) -> None:
    """Keeps pictures and files."""
    pictures = [path for path in paths if path.suffix == '.png']
    if pictures:
      self._run.log(
        {path.stem: self._wandb.Image(str(path)) for path in pictures}
      )
    kept = self._wandb.Artifact(f'files-{self.identity}', type='files')
    for path in paths:
      kept.add_file(str(path))
    self._run.log_artifact(kept)

  def model(self, directory: Path, name: str, digest: str) -> None:
    """Keeps an exported learner."""
    kept = self._wandb.Artifact(name, type='model', metadata={'digest': digest})
    kept.add_dir(str(directory))
    self._run.log_artifact(kept)

  def end(self, status: str) -> None:
    """Closes its files."""
    with _quiet():
      self._run.finish(exit_code=0 if status == 'FINISHED' else 1)
