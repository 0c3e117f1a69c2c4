"""Task distributions: functions `sample(key) -> Task` that run inside jit."""

from metajax.tasks.bicycle import Car
from metajax.tasks.captions import (
  Described,
  caption,
  caption_tokenizer,
  described_strokes,
)
from metajax.tasks.car import CarRanges, car
from metajax.tasks.cifar import load_cifar100, load_fc100
from metajax.tasks.completion import completion
from metajax.tasks.episodes import (
  HostEpisodes,
  HostTasks,
  classification,
  device_tasks,
  episodes,
)
from metajax.tasks.errors import DataError
from metajax.tasks.folder import is_divided, load_class_folders, load_folder
from metajax.tasks.labelled import LabelledImages, load_npz
from metajax.tasks.mapped import map_array, map_examples
from metajax.tasks.modalities import Examples, modal_episodes
from metajax.tasks.out_of_scope import (
  accuracy_with_rejection,
  area_under_curve,
  is_out_of_scope,
  tune_threshold,
  with_classes_apart,
  with_out_of_scope,
)
from metajax.tasks.phrases import Phrases, phrase_tokenizer, phrases
from metajax.tasks.places import classification_places, episode_places
from metajax.tasks.prepared import load_prepared
from metajax.tasks.rotations import rotate_classes
from metajax.tasks.sinusoid import sinusoid
from metajax.tasks.splits import (
  Splits,
  fold_of,
  groups_of,
  split_by_files,
  split_by_groups,
  split_by_seed,
  split_groups_by_seed,
)
from metajax.tasks.streams import arriving, class_streams
from metajax.tasks.strokes import strokes, strokes_classification
from metajax.tasks.synthetic_tables import synthetic_tables
from metajax.tasks.table_episodes import table_tasks, task_of, two_classes
from metajax.tasks.table_splits import (
  Standardisation,
  TableSplits,
  split_table_by_seed,
  standardise,
)
from metajax.tasks.tables import Table, load_columns, load_table
from metajax.tasks.task_sizes import pad_task, split_episode
from metajax.tasks.text import (
  Duplicates,
  Intents,
  OutOfScope,
  Texts,
  count_duplicates,
  load_banking77,
  load_clinc150,
  load_csv,
  load_jsonl,
  load_texts,
)
from metajax.tasks.words import WordTokenizer, word_tokenizer

__all__ = [
  'Car',
  'CarRanges',
  'DataError',
  'Described',
  'Duplicates',
  'Examples',
  'HostEpisodes',
  'HostTasks',
  'Intents',
  'LabelledImages',
  'OutOfScope',
  'Phrases',
  'Splits',
  'Standardisation',
  'Table',
  'TableSplits',
  'Texts',
  'WordTokenizer',
  'accuracy_with_rejection',
  'area_under_curve',
  'arriving',
  'caption',
  'caption_tokenizer',
  'car',
  'class_streams',
  'classification',
  'classification_places',
  'completion',
  'count_duplicates',
  'described_strokes',
  'device_tasks',
  'episode_places',
  'episodes',
  'fold_of',
  'groups_of',
  'is_divided',
  'is_out_of_scope',
  'load_banking77',
  'load_cifar100',
  'load_class_folders',
  'load_clinc150',
  'load_columns',
  'load_csv',
  'load_fc100',
  'load_folder',
  'load_jsonl',
  'load_npz',
  'load_prepared',
  'load_table',
  'load_texts',
  'map_array',
  'map_examples',
  'modal_episodes',
  'pad_task',
  'phrase_tokenizer',
  'phrases',
  'rotate_classes',
  'sinusoid',
  'split_by_files',
  'split_by_groups',
  'split_by_seed',
  'split_episode',
  'split_groups_by_seed',
  'split_table_by_seed',
  'standardise',
  'strokes',
  'strokes_classification',
  'synthetic_tables',
  'table_tasks',
  'task_of',
  'tune_threshold',
  'two_classes',
  'with_classes_apart',
  'with_out_of_scope',
  'word_tokenizer',
]
