"""config -> plain objects and functions. Configs end here.

Each table is a literal dict from a config value to a small function of the
config. A value that no table knows, or that a constructor refuses, becomes one
line that names the section.
"""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.core.parametrization import KINDS
from diffusion_jax.data import folder, photos, pipeline, sources, tfds_sources
from diffusion_jax.networks.embeddings import SINUSOIDS
from diffusion_jax.networks.gamma import LinearGamma, MonotoneGamma
from diffusion_jax.networks.layers import INITIALIZERS, PADDINGS, QKV
from diffusion_jax.networks.unet import UNet
from diffusion_jax.networks.vdm import ScoreNetwork
from diffusion_jax.programs import UserError
from diffusion_jax.training import (
  loss_aware,
  objectives,
  optimizer,
  sharding,
)


@contextlib.contextmanager
def from_config(section):
  """Turns a refusal of what `section` of the config gave into a UserError."""
  try:
    yield
  except (ValueError, TypeError, OSError) as error:
    raise UserError(f'config.{section}: {error}') from error


def _choose(table, section, field, value):
  # table: a dict of builders, or a tuple of the values themselves
  if value not in table:
    known = ', '.join(table)
    raise UserError(f'config.{section}.{field}={value!r} is not one of {known}')
  return table[value] if isinstance(table, dict) else value


def words(values):
  """('a', 'b'), also from ('a,b',): what a command line makes of a,b."""
  return tuple(','.join(values).split(',')) if values else ()


def _given(section, *names):
  # fields left None keep the default of the function they are passed to
  return {n: section[n] for n in names if section[n] is not None}


BETAS = {
  'linear': (dj.linear_betas, ('start', 'end')),
  'rescaled_linear': (dj.rescaled_linear_betas, ()),
  'quadratic': (dj.quadratic_betas, ('start', 'end')),
  'scaled_linear': (dj.scaled_linear_betas, ('start', 'end')),
  'cosine': (dj.cosine_betas, ()),
  'sigmoid': (dj.sigmoid_betas, ('start', 'end')),
  'constant': (dj.constant_betas, ('value',)),
  'warmup': (dj.warmup_betas, ('fraction', 'start', 'end')),
  'reciprocal': (dj.reciprocal_betas, ()),
}


def _discrete(name):
  function, fields = BETAS[name]

  def build(c):
    betas = function(c.num_steps, **_given(c, *fields))
    if c.zero_terminal_snr:
      betas = dj.zero_terminal_snr(betas)
    return dj.DiscreteSchedule.from_betas(betas)

  return build


SCHEDULES = {
  **{name: _discrete(name) for name in BETAS},
  'continuous_cosine': lambda c: dj.CosineSchedule(
    **_given(c, 'logsnr_min', 'logsnr_max')
  ),
  'linear_vp': lambda c: dj.LinearVPSchedule(
    **_given(c, 'beta_min', 'beta_max')
  ),
  'sub_vp': lambda c: dj.SubVPSchedule(**_given(c, 'beta_min', 'beta_max')),
  'geometric_ve': lambda c: dj.GeometricVESchedule(
    **_given(c, 'sigma_min', 'sigma_max')
  ),
  # its parameters, if it has any, are filled in by build_schedule
  'learned': lambda c: dj.LearnedSchedule({}, _gamma_fn(_gamma(c))),
}

GAMMAS = {
  'fixed': lambda *ends: LinearGamma(*ends, learned=False),
  'scalar': LinearGamma,
  'network': MonotoneGamma,
}


def _gamma(c):
  build = _choose(GAMMAS, 'schedule', 'gamma', c.gamma)
  return build(c.gamma_min, c.gamma_max)


def _gamma_fn(gamma):
  return lambda params, t: gamma.apply({'params': params}, t)


def learns_schedule(config):
  """Whether the parameters of a run have a branch 'schedule'."""
  c = config.schedule
  return c.name == 'learned' and c.gamma != 'fixed' and c.alphas is None


def build_schedule(config, params=None):
  """config.schedule -> t -> NoiseLevel; an explicit list of alphas wins.

  params are those of the run, {'schedule': ..., ...}: a learned schedule is
  made of them, and refused without; no other reads them.
  """
  c = config.schedule
  build = _choose(SCHEDULES, 'schedule', 'name', c.name)
  with from_config('schedule'):
    if c.alphas is not None:
      return dj.DiscreteSchedule.from_alphas(c.alphas)
    schedule = build(c)
    if not learns_schedule(config):
      return schedule
    if params is None:
      raise ValueError(
        f"the schedule 'learned' with gamma={c.gamma!r} is known to a trained "
        "run only: objective.name=vdm trains it, gamma='fixed' needs no run"
      )
    return dataclasses.replace(schedule, params=params['schedule'])


