"""Fields that a mode does not read, and what a training refuses: a row for each rule.

A field that only the config file sets is left out with a line.
"""

from collections.abc import Collection
from pathlib import Path

from diffusion_jax.app.config import folder
from diffusion_jax.app.config.rules import EDIT, TRAIN, Row, broken, set_fields
from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.edit.methods import STEPS
from diffusion_jax.app.kinds import store
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training import loggers
from diffusion_jax.training.optimizer import OPTIMIZERS, warmup_within


def without_idle(config: Node, flags: Collection[str], workdir: Path, mode: str) -> Node:
  """Returns the config without what its file sets and a mode does not read.

  A line is printed for each field. Fields of the flags stay.
  """
  for row, setting in broken(IDLE, config, mode):
    for field in row.fields:
      is_flag = any(f'{path}.'.startswith(f'{field}.') for path in flags)
      if not is_flag and any(set_fields(config, workdir, [field])):
        print(f'note: config.{field} has no effect with {setting}, and is left out')
        # Without one field another may be idle.
        return without_idle(as_in_run(config, workdir, field), flags, workdir, mode)
  return config


def set_in(config: Node, workdir: Path, path: str) -> str | None:
  """Returns the text of a field's value, None if it is the one that the run has."""
  if folder.plain(as_in_run(config, workdir, path)) == folder.plain(config):
    return None
  value = config.at(store.spelled(path, config.schema))
  return store.as_text(value.name if isinstance(value, Node) else value)


def as_in_run(config: Node, workdir: Path, path: str) -> Node:
  """Returns the config with a field or a section as the run has it, or else by default."""
  tree, stored = config.to_dict(), folder.read_config(workdir) or {}
  *parents, name = store.spelled(path, config.schema).split('.')
  node, section = config, tree
  for parent in parents:
    node, section, stored = node[parent], section[parent], stored.get(parent) or {}
    if node.choice and stored.get('name') != node.choice:
      stored = {}
  section.pop(name, None)
  if name in stored:
    section[name] = store.tuples(stored[name])
  return store.completed(tree, trusted=False)


# -- fields that are not read --------------------------------------------------


def _paths(section, *names):
  return tuple(f'{section}.{name}' for name in names)


def _has_no_condition(c):
  # The data may ask for labels, which are None by default.
  section = c.get('conditioning', {})
  names = 'labels', 'text', 'image', 'context'
  return section.get('labels') is not None and not any(section.get(name) for name in names)


def _own_steps(c, facts):
  # The part of an edit that draws by steps of its own.
  posterior = c.at('edit.posterior')
  if posterior is not None:
    return f'edit.posterior={posterior.name}' * bool(posterior.make().unread)
  return f'edit={c.edit.name}' * bool(c.edit.constructor.unread)


def _own_grid(c, facts):
  posterior = c.at('edit.posterior')
  return posterior is not None and 'grid' in posterior.make().unread


# The fields of sampling that choose the weights, and those that other projects'
# files of a schedule say too.
_CONVERTED = 'weights', 'checkpoint', 'sampler', 'bound'
# All others that a kind has, which convert.to does not read.
_OF_DRAWING = {
  name: None
  for kind in store.KINDS
  for name in parameters(kind.parts['sampling'])
  if name not in _CONVERTED
}


def _is_of_others(c, facts):
  return c.convert.to if c.convert.to in ('diffusers', 'lora') else ''


_ALONE = 'conditioning.labels=False, and no text, image or context'
_STEPS = _paths('sampling', *STEPS)

IDLE = (
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
    lambda c, facts: not c.at('conditioning.context'),
    'conditioning.context=None',
    TRAIN,
    fields=('objective.coupling.condition_ratio',),
    section='objective.coupling',
  ),
  Row(
    lambda c, facts: True,
    '--mode=edit, which reads edit.num_samples, label and output',
    EDIT,
    fields=_paths('sampling', 'num_samples', 'labels', 'trajectory', 'profile', 'name'),
  ),
  Row(_own_steps, '{it}, which has steps of its own', EDIT, fields=_STEPS),
  Row(_own_grid, 'edit.posterior={c.edit.posterior.name}', EDIT, fields=('sampling.grid',)),
  Row(
    _is_of_others,
    'convert.to={it}, which writes weights and the schedule',
    ('convert',),
    fields=_paths('sampling', *_OF_DRAWING),
    advice='leave it out',
  ),
)


# -- a training ----------------------------------------------------------------


def long_warmup(config: Node) -> str:
  """Returns the setting of a warm-up that leaves its decay no steps, or ''.

  A training shortens it, see `warmup_within`; one that a flag gives is refused.
  """
  c, total = config.optimizer, config.training.num_steps
  if c.name not in OPTIMIZERS or c.decay_steps is not None:
    return ''
  if warmup_within(c.warmup_steps, c.decay, total) == c.warmup_steps:
    return ''
  return (
    f'optimizer.warmup_steps={c.warmup_steps} is not below training.num_steps={total}, '
    f'where the {c.decay} decay ends'
  )


def _lost_run(c, facts):
  runs = c.report.runs if c.report.after_training else ()
  return next((run for run in runs if folder.read_config(RunFolder.at(run).path) is None), None)


TRAINING = (
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
