"""Odd and damaged texts and transformers, made as `fuzz_inputs` are."""

import atexit
import csv
import functools
import io
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from fuzz_inputs import (
  ODD,
  Generator,
  Input,
  choice,
  damage,
  damaged,
  odd_name,
  up_to_training,
)
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from metajax.models import pretrained
from metajax.models.pretrained.parameters import draw, shapes

__all__ = ['KINDS']

# A transformer that nothing has to be compiled for.
_SMALL = (
  '--algorithm=protonet', '--ways=2', '--shots=1', '--queries=1',
  '--train_queries=1', '--width=8', '--depth=1', '--max_tokens=16',
)  # fmt: skip
_SMALL_PRETRAINED = tuple(
  each for each in _SMALL if not each.startswith(('--width', '--depth'))
)
_WORDS = ('please', 'show', 'me', 'my', 'balance', 'and', 'send', 'it', 'now')


def _rows(random: Generator) -> list[list[str]]:
  """Texts and their classes."""
  return [
    [' '.join([*random.choice(_WORDS, 4), str(each)]), f'class {number}']
    for number in range(random.integers(10, 14))
    for each in range(random.integers(2, 5))
  ]


def _known(rows: list[list[str]]) -> Callable[[Any], None]:
  """Judges that all texts are there, and are tested under their own names."""

  def judge(problem: Any) -> None:
    parts = [len(each.args[0]) for each in
             (problem.train, problem.validation, problem.test)]  # fmt: skip
    assert min(parts) > 0, 'a split is empty'
    assert sum(parts) == len(rows), 'texts were lost'
    drawn = problem.draw.keywords
    tested = sorted(text for text, name in rows
                    if name in drawn['classes'].names)  # fmt: skip
    assert tested == sorted(drawn['texts'].names), 'other texts are tested'

  return judge


def _damage_rows(random: Generator, rows: list[list[str]]) -> None:
  row = choice(random, rows)
  way = random.integers(6)
  if way == 0 and row:
    row[random.integers(len(row))] = choice(random, ODD)
  elif way == 1 and row:
    row[random.integers(len(row))] = odd_name(random)
  elif way == 2 and row:
    del row[random.integers(len(row))]
  elif way == 3:
    row.append(choice(random, ODD))
  elif way == 4:
    row[:] = [choice(random, ['x' * 200_000, 'word ' * 999, '\ufeff', ''])] * 2
  else:
    for each in rows:
      each[1:] = ['one class']


