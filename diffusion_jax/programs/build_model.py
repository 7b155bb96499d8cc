"""config -> schedule and network, and the parameters they have."""

import dataclasses

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.networks.classifier import NoisyClassifier
from diffusion_jax.networks.ddpmpp import DDPMpp
from diffusion_jax.networks.embeddings import SINUSOIDS
from diffusion_jax.networks.gamma import LinearGamma, MonotoneGamma
from diffusion_jax.networks.layers import INITIALIZERS, PADDINGS, QKV
from diffusion_jax.networks.unet import UNet
from diffusion_jax.networks.vdm import ScoreNetwork
from diffusion_jax.programs import UserError
from diffusion_jax.programs.choices import choose, from_config, given
from diffusion_jax.training import conditions
from diffusion_jax.training.augmentation import NUM_LABELS

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
    betas = function(c.num_steps, **given(c, *fields))
    if c.zero_terminal_snr:
      betas = dj.zero_terminal_snr(betas)
    return dj.DiscreteSchedule.from_betas(betas)

  return build


def _named(c, prefix, *names):
  fields = given(c, *(prefix + name for name in names))
  return {name.removeprefix(prefix): value for name, value in fields.items()}


SCHEDULES = {
  **{name: _discrete(name) for name in BETAS},
  'continuous_cosine': lambda c: dj.CosineSchedule(
    **given(c, 'logsnr_min', 'logsnr_max')
  ),
  'linear_vp': lambda c: dj.LinearVPSchedule(
    **given(c, 'beta_min', 'beta_max')
  ),
  'sub_vp': lambda c: dj.SubVPSchedule(**given(c, 'beta_min', 'beta_max')),
  'continuous_sigmoid': lambda c: dj.SigmoidSchedule(
    **_named(c, 'sigmoid_', 'start', 'end', 'tau')
  ),
  'karras': lambda c: dj.KarrasSchedule(
    **given(c, 'sigma_min', 'sigma_max', 'rho')
  ),
  'flow': lambda c: dj.RectifiedFlowSchedule(**given(c, 'shift')),
  'geometric_ve': lambda c: dj.GeometricVESchedule(
    **given(c, 'sigma_min', 'sigma_max')
  ),
  # its parameters, if it has any, are filled in by build_schedule
  'learned': lambda c: dj.LearnedSchedule({}, _gamma_fn(_gamma(c))),
}

NO_SHIFT = ('geometric_ve', 'karras', 'sub_vp')

GAMMAS = {
  'fixed': lambda *ends: LinearGamma(*ends, learned=False),
  'scalar': LinearGamma,
  'network': MonotoneGamma,
}


def _gamma(c):
  build = choose(GAMMAS, 'schedule', 'gamma', c.gamma)
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
  build = choose(SCHEDULES, 'schedule', 'name', c.name)
  with from_config('schedule'):
    if c.alphas is not None:
      return _shifted(c, dj.DiscreteSchedule.from_alphas(c.alphas))
    schedule = build(c)
    if not learns_schedule(config):
      return _shifted(c, schedule)
    if params is None:
      raise ValueError(
        f"the schedule 'learned' with gamma={c.gamma!r} is known to a trained "
        "run only: objective.name=vdm trains it, gamma='fixed' needs no run"
      )
    schedule = dataclasses.replace(schedule, params=params['schedule'])
    return _shifted(c, schedule)


def _shifted(c, schedule):
  if c.shift is None:
    return schedule
  if c.shift <= 0.0:
    raise ValueError(f'shift={c.shift} is not positive: it multiplies sigma')
  if c.alphas is None and c.name == 'flow':  # its own
    return schedule
  if c.alphas is None and c.name in NO_SHIFT:
    raise ValueError(
      f'shift is for variance-preserving schedules and flow, {c.name!r} is '
      'neither'
    )
  return dj.ShiftedSchedule(schedule, c.shift)


def check_signal(config):
  """UserError for a network that is asked for x0 where it cannot know it.

  That is eps or the score at alpha = 0, the start of a schedule with zero
  terminal SNR.
  """
  kind = config.objective.parametrization
  if kind not in ('eps', 'score') or learns_schedule(config):
    return
  if build_schedule(config)(1.0).alpha == 0.0:
    raise UserError(
      f'config.objective.parametrization={kind!r}: the schedule has no signal '
      f'at t = 1, where {kind} says nothing about x0: take '
      'objective.parametrization=v or x0'
    )


def num_steps(config):
  """T: the steps of the schedule, as many as an explicit list has."""
  c = config.schedule
  return c.num_steps if c.alphas is None else len(c.alphas)


DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def label_dropout(config):
  """Probability that training hides what is told; 0 without that."""
  c = config.conditioning
  return c.label_dropout if c.labels or c.text or c.image else 0.0


def build_image_condition(config):
  """config.conditioning.image -> (key, x0) -> cond['image']; None for ''."""
  c = config.conditioning
  if not c.image:
    return None
  with from_config('conditioning'):
    make = conditions.image_condition(c.image, c.image_factor)
    x0 = jax.ShapeDtypeStruct((1, *config.data.image_shape), jnp.float32)
    jax.eval_shape(make, jax.random.key(0), x0)  # refuses at once
  return make


def told_channels(config):
  """Channels of cond['image']; 0 where there is none."""
  make = build_image_condition(config)
  if make is None:
    return 0
  x0 = jax.ShapeDtypeStruct((1, *config.data.image_shape), jnp.float32)
  return jax.eval_shape(make, jax.random.key(0), x0).shape[-1]


