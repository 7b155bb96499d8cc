"""The data of a run: their sources, and the facts that models need."""

import dataclasses
import functools
import os
from collections.abc import Iterator

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.kinds import roles, sections
from diffusion_jax.data import image_folder, pipeline
from diffusion_jax.data.set_files import say_once
from diffusion_jax.data.simulations import BLOCK, KeptIn
from diffusion_jax.data.sources import Source, facts_sum, measured
from diffusion_jax.data.spec import Facts, check_facts, misfits
from diffusion_jax.data.splits import NoTestSplit, Part, validation_part
from diffusion_jax.data.text import to_bytes
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder


def of_run(config: Node, run: RunFolder, workdir: RunFolder | None = None) -> Node:
  """Returns the config with what its data need to know of a run folder.

  Simulations are read there, and new ones are kept in workdir if it may be
  written; see `weights.make_model`.
  Data of the run are compared with what it was trained on; see `source_of`.
  """
  workdir = workdir or run
  data = (folder.read_config(run) or {}).get('data')
  written = workdir.simulations if workdir.written else None
  config = _given(config, kept_in=KeptIn(written, run.simulations), run=data)
  return _given(config, trained=functools.cache(functools.partial(_train_facts, config)))


def _given(config, **values):
  # Returns the config with values that `Node.given` of its data has.
  data = config.data
  if data is not None:
    data = dataclasses.replace(data, given={**data.given, **values})
  return config.replace(data=data)


def held_out(config: Node) -> str:
  """Returns the split whose loss a training measures."""
  return 'validation' if config.at('data.validation_fraction') else 'test'


def of_training(config: Node) -> Node:
  """Returns the config whose test split is the validation part, if it has one.

  So nothing that a training measures or draws is of the test split. It compares
  its data with the run's itself, by `roles.check_same_run`.
  """
  return _given(config, test=held_out(config), run=None)


def first_block(config: Node, tried: dict) -> Node:
  """Returns the config with the first simulations only, stored in `tried`.

  It is the config itself of other data.
  """
  if config.data is None or 'num_examples' not in config.data:
    return config
  few = config.data.replace(num_examples=min(BLOCK, config.data.num_examples))
  return _given(config.replace(data=few), kept_in=tried)


def with_contents(facts: Facts, source: Source) -> Facts:
  """Returns facts with a source's size, `facts_sum`, classes and skipped names."""
  names, skipped = source.facts.class_names, source.facts.skipped
  with from_config('data'):
    total = facts_sum(source)
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
    return measured(source, config.data.one_scale)


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