def num_steps(config):
  """T: the steps of the schedule, as many as an explicit list has."""
  c = config.schedule
  return c.num_steps if c.alphas is None else len(c.alphas)


DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def _label_dropout(config):
  c = config.conditioning
  return c.label_dropout if c.labels else 0.0


def _unet(config):
  c = config.network
  image_channels = config.data.image_shape[-1]

  def choose(field, table):
    return _choose(table, 'network', field, c[field])

  return UNet(
    channels=c.channels,
    multipliers=tuple(map(float, c.multipliers)),
    num_blocks=c.num_blocks,
    attention_resolutions=tuple(map(int, c.attention_resolutions)),
    dropout=c.dropout,
    out_channels=image_channels * (2 if c.learned_variance else 1),
    num_groups=c.num_groups,
    norm_eps=c.norm_eps,
    num_classes=config.data.num_classes if config.conditioning.labels else 0,
    null_class=_label_dropout(config) > 0.0,
    stem_channels=c.stem_channels,
    noise_embedding=choose('noise_embedding', SINUSOIDS),
    scale_shift=c.scale_shift,
    resblock_updown=c.resblock_updown,
    downsample_padding=choose('downsample_padding', tuple(PADDINGS)),
    num_heads=c.num_heads,
    head_channels=c.head_channels,
    qkv=choose('qkv', QKV),
    initializer=choose('initializer', INITIALIZERS),
    remat=c.remat,
    dtype=choose('dtype', DTYPES),
  )


def _vdm_network(config):
  c = config.network
  if config.conditioning.noise_input != 'logsnr':
    raise ValueError("network 'vdm' needs conditioning.noise_input=logsnr")
  if c.learned_variance:
    raise ValueError("network 'vdm' cannot learn the variance")
  return ScoreNetwork(
    channels=c.channels,
    num_layers=c.num_blocks,
    attention=config.data.image_shape[0] in c.attention_resolutions,
    dropout=c.dropout,
    gamma_min=config.schedule.gamma_min,
    gamma_max=config.schedule.gamma_max,
    fourier=tuple(map(int, c.fourier)),
    num_groups=c.num_groups,
    norm_eps=c.norm_eps,
    num_classes=config.data.num_classes if config.conditioning.labels else 0,
    null_class=_label_dropout(config) > 0.0,
    initializer=_choose(INITIALIZERS, 'network', 'initializer', c.initializer),
    remat=c.remat,
    dtype=_choose(DTYPES, 'network', 'dtype', c.dtype),
  )


NETWORKS = {'unet': _unet, 'vdm': _vdm_network}


def build_network(config):
  """config.network -> Flax module."""
  build = _choose(NETWORKS, 'network', 'name', config.network.name)
  with from_config('network'):
    return build(config)


def network_fn(network):
  """Flax module -> network_fn(params, x, noise, cond, *, key=None)."""

  def apply(params, x, noise, cond, *, key=None):
    rngs = {} if key is None else {'dropout': key}
    train = key is not None
    variables = {'params': params}
    return network.apply(variables, x, noise, cond, train=train, rngs=rngs)

  return apply


def init_params(network, config):
  """key -> {'network': params} and, where it is learned, 'schedule'.

  To be jitted, or for jax.eval_shape.
  """

  def init(key):
    x = jnp.zeros((1, *config.data.image_shape))
    label = {'label': jnp.zeros(1, jnp.int32)}
    cond = label if config.conditioning.labels else {}
    params = {'network': network.init(key, x, jnp.zeros(1), cond)['params']}
    if learns_schedule(config):
      gamma_key = jax.random.fold_in(key, 1)
      gamma = _gamma(config.schedule).init(gamma_key, jnp.zeros(1))
      params['schedule'] = gamma['params']
    return params

  return init


def abstract_params(config):
  """Shapes of the parameters that the config's network has."""
  with from_config('network'):
    init = init_params(build_network(config), config)
    return jax.eval_shape(init, jax.random.key(0))