def texts(random: Generator, folder: Path) -> Input:
  """A CSV file, or one of a JSON object a line."""
  rows, kind = _rows(random), choice(random, ['csv', 'jsonl'])
  judge, kept = _known([list(row) for row in rows]), True
  for _ in range(random.integers(0, 3)):
    kept = False
    _damage_rows(random, rows)
  header = ['text', 'label']
  if random.random() < 0.1:
    kept = False
    header = choice(random, [['label', 'text'], ['text'], [], ['Text', 'y']])
  text = io.StringIO()
  if kind == 'csv':
    quoting = choice(random, [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    csv.writer(text, quoting=quoting).writerows([header, *rows])
  else:
    for row in rows:
      value: Any = dict(zip(header, row, strict=False))
      if random.random() < 0.02:
        kept, value = False, damaged(random, value)
      text.write(json.dumps(value, ensure_ascii=random.random() < 0.5) + '\n')
  encoding = 'utf-8'
  if random.random() < 0.2:
    encoding = choice(random, ['utf-8-sig', 'utf-16', 'latin-1', 'cp1252'])
    kept &= encoding != 'utf-16'
  path = folder / f'data.{kind}'
  path.write_bytes(text.getvalue().encode(encoding, errors='replace'))
  if random.random() < 0.2:
    kept = False
    damage(random, path)
  arguments = [f'--dataset={kind}', f'--data_file={path}', *_SMALL]
  if random.random() < 0.3:
    kept = False
    name = choice(random, ['text_column', 'label_column', 'split_shares',
                           'split_seed', 'max_tokens', 'out_of_scope',
                           'within_groups', 'ways'])  # fmt: skip
    arguments.append(f'--{name}={choice(random, [*ODD, "classes", "texts"])}')
  judged = judge if kept else None
  return Input('text', arguments, up_to_training('text', judged), kept)


def intents(random: Generator, folder: Path) -> Input:
  """A folder as that of CLINC150, divided by lists."""
  names = [f'intent {number}' for number in range(12)]
  domains: Any = {
    f'domain {number}': names[3 * number : 3 * number + 3]
    for number in range(4)
  }
  parts: Any = {}
  for part in ('train', 'val', 'test'):
    parts[part] = [[f'{part} {name} {n}', name]
                   for name in names for n in range(2)]  # fmt: skip
    parts[f'oos_{part}'] = [[f'{part} something {n}', 'oos'] for n in range(9)]
  kept = random.random() < 0.3
  if not kept and random.random() < 0.5:
    parts = damaged(random, parts)
  if not kept and random.random() < 0.5:
    domains = damaged(random, domains)
  lists = {'train': domains_of(names[:6]), 'val': domains_of(names[6:9]),
           'test': domains_of(names[9:])}  # fmt: skip
  for name, lines in lists.items():
    (folder / f'{name}.txt').write_text('\n'.join(lines))
  for name, value in (('data_full', parts), ('domains', domains)):
    path = folder / f'{name}.json'
    path.write_text(json.dumps(value))
    if not kept and random.random() < 0.15:
      damage(random, path)
  arguments = ['--dataset=clinc150', f'--data_dir={folder}', *_SMALL]
  if kept or random.random() < 0.9:
    arguments.append(f'--split_dir={folder}')
  if random.random() < 0.3:
    arguments.append('--within_groups')
  return Input('text', arguments, up_to_training('text'), kept)


def domains_of(names: list[str]) -> list[str]:
  """Names of intents as classes have them."""
  return [f'domain {int(name.split()[1]) // 3}/{name}' for name in names]


@functools.cache
def transformers() -> Path:
  """Folders of small transformers, one of each family."""
  folder = Path(tempfile.mkdtemp(prefix='fuzz-'))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  if (pid := os.fork()) == 0:  # whoever has computed something must not fork
    for family in ('bert', 'gpt2', 'llama'):
      _save(folder / family, family)
    os._exit(0)
  os.waitpid(pid, 0)
  return folder


def _save(folder: Path, family: str) -> None:
  words = ['[UNK]', *_WORDS, *map(str, range(9))]
  more: Any = {'types': 2} if family == 'bert' else {}
  if family == 'llama':
    more = {'heads_of_keys': 1, 'attention_bias': False,
            'feed_forward_bias': False}  # fmt: skip
  config = pretrained.TransformerConfig(
    family, len(words), 8, 1, 2, 12, 24, **more
  )
  inner = Tokenizer(
    models.WordLevel(
      {word: at for at, word in enumerate(words)}, unk_token='[UNK]'
    )
  )
  inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  tree = shapes(config, output_embedding=False)
  tokenizer = pretrained.Tokenizer(inner.to_str(), config)
  pretrained.save(folder, config, draw(jax.random.key(0), tree), tokenizer)


def weights(random: Generator, folder: Path) -> Input:
  """A folder of a transformer, a few things of which may be wrong."""
  family = choice(random, ['bert', 'gpt2', 'llama'])
  model = folder / 'model'
  shutil.copytree(transformers() / family, model)
  kept = True
  for _ in range(random.integers(0, 3)):
    kept &= choice(random, [_harmless, *4 * [_spoil]])(random, model)
  with open(folder / 'data.csv', 'w') as file:
    csv.writer(file).writerows([['text', 'label'], *_rows(random)])
  arguments = [
    '--dataset=csv', f'--data_file={folder / "data.csv"}',
    *_SMALL_PRETRAINED, f'--model_dir={model}',
  ]  # fmt: skip
  adapt = choice(random, ['lora', 'prefix', 'prompt', 'bias', 'norm', 'head',
                          'last:1', 'all'])  # fmt: skip
  if (family, adapt) == ('llama', 'bias'):  # it has none
    adapt = 'lora'
  arguments.append(f'--adapt={adapt}')
  if adapt == 'lora':
    arguments.append('--rank=2')
  if random.random() < 0.3:
    kept = False
    name = choice(random, ['adapt', 'rank', 'prompt_length', 'pool',
                           'max_tokens', 'network', 'precision', 'width',
                           'algorithm', 'model_dir', 'set'])  # fmt: skip
    arguments.append(f'--{name}={choice(random, [*ODD, "last:2", "first"])}')
  return Input('text', arguments, up_to_training('text'), kept)


def _harmless(random: Generator, model: Path) -> bool:
  """Other files that say the same, as others write them."""
  path = model / 'model.safetensors'
  way = random.integers(3)
  if not path.is_file() or way == 0:
    (model / 'pytorch_model.bin').write_bytes(pickle.dumps({'a': 1}))
    return True
  try:
    tensors = load_file(path)
  except Exception:  # something else has spoilt it
    return True
  if way == 1:
    tensors = dict(reversed(tensors.items()))
  else:
    tensors = {k: v.astype(np.float16) for k, v in tensors.items()}
  save_file(tensors, path, {'format': 'pt'})
  return True


def _spoil(random: Generator, model: Path) -> bool:
  """Does to a folder of a transformer what makes it another, or none."""
  path = model / 'model.safetensors'
  way = random.integers(5)
  if way == 0:
    files = sorted(model.iterdir())
    damage(random, choice(random, files))
  elif way == 1:
    path.unlink(missing_ok=True)
    (model / 'pytorch_model.bin').write_bytes(pickle.dumps({'a': 1}))
    if random.random() < 0.5:
      path.write_bytes(pickle.dumps({'a': np.ones(3)}))
  elif way == 2 and path.is_file():
    try:
      tensors = load_file(path)
    except Exception:
      return False
    name = choice(random, sorted(tensors))
    change = choice(random, _TENSORS)
    found = change(tensors.pop(name))
    if found is not None:
      tensors[choice(random, [name, name, f'{name}.1'])] = found
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
  elif way in (3, 4):
    name = model / ('config.json' if way == 3 else 'tokenizer.json')
    if name.is_file():
      try:
        value = json.loads(name.read_text())
      except ValueError:
        return False
      name.write_text(json.dumps(damaged(random, value)))
  return False


_TENSORS: tuple[Callable[[np.ndarray], Any], ...] = (
  lambda x: None,
  lambda x: x.T,
  lambda x: x[:1],
  lambda x: x[:0],
  lambda x: x[None],
  lambda x: x.astype(np.int8),
  lambda x: x.astype(np.float64),
  lambda x: np.full_like(x, np.nan),
)

KINDS: dict[str, Callable[[Generator, Path], Input]] = {
  'texts': texts,
  'intents': intents,
  'weights': weights,
}
