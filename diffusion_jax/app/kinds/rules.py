"""Fields that a mode does not read, and what a training refuses: a row for each rule.

A field that only the config file sets is left out with a line.
"""

import contextlib
import functools
from collections.abc import Collection
from pathlib import Path

from diffusion_jax.app.config import folder
from diffusion_jax.app.config.rules import EDIT, EVALUATE, TRAIN, Row, broken, set_fields
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.edit.methods import STEPS
from diffusion_jax.app.inputs.criterion import held_out_loss, keep_best_by
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.conflicts import guidance_of_pairs
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.paths import is_address
from diffusion_jax.training import loggers


def without_idle(config: Node, flags: Collection[str], workdir: str | Path, mode: str) -> Node:
  """Returns the config without what its file sets and a mode does not read.

  A line is printed for each field. Fields of the flags stay.
  """
  tree, run = config.to_dict(), folder.stored_fields(workdir)
  is_left_out = False
  for row, setting in broken(idle(config), config, mode):
    for field in row.fields:
      is_flag = any(f'{path}.'.startswith(f'{field}.') for path in flags)
      if is_flag or not any(set_fields(config, workdir, [field])):
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


def _paths(section, *names):
  return tuple(f'{section}.{name}' for name in names)


def _without(name: str, *names: str) -> Row:
  """Returns the row of what a training does not read where a field is 0 or ()."""
  setting, fields = f'training.{name}={{c.training.{name}}}', _paths('training', *names)
  return Row(lambda c, facts: not c.training[name], setting, TRAIN, fields=fields)


def _has_no_condition(c):
  # The data may ask for labels, which are None by default.
  section = c.get('conditioning', {})
  names = 'labels', 'text', 'image', 'context'
  return section.get('labels') is not None and not any(section.get(name) for name in names)


def _keeps_no_best(c, facts):
  keeps = c.training.keep_best and c.training.checkpoint_every
  return c.sampling.checkpoint == 'best' and not keeps


def _measures_no_loss(c, facts):
  by_loss = c.training.keep_best and keep_best_by(c) == held_out_loss(c)
  return not c.training.evaluate_every and not by_loss


def _of_context(kind: str, *names: str) -> Row:
  """Returns the row of what a kind of conditioning.context does not read."""

  def is_kind(c, facts):
    section = c.at('conditioning.context')
    name = '' if section is None else section.name
    if name == 'auto' and facts is not None and facts.context is not None:
      with contextlib.suppress(ValueError):  # The model refuses it.
        inputs = Inputs(context=facts.context.shape)
        name = inputs.context_kind(facts.x.shape[:-1])
    return name == kind

  fields = _paths('conditioning.context', *names)
  return Row(is_kind, f'conditioning.context={kind}', TRAIN, fields=fields)


def _of_posterior(field: str) -> Row:
  """Returns the row of a field of sampling that posteriors may not read."""

  def is_idle(c, facts):
    posterior = c.at('edit.posterior')
    return posterior is not None and field in posterior.make().unread

  setting = 'edit.posterior={c.edit.posterior.name}'
  return Row(is_idle, setting, EDIT, fields=(f'sampling.{field}',))


def _is_in_no_bucket(c, facts):
  fields = c.data or {}
  return not any(is_address(fields.get(x) or '') for x in ('path', 'test_path', 'data_dir'))


def _needs_no_images(c, facts):
  metrics = {store.name_of(name) for name in c.evaluation.metrics}
  by_statistics = metrics <= {'fd', 'fid', 'sfd', 'sfid'}
  return c.evaluation.statistics and by_statistics and not c.evaluation.floor


# What other projects' files do not say of how images are drawn.
_OF_DRAWING = (
  *('num_samples', 'batch_size', 'labels', 'prompt', 'context', 'context_row', 'seed'),
  *('trajectory', 'profile', 'name', 'num_steps', 'respacing', 'schedule', 'guidance'),
  *('classifier', 'churn', 'ancestral_noise', 'corrector', 'top_p', 'remasking'),
  *('stochastic', 'guidance_scale'),
)


def _is_of_others(c, facts):
  return c.convert.to if c.convert.to in ('diffusers', 'lora') else ''


_ALONE = 'conditioning.labels=False, and no text, image or context'
_STEPS = _paths('sampling', *STEPS)

