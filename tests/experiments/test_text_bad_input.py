"""What cannot be meant of texts and of transformers is one line."""

import csv
import json
import pickle
import re
import shutil

import jax
import numpy as np
import pytest

pytest.importorskip('tokenizers')

from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from experiments import text
from experiments.compare import Compares, _check_meaning, _settings_of
from experiments.compare import Settings as Comparison
from experiments.runner.errors import UsageError
from metajax.models import pretrained
from metajax.models.pretrained.parameters import draw, shapes

SMALL = {
  'algorithm': 'protonet', 'ways': 2, 'queries': 1, 'train_queries': 1,
  'max_tokens': 16, 'width': 8, 'depth': 1,
}  # fmt: skip
PRETRAINED = {**SMALL, 'width': None, 'depth': None}
WORDS = ['[UNK]', 'pay', 'the', 'bill', *map(str, range(9))]


def tokenizer_of(words) -> str:
  inner = Tokenizer(
    models.WordLevel(
      {word: at for at, word in enumerate(words)}, unk_token='[UNK]'
    )
  )
  inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  return inner.to_str()


@pytest.fixture(scope='module')
def whole_model(tmp_path_factory):
  directory = tmp_path_factory.mktemp('model') / 'whole'
  config = pretrained.TransformerConfig(
    'llama', len(WORDS), 8, 2, 2, 12, 16, heads_of_keys=1,
    attention_bias=False, feed_forward_bias=False,
  )  # fmt: skip
  params = draw(jax.random.key(0), shapes(config, output_embedding=False))
  tokenizer = pretrained.Tokenizer(tokenizer_of(WORDS), config)
  pretrained.save(directory, config, params, tokenizer)
  return directory


@pytest.fixture
def model_dir(whole_model, tmp_path):
  """A transformer of its own for whoever spoils it."""
  return shutil.copytree(whole_model, tmp_path / 'model')


def rows(classes=10, each=2):
  return [
    [f'pay the bill {number} {at}', f'class {number}']
    for number in range(classes)
    for at in range(each)
  ]


def write(path, rows, header=('text', 'label'), encoding='utf-8'):
  with open(path, 'w', encoding=encoding) as file:
    csv.writer(file).writerows([header, *rows])
  return path


@pytest.fixture
def data_file(tmp_path):
  return write(tmp_path / 'mine.csv', rows())


def problem(**settings):
  given = text.Settings(dataset='csv', **settings)
  return text.make_problem(given, text.make_recipe(given))


def refused(expected, **settings):
  """Has to be refused, by these words."""
  with pytest.raises(UsageError) as caught:
    problem(**settings)
  line = str(caught.value)
  assert '\n' not in line
  assert re.search(expected, line), line


def change(directory, alter):
  path = directory / 'model.safetensors'
  tensors = load_file(path)
  alter(tensors)
  save_file(tensors, path)


def test_weights_of_another_shape(model_dir, data_file):
  def transpose(tensors):
    name = 'model.layers.0.mlp.up_proj.weight'
    tensors[name] = np.ascontiguousarray(tensors[name].T)

  change(model_dir, transpose)
  refused(
    r'^--model_dir: /.*/model: the tensor model.layers.0.mlp.up_proj.weight has'
    r' the shape \[8, 12\], by config.json it must be \[12, 8\]',
    **PRETRAINED, data_file=data_file, model_dir=model_dir,
  )  # fmt: skip


def test_weights_that_are_not_all_there(model_dir, data_file):
  def rename(tensors):
    tensors['something.else'] = tensors.pop('model.norm.weight')

  change(model_dir, rename)
  refused(
    'does not hold the weights of its config.json: missing .*norm.weight;'
    ' unexpected something.else',
    **PRETRAINED, data_file=data_file, model_dir=model_dir,
  )  # fmt: skip


