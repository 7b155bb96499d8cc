"""The rule that a field is read or refused.

A field that other fields make idle is refused if it is set: if it differs from
the run's config.json or, without a run, from its default. If only the config
file sets it, it is left out with a line.
"""

import contextlib
import functools
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from diffusion_jax.app.config import folder
from diffusion_jax.app.config.tree import Node
from diffusion_jax.data.sources import Facts
from diffusion_jax.networks.inputs import Inputs

Idle = Iterator[tuple[tuple[str, ...], str]]
_CONDITIONS = 'labels', 'text', 'image', 'context'
# What a training does not read without the field: if it is 0, None or ().
_WITHOUT = {
  'lora_rank': ('lora_alpha', 'lora_convolutions'),
  'keep_best': ('keep_best_by',),
  'checkpoint_every': ('keep_best',),
  'evaluate_every': ('patience', 'evaluate_batches'),
  'ema_half_life': ('ema_rampup',),
  'ema_sigma_rels': ('snapshot_every', 'keep_snapshots'),
}


def idle(config: Node, mode: str, facts: Facts | None = None) -> Idle:
  """Yields (fields that a mode does not read, the setting that has them idle).

  The setting is such as 'sampling.ema=False'.
  """
  t, s, c = config.training, config.sampling, config.get('conditioning', {})
  by_loss = t.keep_best and t.keep_best_by == 'test_loss'
  keeps_best = t.keep_best and t.checkpoint_every
  read = ('evaluate_batches',) if by_loss else ()
  for name, fields in _WITHOUT.items() if mode == 'train' else ():
    if not t[name]:
      paths = (f'training.{field}' for field in fields if field not in read)
      yield tuple(paths), f'training.{name}={t[name]}'
  if mode == 'train':
    yield from _of_context(config, facts)
  if mode == 'train' and s.checkpoint == 'best' and not keeps_best:
    yield ('sampling.checkpoint',), 'training.keep_best=0'
  given = [c.get(name) for name in _CONDITIONS]
  # The data may ask for labels that are None.
  if c.get('labels') is not None and not any(given):
    beside = 'conditioning.labels=False, and no text, image or context'
    if c.get('dropout'):  # else it follows from labels=False
      yield ('conditioning.dropout',), beside
    if not (s.get('guidance') or {}).get('run'):
      yield ('sampling.guidance',), beside
    if s.get('classifier') is None:
      yield ('sampling.labels',), beside
  if not s.ema:
    yield ('sampling.ema_decay',), 'sampling.ema=False'
  if kept := s.get('respacing'):
    steps = 'sampling.num_steps', 'sampling.spacing'
    yield steps, f'sampling.respacing={kept}'
  if not s.get('dynamic_threshold', True):
    yield ('sampling.dynamic_threshold_max',), 'sampling.dynamic_threshold=0'
  named = {name.rpartition(':')[2] for name in config.evaluation.metrics}
  for name, section in config.evaluation.items() if mode == 'evaluate' else ():
    if isinstance(section, Node) and name not in named:
      yield (f'evaluation.{name}',), _metrics(config)


def _metrics(config):
  return f'evaluation.metrics={",".join(config.evaluation.metrics)}'


def problems(
  config: Node, workdir: str | Path, mode: str, facts: Facts | None = None
) -> Iterator[str]:
  """Yields a line for each field of a mode that is set and not read."""
  for fields, beside in idle(config, mode, facts):
    lines = of_fields(config, workdir, fields, beside)
    if not beside.startswith('evaluation.metrics='):
      yield from lines
    elif any(lines):
      _, name = fields[0].split('.')
      yield (f'config.{fields[0]} is not read with {beside}: add {name}, or leave this out')


# What a kind of conditioning.context does not read.
_OF_CONTEXT = {'channels': ('width', 'layers', 'heads'), 'vector': ('heads',), 'set': ('heads',)}


def _of_context(config, facts):
  section = config.at('conditioning.context')
  kind = '' if section is None else section.name
  if kind == 'auto' and facts is not None and facts.context is not None:
    with contextlib.suppress(ValueError):  # The model refuses it.
      inputs = Inputs(context=facts.context.shape)
      kind = inputs.context_kind(facts.x.shape[:-1])
  names = (f'conditioning.context.{n}' for n in _OF_CONTEXT.get(kind, ()))
  yield tuple(names), f'conditioning.context={kind}'


# What metrics of samples, pairs and examples read of an evaluation.
_OF_METRICS = {
  'samples': (
    'evaluation.num_generated',
    'evaluation.features',
    'evaluation.weights',
    'evaluation.reference',
    'evaluation.floor',
    'sampling.context',
    'sampling.context_row',
  ),
  'pairs': ('evaluation.num_pairs', 'evaluation.draws_per_pair', 'evaluation.split'),
  'examples': ('evaluation.num_images', 'evaluation.split'),
  '': ('sampling.num_samples', 'sampling.name', 'sampling.trajectory'),
}


def of_evaluation(config: Node, workdir: str | Path, kinds: Collection[str]) -> Iterator[str]:
  """Yields a line for each field that metrics of these kinds do not read."""
  read = {field for kind in kinds for field in _OF_METRICS[kind]}
  idle = {x for fields in _OF_METRICS.values() for x in fields} - read
  yield from of_fields(config, workdir, sorted(idle), _metrics(config))


def without_idle(config: Node, given: Collection[str], workdir: str | Path, mode: str) -> Node:
  """Returns the config without what its file sets and a mode does not read.

  A line is printed for each field. Fields of the command line, given, stay.
  """
  from diffusion_jax.app.config import store

  tree, run = config.to_dict(), folder.flat(folder.read_config(workdir) or {})
  is_left_out = False
  for fields, beside in idle(config, mode):
    for field in fields:
      is_given = any(f'{path}.'.startswith(f'{field}.') for path in given)
      if is_given or not any(of_fields(config, workdir, [field], beside)):
        continue
      print(f'note: config.{field} is not read with {beside}, and is left out')
      *parents, name = field.split('.')
      section = functools.reduce(dict.__getitem__, parents, tree)
      del section[name]
      is_left_out = True
      if field in run:
        section[name] = store.tuples(run[field])
  if not is_left_out:
    return config
  # Without one field another may be idle.
  completed = store.completed(tree, trusted=False)
  return without_idle(completed, given, workdir, mode)


def of_fields(
  config: Node, workdir: str | Path, fields: Iterable[str], beside: str
) -> Iterator[str]:
  """Yields a line for each of the fields that is set although it is not read.

  beside: the setting that makes them idle, such as 'sampling.ema=False'.
  """
  from diffusion_jax.app.config import store  # which imports the edits

  now = folder.flat(folder.plain(config))
  run = folder.read_config(workdir)
  before = store.defaults(config) if run is None else folder.flat(run)
  for field in fields:
    for name, value in now.items():
      is_below = name == field or name.startswith(f'{field}.')
      # The defaults have no names of choices.
      if is_below and value != before.get(name, None if run else value):
        shown = name if name == field else name.removesuffix('.name')
        yield (
          f'config.{shown}={store.as_text(value)} is not read with {beside}: leave one of them out'
        )