IDLE = (
  _without('lora_rank', 'lora_alpha', 'lora_convolutions'),
  _without('keep_best', 'keep_best_by'),
  _without('checkpoint_every', 'keep_best'),
  _without('evaluate_every', 'patience'),
  _without('ema_half_life', 'ema_rampup'),
  _without('ema_sigma_rels', 'snapshot_every', 'keep_snapshots'),
  Row(_measures_no_loss, 'training.evaluate_every=0', TRAIN, fields=('training.evaluate_batches',)),
  _of_context('channels', 'width', 'layers', 'heads'),
  _of_context('vector', 'heads'),
  _of_context('set', 'heads'),
  Row(_keeps_no_best, 'training.keep_best=0', TRAIN, fields=('sampling.checkpoint',)),
  Row(  # else it follows from labels=False
    lambda c, facts: _has_no_condition(c) and c.conditioning.dropout,
    _ALONE,
    fields=('conditioning.dropout',),
  ),
  Row(
    lambda c, facts: _has_no_condition(c) and not (c.sampling.get('guidance') or {}).get('run'),
    _ALONE,
    fields=('sampling.guidance',),
  ),
  Row(
    lambda c, facts: _has_no_condition(c) and c.sampling.get('classifier') is None,
    _ALONE,
    fields=('sampling.labels',),
    advice='train with conditioning.labels=True, or set sampling.classifier.run, or leave it out',
  ),
  Row(
    lambda c, facts: c.at('objective.coupling') and not c.at('conditioning.context'),
    'conditioning.context=None',
    TRAIN,
    fields=('objective.coupling.condition_ratio',),
  ),
  Row(lambda c, facts: not c.sampling.ema, 'sampling.ema=False', fields=('sampling.ema_decay',)),
  Row(
    lambda c, facts: c.sampling.get('respacing'),
    'sampling.respacing={it}',
    fields=('sampling.num_steps', 'sampling.spacing'),
  ),
  Row(
    lambda c, facts: not c.sampling.get('dynamic_threshold', True),
    'sampling.dynamic_threshold=0',
    fields=('sampling.dynamic_threshold_max',),
  ),
  Row(
    lambda c, facts: True,
    '--mode=edit, which reads edit.num_samples, label and output',
    EDIT,
    fields=_paths('sampling', 'num_samples', 'labels', 'trajectory', 'profile', 'name'),
  ),
  Row(
    lambda c, facts: c.edit.name == 'interpolate',
    'edit=interpolate, which follows the ODE',
    EDIT,
    fields=_STEPS,
  ),
  Row(
    lambda c, facts: c.edit.name == 'steer',
    'edit=steer, whose particles have steps of their own',
    EDIT,
    fields=_STEPS,
  ),
  Row(
    _is_of_others,
    'convert.to={it}, which writes weights and the schedule',
    ('convert',),
    fields=_paths('sampling', *_OF_DRAWING),
    advice='leave it out',
  ),
  Row(_is_in_no_bucket, 'data on this machine', fields=('data.cache',)),
  Row(_needs_no_images, 'evaluation.statistics', EVALUATE, fields=('evaluation.reference',)),
  Row(guidance_of_pairs, '{it}, which has steps of its own', fields=_STEPS),
  *map(_of_posterior, (*STEPS, 'num_steps', 'spacing', 'respacing')),
)


def idle(config: Node) -> tuple[Row, ...]:
  """Returns the rows of fields that are not read, with those of its metrics."""
  metrics = {store.name_of(name) for name in config.evaluation.metrics}
  sections = (name for name, x in config.evaluation.items() if isinstance(x, Node))
  if store.AUTO in metrics:  # they are not chosen yet
    return IDLE
  return IDLE + tuple(
    _of_metrics(f'evaluation.{name}', advice=f'add {name}, or leave this out')
    for name in sections
    if name not in metrics
  )


def _metrics(c, facts):
  return ','.join(c.evaluation.metrics)


def _of_metrics(*fields, **more):
  """Returns the row of fields that evaluation.metrics do not read."""
  return Row(_metrics, 'evaluation.metrics={it}', EVALUATE, fields=fields, **more)


# What metrics of samples, pairs and examples read of an evaluation.
_READ = {
  'samples': (
    *_paths('evaluation', 'num_generated', 'features', 'weights', 'reference', 'floor'),
    'evaluation.statistics',
    *_paths('sampling', 'context', 'context_row'),
  ),
  'pairs': _paths('evaluation', 'num_pairs', 'draws_per_pair', 'split'),
  'examples': _paths('evaluation', 'num_images', 'split'),
  '': _paths('sampling', 'num_samples', 'name', 'trajectory', 'profile'),
}


def of_evaluation(groups: Collection[str]) -> Row:
  """Returns the row of what metrics of these groups do not read."""
  read = {field for group in groups for field in _READ[group]}
  return _of_metrics(*sorted({x for fields in _READ.values() for x in fields} - read))


# -- a training ----------------------------------------------------------------


def _lost_run(c, facts):
  runs = c.report.runs if c.report.after_training else ()
  return next((run for run in runs if folder.read_config(run) is None), None)


def _is_no_range(c, facts):
  steps = c.training.profile_steps
  return steps and not (len(steps) == 2 and steps[0] <= steps[1] <= c.training.num_steps)


def _is_no_multiple(c, facts):
  every, saves = c.training.keep_every, c.training.checkpoint_every
  return every and (not saves or every % saves)


TRAINING = (
  Row(
    _is_no_multiple,
    'config.training.keep_every={c.training.keep_every} is not a multiple of '
    'training.checkpoint_every={c.training.checkpoint_every}',
  ),
  Row(
    lambda c, facts: (
      c.training.ema_sigma_rels
      and not c.training.snapshot_every
      and max(c.training.num_steps // 32, 1)
    ),
    'config.training.ema_sigma_rels needs snapshots: set training.snapshot_every, to '
    'num_steps / 32 = {it}, for instance',
  ),
  Row(
    lambda c, facts: len({*c.training.ema_sigma_rels}) < len(c.training.ema_sigma_rels),
    'config.training.ema_sigma_rels={c.training.ema_sigma_rels}: a width is there twice',
  ),
  Row(
    lambda c, facts: c.training.lora_rank and not c.training.init_from,
    'config.training.lora_rank={c.training.lora_rank} adapts the weights of a trained run: set '
    'training.init_from to its folder, or lora_rank to 0',
  ),
  Row(
    _is_no_range,
    'config.training.profile_steps={c.training.profile_steps} are not the first and the last step '
    'of a trace, such as 10,15, up to training.num_steps={c.training.num_steps}',
  ),
  Row(_lost_run, 'config.report.runs: {it} is not a run folder'),
  Row(
    lambda c, facts: next(iter(loggers.missing(c.training.log_to)), None),
    "config.training.log_to: {it} is not installed: run pip install -e '.[{it}]'",
  ),
  Row(
    lambda c, facts: c.training.skip_nonfinite and c.optimizer.get('repair_gradients'),
    'config.training.skip_nonfinite leaves out steps that optimizer.repair_gradients would take: '
    'set one of the two',
  ),
)