NOISE_INPUTS = {
  'step': lambda c: dj.step_input(num_steps(c)),
  'rescaled_step': lambda c: dj.step_input(num_steps(c), 1000 / num_steps(c)),
  'logsnr': lambda c: dj.logsnr_input,
  'edm': lambda c: dj.edm_input,
}


def build_noise_input(config):
  """config.conditioning.noise_input -> NoiseLevel -> [B]."""
  name = config.conditioning.noise_input
  build = _choose(NOISE_INPUTS, 'conditioning', 'noise_input', name)
  return build(config)


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
    parametrization=_choose(
      KINDS, 'objective', 'parametrization', c.parametrization
    ),
    noise_input=build_noise_input(config),
    labels=config.conditioning.labels,
    label_dropout=_label_dropout(config),
    sigma_data=c.sigma_data,
  )


def _weight(config):
  c = config.objective
  return _choose(WEIGHTS, 'objective', 'weight', c.weight)(c)


def _ddpm(config, apply):
  c = config.objective
  return objectives.ddpm(
    apply,
    build_schedule(config),
    times=_choose(TIMES, 'objective', 'times', c.times)(config),
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
      loss_aware=_choose(LOSS_AWARE, 'objective', 'times', c.times),
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
  build = _choose(OBJECTIVES, 'objective', 'name', config.objective.name)
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
  _choose(VARIANCES, 'sampling', 'variance', variance)
  if variance == 'learned' and not config.network.learned_variance:
    raise UserError(
      "config.sampling.variance='learned' needs a network that has learned one "
      '(network.learned_variance): take fixed_small or fixed_large'
    )
  return dj.ancestral(variance)


SAMPLERS = {
  'ddim': lambda config: dj.ddim(config.sampling.eta),
  'ancestral': _ancestral,
}


def build_sampler(config):
  """config.sampling.sampler -> Sampler."""
  build = _choose(SAMPLERS, 'sampling', 'sampler', config.sampling.sampler)
  with from_config('sampling'):
    return build(config)


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
  build = _choose(DECODERS, 'evaluation', 'decoder', name)
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


def _path(c, what):
  if not c.path:
    raise ValueError(f'which {what}? Give --config.data.path={what}')
  return c.path


def _catalogue(c, split):
  if not c.tfds_name:
    raise ValueError('which set? Give --config.data.tfds_name=name')
  return tfds_sources.catalogue(
    c.tfds_name,
    c.train_split if split == 'train' else c.test_split,
    tuple(c.image_shape),
    c.num_classes > 0,
    c.data_dir,
  )


SOURCES = {
  'digits': lambda c, split: sources.digits(split),
  'synthetic': lambda c, split: sources.synthetic(
    split, tuple(c.image_shape), c.num_classes
  ),
  'cifar10': lambda c, split: tfds_sources.cifar10(split, c.data_dir),
  'mnist': lambda c, split: tfds_sources.mnist(split, c.data_dir),
  'tfds': _catalogue,
  'folder': lambda c, split: folder.folder(
    _path(c, 'folder'),
    split,
    tuple(c.image_shape),
    c.num_classes > 0,
    c.test_fraction,
  ),
  'photos': lambda c, split: photos.photos(
    words(c.photos),
    split,
    tuple(c.image_shape),
    c.photo_shrink,
    c.test_fraction,
  ),
  'npz': lambda c, split: sources.npz(
    _path(c, 'file.npz'), split, c.num_classes, c.test_fraction
  ),
}


def build_source(config, split='train'):
  """config.data -> the images of a split."""
  c = config.data
  build = _choose(SOURCES, 'data', 'name', c.name)
  with from_config('data'):
    source = build(c, split)
    wrong = []
    for field in ('image_shape', 'num_classes', 'num_levels'):
      found, said = getattr(source, field), c[field]
      if found != (tuple(said) if isinstance(found, tuple) else said):
        value = ','.join(map(str, np.atleast_1d(found)))
        wrong.append(f'--config.data.{field}={value} (not {said})')
    if wrong:
      raise ValueError(f'{c.name} needs {" ".join(wrong)}')
  return source


def build_batches(config, source, start_step=0, rows=pipeline.ALL):
  """Training batches from start_step on, without end; rows: of this host."""
  c = config
  stream = pipeline.batches(
    source,
    c.training.batch_size,
    c.seed,
    start_step,
    c.data.random_flip,
    rows,
    c.data.num_threads,
  )
  with from_config('data'):  # a damaged file is noticed when it is read
    yield from stream
