"""Fields that a mode does not read, and what a training refuses: a row for each rule."""

from diffusion_jax.app.config import folder
from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.edit.methods import STEPS
from diffusion_jax.app.kinds import schemas
from diffusion_jax.app.kinds.rules import EDIT, TRAIN, WITHOUT_CONDITION, Row
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training import loggers
from diffusion_jax.training.optimizer import OPTIMIZERS, warmup_within

# -- fields that are not read --------------------------------------------------


def _paths(section, *names):
  return tuple(f'{section}.{name}' for name in names)


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
  for kind in schemas.KINDS
  for name in parameters(kind.parts['sampling'])
  if name not in _CONVERTED
}


def _is_of_others(c, facts):
  return c.convert.to if c.convert.to in ('diffusers', 'lora') else ''


_STEPS = _paths('sampling', *STEPS)

IDLE = (
  *WITHOUT_CONDITION,
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
  return next((run for run in runs if folder.read_config(RunFolder.at(run)) is None), None)


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
