"""config -> plain objects and functions. Configs end here.

Each table is a literal dict from a config value to a small function of the
config. A value that no table knows, or that a constructor refuses, becomes one
line that names the section. Every `build_...` takes the whole config; those of
the model and of data have rooms of their own and are called from here as well.
"""

import functools

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.core.parametrization import KINDS
from diffusion_jax.programs import UserError
from diffusion_jax.programs.build_data import build_batches, build_source
from diffusion_jax.programs.build_model import (
  abstract_params,
  build_network,
  build_noise_input,
  build_schedule,
  init_params,
  label_dropout,
  learns_schedule,
  network_fn,
  num_steps,
)
from diffusion_jax.programs.choices import choose, from_config, given, words
from diffusion_jax.training import (
  loss_aware,
  objectives,
  optimizer,
  sharding,
)

__all__ = [
  'abstract_params',
  'build_batches',
  'build_schedule',
  'build_source',
  'from_config',
  'init_params',
  'words',
]

TIMES = {
  'steps': lambda c: dj.step_times(num_steps(c)),
  'uniform': lambda c: dj.uniform_times,
  'antithetic': lambda c: dj.antithetic_times,
  'log_normal': lambda c: dj.log_normal_times(
    c.objective.log_normal_mean, c.objective.log_normal_std
  ),
}

WEIGHTS = {
  'snr': lambda c: dj.snr_weight,
  'truncated_snr': lambda c: dj.truncated_snr_weight,
  'min_snr': lambda c: dj.min_snr_weight(c.min_snr_gamma),
  'edm': lambda c: dj.edm_weight(c.sigma_data),
}


def _seen(config):
  # what every objective of a denoising network is told
  c = config.objective
  return dict(
    parametrization=choose(
      KINDS, 'objective', 'parametrization', c.parametrization
    ),
    noise_input=build_noise_input(config),
    labels=config.conditioning.labels,
    label_dropout=label_dropout(config),
    sigma_data=c.sigma_data,
  )


def _weight(config):
  c = config.objective
  return choose(WEIGHTS, 'objective', 'weight', c.weight)(c)


def _ddpm(config, apply):
  c = config.objective
  return objectives.ddpm(
    apply,
    build_schedule(config),
    times=choose(TIMES, 'objective', 'times', c.times)(config),
    weight=_weight(config),
    learned_variance=config.network.learned_variance,
    **_seen(config),
  )


LOSS_AWARE = {'steps': False, 'loss_aware': True}  # times of a bound


def _bound(config, apply, weight, vlb_weight):
  c = config.objective
  if not config.network.learned_variance:
    raise UserError(
      f'config.objective.name={c.name!r} needs '
      '--config.network.learned_variance=True'
    )
  with from_config('schedule'):
    return objectives.hybrid(
      apply,
      build_schedule(config),
      num_steps=num_steps(config),
      weight=weight,
      vlb_weight=vlb_weight,
      loss_aware=choose(LOSS_AWARE, 'objective', 'times', c.times),
      num_levels=config.data.num_levels,
      **_seen(config),
    )


def _vdm(config, apply):
  c = config.objective
  if not learns_schedule(config):
    with from_config('schedule'):
      check_ends(config.schedule.name, build_schedule(config))
  if config.network.learned_variance:
    raise UserError('config.network.learned_variance: vdm has no use for it')
  return objectives.vdm(
    apply,
    lambda params: build_schedule(config, params),
    num_levels=config.data.num_levels,
    num_steps=c.num_steps or None,
    **_seen(config),
  )


def check_ends(name, schedule):
  """ValueError where the bound of VDM has no value: SNR = inf or 0."""
  if schedule(0.0).sigma == 0.0 or schedule(1.0).alpha == 0.0:
    raise ValueError(
      f'{name!r} begins without noise or ends without signal; the objective '
      'vdm needs a schedule such as learned or continuous_cosine'
    )


