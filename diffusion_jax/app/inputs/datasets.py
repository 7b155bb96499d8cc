"""The data of a run: their sources, and the facts that models need."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diffusion_jax.app.config.criterion import held_out
from diffusion_jax.app.config.tree import Node, from_config, parameters
from diffusion_jax.data import image_folder, pipeline
from diffusion_jax.data.simulations import BLOCK
from diffusion_jax.data.sources import Facts, Source, check_facts, checksum, measured
from diffusion_jax.data.splits import NoTestSplit, Part, validation_part
from diffusion_jax.data.text import to_bytes
from diffusion_jax.errors import UserError


def of_run(config: Node, workdir: str | Path) -> Node:
  """Returns the config, whose simulations are kept in the run folder."""
  return _keeping(config, config.data, Path(workdir) / 'simulations')


def _keeping(config, data, place):
  # Returns the config with data whose simulations are kept in a place.
  if data is not None:
    data = dataclasses.replace(data, given={**data.given, 'kept_in': place})
  return config.replace(data=data)


def of_training(config: Node) -> Node:
  """Returns the config whose test split is the validation part, if it has one.

  So nothing that a training measures or draws is of the test split.
  """
  data = config.data
  if data is not None:
    data = dataclasses.replace(data, given={**data.given, 'test': held_out(config)})
  return config.replace(data=data)


def first_block(config: Node, tried: dict) -> Node:
  """Returns the config with the first simulations only, stored in `tried`.

  It is the config itself of other data.
  """
  if config.data is None or 'num_examples' not in config.data:
    return config
  few = config.data.replace(num_examples=min(BLOCK, config.data.num_examples))
  return _keeping(config, few, tried)


def with_contents(facts: Facts, source: Source) -> Facts:
  """Returns facts with a source's size, checksum, classes and skipped names."""
  names, skipped = source.facts.class_names, source.facts.skipped
  with from_config('data'):
    total = checksum(source)
  return facts._replace(examples=len(source), checksum=total, class_names=names, skipped=skipped)


def facts_of(config: Node) -> Facts:
  """Returns the facts that a run has stored, or else the facts of its data.

  The data are not read if their constructor states the facts. Mean and standard
  deviation of real numbers are measured.
  """
  if 'facts' in config:
    return _stored_facts(config.facts)
  if (stated := stated_facts(config.data)) is not None:
    return stated
  source = source_of(config)
  with from_config('data'):
    return measured(source)


def _stored_facts(section):
  # The facts of a config.json, which may be a stranger's.
  facts = section.make()
  with from_config('facts'):
    check_facts(facts)
  return facts


def stated_facts(section: Node | None) -> Facts | None:
  """Returns the facts that a section states, which need no data; or None."""
  if section is None or not hasattr(section.constructor, 'stated_facts'):
    return None
  return section.constructor.stated_facts(**section.to_dict())


# The fields of data that read labels, and how they are set.
LABELS = {
  'labelled': 'data.labelled=True, whose classes are the sub-folders,',
  'num_classes': 'data.num_classes to their number',
  'label': 'data.label to the column of the classes',
  '': 'data to a set with labels',
}


def label_field(section: Node | None) -> str:
  """Returns the field of a section of data that reads labels; '' for none."""
  section = section and _of_examples(section)
  return next((name for name in LABELS if name in (section or ())), '')


def asks_for_labels(section: Node | None) -> bool:
  """Returns whether the field of a section that reads labels is set."""
  if section is None or not (name := label_field(section)):
    return False
  inner = _of_examples(section)
  default = parameters(inner.constructor)[name].default
  return bool(inner[name]) and inner[name] != default


def _of_examples(section: Node) -> Node:
  # Where the examples of a set are from, which may wrap another one.
  return section.get('target', section.get('source', section))


