"""Builds the network, and its first parameters."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.build.facts import state_shape
from diffusion_jax.build.make import (
  check_taken,
  choose,
  construct,
  extended,
  fixed,
  from_config,
  make,
  matmul_precision,
  parameters,
  renamed,
)
from diffusion_jax.build.schedule import (
  build_gamma,
  learns_schedule,
  num_steps,
)
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.errors import UserError
from diffusion_jax.networks.autoencoder import Autoencoder
from diffusion_jax.networks.classifier import NoisyClassifier
from diffusion_jax.networks.ddpmpp import DDPMpp
from diffusion_jax.networks.edm2 import EDM2
from diffusion_jax.networks.embeddings import STEP_INPUTS
from diffusion_jax.networks.hierarchical import HierarchicalAutoencoder
from diffusion_jax.networks.magnitude import Uncertainty
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.networks.unet import UNet
from diffusion_jax.networks.vdm import ScoreNetwork
from diffusion_jax.training import conditions, vae
from diffusion_jax.training.augmentation import NUM_LABELS


def condition_dropout(config):
  """Returns the probability of no condition in training; 0 for no condition."""
  c = config.conditioning
  return c.dropout if c.labels or c.text or c.image else 0.0


def build_image_condition(config):
  """Returns (key, x0) -> cond['image'], or None for conditioning.image=''."""
  c = config.conditioning
  if not c.image:
    return None
  with from_config('conditioning'):
    make = conditions.image_condition(c.image, c.image_factor)
    _condition_channels(config, make)  # refuses at once
  return make


def _condition_channels(config, make):
  # Returns the channels of cond['image']; 0 where there is none.
  if make is None:
    return 0
  x0 = jax.ShapeDtypeStruct((1, *config.data.image_shape), jnp.float32)
  return jax.eval_shape(make, abstract_key(), x0).shape[-1]


def _vdm(
  state_shape, noise_input, num_blocks=32, attention_resolutions=(), **fields
):
  if noise_input != ScoreNetwork.noise_input:
    raise ValueError("network 'vdm' needs conditioning.noise_input=logsnr")
  return ScoreNetwork(
    num_layers=num_blocks,
    attention=state_shape[0] in attention_resolutions,
    **fields,
  )


def _classifier(known_classes, **fields):
  if known_classes < 2:
    raise ValueError("network 'classifier' needs data.num_classes > 1")
  return NoisyClassifier(known_classes, **fields)


# The constructors of config.network.name. Defaults that are given here are
# those of a config where they differ from those of the network.
NETWORKS = {
  'unet': fixed(UNet, text_width=0, text_layers=2, text_heads=4),
  'dit': fixed(
    DiT, text_width=0, text_layers=2, text_heads=4, text_attention='joint'
  ),
  'vdm': extended(_vdm, ScoreNetwork, 'num_layers', 'attention'),
  'ddpmpp': DDPMpp,
  'edm2': EDM2,
  'classifier': functools.partial(
    extended(_classifier, NoisyClassifier, 'num_classes'),
    head_channels=None,
    downsample_padding='same',
  ),
  'autoencoder': renamed(Autoencoder, out_channels='decoder_channels'),
  'hierarchical': renamed(
    HierarchicalAutoencoder, out_channels='decoder_channels'
  ),
}

# Those that read a text.
TEXT_NETWORKS = {
  'unet': functools.partial(UNet, text_width=64),
  'dit': functools.partial(DiT, text_width=64),
}


def network_constructor(config) -> Any:
  """Returns the constructor of the network."""
  name = config.network.name
  known = choose(NETWORKS, 'network', 'name', name)
  if not config.conditioning.text:
    return known
  return TEXT_NETWORKS.get(name, known)


def _out_channels(config):
  count = 2 if config.network.learned_variance else 1
  return count * state_shape(config)[-1]


def _decoder_channels(config):
  # Returns how many numbers objective.decoder needs of a pixel.
  c = config.objective
  count, *_ = choose(vae.DECODERS, 'objective', 'decoder', c.decoder)
  return count * config.data.image_shape[-1]


# Objectives whose networks are flow maps, and of what kind (`make_flow_map`).
MAPS = {
  'mean_flow': 'average_velocity',
  'shortcut': 'average_velocity',
  'consistency_training': 'consistency',
  'consistency_distillation': 'consistency',
  'continuous_consistency': 'trigflow',
}


def takes_elapsed(config) -> bool:
  """Returns whether the network has the length of a step as an input."""
  return MAPS.get(config.objective.name) == 'average_velocity'


def network_facts(config):
  """Returns functions of what a network may take beside its own fields."""
  data, labels = config.data, config.conditioning.labels
  facts = {
    'image_size': lambda: tuple(data.image_shape[:2]),
    'state_shape': lambda: state_shape(config),
    'out_channels': lambda: _out_channels(config),
    'decoder_channels': lambda: _decoder_channels(config),
    'noise_input': lambda: config.conditioning.noise_input,
    'num_classes': lambda: data.num_classes if labels else 0,
    'known_classes': lambda: data.num_classes,  # with or without labels
    'null_class': lambda: condition_dropout(config) > 0.0,
    'self_conditioning': lambda: config.conditioning.self_conditioning,
    'image_channels': lambda: _condition_channels(
      config, build_image_condition(config)
    ),
    'augment_dim': lambda: NUM_LABELS if config.objective.augment else 0,
    'elapsed': lambda: takes_elapsed(config),
    'guidance_input': lambda: config.objective.max_guidance is not None,
  }
  for name in ('gamma_min', 'gamma_max'):
    if config.schedule[name] is not None:
      facts[name] = functools.partial(config.schedule.get, name)
  return facts


# Fields of other sections, and the parameter that a network needs for them.
NEEDED = {
  'conditioning.labels': 'num_classes',
  'conditioning.text': 'text_width',
  'conditioning.self_conditioning': 'self_conditioning',
  'conditioning.image': 'image_channels',
  'objective.augment': 'augment_dim',
  'network.learned_variance': 'out_channels',
}


def build_network(config):
  """Builds the Flax module of config.network."""
  matmul_precision(config)  # An unknown name is refused at once.
  constructor = network_constructor(config)
  check_taken(config, NEEDED, NETWORKS | TEXT_NETWORKS, 'network.name')
  _check_pair(config)
  _check_attention(config)
  _check_elapsed(config, constructor)
  facts = network_facts(config)
  return construct(constructor, config.network, 'network', facts)


# Objectives with a network of their own.
PAIRS = {
  'classifier': 'classifier',
  'vae': 'autoencoder',
  'hvae': 'hierarchical',
}


def _check_pair(config):
  objective, network = config.objective.name, config.network.name
  special = objective in PAIRS or network in PAIRS.values()
  if special and network in NETWORKS and PAIRS.get(objective) != network:
    pairs = ', '.join(f'{o} with {n}' for o, n in PAIRS.items())
    raise UserError(
      f'config.objective.name={objective!r} with network.name={network!r}: of '
      f'these take {pairs}'
    )


def _check_attention(config):
  if config.network.attention == 'cudnn' and jax.default_backend() != 'gpu':
    raise UserError(
      "config.network.attention='cudnn' needs a GPU, and this is "
      f'{jax.default_backend()!r}: take xla, which has the same parameters'
    )


def _check_elapsed(config, constructor):
  if takes_elapsed(config) and 'elapsed' not in parameters(constructor):
    able = [
      n for n, known in NETWORKS.items() if 'elapsed' in parameters(known)
    ]
    raise UserError(
      f'config.objective.name={config.objective.name!r} needs network.name='
      f'{" or ".join(able)}: {config.network.name!r} takes no elapsed time'
    )


def check_heights(config):
  """Raises UserError for attention at a height that no feature map has.

  New trainings alone are checked: older runs with such heights are still read.
  """
  chosen, height = config.network.attention_resolutions, state_shape(config)[0]
  name = config.network.name
  if not chosen or name not in NETWORKS:
    return
  levels = len(getattr(build_network(config), 'multipliers', (1,)))
  heights = [height // 2**level for level in range(levels)]
  absent = [h for h in chosen if h not in heights]
  if absent:
    raise UserError(
      f'config.network.attention_resolutions: no feature map is {absent[0]} '
      f'high, they are {", ".join(map(str, heights))} of network.name={name}; '
      '() is attention in the middle alone'
    )


def network_fn(config, network):
  """Returns network_fn(params, x, noise, cond, *, key=None) of a Flax module.

  It computes with config.network.matmul_precision.
  """

  def apply(params, x, noise, cond, *, key=None):
    rngs = {} if key is None else {'dropout': key}
    train = key is not None
    variables = {'params': params}
    with matmul_precision(config):
      return network.apply(variables, x, noise, cond, train=train, rngs=rngs)

  return apply


def init_params(config):
  """Returns key -> {'network': params}, of a network that sees a noise level.

  And 'schedule' for a learned one, 'uncertainty' for objective.uncertainty. The
  function can be jitted and given to jax.eval_shape.
  """
  network = build_network(config)

  def init(key):
    key, gamma_key = jax.random.split(key)
    x = jnp.zeros((1, *state_shape(config)))
    label = {'label': jnp.zeros(1, jnp.int32)}
    cond = label if config.conditioning.labels else {}
    if config.conditioning.text:
      cond = cond | {'text': jnp.ones((1, 1), jnp.int32)}
    for name, field in STEP_INPUTS.items():
      if getattr(network, field, False):
        cond = cond | {name: jnp.ones(1)}
    params = {'network': network.init(key, x, jnp.zeros(1), cond)['params']}
    if learns_schedule(config):
      gamma = build_gamma(config.schedule).init(gamma_key, jnp.zeros(1))
      params['schedule'] = gamma['params']
    if config.objective.uncertainty:
      u_key = jax.random.fold_in(gamma_key, 1)
      u = _uncertainty(config).init(u_key, jnp.zeros(1))
      params['uncertainty'] = u['params']
    return params

  return init


def _uncertainty(config):
  return Uncertainty(config.objective.uncertainty)


def build_uncertainty(config):
  """Returns (params, level) -> u [B], None for objective.uncertainty=0.

  As EDM2, u sees ln(sigma / alpha) / 4 whatever the network does.
  """
  if not config.objective.uncertainty:
    return None
  apply = _uncertainty(config).apply

  def uncertainty(params, level):
    return apply({'params': params['uncertainty']}, dj.edm_input(level))

  return uncertainty


def build_constraint(config, network):
  """Returns params -> the parameters as they are after a step, or None.

  A network with such a function, `constrain`, changes its own parameters; the
  others stay as the optimizer left them.
  """
  parts = {}
  if hasattr(network, 'constrain'):
    parts['network'] = network.constrain
  if config.objective.uncertainty:
    parts['uncertainty'] = Uncertainty.constrain
  if not parts:
    return None
  return lambda params: (
    params
    | {name: constrain(params[name]) for name, constrain in parts.items()}
  )


def init_shapes(init):
  """Returns the shapes of the parameters that init, key -> params, makes."""
  with from_config('network'):
    return jax.eval_shape(init, abstract_key())


# The constructors of config.conditioning.noise_input.
NOISE_INPUTS = {
  'step': fixed(dj.step_input, scale=1.0),
  'rescaled_step': lambda num_steps: dj.step_input(num_steps, 1000 / num_steps),
  'time': renamed(dj.time_input, scale='time_scale'),
  'logsnr': lambda: dj.logsnr_input,
  'log_sigma': lambda: dj.log_sigma_input,
  'edm': lambda: dj.edm_input,
}


def time_scale(config) -> float:
  """Returns the factor of t in the network's input, and of elapsed time."""
  if config.conditioning.noise_input != 'time':
    return 1.0
  scale = config.conditioning.time_scale
  return 1000.0 if scale is None else scale


def build_noise_input(config):
  """Returns NoiseLevel -> [B], what the network sees of a level."""
  facts = {'num_steps': lambda: num_steps(config)}
  return make(
    NOISE_INPUTS, config.conditioning, 'conditioning.noise_input', facts
  )