OBJECTIVES = {
  'ddpm': _ddpm,
  'hybrid': lambda config, apply: _bound(
    config, apply, _weight(config), config.objective.vlb_weight
  ),
  'vlb': lambda config, apply: _bound(config, apply, None, 1.0),
  'vdm': _vdm,
}


def build_objective(config):
  """config.objective -> (params, objective_state, key, batch) -> loss."""
  build = choose(OBJECTIVES, 'objective', 'name', config.objective.name)
  apply = network_fn(build_network(config))
  return build(config, apply)


def build_objective_state(config):
  """What the objective remembers before the first step; () if nothing."""
  c = config.objective
  if c.name in ('hybrid', 'vlb') and c.times == 'loss_aware':
    return loss_aware.init_loss_history(num_steps(config))
  return ()


def build_learning_rate(config):
  """config.optimizer -> step -> learning rate."""
  c = config.optimizer
  with from_config('optimizer'):
    return optimizer.learning_rate_schedule(
      c.learning_rate, c.warmup_steps, c.decay, c.decay_steps
    )


def build_optimizer(config):
  """config.optimizer -> optax transformation."""
  c = config.optimizer
  rate = build_learning_rate(config)
  return optimizer.make_optimizer(
    rate,
    clip_norm=c.clip_norm,
    b1=c.b1,
    b2=c.b2,
    eps=c.eps,
    weight_decay=c.weight_decay,
  )


def build_ema_decays(config):
  """config.training -> (decay of the average, {name: decay} of others)."""
  c = config.training

  def build(decay):
    if not 0.0 <= decay < 1.0:
      raise ValueError(f'the decay of an average is in [0, 1), not {decay}')
    return optimizer.ema_decay(decay, c.ema_warmup)

  with from_config('training'):
    more = {ema_name(decay): build(decay) for decay in c.more_ema_decays}
    return build(c.ema_decay), more


def ema_name(decay):
  """The name of an average in checkpoints: '0.999'."""
  return f'{decay:g}'


def build_mesh(config):
  """config.training.mesh -> the devices of the run."""
  shape = config.training.mesh
  if len(shape) != 2:
    raise UserError(f'config.training.mesh={shape} is not (data, fsdp)')
  with from_config('training.mesh'):
    return sharding.make_mesh(*map(int, shape))


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
  """config.sampling -> Sampler, with churn and a corrector if asked for."""
  c = config.sampling
  build = choose(SAMPLERS, 'sampling', 'sampler', c.sampler)
  with from_config('sampling'):
    sampler = build(config, schedule)
    if c.churn or c.corrector_steps:
      _check_no_memory(c.sampler, sampler)
    if c.churn:
      gamma = dj.churn_gamma(c.churn, c.num_steps)
      s_max = float('inf') if c.churn_max is None else c.churn_max
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


DECODERS = {
  'gaussian': lambda k: functools.partial(dj.reconstruction_nll, num_levels=k),
  'tanh': lambda k: functools.partial(
    dj.reconstruction_nll, num_levels=k, cdf='tanh'
  ),
  'categorical': lambda k: (
    lambda x0, last: dj.categorical_nll(x0, last.z, last.level, k)
  ),
}


def build_decoder(config):
  """config.evaluation.decoder -> (x0, LastStep) -> [B]."""
  name = config.evaluation.decoder
  build = choose(DECODERS, 'evaluation', 'decoder', name)
  return build(config.data.num_levels)


def build_denoiser(config, params, cond):
  """The denoiser of the config's network; params: {'network': ...}."""
  denoise = dj.make_denoiser(
    network_fn(build_network(config)),
    params['network'],
    parametrization=config.objective.parametrization,
    noise_input=build_noise_input(config),
    cond=cond,
    learned_variance=config.network.learned_variance,
    sigma_data=config.objective.sigma_data,
  )
  return dj.clip_denoised(denoise) if config.sampling.clip else denoise
