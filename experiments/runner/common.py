"""Settings that experiments share: of training, of networks, of machines."""

from collections.abc import Sequence
from typing import Any

from experiments.runner.paths import Place
from experiments.runner.settings import (
  Assignments,
  Base,
  Listed,
  OneOf,
  Part,
  Positive,
  Repeated,
  Share,
  Text,
  Whole,
  WholeOrAuto,
  YesNo,
  said,
  setting,
  settings,
)
from metajax.algorithms.recipe import SCHEDULES
from metajax.models.encoders import ENCODERS

__all__ = [
  'Common', 'Machine', 'Tracked', 'algorithm', 'count', 'evaluation', 'worded',
]  # fmt: skip

MOST_CPU_DEVICES = 8  # every one of them holds the data set


def algorithm(default: str, names: Any) -> Any:
  """The setting that names the method, one of some."""
  return setting(
    default, OneOf(names), 'the method', of='method', resume=False,
  )  # fmt: skip


def count(
  text: str,
  *,
  of: Part,
  resume: bool = False,
  forwarded: bool = False,
  at_least: int = 1,
  default: str = 'the recipe',
) -> Any:
  """A whole number in place of that of the recipe."""
  return setting(
    None, Whole(at_least), f'{text} [default: {default}]', of=of,
    resume=resume, forwarded=forwarded,
  )  # fmt: skip


def evaluation(names: Sequence[str]) -> Any:
  """What test queries share their batch statistics with."""
  return setting(
    None, OneOf(names),
    'what a test query shares its batch statistics with: all queries of its'
    ' task, the support set alone, or training images [default: the recipe]',
    of='method', resume=True,
  )  # fmt: skip


@settings
class Machine(Base):
  """Devices and processes."""

  mesh: str | None = setting(
    None, Text(),
    'devices along each axis, such as task:8 or task:4,model:2; tasks are'
    ' divided over task, networks (see --shard) over model [default: all'
    ' devices on task; a CPU is then as many devices as it has cores, up to'
    f' {MOST_CPU_DEVICES}, and as divide the tasks, or as many as the'
    ' environment variable JAX_NUM_CPU_DEVICES says]',
    of='machine', resume=True,
  )  # fmt: skip
  shard: tuple[str, ...] = setting(
    (), Repeated(),
    'how parameters and the state of the optimiser are divided: an axis of'
    ' --mesh, which divides the largest dimension of every large array (model:'
    ' the network itself; task: between steps only, as ZeRO), or'
    ' PATTERN=AXIS,AXIS,... with - for a dimension that stays whole, for arrays'
    ' whose path matches; may be repeated, the first match decides',
    of='machine', resume=True,
  )  # fmt: skip
  distributed: str = setting(
    'off', Text(),
    'how processes find each other: off, for a single one; auto, on a TPU pod,'
    ' Slurm, GKE or Open MPI; or the host:port of process 0, with'
    ' --num_processes and --process_id. A distributed run goes on by itself'
    ' from what its workdir holds',
    of='machine', resume=True,
  )  # fmt: skip
  num_processes: int | None = setting(
    None, Whole(), 'processes, with --distributed=host:port',
    of='machine', resume=True,
  )  # fmt: skip
  process_id: int | None = setting(
    None, Whole(0), 'which of them this one is, from 0',
    of='machine', resume=True,
  )  # fmt: skip
  distributed_timeout: int = setting(
    300, Whole(), 'seconds to wait for the other processes',
    of='machine', resume=True,
  )  # fmt: skip
  heartbeat_seconds: int = setting(
    30, Whole(),
    'seconds of silence after which a process counts as dead, and all end',
    of='machine', resume=True,
  )  # fmt: skip

  @property
  def is_distributed(self) -> bool:
    """Whether there are other processes."""
    return self.distributed != 'off'