def test_weights_that_are_cut_off(model_dir, data_file):
  path = model_dir / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-100])
  refused(
    r'^--model_dir: /\S*/model.safetensors is not a whole safetensors file'
    r' \(.*\); fetch it again$',
    **PRETRAINED, data_file=data_file, model_dir=model_dir,
  )  # fmt: skip


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'model.safetensors'])
def test_weights_that_are_pickled_are_not_read(model_dir, data_file, name):
  (model_dir / 'model.safetensors').unlink()
  marker = model_dir / 'was read'

  class Harmful:
    def __reduce__(self):
      return marker.touch, ()

  (model_dir / name).write_bytes(pickle.dumps(Harmful()))
  refused(
    'only safetensors are read|is not a whole safetensors file',
    **PRETRAINED, data_file=data_file, model_dir=model_dir,
  )  # fmt: skip
  assert not marker.exists()


def test_a_tokenizer_of_another_model(model_dir, data_file):
  more = tokenizer_of([*WORDS, 'beyond'])
  (model_dir / 'tokenizer.json').write_text(more)
  refused(
    "its token 'beyond' has the id 13, but the model knows 13 tokens",
    **PRETRAINED, data_file=data_file, model_dir=model_dir,
  )  # fmt: skip
  (model_dir / 'tokenizer.json').unlink()
  refused(
    'model_dir: .* has no tokenizer.json; add',
    **PRETRAINED, data_file=data_file, model_dir=model_dir,
  )  # fmt: skip


def test_texts_without_a_token_are_blamed_on_their_file(tmp_path, model_dir):
  inner = json.loads((model_dir / 'tokenizer.json').read_text())
  inner['normalizer'] = {
    'type': 'Replace', 'pattern': {'String': '?'}, 'content': ' '
  }  # fmt: skip
  (model_dir / 'tokenizer.json').write_text(json.dumps(inner))
  path = write(tmp_path / 'odd.csv', [*rows(), ['??', 'class 0']])
  refused(
    r"--data_file: the tokenizer has no token for the text '\?\?' \(and 0 o",
    **PRETRAINED, data_file=path, model_dir=model_dir,
  )  # fmt: skip


def test_texts_that_are_too_long_are_counted_or_refused(tmp_path):
  long = [[f'{line} {"and so on " * 20}', name] for line, name in rows()]
  long[0][0] = 'pay'
  path = write(tmp_path / 'long.csv', long)
  protocol = problem(**SMALL, data_file=path).protocol
  assert protocol['tokens'].endswith('19 of 20 texts cut off')
  refused(
    '--refuse_long_texts|--max_tokens', **SMALL, data_file=path,
    refuse_long_texts=True,
  )  # fmt: skip


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('', r'mine.csv'),
    ('text,label\n', r'there is no row of text; the file is empty'),
    ('text,label\na,x\nb,x\n', r"all 2 texts have the label 'x'; two classes"),
    ('text,label\na,x\nb,\n', r'row 3: there is no label; fill it in, or'),
    ('text,label\n ,x\nb,y\n', r'there is no text; fill it in, or leave'),
    ('text,label\na,x\nb,y\n', r'mine.csv: 2 classes'),
    ('words,label\na,x\n', r"there is no column 'text'; the columns are 'wo"),
    ('text,label\na,x,z\n', r'the row has 3 cells, but the header has 2'),
  ],
)
def test_files_of_texts_that_cannot_be_used(tmp_path, content, message):
  path = tmp_path / 'mine.csv'
  path.write_text(content)
  refused(message, **SMALL, data_file=path)


@pytest.mark.parametrize('encoding', ['latin-1', 'utf-16'])
def test_a_file_of_another_encoding(tmp_path, encoding):
  path = write(
    tmp_path / 'mine.csv', [['caf\N{LATIN SMALL LETTER E WITH ACUTE}', 'x']],
    encoding=encoding,
  )  # fmt: skip
  refused(r'--data_file: .*(encoding|UTF-8)', **SMALL, data_file=path)


