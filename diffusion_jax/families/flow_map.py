"""Flow maps: models whose network makes a step of any length in one call."""

from diffusion_jax.build.network import (
  MAPS,
  condition_dropout,
  takes_elapsed,
  time_scale,
)
from diffusion_jax.errors import UserError
from diffusion_jax.families import diffusion
from diffusion_jax.families.family import Metric

# The value that a field must have, and why it can have no other.
REQUIRED = {
  'latent.run': ('', 'flow maps are of pixels here'),
  'network.learned_variance': (False, 'a flow map has no variance'),
  'conditioning.self_conditioning': (False, 'its estimate is of a denoiser'),
  'sampling.sampler': ('flow_map', 'its network is no denoiser'),
  'sampling.schedule': ('', 'it knows the levels of its training'),
  'sampling.clip': (
    False,
    'a step to another noise level is not within [-1, 1]',
  ),
  'sampling.dynamic_threshold': (0.0, 'there is no estimate of x0'),
  'sampling.churn': (0.0, 'sampling.stochastic=True adds noise'),
  'sampling.corrector_steps': (0, 'a flow map has no score'),
  'sampling.guidance_run': ('', 'guidance is of denoisers'),
  'sampling.classifier': ('', 'guidance is of denoisers'),
}

# Objectives that differentiate the network by time, in forward mode.
FORWARD_MODE = 'mean_flow', 'continuous_consistency'


def check(config):
  """Raises UserError for what flow maps cannot have."""
  name = config.objective.name
  for field, (value, why) in REQUIRED.items():
    section, field_name = field.split('.')
    if config[section][field_name] != value:
      raise UserError(
        f'config.{field}={config[section][field_name]!r} with objective.name='
        f'{name}: {why}. Set it to {value!r} (docs/few_steps.md)'
      )
  check_time(config)
  check_guidance(config)
  one_way = MAPS[name] != 'average_velocity' and not config.sampling.stochastic
  if one_way and (config.sampling.num_steps > 1 or config.sampling.respacing):
    raise UserError(
      f'config.sampling.num_steps={config.sampling.num_steps}: a consistency '
      'function reaches the clean end alone: take 1, or '
      'sampling.stochastic=True'
    )


def check_time(config):
  """Raises UserError for an input of time that the objective cannot have."""
  name, c = config.objective.name, config.conditioning
  if takes_elapsed(config) and c.noise_input != 'time':
    raise UserError(
      f'config.conditioning.noise_input={c.noise_input!r}: the network of '
      f"objective.name={name} gets t and t - s: take 'time'"
    )
  if name not in FORWARD_MODE:
    return
  if time_scale(config) > 10.0 or c.noise_input not in ('time', 'edm'):
    raise UserError(
      f'config.conditioning: the derivative in t enters the loss of '
      f'objective.name={name}, and an input that goes to 1000 makes it 1000 '
      'times too large: set noise_input=time and time_scale=1'
    )
  if config.network.attention == 'cudnn':
    raise UserError(
      "config.network.attention='cudnn' has no forward-mode derivative, which "
      f"objective.name={name} takes: set it to 'xla'"
    )


def check_guidance(config):
  """Raises UserError for a scale of guidance that was not trained in."""
  c = config.objective
  scale, highest = config.sampling.guidance_scale, c.max_guidance
  guided = highest is not None or c.omega not in (None, 1.0) or c.kappa
  if guided and not condition_dropout(config):
    raise UserError(
      'config.objective: guidance is trained in (omega, kappa, max_guidance) '
      'of a network without a condition as well: set conditioning.dropout, as '
      '0.1'
    )
  if highest is None and scale != 1.0:
    raise UserError(
      f'config.sampling.guidance_scale={scale}: the guidance of a flow map is '
      'trained in (objective.omega, kappa or max_guidance) and 1 here'
    )
  if highest is not None and not 1.0 <= scale <= highest:
    raise UserError(
      f'config.sampling.guidance_scale={scale} is outside of the scales of the '
      f'training, 1 to objective.max_guidance={highest}'
    )


def check_mode(config, mode):
  """Raises UserError for programs that need a denoiser."""
  c = config.edit
  reconstruction = c.method == 'reconstruction' or (
    c.task in ('superres', 'colorize') and not config.conditioning.image
  )
  if mode == 'edit' and (reconstruction or c.task == 'interpolate'):
    raise UserError(
      f'config.edit.task={c.task}: a flow map is no denoiser: take inpaint by '
      'repaint or replace, or sdedit'
    )


def refuse_metric(config):
  """Raises UserError: bounds and likelihoods are of denoisers."""
  raise UserError(
    f'config.evaluation.metrics: the network of objective.name='
    f'{config.objective.name} is no denoiser and has no bound or likelihood: '
    'take metrics of samples, such as fd, fid, accuracy'
  )


_REFUSED = Metric(refuse_metric, lambda *_: None)
FAMILY = diffusion.FAMILY._replace(
  name='a flow map',
  check=check,
  check_mode=check_mode,
  metrics={
    'elbo': _REFUSED,
    'ode': _REFUSED,
    'independent_pixels': diffusion.INDEPENDENT_PIXELS,
  },
)
