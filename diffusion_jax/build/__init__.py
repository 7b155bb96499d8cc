"""config -> plain objects and functions. Configs end here.

Each table is a literal dict from a config value to a small function of the
config. A value that no table knows, or that a constructor refuses, becomes one
line that names the section. Every `build_...` takes the whole config; those of
the model and of data have rooms of their own and are called from here as well.
"""

import functools

import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.core.parametrization import KINDS
from diffusion_jax.errors import UserError
from diffusion_jax.build import guidance, vae_models
from diffusion_jax.build.data import (
  build_batches,
  build_source,
  text_length,
)
from diffusion_jax.build.guidance import build_logits
from diffusion_jax.build.facts import state_shape
from diffusion_jax.build.network import (
  abstract_params,
  build_image_condition,
  build_network,
  build_noise_input,
  init_params,
  is_classifier,
  label_dropout,
  network_fn,
)
from diffusion_jax.build.sampling import (
  build_levels,
  build_sampler,
  build_walked_schedule,
)
from diffusion_jax.build.schedule import (
  build_schedule,
  check_signal,
  learns_schedule,
  num_steps,
)
from diffusion_jax.build.vae_models import is_vae
from diffusion_jax.build.make import choose, from_config, words
from diffusion_jax.training import (
  augmentation,
  classifier,
  conditions,
  loss_aware,
  objectives,
  optimizer,
  sharding,
  vae,
)

__all__ = [
  'abstract_params',
  'build_batches',
  'build_image_condition',
  'build_levels',
  'build_logits',
  'build_sampler',
  'build_schedule',
  'build_source',
  'build_walked_schedule',
  'check_signal',
  'from_config',
  'init_params',
  'is_classifier',
  'is_vae',
  'state_shape',
  'text_length',
  'words',
]

TIMES = {
  'steps': lambda c: dj.step_times(num_steps(c)),
  'uniform': lambda c: functools.partial(
    dj.uniform_times, t_min=c.objective.t_min
  ),
  'antithetic': lambda c: dj.antithetic_times,
  'log_normal': lambda c: dj.log_normal_times(
    c.objective.log_normal_mean, c.objective.log_normal_std
  ),
  'logit_normal': lambda c: dj.logit_normal_times(
    c.objective.logit_normal_mean, c.objective.logit_normal_std
  ),
}

WEIGHTS = {
  'snr': lambda c: dj.snr_weight,
  'truncated_snr': lambda c: dj.truncated_snr_weight,
  'min_snr': lambda c: dj.min_snr_weight(c.min_snr_gamma),
  'edm': lambda c: dj.edm_weight(c.sigma_data),
  'flow': lambda c: dj.flow_weight,
}


def _denoising_arguments(config):
  # Arguments of every objective of a denoising network.
  c = config.objective
  check_signal(config)
  return dict(
    parametrization=choose(
      KINDS, 'objective', 'parametrization', c.parametrization
    ),
    noise_input=build_noise_input(config),
    condition=conditions.make_condition(
      config.conditioning.labels,
      label_dropout(config),
      build_image_condition(config),
      config.conditioning.text,
    ),
    sigma_data=c.sigma_data,
  )


def _weight(config):
  c = config.objective
  return choose(WEIGHTS, 'objective', 'weight', c.weight)(c)


def _denoising(config, apply, estimate_probability=0.5):
  c = config.objective
  return objectives.denoising(
    apply,
    build_schedule(config),
    times=choose(TIMES, 'objective', 'times', c.times)(config),
    weight=_weight(config),
    learned_variance=config.network.learned_variance,
    augment=build_augment(config),
    self_conditioning=config.conditioning.self_conditioning,
    estimate_probability=estimate_probability,
    **_denoising_arguments(config),
  )


def build_augment(config):
  """config.objective.augment -> (key, x0) -> (x0, labels); None for 0."""
  probability = config.objective.augment
  if not probability:
    return None
  return functools.partial(augmentation.augment, probability=probability)


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
      **_denoising_arguments(config),
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
    **_denoising_arguments(config),
  )


def _classifier(config, apply):
  c = config.objective
  return classifier.classifier(
    apply,
    build_schedule(config),
    times=choose(TIMES, 'objective', 'times', c.times)(config),
    noise_input=build_noise_input(config),
    parametrization=choose(
      KINDS, 'objective', 'parametrization', c.parametrization
    ),
    sigma_data=c.sigma_data,
  )


def check_ends(name, schedule):
  """ValueError where the bound of VDM has no value: SNR = inf or 0."""
  if schedule(0.0).sigma == 0.0 or schedule(1.0).alpha == 0.0:
    raise ValueError(
      f'{name!r} begins without noise or ends without signal; the objective '
      'vdm needs a schedule such as learned or continuous_cosine'
    )


OBJECTIVES = {
  'denoising': _denoising,
  'ddpm': _denoising,  # The former name, which stored runs have.
  'hybrid': lambda config, apply: _bound(
    config, apply, _weight(config), config.objective.vlb_weight
  ),
  'vlb': lambda config, apply: _bound(config, apply, None, 1.0),
  'vdm': _vdm,
  'classifier': _classifier,
}


