"""config.sampling -> the schedule, the levels and the sampler of a sampling."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import diffusion_jax as dj
from diffusion_jax.errors import UserError
from diffusion_jax.build.schedule import SCHEDULES
from diffusion_jax.build.make import choose, from_config, given
from diffusion_jax.sampling.grids import SPACINGS, STEP_CHOICES


def build_walked_schedule(config, trained):
  """config.sampling.schedule -> whose levels are visited; '': trained."""
  name = config.sampling.schedule
  if not name:
    return trained
  known = {n: build for n, build in SCHEDULES.items() if n != 'learned'}
  build = choose(known, 'sampling', 'schedule', name)
  defaults = ConfigDict({field: None for field in config.schedule})
  defaults.num_steps = config.schedule.num_steps
  with from_config('sampling'):
    return build(defaults)


def build_levels(config, schedule):
  """config.sampling -> NoiseLevel [N+1], noisiest first.

  `respacing`, where it is given, names the steps; else `num_steps` are placed
  by `spacing`.
  """
  c = config.sampling
  choose(SPACINGS | STEP_CHOICES, 'sampling', 'spacing', c.spacing)
  with from_config('sampling'):
    if not c.respacing:
      return dj.level_grid(schedule, c.num_steps, c.spacing)
    if not hasattr(schedule, 'num_steps'):
      raise ValueError('respacing needs a schedule of steps')
    steps = dj.respaced_steps(schedule.num_steps, c.respacing)
    return dj.step_levels(schedule, steps)


VARIANCES = ('fixed_small', 'fixed_large', 'learned')


def _ancestral(config):
  variance = config.sampling.variance
  choose(VARIANCES, 'sampling', 'variance', variance)
  if variance == 'learned' and not config.network.learned_variance:
    raise UserError(
      "config.sampling.variance='learned' needs a network that has learned one "
      '(network.learned_variance): take fixed_small or fixed_large'
    )
  return dj.ancestral(variance)


def _annealed_langevin(config, schedule):
  c = config.sampling
  return dj.annealed_langevin(c.langevin_steps, c.langevin_step_size)


SAMPLERS = {
  'ancestral': lambda config, schedule: _ancestral(config),
  'ddim': lambda config, schedule: dj.ddim(**given(config.sampling, 'eta')),
  'heun': lambda config, schedule: dj.heun(),
  'dpm_solver_pp': lambda config, schedule: dj.dpm_solver_pp(
    config.sampling.order
  ),
  'dpm_solver_pp_2s': lambda config, schedule: dj.dpm_solver_pp_2s(schedule),
  'dpm_solver_pp_sde': lambda config, schedule: dj.dpm_solver_pp_sde(
    **given(config.sampling, 'eta')
  ),
  'unipc': lambda config, schedule: dj.unipc(config.sampling.order),
  'euler_maruyama': lambda config, schedule: dj.euler_maruyama(schedule),
  'reverse_diffusion': lambda config, schedule: dj.reverse_diffusion(),
  'annealed_langevin': _annealed_langevin,
}


def build_sampler(config, schedule):
  """config.sampling -> Sampler, with churn and a corrector if asked for.

  schedule: whose levels are visited.
  """
  c = config.sampling
  build = choose(SAMPLERS, 'sampling', 'sampler', c.sampler)
  with from_config('sampling'):
    sampler = build(config, schedule)
    if c.churn or c.corrector_steps:
      _check_no_memory(c.sampler, sampler)
    if c.churn:
      num_steps = build_levels(config, schedule).t.shape[0] - 1
      gamma = dj.churn_gamma(c.churn, num_steps)
      s_max = float('inf') if c.churn_max is None else c.churn_max
      if c.churn_min > s_max:
        raise ValueError(
          f'churn_min={c.churn_min} is above churn_max={s_max}: no level would '
          'be churned'
        )
      limits = c.churn_min, s_max, c.churn_noise
      sampler = dj.churn(sampler, schedule, gamma, *limits)
    if c.corrector_steps:
      corrector = dj.langevin(c.corrector_snr)
      sampler = dj.with_corrector(sampler, corrector, c.corrector_steps)
  return sampler


def _check_no_memory(name, sampler):
  if jax.tree.leaves(sampler.init(jnp.zeros((1, 1)))):
    raise ValueError(
      f'{name} remembers earlier steps, which churn and correctors would belie:'
      ' set churn and corrector_steps to 0, or take another sampler'
    )