def test_texts_that_are_in_several_splits_are_counted(tmp_path):
  same = [[line if at else 'pay the bill', name]
          for at, (line, name) in enumerate(rows())]  # fmt: skip
  for at in range(0, len(same), 2):
    same[at][0] = 'pay the bill'
  protocol = problem(
    **SMALL, data_file=write(tmp_path / 'a.csv', same)
  ).protocol
  assert protocol['duplicate_texts'] == (
    '0 repeated in a class, 1 in several classes, 1 in several splits'
  )


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'rank': 5}, '--rank: is 5: a rank of 5 is above the smaller side of .*4'),
    ({'adapt': 'bias'}, '--adapt: is bias: .*bias'),
    ({'adapt': 'last:3'}, '--adapt: is last:3: .* more than the 2 blocks'),
    ({'adapt': 'lroa'}, '--adapt: is lroa; it is one of lora, prefix, prompt'),
    ({'adapt': 'all', 'rank': 4}, '--rank: is 4, but .* --adapt=lora$'),
    ({'adapt': 'head', 'prompt_length': 4},
     '--prompt_length: .* --adapt=prompt or prefix$'),
    ({'adapt': 'prompt', 'prompt_length': 40}, '--prompt_length: 40: '),
    ({'pool': 'first', 'rank': 2}, "--pool: is first: pool='first' is blind"),
    ({'max_tokens': 64}, '--max_tokens: is 64, but the model has positions fo'),
    ({'network': 'conv4'}, '--network: is conv4, but texts are read by a tran'),
    ({'width': 32}, '--width: is 32, but that of --model_dir is fixed'),
    ({'out_of_scope': 'texts', 'rank': 2}, '--out_of_scope: is texts, but csv '
     'has none that are of no class; take classes, or leave it out'),
  ],
)  # fmt: skip
def test_settings_that_do_not_go_with_a_transformer(
  whole_model, data_file, settings, message
):
  refused(
    message,
    **{**PRETRAINED, **settings},
    data_file=data_file,
    model_dir=whole_model,
  )


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'rank': 4}, '--rank: is 4, but has a meaning only with --model_dir and'),
    ({'pool': 'first'}, "--pool: is first: pool='first' is blind in llama"),
    ({'out_of_scope': 'classes', 'ways': 2},
     '--out_of_scope: is classes, but tasks of 2 ways leave none of the 2'),
    ({'text_column': 'label', 'label_column': 'label'}, 'label'),
  ],
)  # fmt: skip
def test_settings_that_do_not_go_with_texts(data_file, settings, message):
  refused(message, **{**SMALL, **settings}, data_file=data_file)


@pytest.mark.parametrize('adapt', ['prefix', 'lora', 'last:1'])
def test_keys_may_have_fewer_heads(whole_model, data_file, adapt):
  rank = {'rank': 2} if adapt == 'lora' else {}
  given = {**PRETRAINED, **rank, 'adapt': adapt, 'model_dir': whole_model}
  assert problem(**given, data_file=data_file).protocol['dataset'] == 'csv'


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'dataset': 'phrases', 'image_size': 84}, '--image_size: is 84, but has'),
    ({'dataset': 'sinusoid', 'train_ways': 9}, '--train_ways: is 9, but has'),
    ({'model_dir': 'x'}, '--model_dir: is x, but .* --dataset=strokes'),
    ({'max_tokens': 9}, '--max_tokens: is 9, but has no meaning'),
    ({'dataset': 'sinusoid', 'ways': 9}, '--ways: is 9, but has no meaning'),
    ({'dataset': 'sinusoid', 'adapt': 'all'}, '--adapt: is all, but has no'),
    ({'dataset': 'csv', 'adaptations': 'lora'}, '--adaptations: are of a pret'),
    ({'dataset': 'csv', 'adaptations': 'lroa', 'model_dir': 'x'},
     '--adaptations: is lroa; it is one of lora'),
    ({'dataset': 'csv', 'adaptations': 'lora', 'adapt': 'all',
      'model_dir': 'x'}, '--adaptations: are given, and --adapt too'),
    ({'dataset': 'csv', 'adaptations': 'bias,all', 'model_dir': 'x',
      'rank': 4}, '--rank: is 4, but changes nothing of --adapta'),
    ({'dataset': 'csv', 'adaptations': 'all', 'model_dir': 'x',
      'model_dtype': 'int8'}, '--model_dtype: is int8, but changes nothing'),
  ],
)  # fmt: skip
def test_comparisons_refuse_what_has_no_meaning(settings, message):
  with pytest.raises(UsageError, match=message):
    _check_meaning(Comparison(**settings))