@settings
class Tracked(Base):
  """The store that a run is kept in, beside its workdir."""

  track: str | None = setting(
    None, OneOf(['mlflow', 'wandb']), 'keep settings, metrics, pictures and the'
    ' exported learner in a store, too; mlflow registers this as a model, wandb'
    ' writes files for wandb sync [default: the workdir alone]',
    of='machine', resume=True, forwarded=True,
  )  # fmt: skip
  track_uri: str | None = setting(
    None, Text(), 'address of the store of --track=mlflow, such as'
    ' sqlite:////home/me/mlflow.db or http://host:5000 [default: mlflow.db'
    ' beside the workdir]',
    of='machine', resume=True, forwarded=True,
  )  # fmt: skip


@settings
class Common(Machine, Tracked):
  """What every experiment that trains has; `algorithm` is each one's own."""

  algorithm: str = setting(
    'maml', Text(), 'the method', of='method', resume=False
  )
  plugin: tuple[str, ...] = setting(
    (), Listed(),
    'modules, with commas between them, that register methods of their own'
    ' (metajax.algorithms.register)',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  set: str = setting(
    '', Assignments(),
    'any field of the recipe, and options of the method, as NAME=VALUE with'
    ' commas between them, such as code_size=128',
    of='method', resume=False,
  )  # fmt: skip
  network: str | None = setting(
    None, OneOf(lambda: list(ENCODERS)),
    'what the method adapts, but for the head, which the method brings'
    ' [default: the recipe]',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  width: int | None = setting(
    None, Whole(),
    'of the network: channels of every convolution (of the first block of'
    ' resnet12), or units of every layer [default: the recipe]',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  depth: int | None = setting(
    None, Whole(),
    'of the network: layers of mlp, blocks of transformer (of one that is'
    ' pretrained, the first so many) [default: the recipe]',
    of='method', resume=False, forwarded=True,
  )  # fmt: skip
  shots: int | None = count(
    'support examples per class', of='test', forwarded=True
  )
  queries: int | None = count('query examples per class at test', of='test')
  train_shots: int | None = count(
    'support examples per class in training', of='training'
  )
  train_queries: int | None = count(
    'query examples per class in training', of='training'
  )
  inner_steps: int | None = count('inner steps in training', of='method')
  inner_batch: int | None = count(
    'examples per inner step (Reptile)', of='method'
  )
  eval_inner_steps: int | None = count(
    'inner steps at test; with --inner_steps, at least as many',
    of='method',
    resume=True,
  )
  tasks_per_step: int | None = count('tasks per outer step', of='training')
  steps: int | None = setting(
    None, Whole(),
    'outer steps [default: the recipe]; a resume may change them unless the'
    ' outer rate falls towards the last one',
    of='training', resume=True,
  )  # fmt: skip
  checkpoint_every: int | None = count(
    'steps between checkpoints, each with validation', of='training',
    resume=True,
  )  # fmt: skip
  log_every: int | None = count(
    'steps per dispatch, and per line of metrics.jsonl', of='machine',
    resume=True,
  )  # fmt: skip
  chunk_size: int | str | None = setting(
    None, WholeOrAuto(),
    'tasks that are vectorised together; the result is the same but for'
    ' rounding. auto: as many as keep the device busy with the work that one'
    ' task is, and as fit half of its memory [default: the recipe]',
    of='machine', resume=False,
  )  # fmt: skip
  inner_lr: float | None = setting(
    None, Positive(),
    'rate of the inner steps, for a mean loss [default: the recipe]',
    of='method', resume=False,
  )  # fmt: skip
  outer_lr: float | None = setting(
    None, Positive(), 'rate of the outer steps [default: the recipe]',
    of='training', resume=False,
  )  # fmt: skip
  outer_schedule: str | None = setting(
    None, OneOf(sorted(SCHEDULES)),
    'how the outer rate falls over --steps [default: the recipe]',
    # The optimiser in a checkpoint has a state for it.
    of='method', resume=False,
  )  # fmt: skip
  precision: str = setting(
    'float32', OneOf(['float32', 'bfloat16']),
    'what the network computes in; parameters, losses and statistics of'
    ' normalisation are in float32 always. On CPU bfloat16 is the slower one',
    of='method', resume=False,
  )  # fmt: skip
  seed: int = setting(
    0, Whole(0), 'of everything random in training',
    of='training', resume=False, forwarded=True,
  )  # fmt: skip
  seeds: int = setting(
    1, Whole(1), 'how many runs, of --seed and the seeds after it, train as one'
    ' program; the result is their mean, with its interval over seeds',
    of='training', resume=False,
  )  # fmt: skip
  workdir: str | None = setting(
    None, Place(), 'where results go [default: runs/...; from Python: nowhere,'
    ' results are what comes back]',
    of='machine', resume=True,
  )  # fmt: skip
  resume: bool = setting(
    False, YesNo(), 'go on from the newest good checkpoint',
    of='machine', resume=True,
  )  # fmt: skip
  load: str | None = setting(
    None, Place(), 'start from the meta-parameters of the run in this workdir',
    of='training', resume=False,
  )  # fmt: skip
  load_seed: int | None = setting(
    None, Whole(0), 'which seed of the run of --load, if that is of several',
    of='training', resume=False,
  )  # fmt: skip
  load_share: float = setting(
    1.0, Share(), 'how far to go from the initial meta-parameters, such as'
    ' pretrained weights, to those of --load; weights between the two may be'
    ' better on new classes than either (Wortsman et al. 2022, who take 0.5)',
    of='training', resume=False,
  )  # fmt: skip
  other_data: bool = setting(
    False, YesNo(), 'the data are meant to be others than those that the run of'
    ' --load has learned from, such as for a test across data sets',
    of='training', resume=False,
  )  # fmt: skip
  test_only: bool = setting(
    False, YesNo(), 'do not train; goes with --load',
    of='training', resume=False,
  )  # fmt: skip
  eval_tasks: int = setting(
    1000, Whole(2), 'test tasks', of='test', resume=True, forwarded=True
  )
  validation_tasks: int = setting(
    200, Whole(2), 'validation tasks at every checkpoint',
    of='test', resume=True, forwarded=True,
  )  # fmt: skip
  test_checkpoint: str = setting(
    'last', OneOf(['last', 'best']),
    'test the last parameters, or the best by validation',
    of='test', resume=True,
  )  # fmt: skip
  stall_seconds: int | None = setting(
    None, Whole(), 'report where the program hangs, with the stacks of'
    ' all threads, when nothing has gone on for so long [default: never]',
    of='machine', resume=True,
  )  # fmt: skip
  dry_run: str | None = setting(
    None, Text(),
    'take no step; compile one for a topology of TPUs or GPUs that need not be'
    ' here, such as v5e:16x16 and h100:8, or for the machine that is (cpu,'
    ' cuda), and report what it needs of every chip, in <workdir>/dry_run.json'
    ' too; exit code 1 if it does not fit',
    of='machine', resume=True,
  )  # fmt: skip
  profile: bool = setting(
    False, YesNo(), 'record what the device does for a few dispatches, into'
    ' <workdir>/profile, for xprof or TensorBoard',
    of='machine', resume=True,
  )  # fmt: skip
  cache_dir: str | None = setting(
    None, Place(), 'compiled programs and decoded data'
    ' [default: metajax in the user\'s cache directory]',
    of='machine', resume=True, forwarded=True,
  )  # fmt: skip

  @property
  def all_seeds(self) -> range:
    """The seeds of the run."""
    return range(self.seed, self.seed + self.seeds)

  @property
  def seed_name(self) -> str:
    """What a run of these seeds is called."""
    last = f'to{self.all_seeds[-1]}' if self.seeds > 1 else ''
    return f'seed{self.seed}{last}'


def worded(name: str, text: str) -> Any:
  """A shared setting that means something of its own in an experiment."""
  shared = said(Common)[name]
  field = Common.__dataclass_fields__[name]  # type: ignore[attr-defined]
  return setting(
    field.default, shared.kind, f'{text} [default: the recipe]',
    of=shared.of, resume=shared.resume, forwarded=shared.forwarded,
  )  # fmt: skip
