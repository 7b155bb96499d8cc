"""config -> network, and the parameters of a run."""

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.networks.classifier import NoisyClassifier
from diffusion_jax.networks.ddpmpp import DDPMpp
from diffusion_jax.networks.embeddings import SINUSOIDS
from diffusion_jax.networks.layers import INITIALIZERS, PADDINGS, QKV
from diffusion_jax.networks.unet import UNet
from diffusion_jax.networks.vdm import ScoreNetwork
from diffusion_jax.errors import UserError
from diffusion_jax.build import vae_models
from diffusion_jax.build.facts import state_shape
from diffusion_jax.build.schedule import (
  build_gamma,
  learns_schedule,
  num_steps,
)
from diffusion_jax.build.make import (
  choose,
  from_config,
  matmul_precision,
)
from diffusion_jax.training import conditions
from diffusion_jax.training.augmentation import NUM_LABELS

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
    jax.eval_shape(make, abstract_key(), x0)  # refuses at once
  return make


def told_channels(config):
  """Channels of cond['image']; 0 where there is none."""
  make = build_image_condition(config)
  if make is None:
    return 0
  x0 = jax.ShapeDtypeStruct((1, *config.data.image_shape), jnp.float32)
  return jax.eval_shape(make, abstract_key(), x0).shape[-1]


def _chosen(config, field, table):
  return choose(table, 'network', field, config.network[field])


def _any(config):
  # what every network has
  c = config.network
  return dict(
    channels=c.channels,
    dropout=c.dropout,
    num_groups=c.num_groups,
    norm_eps=c.norm_eps,
    dtype=_chosen(config, 'dtype', DTYPES),
  )


def _levels(config):
  # what networks of several resolutions have
  c = config.network
  return _any(config) | dict(
    multipliers=tuple(map(float, c.multipliers)),
    num_blocks=c.num_blocks,
    attention_resolutions=tuple(map(int, c.attention_resolutions)),
    num_heads=c.num_heads,
  )


def _openai(config):
  # what UNet and its way down have by option
  c = config.network
  return _levels(config) | dict(
    noise_embedding=_chosen(config, 'noise_embedding', SINUSOIDS),
    scale_shift=c.scale_shift,
    resblock_updown=c.resblock_updown,
    downsample_padding=_chosen(config, 'downsample_padding', tuple(PADDINGS)),
    head_channels=c.head_channels,
    qkv=_chosen(config, 'qkv', QKV),
    initializer=_chosen(config, 'initializer', INITIALIZERS),
  )


def _labels(config):
  # what networks that are told of a class have
  return dict(
    num_classes=config.data.num_classes if config.conditioning.labels else 0,
    null_class=label_dropout(config) > 0.0,
    remat=config.network.remat,
  )


def _denoises(config):
  # what networks of denoisers have, all but VDM's
  channels = state_shape(config)[-1]
  return _labels(config) | dict(
    out_channels=channels * (2 if config.network.learned_variance else 1),
    self_conditioning=config.conditioning.self_conditioning,
    image_channels=told_channels(config),
  )


def _unet(config):
  c = config.network
  return UNet(
    **_openai(config),
    **_denoises(config),
    stem_channels=c.stem_channels,
    text_width=c.text_width if config.conditioning.text else 0,
    text_layers=c.text_layers,
    text_heads=c.text_heads,
  )


def _ddpmpp(config):
  embeddings = (*SINUSOIDS, 'fourier')
  return DDPMpp(
    **_levels(config),
    **_denoises(config),
    augment_dim=NUM_LABELS if config.objective.augment else 0,
    noise_embedding=_chosen(config, 'noise_embedding', embeddings),
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
  first, last = c.fourier
  if first > last:
    raise ValueError(f'fourier={first},{last}: from the lower to the higher')
  return ScoreNetwork(
    **_any(config),
    **_labels(config),
    num_layers=c.num_blocks,
    attention=state_shape(config)[0] in c.attention_resolutions,
    gamma_min=config.schedule.gamma_min,
    gamma_max=config.schedule.gamma_max,
    fourier=tuple(map(int, c.fourier)),
    initializer=_chosen(config, 'initializer', INITIALIZERS),
  )


def _classifier(config):
  if config.data.num_classes < 2:
    raise ValueError("network 'classifier' needs data.num_classes > 1")
  if config.conditioning.labels:
    raise ValueError(
      "network 'classifier' is to find the label: set conditioning.labels=False"
    )
  return NoisyClassifier(**_openai(config), num_classes=config.data.num_classes)


NETWORKS = {
  'unet': _unet,
  'vdm': _vdm_network,
  'ddpmpp': _ddpmpp,
  'classifier': _classifier,
  **vae_models.NETWORKS,
}


def is_classifier(config):
  """Whether the config is that of a classifier, which makes no images."""
  return config.objective.name == 'classifier'


def build_network(config):
  """config.network -> Flax module."""
  name = config.network.name
  build = choose(NETWORKS, 'network', 'name', name)
  matmul_precision(config)  # refuses at once
  vae_models.check(config)
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


def check_heights(config):
  """UserError for attention at a height that no feature map has.

  For training: runs that were trained so are what they are.
  """
  c, height = config.network, state_shape(config)[0]
  levels = 1 if c.name == 'vdm' else len(c.multipliers)
  heights = [height // 2**level for level in range(levels)]
  absent = [h for h in c.attention_resolutions if h not in heights]
  if absent:
    raise UserError(
      f'config.network.attention_resolutions: no feature map is {absent[0]} '
      f'high, they are {", ".join(map(str, heights))} of network.name='
      f'{c.name}; () is attention in the middle alone'
    )


def network_fn(config, network):
  """Flax module -> network_fn(params, x, noise, cond, *, key=None).

  It computes with config.network.matmul_precision.
  """

  def apply(params, x, noise, cond, *, key=None):
    rngs = {} if key is None else {'dropout': key}
    train = key is not None
    variables = {'params': params}
    with matmul_precision(config):
      return network.apply(variables, x, noise, cond, train=train, rngs=rngs)

  return apply


def init_params(network, config):
  """key -> {'network': params} and, where it is learned, 'schedule'.

  To be jitted, or for jax.eval_shape.
  """

  def init(key):
    key, gamma_key = jax.random.split(key)
    x = jnp.zeros((1, *state_shape(config)))
    if vae_models.is_vae(config):
      return {'network': network.init(key, x)['params']}
    label = {'label': jnp.zeros(1, jnp.int32)}
    cond = label if config.conditioning.labels else {}
    if config.conditioning.text:
      cond = cond | {'text': jnp.ones((1, 1), jnp.int32)}
    params = {'network': network.init(key, x, jnp.zeros(1), cond)['params']}
    if learns_schedule(config):
      gamma = build_gamma(config.schedule).init(gamma_key, jnp.zeros(1))
      params['schedule'] = gamma['params']
    return params

  return init


def abstract_params(config):
  """Shapes of the parameters that the config's network has."""
  with from_config('network'):
    init = init_params(build_network(config), config)
    return jax.eval_shape(init, abstract_key())


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