def with_conditions(config: Node, facts: Facts) -> Node:
  """Returns the config with the conditioning that follows from the data.

  labels=None: the labels that a field of the data asks for, with dropout for
  guidance; context=if_any: auto, or None for data without a context.
  """
  c = config.get('conditioning')
  if c is None:
    return config
  follows = c.labels is None and asks_for_labels(config.data)
  labels = follows if c.labels is None else c.labels
  dropout = 0.1 * follows if c.dropout is None else c.dropout
  context = c.context
  if context is not None and context.name == 'if_any':
    context = facts.context and context.replace(name='auto')
  c = c.replace(labels=labels, dropout=dropout, context=context)
  return config.replace(conditioning=c)


def source_of(config: Node, split: str = 'train') -> Source:
  """Returns the data of a split, a `Source`.

  'validation' is data.validation_fraction of the examples of the train split,
  which 'train' does not contain then. Raises UserError if the config has no
  data, or the network reads texts and the data have no texts.
  """
  if config.data is None:
    raise UserError('this config has no data set: give --config.data=digits, for instance')
  if split == 'test':
    split = config.data.given.get('test', 'test')
  source = config.data.make({'split': 'test' if split == 'test' else 'train'})
  if ':' in config.data.name:  # The user's own is checked before it is used.
    with from_config('data'):
      pipeline.examples(source, np.arange(1))
  if 'facts' in config:
    stored = _stored_facts(config.facts)
    _check_same_kind(config.data.name, source.facts, stored)
  with from_config('data'):
    if length := text_length(config):
      source = _with_texts(source, length, config.training.random_flip)
    fraction = config.data.validation_fraction
    if split == 'validation' or split == 'train' and fraction:
      rows = validation_part(len(source), split, fraction, config.seed)
      source = Part(source, rows)
  return source


def _check_same_kind(name, ours, theirs):
  # Statistics are not compared: a run keeps its own.
  def compare(what, one, other, advice=''):
    if one != other:
      raise UserError(f'config.data={name}: {what} {one}, and {other} in this run{advice}')

  def kind(facts):
    return 'levels' if facts.x.levels else 'real numbers'

  compare('examples are', tuple(ours.x.shape), tuple(theirs.x.shape))
  if theirs.context is not None:
    shape = ours.context and tuple(ours.context.shape)
    compare('context are', shape, tuple(theirs.context.shape))
    if ours.context and ours.context.names and theirs.context.names:
      compare('numbers of the context are', ours.context.names, theirs.context.names)
  if ours.x.names and theirs.x.names:
    compare('columns of x are', ours.x.names, theirs.x.names)
  compare('examples are', kind(ours), kind(theirs))
  if ours.class_names and theirs.class_names:
    pairs = itertools.zip_longest(ours.class_names, theirs.class_names)
    advice = ': rename the classes, or train a run of their own'
    for i, (one, other) in enumerate(pairs):
      compare(f'class {i} is', repr(one), repr(other), advice)


def _with_texts(source, length, random_flip):
  if isinstance(source, image_folder.FileSource):
    source = image_folder.captioned(source)
    for text in source.captions:
      to_bytes(text, length)
  first = source.read(np.arange(1))
  if 'text' not in first:
    raise ValueError(
      'these images have no texts for conditioning.text: data=shapes has, '
      'data=folder with a metadata.jsonl, and huggingface, webdataset and '
      'array_record with data.text_column'
    )
  if random_flip:
    raise ValueError("training.random_flip would make texts such as 'on the left' wrong")
  to_bytes(first['text'][0], length)
  return source


def unseen(config: Node) -> Source:
  """Returns the test split, or the training split of data without one."""
  try:
    return source_of(config, 'test')
  except UserError as error:
    if not isinstance(error.__cause__, NoTestSplit):
      raise
    return source_of(config)


def text_length(config: Node) -> int:
  """Returns the number of tokens of a text; 0 if the network reads no text."""
  text = config.conditioning.text if 'conditioning' in config else None
  return text.length if text else 0


def batches(
  config: Node, source: Source, facts: Facts, start: int, rows: slice = pipeline.ALL
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the training batches from step `start` on; rows: of this process."""
  c = config.training
  order = c.batch_size, config.seed, start, c.random_flip, rows, c.num_threads
  stream = pipeline.batches(source, *order, text_length(config), facts)
  with from_config('data'):  # a damaged file is noticed when it is read
    yield from stream
