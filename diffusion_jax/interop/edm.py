"""Weights of EDM (Karras et al. 2022): its DDPM++, NCSN++ and ADM networks.

Their pickles run code, so the state dict is read from a safetensors file, and
the options of the network from a JSON file of the same name beside it; both are
written where EDM is installed (docs/weights.md).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.interop.files import read_tensors
from diffusion_jax.interop.layers import (
  TORCH_CONV,
  TORCH_LINEAR,
  TORCH_NORM,
  TORCH_POINTWISE,
  Kind,
  Layer,
  entries,
  within,
)
from diffusion_jax.interop.names import (
  LINEAR,
  SAME,
  Entry,
  Imported,
  Rule,
  read,
)
from diffusion_jax.interop.options import beside, several, with_options
from diffusion_jax.interop.ve import as_eps
from diffusion_jax.networks.ddpmpp import DDPMpp
from diffusion_jax.networks.unet import UNet

FILTER = 'resample_filter'  # a buffer of layers that change the resolution
HEAD_CHANNELS = 64  # of ADM's attention
GROUPS = 32  # of norms, or fewer, so that a group has 4 channels

BLOCK = (
  Layer('norm_1', 'norm0', TORCH_NORM),
  Layer('conv_1', 'conv0', TORCH_CONV),
  Layer('embedding_proj', 'affine', TORCH_LINEAR),
  Layer('norm_2', 'norm1', TORCH_NORM),
  Layer('conv_2', 'conv1', TORCH_CONV),
  Layer('shortcut', 'skip', TORCH_POINTWISE),
)
# Their UNetBlock is a residual block and the attention after it.
ATTENTION = (
  Layer('norm', 'norm2', TORCH_NORM),
  Layer('qkv', 'qkv', TORCH_POINTWISE),
  Layer('proj_out', 'proj', TORCH_POINTWISE),
)
FREQUENCIES = Kind({'frequencies': ('freqs', SAME)})
# ADM's labels: a Linear without bias of one-hot vectors. No label is the vector
# of zeros, so a null class is a row of zeros after the others.
ROWS = Kind({'embedding': ('weight', LINEAR)})
_ROWS_AND_NULL = Rule(
  lambda x: np.concatenate([x.T, np.zeros_like(x.T[:1])]), lambda x: x[:-1].T
)
ROWS_AND_NULL = Kind({'embedding': ('weight', _ROWS_AND_NULL)})

# The defaults of their constructors, whose keywords the options are.
SONG = {
  'model_channels': 128,
  'channel_mult': [1, 2, 2, 2],
  'channel_mult_emb': 4,
  'num_blocks': 4,
  'attn_resolutions': [16],
  'dropout': 0.1,
  'label_dropout': 0,
  'augment_dim': 0,
  'embedding_type': 'positional',
  'channel_mult_noise': 1,
  'encoder_type': 'standard',
  'decoder_type': 'standard',
  'resample_filter': [1, 1],
}
ADM = {
  'model_channels': 192,
  'channel_mult': [1, 2, 3, 4],
  'channel_mult_emb': 4,
  'num_blocks': 3,
  'attn_resolutions': [32, 16, 8],
  'dropout': 0.1,
  'label_dropout': 0,
  'augment_dim': 0,
}
# Of the wrapper, and its class, which its own kwargs do not name.
OUTER = {
  'precond': 'EDMPrecond',
  'model_type': 'DhariwalUNet',
  'img_resolution': 0,
  'img_channels': 3,
  'label_dim': 0,
  'use_fp16': False,
  'sigma_min': 0,
  'sigma_max': float('inf'),
  'sigma_data': 0.5,
  'beta_d': 19.9,
  'beta_min': 0.1,
  'M': 1000,
  'epsilon_t': 1e-5,
  'C_1': 0.001,
  'C_2': 0.008,
}

# The options of which our networks have some values alone.
ONLY = {
  'SongUNet': {
    'channel_mult_emb': (4,),
    'encoder_type': ('standard', 'residual'),
    'decoder_type': ('standard',),
    'augment_dim': (0, 9),
  },
  'DhariwalUNet': {'channel_mult_emb': (4,), 'augment_dim': (0,)},
}
PRECONDS = 'EDMPrecond', 'VPPrecond', 'VEPrecond', 'iDDPMPrecond'


def load(path: str | Path, **options: Any) -> Imported:
  """Returns the network of a .safetensors file with a .json beside it.

  options: keywords of EDM's classes, in place of those of the JSON file, which
  may be left out if img_resolution and model_type are given. Raises ValueError
  for an option that our networks do not have and tensors that do not fit.
  """
  options = beside(path, options)
  return from_tensors(read_tensors(path), **options)


def from_tensors(tensors: Mapping[str, np.ndarray], **options: Any) -> Imported:
  """Returns the network of a state dict; the arguments are those of `load`."""
  chosen = choose_options(**options)
  _check_filters(tensors, chosen)
  network, fields = make_network(chosen)
  shapes = parameter_shapes(network, chosen)
  names = table(network, shapes, chosen['img_resolution'])
  params = read(names, tensors, shapes, _is_buffer)
  if chosen['precond'] == 'VEPrecond':
    params = as_eps(params)
  return Imported(network, params, fields, tuple(_notes(chosen)))


def _is_buffer(name):
  return name == 'u' or name.endswith(FILTER)


def choose_options(**options: Any) -> dict[str, Any]:
  """Returns all options, with EDM's defaults; ValueError for what is not ours.

  That is an unknown option, a value of ONLY's options that is not there, and
  Song et al.'s wrapper of VE networks but for NCSN++ without other inputs.
  """
  model = options.get('model_type', OUTER['model_type'])
  if model not in ONLY:
    raise ValueError(f'model_type {model!r} is not one of {", ".join(ONLY)}')
  known = OUTER | (SONG if model == 'SongUNet' else ADM)
  if options.get('precond') == 'VEPrecond':
    known = known | {'sigma_min': 0.02, 'sigma_max': 100}
  lists = 'channel_mult', 'attn_resolutions', 'resample_filter'
  chosen = with_options(several(known, *lists), several(options, *lists), model)
  lacking = [
    f'{name}={chosen[name]!r}'
    for name, values in ONLY[model].items()
    if chosen[name] not in values
  ]
  if lacking:
    raise ValueError(
      f'{model} with {", ".join(lacking)} has no counterpart here (DDPM++, '
      'NCSN++ and ADM have)'
    )
  noise = {'positional': 1, 'fourier': 2}
  if model == 'SongUNet' and (
    noise.get(chosen['embedding_type']) != chosen['channel_mult_noise']
  ):
    raise ValueError(
      f'embedding_type={chosen["embedding_type"]!r} with channel_mult_noise='
      f'{chosen["channel_mult_noise"]} has no counterpart here: positional has '
      '1, fourier 2'
    )
  if chosen['precond'] not in PRECONDS:
    raise ValueError(
      f'precond {chosen["precond"]!r} is not one of {", ".join(PRECONDS)}'
    )
  plain = not chosen['label_dim'] and not chosen['augment_dim']
  noise = chosen.get('embedding_type')
  if chosen['precond'] == 'VEPrecond' and (not plain or noise != 'fourier'):
    raise ValueError(
      "precond 'VEPrecond' has a counterpart here only with embedding_type="
      "'fourier' and without labels and augmentation"
    )
  if not chosen['img_resolution']:
    raise ValueError('the option img_resolution is missing')
  narrow = chosen['model_channels'] * min(chosen['channel_mult'])
  if model == 'DhariwalUNet' and narrow < 4 * GROUPS:
    raise ValueError(
      f'{model} with a level of {narrow} channels: its norms have groups of 4 '
      f'channels there, and UNet here has {GROUPS} groups'
    )
  return chosen


def _check_filters(tensors, options):
  weights = np.array(options.get('resample_filter', (1, 1)), np.float32)
  expected = np.outer(weights, weights) / weights.sum() ** 2
  for name, x in tensors.items():
    stored = np.asarray(x)[0, 0] if np.ndim(x) == 4 else np.asarray(x)
    same = stored.shape == expected.shape and np.allclose(stored, expected)
    if name.endswith(FILTER) and not same:
      raise ValueError(
        f'{name}, of shape {np.shape(x)}, is not the filter of the option '
        f'resample_filter={options.get("resample_filter", (1, 1))}'
      )


def make_network(options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
  """Returns our network for the options, and the fields of a config with it."""
  size, channels = options['img_resolution'], options['img_channels']
  classes = options['label_dim']
  ours: dict[str, Any] = {
    'channels': options['model_channels'],
    'multipliers': tuple(options['channel_mult']),
    'num_blocks': options['num_blocks'],
    'attention_resolutions': tuple(options['attn_resolutions']),
    'dropout': float(options['dropout']),
  }
  facts: dict[str, Any] = {
    'num_classes': classes,
    'null_class': classes > 0 and options['label_dropout'] > 0,
    'out_channels': channels * (1 + (options['precond'] == 'iDDPMPrecond')),
  }
  fields: dict[str, Any] = {
    'data.image_shape': (size, size, channels),
    'conditioning.labels': classes > 0,
    'conditioning.dropout': float(options['label_dropout']),
  }
  if classes:
    fields['data.num_classes'] = classes
  if options['model_type'] == 'SongUNet':
    fields['network.name'] = 'ddpmpp'
    facts['augment_dim'] = options['augment_dim']
    fields['objective.augment'] = 0.12 if options['augment_dim'] else 0.0
    ours |= _ncsnpp_options(options)
    network = DDPMpp(**ours, **facts)
  else:
    fields['network.name'] = 'unet'
    ours |= _adm_options(ours)
    network = UNet(**ours, **facts)
  fields |= {f'network.{name}': value for name, value in ours.items()}
  return network, fields | _precond_fields(options)


def _ncsnpp_options(options):
  # What NCSN++ has beside DDPM++; nothing is set for DDPM++.
  ours = {}
  if options['embedding_type'] == 'fourier':
    ours['noise_embedding'] = 'fourier'
  if options['encoder_type'] == 'residual':
    ours['input_pyramid'] = True
  if options['resample_filter'] != (1, 1):
    ours['resample_filter'] = options['resample_filter']
  return ours


def _adm_options(ours):
  return {
    'stem_channels': int(ours['channels'] * ours['multipliers'][0]),
    'noise_embedding': 'openai',
    'scale_shift': True,
    'resblock_updown': True,
    'head_channels': HEAD_CHANNELS,
    'qkv': 'interleaved',
    'norm_eps': 1e-5,
    'initializer': 'torch',
  }


def _precond_fields(options):
  # How the wrapper scales the input and the output, and names the noise.
  sampler = {
    'sampling.sampler': 'heun',
    'sampling.num_steps': 18 if options['img_resolution'] <= 32 else 40,
    'sampling.clip': False,
  }
  if options['precond'] == 'EDMPrecond':
    return sampler | {
      'schedule.name': 'karras',
      'conditioning.noise_input': 'edm',
      'objective.parametrization': 'edm',
      'objective.weight': 'edm',
      'objective.times': 'log_normal',
      'objective.sigma_data': options['sigma_data'],
    }
  eps = {'objective.parametrization': 'eps', 'objective.weight': 'snr'}
  if options['precond'] == 'VPPrecond':
    sampler |= {'sampling.spacing': 'karras'}
    return sampler | eps | {
      'schedule.name': 'linear_vp',
      'schedule.beta_min': options['beta_min'],
      'schedule.beta_max': options['beta_min'] + options['beta_d'],
      'conditioning.noise_input': 'time',
      'conditioning.time_scale': options['M'] - 1.0,
      'objective.times': 'uniform',
      'objective.t_min': options['epsilon_t'],
    }  # fmt: skip
  if options['precond'] == 'VEPrecond':
    sampler |= {'sampling.spacing': 'karras'}
    return sampler | eps | {
      'schedule.name': 'geometric_ve',
      'schedule.sigma_min': options['sigma_min'],
      'schedule.sigma_max': options['sigma_max'],
      'conditioning.noise_input': 'log_sigma',
      'objective.times': 'uniform',
      'objective.t_min': 1e-5,
    }  # fmt: skip
  return eps | {
    'schedule.name': 'cosine',
    'schedule.num_steps': options['M'],
    'conditioning.noise_input': 'step',
    'objective.name': 'hybrid',
    'network.learned_variance': True,
    'sampling.sampler': 'ancestral',
    'sampling.variance': 'learned',
    'sampling.num_steps': options['M'],
  }


def _notes(options):
  if options['use_fp16']:
    yield 'EDM computes this network in float16; here it is float32'
  if options['augment_dim']:
    yield (
      "trained with labels of augmentation: without cond['augment'] images "
      'are as they are'
    )


def parameter_shapes(network: DDPMpp | UNet, options: dict[str, Any]) -> Any:
  """Returns the shapes of the parameters of our network."""
  size, channels = options['img_resolution'], options['img_channels']
  x = jnp.zeros((1, size, size, channels))
  cond = {'label': jnp.zeros(1, jnp.int32)} if network.num_classes else {}
  return jax.eval_shape(
    lambda: network.init(jax.random.key(0), x, jnp.zeros(1), cond)['params']
  )


def table(network: DDPMpp | UNet, shapes: Any, size: int) -> list[Entry]:
  """Returns the names of the parameters in the state dict of a wrapper."""
  layers = [*_ends(network, size), *_blocks(network, size)]
  within_wrapper = [
    layer._replace(theirs=f'model.{layer.theirs}') for layer in layers
  ]
  return entries(within_wrapper, shapes)


def _ends(network: DDPMpp | UNet, size: int) -> Iterator[Layer]:
  full = f'{size}x{size}'
  yield Layer('noise_dense_1', 'map_layer0', TORCH_LINEAR)
  yield Layer('noise_dense_2', 'map_layer1', TORCH_LINEAR)
  yield Layer('label_embedding/linear', 'map_label', TORCH_LINEAR)
  rows = ROWS_AND_NULL if network.null_class else ROWS
  yield Layer('label_embedding/table', 'map_label', rows)
  yield Layer('augment_dense', 'map_augment', TORCH_LINEAR)
  yield Layer('noise_fourier', 'map_noise', FREQUENCIES)
  yield Layer('conv_in', f'enc.{full}_conv', TORCH_CONV)
  adm = isinstance(network, UNet)
  norm = 'out_norm' if adm else f'dec.{full}_aux_norm'
  conv = 'out_conv' if adm else f'dec.{full}_aux_conv'
  yield Layer('norm_out', norm, TORCH_NORM)
  yield Layer('conv_out', conv, TORCH_CONV)


def _blocks(network: DDPMpp | UNet, size: int) -> Iterator[Layer]:
  last = len(network.multipliers) - 1
  sides = [size >> level for level in range(last + 1)]
  for level, side in enumerate(sides):
    place = f'{side}x{side}'
    for i in range(network.num_blocks):
      yield from _block(f'down_{level}_{i}', f'enc.{place}_block{i}')
    for i in range(network.num_blocks + 1):
      yield from _block(f'up_{level}_{i}', f'dec.{place}_block{i}')
    # The blocks that change the resolution have the name of what they make.
    if level > 0:
      ours = f'down_{level - 1}_downsample'
      yield from within(ours, f'enc.{place}_down', BLOCK)
      residual = f'enc.{place}_aux_residual'
      yield Layer(f'down_{level - 1}_pyramid', residual, TORCH_CONV)
    if level < last:
      ours = f'up_{level + 1}_upsample'
      yield from within(ours, f'dec.{place}_up', BLOCK)
  lowest = f'dec.{sides[last]}x{sides[last]}'
  yield from within('middle_0_block', f'{lowest}_in0', BLOCK)
  yield from within('middle_attention', f'{lowest}_in0', ATTENTION)
  yield from within('middle_1_block', f'{lowest}_in1', BLOCK)


def _block(ours: str, theirs: str) -> Iterator[Layer]:
  yield from within(f'{ours}_block', theirs, BLOCK)
  yield from within(f'{ours}_attention', theirs, ATTENTION)