def test_a_setting_of_some_adaptations_goes_to_their_rows():
  settings = Comparison(
    dataset='csv', model_dir='x', adaptations='lora,bias,all', rank=4,
    model_dtype='int8',
  )  # fmt: skip
  rows = {
    adapt: _settings_of(settings, Compares('protonet', adapt))
    for adapt in settings.adaptations
  }
  for adapt, rank, dtype in (
    ('lora', 4, 'int8'), ('bias', 8, 'int8'), ('all', 8, 'float32')
  ):  # fmt: skip
    assert (rows[adapt].rank, rows[adapt].model_dtype) == (rank, dtype)


def decoder(directory, max_length=150):
  """One that reads, whose tokenizer knows 15 letters and digits."""
  words = [*WORDS, *'ABCDEF']
  config = pretrained.TransformerConfig(
    'gpt2', len(words), 8, 1, 2, 8, max_length
  )
  params = draw(jax.random.key(0), shapes(config))
  tokenizer = pretrained.Tokenizer(tokenizer_of(words), config)
  pretrained.save(directory, config, params, tokenizer)
  return directory


@pytest.mark.in_ci
@pytest.mark.parametrize(
  ('changes', 'blamed', 'message'),
  [
    ({'ways': 40}, 'ways', 'is 40, but there are 32 tokens'),
    ({'train_ways': 40}, 'train_ways', 'is 40, but there are 32 tokens'),
    ({'set': 'labels=4'}, 'ways', 'is 5, but there are 4 tokens'),
    ({'model': 150, 'ways': 16, 'train_ways': 2}, 'ways',
     'the letters and digits of --model_dir are 15 tokens'),
    ({'model': 150, 'train_ways': 16}, 'train_ways',
     'the letters and digits of --model_dir are 15 tokens'),
    ({'model': 150, 'set': 'labels=6'}, 'set', 'labels is 6, but letters'),
    ({'model': 100}, 'max_tokens', 'labels and a query are 101 tokens'),
    ({'model': 100, 'ways': 2, 'train_ways': 5}, 'max_tokens', '101 tokens'),
    ({'model': 100, 'ways': 5, 'train_ways': 2}, 'max_tokens', '101 tokens'),
    ({'model': 108, 'adapt': 'prompt'}, 'max_tokens', '109 tokens'),
  ],
)  # fmt: skip
def test_more_classes_than_can_be_read_are_refused(
  tmp_path, changes, blamed, message
):
  given = {**SMALL, 'algorithm': 'metaicl', 'ways': 5, **changes}
  if length := given.pop('model', None):
    given |= {'model_dir': decoder(tmp_path / 'model', length)}
    given |= {'width': None, 'depth': None}
  settings = text.Settings(**given)
  with pytest.raises(UsageError, match=message) as caught:
    text.make_problem(settings, text.make_recipe(settings))
  assert caught.value.setting == blamed


@pytest.mark.in_ci
def test_tasks_that_just_fit_are_read(tmp_path):
  """In training of more classes than at test, and the other way round."""
  shared = {**SMALL, 'algorithm': 'metaicl', 'eval_tasks': 2, 'steps': 1,
            'validation_tasks': 2, 'tasks_per_step': 1}  # fmt: skip
  of_nothing = text.Settings(
    **shared | {'train_ways': 6, 'workdir': tmp_path / 'small'}
  )
  assert text.run(of_nothing)['skipped_steps'] == 0
  read = text.Settings(
    **shared
    | {
      'model_dir': decoder(tmp_path / 'model', 101), 'width': None,
      'depth': None, 'ways': 5, 'train_ways': 2, 'workdir': tmp_path / 'run',
    }
  )  # fmt: skip
  assert text.run(read)['skipped_steps'] == 0