def with_conditions(config: Node, facts: Facts) -> Node:
  """Returns the config with the conditioning that follows from the data.

  labels=None: the labels that a field of the data asks for, with dropout for
  guidance; context=if_any: auto, or None for data without a context.
  """
  c = config.get('conditioning')
  if c is None:
    return config
  follows = c.labels is None and sections.asks_for_labels(config.data)
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
  data, the network reads texts and the data have no texts, or if the files of a
  trained run have changed since its training: another path is another set.
  """
  if config.data is None:
    raise UserError('this config has no data set: give --config.data=digits, for instance')
  if split == 'test':
    split = config.data.given.get('test', 'test')
  is_own = 'facts' in config and _is_own(config, split)
  if is_own:
    _check_as_trained(config, split)
  try:
    return _source(config, split)
  except UserError as error:
    if not is_own or not isinstance(error.__cause__, NoTestSplit):
      raise
    part = 'validation' if config.data.validation_fraction else 'train'
    raise UserError(
      f'config.data={config.data.name}: this run held out no test examples: give '
      f'evaluation.split={part}{_elsewhere(config.data)}'
    ) from error.__cause__


def _source(config, split):
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


# Fields of data that say where examples are, and those that only split them.
_PLACES = 'name', 'path', 'paths', 'dataset', 'subset', 'revision'
_SPLITS = 'test_fraction', 'validation_fraction', 'train_split', 'test_split', 'split_row'


def another_set(config: Node, split: str) -> Json:
  """Returns the fields by which a split is of another set than the run's data.

  They are {} for the run's own set, which has its path or, without a path, all
  fields but those that split it.
  """
  old = folder.flat((config.data and config.data.given.get('run')) or {})
  now = folder.flat(roles.data_of(config))
  last = {name: name.rpartition('.')[2] for name in now}
  places = {n for n in now if last[n] in _PLACES or (last[n], split) == ('test_path', 'test')}
  if {last[n] for n in places} == {'name'}:
    places = {n for n in now if last[n] not in _SPLITS}
  return {n: now[n] for n in sorted(places & {*old}) if _place(now[n]) != _place(old[n])}


def _place(value):
  return os.path.realpath(os.path.expanduser(value)) if isinstance(value, str) else value


def _is_own(config, split):
  # Returns whether a split is of the run's data; prints a line if it is of another set.
  if others := another_set(config, split):
    fields = ', '.join(f'data.{n}={x}' for n, x in others.items())
    say_once(f'note: {fields}: the {split} examples are of another set than those of the training')
  return bool(config.data.given.get('run')) and not others


def _train_facts(config):
  # Returns what the facts of a training would say of the data.
  return with_contents(_stored_facts(config.facts), _source(config, 'train'))._asdict()


def _check_as_trained(config, split):
  # Other random numbers make the test split of a set with `num_examples`.
  data, facts = config.data, config.facts
  if not facts.examples or split == 'test' and 'num_examples' in data:
    return
  try:
    now = data.given['trained']()
  except UserError as error:
    if isinstance(error.__cause__, FileNotFoundError):  # The split is in other files.
      return
    raise
  names = [n for n in ('examples', 'checksum') if now[n] != facts[n]]
  if names:
    run, fields = {'data': data.given['run']}, {'data': roles.data_of(config)}
    fields = folder.differences(run, fields, roles.FREE)
    advice = 'leave this as it was' if fields else 'put them back as they were'
    changed = fields or ', '.join(f'{n} {now[n]}, {facts[n]} in the run' for n in names)
    raise UserError(
      f'config.data={data.name}: this run was trained on different examples, and the {split} split '
      f'may contain some of them: {changed}: {advice}{_elsewhere(data)}'
    )


def _elsewhere(data):
  field = next((name for name in ('test_path', 'path') if name in data), '')
  return (field and f', read another set by --config.data.{field}') + ', or train another run'


# Facts that a run does not take from other data: it keeps its own.
STATISTICS = (
  *('x.mean', 'x.std', 'context.mean', 'context.std'),
  *('x.knots', 'x.shares', 'x.decimals', 'x.notations'),
)


def _check_same_kind(name, ours, theirs):
  unread = STATISTICS if theirs.context is not None else (*STATISTICS, 'context')
  unread += () if ours.num_classes and theirs.num_classes else ('num_classes',)
  for fact, one, other in misfits(ours, theirs, unread):
    named = fact.startswith(('class', 'column'))
    advice = ': give them names and an order as there, or train a run of their own' * named
    raise UserError(f'config.data={name}: {fact} is {one!r}, and {other!r} in this run{advice}')


def _with_texts(source, length, random_flip):
  if isinstance(source, image_folder.FileSource):
    source = image_folder.captioned(source)
    for text in source.captions:
      to_bytes(text, length)
  first = source.read(np.arange(1))
  if 'text' not in first:
    raise ValueError(
      'these images have no texts for conditioning.text: data=shapes has, '
      'data=folder with a metadata.jsonl, and huggingface and webdataset '
      'with data.text_column'
    )
  if random_flip:
    raise ValueError("training.random_flip would make texts such as 'on the left' wrong")
  to_bytes(first['text'][0], length)
  return source


def described(config: Node, facts: Facts, size: int) -> str:
  """Returns the data of a training in words; size: the number of examples."""
  shape = 'x'.join(map(str, facts.x.shape))
  data = f'{config.data.name}, {size:,} {facts.x.noun} of {shape}'
  data += f', {facts.num_classes or "no"} classes'
  if config.at('latent.path'):
    data += f', by their latents in {config.latent.path}'
  if config.data.get('fresh'):
    data += ', simulated anew in each epoch and not kept'
  return data


def unseen(config: Node) -> Source:
  """Returns the test split, or the validation part or training split without one."""
  try:
    return source_of(config, 'test')
  except UserError as error:
    if not isinstance(error.__cause__, NoTestSplit):
      raise
    return source_of(config, 'validation' if config.data.validation_fraction else 'train')


def text_length(config: Node) -> int:
  """Returns the number of tokens of a prompt; 0 if the network reads no prompts."""
  text = config.conditioning.text if 'conditioning' in config else None
  return text.length if text else 0


def batches(
  config: Node, source: Source, facts: Facts, start: int, rows: slice = pipeline.ALL
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the training batches from step `start` on; rows: of this process."""
  c = config.training
  stream = pipeline.batches(
    source,
    c.batch_size,
    config.seed,
    start_step=start,
    random_flip=c.random_flip,
    rows=rows,
    num_threads=c.machine.num_threads,
    text_length=text_length(config),
    facts=facts,
  )
  with from_config('data'):  # a damaged file is noticed when it is read
    yield from stream