def _unet(config):
  c = config.network
  image_channels = config.data.image_shape[-1]

  def chosen(field, table):
    return choose(table, 'network', field, c[field])

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
    null_class=label_dropout(config) > 0.0,
    stem_channels=c.stem_channels,
    noise_embedding=chosen('noise_embedding', SINUSOIDS),
    scale_shift=c.scale_shift,
    resblock_updown=c.resblock_updown,
    downsample_padding=chosen('downsample_padding', tuple(PADDINGS)),
    num_heads=c.num_heads,
    head_channels=c.head_channels,
    qkv=chosen('qkv', QKV),
    initializer=chosen('initializer', INITIALIZERS),
    self_conditioning=config.conditioning.self_conditioning,
    image_channels=told_channels(config),
    text_width=c.text_width if config.conditioning.text else 0,
    text_layers=c.text_layers,
    text_heads=c.text_heads,
    remat=c.remat,
    dtype=chosen('dtype', DTYPES),
  )


def _ddpmpp(config):
  c = config.network
  image_channels = config.data.image_shape[-1]
  return DDPMpp(
    channels=c.channels,
    multipliers=tuple(map(float, c.multipliers)),
    num_blocks=c.num_blocks,
    attention_resolutions=tuple(map(int, c.attention_resolutions)),
    dropout=c.dropout,
    out_channels=image_channels * (2 if c.learned_variance else 1),
    num_groups=c.num_groups,
    num_heads=c.num_heads,
    num_classes=config.data.num_classes if config.conditioning.labels else 0,
    null_class=label_dropout(config) > 0.0,
    augment_dim=NUM_LABELS if config.objective.augment else 0,
    noise_embedding=choose(
      (*SINUSOIDS, 'fourier'), 'network', 'noise_embedding', c.noise_embedding
    ),
    norm_eps=c.norm_eps,
    self_conditioning=config.conditioning.self_conditioning,
    image_channels=told_channels(config),
    remat=c.remat,
    dtype=choose(DTYPES, 'network', 'dtype', c.dtype),
  )


def _vdm_network(config):
  c = config.network
  if config.conditioning.noise_input != 'logsnr':
    raise ValueError("network 'vdm' needs conditioning.noise_input=logsnr")
  if c.learned_variance:
    raise ValueError("network 'vdm' cannot learn the variance")
  if config.conditioning.self_conditioning:
    raise ValueError("network 'vdm' knows no self-conditioning")
  if config.conditioning.image:
    raise ValueError("network 'vdm' cannot be told of an image")
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
    null_class=label_dropout(config) > 0.0,
    initializer=choose(INITIALIZERS, 'network', 'initializer', c.initializer),
    remat=c.remat,
    dtype=choose(DTYPES, 'network', 'dtype', c.dtype),
  )


def _classifier(config):
  c = config.network
  if config.data.num_classes < 2:
    raise ValueError("network 'classifier' needs data.num_classes > 1")
  if config.conditioning.labels:
    raise ValueError(
      "network 'classifier' is to find the label: set conditioning.labels=False"
    )

  def chosen(field, table):
    return choose(table, 'network', field, c[field])

  return NoisyClassifier(
    num_classes=config.data.num_classes,
    channels=c.channels,
    multipliers=tuple(map(float, c.multipliers)),
    num_blocks=c.num_blocks,
    attention_resolutions=tuple(map(int, c.attention_resolutions)),
    dropout=c.dropout,
    num_groups=c.num_groups,
    noise_embedding=chosen('noise_embedding', SINUSOIDS),
    scale_shift=c.scale_shift,
    resblock_updown=c.resblock_updown,
    downsample_padding=chosen('downsample_padding', tuple(PADDINGS)),
    num_heads=c.num_heads,
    head_channels=c.head_channels,
    qkv=chosen('qkv', QKV),
    norm_eps=c.norm_eps,
    initializer=chosen('initializer', INITIALIZERS),
    dtype=chosen('dtype', DTYPES),
  )


NETWORKS = {
  'unet': _unet,
  'vdm': _vdm_network,
  'ddpmpp': _ddpmpp,
  'classifier': _classifier,
}


def is_classifier(config):
  """Whether the config is that of a classifier, which makes no images."""
  return config.objective.name == 'classifier'


def build_network(config):
  """config.network -> Flax module."""
  name = config.network.name
  build = choose(NETWORKS, 'network', 'name', name)
  if config.objective.augment and name != 'ddpmpp':
    raise UserError(
      f'config.objective.augment needs network.name=ddpmpp: {name!r} cannot be '
      'told what was done to the images, and would learn to make such'
    )
  if config.conditioning.text and name != 'unet':
    raise UserError(
      f'config.conditioning.text needs network.name=unet: {name!r} reads none'
    )
  if is_classifier(config) != (name == 'classifier'):
    raise UserError(
      f'config.network.name={name!r} with objective.name='
      f'{config.objective.name!r}: a classifier has both, others neither'
    )
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
    if config.conditioning.text:
      cond = cond | {'text': jnp.ones((1, 1), jnp.int32)}
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
  'time': lambda c: dj.time_input(c.conditioning.time_scale),
  'logsnr': lambda c: dj.logsnr_input,
  'log_sigma': lambda c: dj.log_sigma_input,
  'edm': lambda c: dj.edm_input,
}


def build_noise_input(config):
  """config.conditioning.noise_input -> NoiseLevel -> [B]."""
  name = config.conditioning.noise_input
  build = choose(NOISE_INPUTS, 'conditioning', 'noise_input', name)
  return build(config)
