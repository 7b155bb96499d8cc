"""What a config sets and a mode does not read, and rules of a model.

A field that is not read is refused if it is set: if it differs from the run's
config.json or, without a run, from its default. If only the config file sets
it, it is left out with a line.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_jax.app.config import folder, kinds, store
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.edits.methods import STEPS
from diffusion_jax.data.sources import Facts
from diffusion_jax.networks.inputs import Inputs


class Row(NamedTuple):
  """A rule.

  when: config, facts -> a true value, `it`, if the rule is broken. sentence: a
  format with c, the config, facts, and it. modes: of which the rule is; empty:
  any.
  """

  when: Callable[[Node, Any], Any]  # facts may be None
  sentence: str
  modes: tuple[str, ...] = ()


def lines(
  rows: Iterable[Row], config: Node, mode: str, facts: Facts | None = None
) -> Iterator[str]:
  """Yields a line for each rule that a config breaks.

  facts: None where no row reads them.
  """
  for row in rows:
    if mode in (row.modes or (mode,)) and (it := row.when(config, facts)):
      yield row.sentence.format(c=config, facts=facts, it=it)


class Idle(NamedTuple):
  """Fields, or sections, that are not read with a setting, and what to do."""

  setting: str
  fields: tuple[str, ...]
  advice: str = 'leave one of them out'


def lines_of_idle(idle: Iterable[Idle], config: Node, workdir: str | Path) -> Iterator[str]:
  """Yields a line for each field that is set and not read.

  workdir: the run folder, whose config says which fields are set.
  """
  for each in idle:
    for name, value in _set_fields(config, workdir, each.fields):
      yield f'config.{name}={value} is not read with {each.setting}: {each.advice}'


def _set_fields(config, workdir, fields):
  # Yields (path, text) of the fields that differ from the run or the defaults.
  now, run = config.flat, folder.stored_fields(workdir)
  before = run or store.defaults(config)
  for field in fields:
    for name, value in now.items():
      is_below = name == field or name.startswith(f'{field}.')
      # The defaults have no names of choices.
      if is_below and value != before.get(name, None if run else value):
        yield name if name == field else name.removesuffix('.name'), store.as_text(value)


def without_idle(config: Node, flags: Collection[str], workdir: str | Path, mode: str) -> Node:
  """Returns the config without what its file sets and a mode does not read.

  A line is printed for each field. Fields of the flags stay.
  """
  tree, run = config.to_dict(), folder.stored_fields(workdir)
  is_left_out = False
  for setting, fields, _ in idle(config, mode):
    for field in fields:
      is_flag = any(f'{path}.'.startswith(f'{field}.') for path in flags)
      if is_flag or not any(_set_fields(config, workdir, [field])):
        continue
      print(f'note: config.{field} is not read with {setting}, and is left out')
      *parents, name = field.split('.')
      section = functools.reduce(dict.__getitem__, parents, tree)
      del section[name]
      is_left_out = True
      if field in run:
        section[name] = store.tuples(run[field])
  if not is_left_out:
    return config
  # Without one field another may be idle.
  return without_idle(store.completed(tree, trusted=False), flags, workdir, mode)


# -- fields that are not read --------------------------------------------------


def idle(c: Node, mode: str, facts: Facts | None = None) -> Iterator[Idle]:
  """Yields the fields of a config that a mode does not read, and why.

  facts: None before the data are read.
  """
  if mode == 'train':
    yield from _of_training(c, facts)
  yield from _of_sampling(c)
  if mode == 'edit':
    yield from _of_edit(c)
  if mode == 'evaluate':
    metrics = {kinds.name_of(name) for name in c.evaluation.metrics}
    for name, section in c.evaluation.items():
      if isinstance(section, Node) and name not in metrics:
        advice = f'add {name}, or leave this out'
        yield Idle(_metrics(c), (f'evaluation.{name}',), advice)


def _paths(section, *names):
  return tuple(f'{section}.{name}' for name in names)


# What a training does not read if a field is 0 or ().
_WITHOUT = {
  'lora_rank': _paths('training', 'lora_alpha', 'lora_convolutions'),
  'keep_best': ('training.keep_best_by',),
  'checkpoint_every': ('training.keep_best',),
  'evaluate_every': ('training.patience',),
  'ema_half_life': ('training.ema_rampup',),
  'ema_sigma_rels': _paths('training', 'snapshot_every', 'keep_snapshots'),
}
# What kinds of conditioning.context do not read.
_OF_CONTEXT = {'channels': ('width', 'layers', 'heads'), 'vector': ('heads',), 'set': ('heads',)}


def _of_training(c, facts):
  t = c.training
  for name, fields in _WITHOUT.items():
    if not t[name]:
      yield Idle(f'training.{name}={t[name]}', fields)
  by_loss = t.keep_best and t.keep_best_by == 'test_loss'
  if not t.evaluate_every and not by_loss:
    yield Idle('training.evaluate_every=0', ('training.evaluate_batches',))
  kind = c.at('conditioning.context.name')
  if kind == 'auto' and facts is not None and facts.context is not None:
    with contextlib.suppress(ValueError):  # The model refuses it.
      kind = Inputs(context=facts.context.shape).context_kind(facts.x.shape[:-1])
  if kind in _OF_CONTEXT:
    fields = _paths('conditioning.context', *_OF_CONTEXT[kind])
    yield Idle(f'conditioning.context={kind}', fields)
  if c.sampling.checkpoint == 'best' and not (t.keep_best and t.checkpoint_every):
    yield Idle('training.keep_best=0', ('sampling.checkpoint',))


def _of_sampling(c):
  s, section = c.sampling, c.get('conditioning', {})
  inputs = 'labels', 'text', 'image', 'context'
  # The data may ask for labels, which are None by default.
  if section.get('labels') is not None and not any(section.get(name) for name in inputs):
    alone = 'conditioning.labels=False, and no text, image or context'
    if section.dropout:  # else it follows from labels=False
      yield Idle(alone, ('conditioning.dropout',))
    if not (s.get('guidance') or {}).get('run'):
      yield Idle(alone, ('sampling.guidance',))
    if s.get('classifier') is None:
      advice = (
        'train with conditioning.labels=True, or set sampling.classifier.run, or leave it out'
      )
      yield Idle(alone, ('sampling.labels',), advice)
  if not s.ema:
    yield Idle('sampling.ema=False', ('sampling.ema_decay',))
  if s.get('respacing'):
    yield Idle(f'sampling.respacing={s.respacing}', _paths('sampling', 'num_steps', 'spacing'))
  if not s.get('dynamic_threshold', True):
    yield Idle('sampling.dynamic_threshold=0', ('sampling.dynamic_threshold_max',))


def _of_edit(c):
  fields = _paths('sampling', 'num_samples', 'labels', 'trajectory', 'name')
  yield Idle('--mode=edit, which reads edit.num_samples, label and output', fields)
  if c.edit.name == 'interpolate':
    yield Idle('edit=interpolate, which follows the ODE', _paths('sampling', *STEPS))
  if c.edit.name == 'steer':
    setting = 'edit=steer, whose particles have steps of their own'
    yield Idle(setting, _paths('sampling', *STEPS))
  if (posterior := c.at('edit.posterior')) is not None:
    names = (*STEPS, 'num_steps', 'spacing', 'respacing')
    fields = _paths('sampling', *(n for n in names if n in posterior.make().unread))
    yield Idle(f'edit.posterior={posterior.name}', fields)


def _metrics(c):
  return f'evaluation.metrics={",".join(c.evaluation.metrics)}'


# What metrics of samples, pairs and examples read of an evaluation.
_READ = {
  'samples': (
    *_paths('evaluation', 'num_generated', 'features', 'weights', 'reference', 'floor'),
    *_paths('sampling', 'context', 'context_row'),
  ),
  'pairs': _paths('evaluation', 'num_pairs', 'draws_per_pair', 'split'),
  'examples': _paths('evaluation', 'num_images', 'split'),
  '': _paths('sampling', 'num_samples', 'name', 'trajectory'),
}


def of_evaluation(config: Node, groups: Collection[str]) -> Idle:
  """Returns what metrics of these groups do not read."""
  read = {field for group in groups for field in _READ[group]}
  every = {field for fields in _READ.values() for field in fields}
  return Idle(_metrics(config), tuple(sorted(every - read)))