def build_objective(config, test=False):
  """config.objective -> `training.objectives.Objective`.

  test: the conditional loss, without dropout in the network, label dropout and
  augmentation, and with self-conditioning's first estimate of every image; of a
  VAE the plain bound.
  """
  c = config.objective
  build = choose(
    OBJECTIVES | dict.fromkeys(vae_models.NAMES), 'objective', 'name', c.name
  )
  is_denoising = OBJECTIVES.get(c.name) is _denoising
  if not is_denoising:
    only = {
      'objective.augment': c.augment,
      'conditioning.self_conditioning': config.conditioning.self_conditioning,
    }
    for field, value in only.items():
      if value:
        raise UserError(
          f'config.{field}={value} needs objective.name=denoising, not {c.name!r}'
        )
  if c.augment and config.conditioning.image:
    raise UserError(
      'config.objective.augment changes the images, conditioning.image would '
      'tell of them as they were: set one of the two'
    )
  network, options = build_network(config), {}
  if test:
    network = network.clone(dropout=0.0)
    config = config.copy_and_resolve_references()
    config.objective.augment = config.conditioning.label_dropout = 0.0
    if is_denoising:  # It alone has self-conditioning.
      options = {'estimate_probability': 1.0}
  if is_vae(config):
    return vae_models.build_objective(config, network, test)
  return build(config, network_fn(config, network), **options)


def build_objective_state(config):
  """What the objective remembers before the first step; () if nothing."""
  c = config.objective
  if c.name in ('hybrid', 'vlb') and c.times == 'loss_aware':
    return loss_aware.init_loss_history(num_steps(config))
  return vae.initial_step() if is_vae(config) else ()


def build_learning_rate(config):
  """config.optimizer -> step -> learning rate."""
  c = config.optimizer
  choose(optimizer.DECAYS, 'optimizer', 'decay', c.decay)
  with from_config('optimizer'):
    return optimizer.learning_rate_schedule(
      c.learning_rate, c.warmup_steps, c.decay, c.decay_steps
    )


def build_optimizer(config):
  """config.optimizer -> optax transformation."""
  c = config.optimizer
  rate = build_learning_rate(config)
  masks, field = optimizer.WEIGHT_DECAY_MASKS, 'weight_decay_mask'
  return optimizer.make_optimizer(
    rate,
    clip_norm=c.clip_norm,
    b1=c.b1,
    b2=c.b2,
    eps=c.eps,
    weight_decay=c.weight_decay,
    weight_decay_mask=choose(masks, 'optimizer', field, c[field]),
    repair_gradients=c.repair_gradients,
  )


def build_ema_decays(config):
  """config.training -> (decay of the average, {name: decay} of others)."""
  c = config.training
  more = {
    ema_name(decay): optimizer.ema_decay(decay, c.ema_warmup)
    for decay in c.more_ema_decays
  }
  if c.ema_half_life is None:
    return optimizer.ema_decay(c.ema_decay, c.ema_warmup), more
  return optimizer.ema_half_life(
    c.ema_half_life, c.batch_size, c.ema_rampup
  ), more


def ema_name(decay):
  """The name of an average in checkpoints: '0.999'."""
  return f'{decay:g}'


def build_mesh(config):
  """config.training.mesh -> the devices of the run."""
  with from_config('training.mesh'):
    return sharding.make_mesh(*config.training.mesh)


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


def build_denoiser(config, params, cond, change=None, guides=None):
  """The denoiser of the config's network; params: {'network': ...}.

  Guided as config.sampling says where its guides are given
  (`guides.find_guides`); without, as the network is. change: denoiser ->
  denoiser, made after guidance and before x0 is clipped; with
  sampling.clip_before_classifier x0 is clipped before a classifier guides.
  """
  if guides is None:
    denoise = guidance.of_network(config, params, cond)
    return _applied(denoise, change, _bound_of_x0(config, 0.0))
  denoise = guidance.by_class(config, params, cond, guides)
  classifier = guidance.by_classifier(config, cond, guides)
  bound = _bound_of_x0(config, config.sampling.dynamic_threshold)
  if config.sampling.clip_before_classifier:
    return _applied(denoise, change, bound, classifier)
  return _applied(denoise, classifier, change, bound)


def _applied(denoise, *functions):
  for function in functions:
    denoise = denoise if function is None else function(denoise)
  return denoise


def _bound_of_x0(config, quantile):
  # denoiser -> denoiser; None for neither a threshold nor a clip
  if not quantile:
    return dj.clip_denoised if config.sampling.clip else None

  def thresholded(denoise):  # within [-1, 1] after it
    with from_config('sampling.dynamic_threshold'):
      return dj.dynamic_threshold(denoise, quantile)

  return thresholded


def build_self_conditioned(config, params, cond, change=None, guides=None):
  """x0 of the step before -> the denoiser that is told of it."""

  def given(x0):
    # as in training, whatever sampling.clip says
    cond_and_x0 = cond | {'x0': jnp.clip(x0, -1.0, 1.0)}
    return build_denoiser(config, params, cond_and_x0, change, guides)

  return given
