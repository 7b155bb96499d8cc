"""Builds the objective of a training, and its first state."""

import functools

import diffusion_jax as dj
from diffusion_jax.build import vae_models
from diffusion_jax.build.make import (
  check_taken,
  choose,
  construct,
  fixed,
  from_config,
  make,
  parameters,
  renamed,
)
from diffusion_jax.build.network import (
  build_image_condition,
  build_network,
  build_noise_input,
  condition_dropout,
  is_vae,
  network_fn,
)
from diffusion_jax.build.schedule import (
  build_schedule,
  check_signal,
  learns_schedule,
  num_steps,
)
from diffusion_jax.core.parametrization import KINDS
from diffusion_jax.errors import UserError
from diffusion_jax.training import (
  augmentation,
  classifier,
  conditions,
  loss_aware,
  objectives,
  vae,
)


def _uniform(t_min=0.0):
  return functools.partial(dj.uniform_times, t_min=t_min)


# The constructors of config.objective.times.
TIMES = {
  'steps': renamed(dj.step_times, num_steps='schedule_steps'),
  'uniform': _uniform,
  'antithetic': lambda: dj.antithetic_times,
  'log_normal': renamed(
    dj.log_normal_times, mean='log_normal_mean', std='log_normal_std'
  ),
  'logit_normal': renamed(
    dj.logit_normal_times, mean='logit_normal_mean', std='logit_normal_std'
  ),
}

# The constructors of config.objective.weight.
WEIGHTS = {
  'snr': lambda: dj.snr_weight,
  'truncated_snr': lambda: dj.truncated_snr_weight,
  'min_snr': renamed(dj.min_snr_weight, gamma='min_snr_gamma'),
  'edm': dj.edm_weight,
  'flow': lambda: dj.flow_weight,
}

LOSS_AWARE = {'steps': False, 'loss_aware': True}  # times of a bound

_hybrid = renamed(objectives.hybrid, num_steps='schedule_steps')

# The constructors of config.objective.name.
OBJECTIVES = {
  'denoising': objectives.denoising,
  'hybrid': _hybrid,
  'vlb': fixed(_hybrid, weight=None, vlb_weight=1.0),
  'vdm': functools.partial(objectives.vdm, num_steps=0),  # 0: continuous
  'classifier': classifier.classifier,
  'vae': vae.vae,
  'hvae': vae.hvae,
}


def build_times(config):
  """Returns (key, batch_size, schedule) -> levels."""
  facts = {'schedule_steps': lambda: num_steps(config)}
  return make(TIMES, config.objective, 'objective.times', facts)


def build_weight(config):
  """Returns NoiseLevel -> weight of the error in x0."""
  return make(WEIGHTS, config.objective, 'objective.weight')


def build_augment(config):
  """Returns (key, x0) -> (x0, labels), or None for objective.augment=0."""
  probability = config.objective.augment
  if not probability:
    return None
  return functools.partial(augmentation.augment, probability=probability)


def _objective_facts(config, network, test):
  c = config.objective

  def of_vae(name):
    return lambda: getattr(vae_models.build_model(config, network), name)

  return {
    'network_fn': lambda: network_fn(config, network),
    'schedule': lambda: build_schedule(config),
    'make_schedule': lambda: lambda params: build_schedule(config, params),
    'schedule_steps': lambda: num_steps(config),
    'num_steps': lambda: c.num_steps or None,  # of the model of vdm
    'num_levels': lambda: config.data.num_levels,
    'parametrization': lambda: choose(
      KINDS, 'objective', 'parametrization', c.parametrization
    ),
    'noise_input': lambda: build_noise_input(config),
    'sigma_data': lambda: c.sigma_data,
    'condition': lambda: conditions.make_condition(
      config.conditioning.labels,
      condition_dropout(config),
      build_image_condition(config),
      config.conditioning.text,
    ),
    'times': lambda: build_times(config),
    'weight': lambda: build_weight(config),
    'loss_aware': lambda: choose(LOSS_AWARE, 'objective', 'times', c.times),
    'learned_variance': lambda: config.network.learned_variance,
    'augment': lambda: build_augment(config),
    'self_conditioning': lambda: config.conditioning.self_conditioning,
    'estimate_probability': lambda: 1.0 if test else 0.5,
    'num_latents': of_vae('num_latents'),
    'encode': of_vae('encode'),
    'decode': of_vae('decode'),
    'log_likelihood': of_vae('log_likelihood'),
  }


# Fields that change what the objective must compute, by its parameter.
NEEDED = {
  'objective.augment': 'augment',
  'conditioning.self_conditioning': 'self_conditioning',
}


def _check(config):
  c = config.objective
  check_taken(config, NEEDED, OBJECTIVES, 'objective.name')
  if c.augment and config.conditioning.image:
    raise UserError(
      'config.objective.augment changes the images, conditioning.image would '
      'show them as they were: set one of the two'
    )
  if c.name in ('hybrid', 'vlb') and not config.network.learned_variance:
    raise UserError(
      f'config.objective.name={c.name!r} needs '
      '--config.network.learned_variance=True'
    )
  if is_vae(config):
    _check_vae(config)
  if c.name != 'vdm':
    return
  if not learns_schedule(config):
    with from_config('schedule'):
      check_ends(config.schedule.name, build_schedule(config))
  if config.network.learned_variance:
    raise UserError('config.network.learned_variance: vdm has no use for it')


def _check_vae(config):
  c = config.objective
  if c.decoder == 'bernoulli' and config.data.num_levels != 2:
    raise UserError(
      'config.objective.decoder=bernoulli has 2 grey levels, not '
      f'{config.data.num_levels}: take objective.decoder=logistic, or '
      'data.num_levels=2, which makes every pixel black or white'
    )
  if c.free_bits and config.training.accumulate > 1:
    raise UserError(
      'config.objective.free_bits are of a whole batch: set '
      'training.accumulate=1'
    )


def check_ends(name, schedule):
  """Raises ValueError where VDM's bound has no value: SNR = inf or 0."""
  if schedule(0.0).sigma == 0.0 or schedule(1.0).alpha == 0.0:
    raise ValueError(
      f'{name!r} begins without noise or ends without signal; the objective '
      'vdm needs a schedule such as learned or continuous_cosine'
    )


def build_objective(config, test=False):
  """Returns the `training.objectives.Objective` of config.objective.

  test: the conditional loss, without dropout in the network or of conditions,
  without augmentation, and with self-conditioning's first estimate of every
  image; of a VAE the plain bound.
  """
  c = config.objective
  constructor = choose(OBJECTIVES, 'objective', 'name', c.name)
  takes = parameters(constructor)
  _check(config)
  network = build_network(config)
  if test:
    if hasattr(network, 'dropout'):
      network = network.clone(dropout=0.0)
    config = config.copy_and_resolve_references()
    config.objective.augment = config.conditioning.dropout = 0.0
    for field in ('beta', 'free_bits', 'kl_warmup'):
      config.objective[field] = None
  if 'noise_input' in takes and c.name != 'classifier':
    check_signal(config)
  facts = _objective_facts(config, network, test)
  return construct(constructor, config.objective, 'objective', facts)


def build_objective_state(config):
  """Returns the first state of the objective, () for one without a state."""
  c = config.objective
  if c.name in ('hybrid', 'vlb') and c.times == 'loss_aware':
    return loss_aware.init_loss_history(num_steps(config))
  return vae.initial_step() if is_vae(config) else ()
