"""Runs of `experiments.text` that are small, and a small transformer."""

from pathlib import Path

import jax
from tokenizers import Tokenizer, models, pre_tokenizers

from experiments import text
from experiments.runner.loop import recorded
from experiments.runner.problem import Problem
from experiments.runner.workdir import write_json
from metajax.models import pretrained
from metajax.models.pretrained.parameters import draw, shapes
from metajax.runs.checkpoint import Checkpointer
from metajax.runs.training import make_train_step
from metajax.tasks import phrase_tokenizer

SMALL = {
  'tasks_per_step': 1, 'eval_tasks': 4, 'validation_tasks': 2, 'log_every': 1,
  'steps': 2, 'checkpoint_every': 2, 'queries': 2, 'train_queries': 2,
  'max_tokens': 24,
}  # fmt: skip


def save_small_transformer(
  directory: Path,
  config: pretrained.TransformerConfig | None = None,
  masked_words: bool = False,
) -> None:
  """Writes one with the words of the generated language."""
  words = phrase_tokenizer().words
  config = config or pretrained.TransformerConfig(
    'bert', len(words), 16, 2, 2, 24, 32, types=2
  )
  params = draw(jax.random.key(0), shapes(config, masked_words=masked_words))
  inner = Tokenizer(
    models.WordLevel(
      {word: index for index, word in enumerate(words)}, unk_token=words[0]
    )
  )
  inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  tokenizer = pretrained.Tokenizer(inner.to_str(), config)
  pretrained.save(directory, config, params, tokenizer)


def given(tmp_path, **settings) -> text.Settings:
  return text.Settings(**{**SMALL, 'workdir': tmp_path / 'run', **settings})


def begun(settings: text.Settings, step: int = 0) -> Problem:
  """A run that has come no further than its first checkpoint, of a step."""
  problem = text.make_problem(settings, text.make_recipe(settings))
  train_step = make_train_step(
    problem.meta_learner(), problem.algorithm.optimizer(problem.recipe),
    problem.train, tasks_per_step=1,
  )  # fmt: skip
  workdir = Path(settings.workdir)
  with Checkpointer(workdir / 'checkpoints') as checkpointer:
    checkpointer.save(step, train_step.init(jax.random.key(settings.seed)))
  write_json(workdir / 'config.json', recorded(problem))
  return problem
