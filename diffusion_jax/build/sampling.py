"""Builds the schedule, the levels and the sampler of config.sampling."""

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.build.make import (
  choose,
  construct,
  fixed,
  from_config,
  make,
  renamed,
)
from diffusion_jax.build.network import MAPS
from diffusion_jax.build.schedule import (
  SCHEDULES,
  build_schedule,
  learns_schedule,
)
from diffusion_jax.errors import UserError
from diffusion_jax.sampling.grids import SPACINGS, STEP_CHOICES, count_steps
from diffusion_jax.sampling.map_sampler import flow_map_sampler


def _flow_map(schedule, stochastic=False):
  return flow_map_sampler(schedule(0.0) if stochastic else None)


# The constructors of config.sampling.sampler.
SAMPLERS = {
  'ancestral': fixed(dj.ancestral, mean_shift=None),
  'ddim': dj.ddim,
  'heun': dj.heun,
  'dpm_solver_pp': dj.dpm_solver_pp,
  'dpm_solver_pp_2s': dj.dpm_solver_pp_2s,
  'dpm_solver_pp_sde': dj.dpm_solver_pp_sde,
  'unipc': dj.unipc,
  'euler_maruyama': dj.euler_maruyama,
  'velocity_heun': dj.velocity_heun,
  'velocity_sde': dj.velocity_sde,
  'reverse_diffusion': dj.reverse_diffusion,
  'flow_map': _flow_map,
  'annealed_langevin': renamed(
    dj.annealed_langevin,
    num_steps='langevin_steps',
    step_size='langevin_step_size',
  ),
}

# What sampling.churn and sampling.corrector_steps add to a sampler.
CHURN = renamed(
  dj.churn, s_min='churn_min', s_max='churn_max', s_noise='churn_noise'
)
CORRECTOR = renamed(dj.langevin, snr='corrector_snr')

VARIANCES = ('fixed_small', 'fixed_large', 'learned')


def build_sampling_schedule(config, trained):
  """Returns the schedule whose levels are visited; '': `trained`."""
  c = config.sampling
  if not c.schedule:
    return trained
  # No other field of config.sampling is one of a schedule.
  section = {'schedule': c.schedule, 'num_steps': config.schedule.num_steps}
  known = {n: build for n, build in SCHEDULES.items() if n != 'learned'}
  return make(known, section, 'sampling.schedule')


def build_levels(config, schedule):
  """Returns the levels that are visited, NoiseLevel [N+1], noisiest first.

  `respacing`, where it is given, names the steps; else `num_steps` are placed
  by `spacing`. Those of a flow map end at t = 0, which may have some noise: it
  has learned no step from there to clean data.
  """
  c = config.sampling
  choose(tuple(SPACINGS | STEP_CHOICES), 'sampling', 'spacing', c.spacing)
  with from_config('sampling'):
    if not c.respacing:
      end_clean = config.objective.name not in MAPS
      return dj.level_grid(
        schedule, c.num_steps, c.spacing, end_clean=end_clean
      )
    if not hasattr(schedule, 'num_steps'):
      raise ValueError('respacing needs a schedule of steps')
    steps = dj.respaced_steps(schedule.num_steps, c.respacing)
    return dj.step_levels(schedule, steps)


def describe_steps(config) -> str:
  """Returns a note on a grid with more levels than the schedule has steps.

  It says how many distinct steps are visited. '' for other grids.
  """
  c = config.sampling
  if c.respacing or learns_schedule(config):
    return ''
  schedule = build_sampling_schedule(config, build_schedule(config))
  total = getattr(schedule, 'num_steps', c.num_steps)
  if c.num_steps <= total:
    return ''
  steps, others = count_steps(build_levels(config, schedule), total)
  return (
    f'note: sampling.num_steps={c.num_steps} is more than the {total:,} steps '
    f'of the schedule: {steps:,} distinct steps are visited, and {others:,} '
    'levels between steps'
  )


def _variance(config):
  variance = config.sampling.variance
  choose(VARIANCES, 'sampling', 'variance', variance)
  if variance == 'learned' and not config.network.learned_variance:
    raise UserError(
      "config.sampling.variance='learned' needs a network that has learned one "
      '(network.learned_variance): take fixed_small or fixed_large'
    )
  return variance


def build_sampler(config, schedule):
  """Builds the Sampler of config.sampling, with its churn and corrector.

  schedule: the one whose levels are visited.
  """
  c = config.sampling
  if c.sampler == 'flow_map' and config.objective.name not in MAPS:
    raise UserError(
      f"config.sampling.sampler='flow_map' needs a run of {', '.join(MAPS)}: "
      f'the network of objective.name={config.objective.name} is a denoiser'
    )
  facts = {'schedule': lambda: schedule, 'variance': lambda: _variance(config)}
  sampler = make(SAMPLERS, c, 'sampling.sampler', facts)
  if c.churn or c.corrector_steps:
    _check_no_memory(c.sampler, sampler)
  if c.churn:
    sampler = _churned(config, schedule, sampler)
  if c.corrector_steps:
    corrector = construct(CORRECTOR, c, 'sampling')
    with from_config('sampling'):
      sampler = dj.with_corrector(sampler, corrector, c.corrector_steps)
  return sampler


def _churned(config, schedule, sampler):
  c = config.sampling
  low = 0.0 if c.churn_min is None else c.churn_min
  high = float('inf') if c.churn_max is None else c.churn_max
  if low > high:
    raise UserError(
      f'config.sampling: churn_min={low} is above churn_max={high}: no level '
      'would be churned'
    )
  count = build_levels(config, schedule).t.shape[0] - 1
  with from_config('sampling'):
    gamma = dj.churn_gamma(c.churn, count)
  facts = {
    'sampler': lambda: sampler,
    'schedule': lambda: schedule,
    'gamma': lambda: gamma,
  }
  return construct(CHURN, c, 'sampling', facts)


def _check_no_memory(name, sampler):
  if jax.tree.leaves(sampler.init(jnp.zeros((1, 1)))):
    raise UserError(
      f'config.sampling: {name} uses earlier steps, which churn and '
      'correctors change: set churn and corrector_steps to 0, or take another '
      'sampler'
    )
