"""Weights of EDM2 (Karras et al. 2024): its networks of pixels.

Their pickles run code, so the state dict is read from a safetensors file, and
the options of the network from a JSON file of the same name beside it; both are
written where EDM2 is installed (docs/weights.md).
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.interop.files import read_tensors
from diffusion_jax.interop.layers import Kind, Layer, entries, within
from diffusion_jax.interop.names import (
  CONV,
  CONV_1X1,
  LINEAR,
  SAME,
  Entry,
  Imported,
  Rule,
  read,
)
from diffusion_jax.interop.options import beside, several, with_options
from diffusion_jax.networks.edm2 import EDM2
from diffusion_jax.networks.magnitude import Uncertainty

# The keywords of their Precond and UNet with the defaults.
OPTIONS = {
  'img_resolution': 0,
  'img_channels': 3,
  'label_dim': 0,
  'use_fp16': True,
  'sigma_data': 0.5,
  'logvar_channels': 128,
  'model_channels': 192,
  'channel_mult': [1, 2, 3, 4],
  'channel_mult_noise': None,
  'channel_mult_emb': None,
  'num_blocks': 3,
  'attn_resolutions': [16, 8],
  'label_balance': 0.5,
  'concat_balance': 0.5,
  'channels_per_head': 64,
  'dropout': 0.0,
  'res_balance': 0.3,
  'attn_balance': 0.3,
  'clip_act': 256,
}
# The options of which our network has one value.
ONLY = (
  'channel_mult_noise',
  'channel_mult_emb',
  'label_balance',
  'concat_balance',
  'res_balance',
  'attn_balance',
  'clip_act',
)

# Their frequencies and phases are in radians, ours in periods.
_TURNS = Rule(
  lambda x: x / np.float32(2 * math.pi), lambda x: x * np.float32(2 * math.pi)
)
FOURIER = Kind({'frequencies': ('freqs', _TURNS), 'phases': ('phases', _TURNS)})
WEIGHT = Kind({'kernel': ('weight', LINEAR)})
KERNEL = Kind({'kernel': ('weight', CONV)})
POINTWISE = Kind({'kernel': ('weight', CONV_1X1)})
GAIN = Kind({'embedding_gain': ('emb_gain', SAME)})

BLOCK = (
  Layer('conv_1', 'conv_res0', KERNEL),
  Layer('embedding_proj', 'emb_linear', WEIGHT),
  Layer('conv_2', 'conv_res1', KERNEL),
  Layer('shortcut', 'conv_skip', POINTWISE),
  Layer('qkv', 'attn_qkv', POINTWISE),
  Layer('proj_out', 'attn_proj', POINTWISE),
)


def load(path: str | Path, **options: Any) -> Imported:
  """Returns the network of a .safetensors file with a .json beside it.

  `more` of the result has the weights of u(sigma). options: keywords of EDM2's
  Precond, in place of those of the JSON file. Raises ValueError for an option
  that our network does not have, a network of latents, whose channels EDM2
  normalises one by one, and tensors that do not fit.
  """
  options = beside(path, options)
  return from_tensors(read_tensors(path), **options)


def from_tensors(tensors: Mapping[str, np.ndarray], **options: Any) -> Imported:
  """Returns the network of a state dict; the arguments are those of `load`."""
  network, fields = make_network(choose_options(**options))
  shapes = parameter_shapes(network, fields)
  params = read(table(network, shapes, fields), tensors, shapes)
  more = {name: x for name, x in params.items() if name != 'network'}
  return Imported(network, params['network'], fields, more=more)


def choose_options(**options: Any) -> dict[str, Any]:
  """Returns all options, with defaults; ValueError for what is not here."""
  lists = 'channel_mult', 'attn_resolutions'
  chosen = with_options(
    several(OPTIONS, *lists), several(options, *lists), 'EDM2'
  )
  for name in ONLY:
    if chosen[name] != OPTIONS[name]:
      raise ValueError(
        f'EDM2 with {name}={chosen[name]!r} has no counterpart here, but '
        f'{OPTIONS[name]!r} has'
      )
  if not chosen['img_resolution']:
    raise ValueError('the option img_resolution is missing')
  if chosen['img_channels'] not in (1, 3):
    raise ValueError(
      f'img_channels={chosen["img_channels"]}: EDM2 normalises each channel of '
      'its latents by itself, which latent.run does not: only networks of '
      'pixels are read'
    )
  return chosen


def make_network(options: dict[str, Any]) -> tuple[EDM2, dict[str, Any]]:
  """Returns our network for the options, and the fields of a config with it."""
  size, channels = options['img_resolution'], options['img_channels']
  ours: dict[str, Any] = {
    'channels': options['model_channels'],
    'multipliers': tuple(options['channel_mult']),
    'num_blocks': options['num_blocks'],
    'attention_resolutions': tuple(options['attn_resolutions']),
    'head_channels': options['channels_per_head'],
    'dropout': float(options['dropout']),
  }
  classes = options['label_dim']
  network = EDM2(**ours, out_channels=channels, num_classes=classes)
  fields: dict[str, Any] = {
    f'network.{name}': value for name, value in ours.items()
  } | {
    'network.name': 'edm2',
    'data.image_shape': (size, size, channels),
    'conditioning.labels': classes > 0,
    'conditioning.noise_input': 'edm',
    'schedule.name': 'karras',
    'objective.parametrization': 'edm',
    'objective.weight': 'edm',
    'objective.times': 'log_normal',
    'objective.sigma_data': options['sigma_data'],
    'objective.uncertainty': options['logvar_channels'],
    'sampling.sampler': 'heun',
    'sampling.num_steps': 32,
    'sampling.clip': False,
  }
  if classes:
    fields['data.num_classes'] = classes
  return network, fields


def parameter_shapes(network: EDM2, fields: Mapping[str, Any]) -> Any:
  """Returns the shapes of {'network': ..., 'uncertainty': ...}."""
  x = jnp.zeros((1, *fields['data.image_shape']))
  cond = {'label': jnp.zeros(1, jnp.int32)} if network.num_classes else {}
  modules = {
    'network': (network, (x, jnp.zeros(1), cond)),
    'uncertainty': (
      Uncertainty(fields['objective.uncertainty']),
      (jnp.zeros(1),),
    ),
  }
  return {
    name: jax.eval_shape(module.init, jax.random.key(0), *inputs)['params']
    for name, (module, inputs) in modules.items()
  }


def table(network: EDM2, shapes: Any, fields: Mapping[str, Any]) -> list[Entry]:
  """Returns the names of the parameters in the state dict of their Precond."""
  layers = [
    *within('network', 'unet', _layers(network, fields['data.image_shape'][0])),
    Layer('uncertainty/fourier', 'logvar_fourier', FOURIER),
    Layer('uncertainty/linear', 'logvar_linear', WEIGHT),
  ]
  gain = Entry('network/gain_out', 'unet.out_gain', SAME)
  return [gain, *entries(layers, shapes)]


def _layers(network: EDM2, size: int) -> Iterator[Layer]:
  yield Layer('noise_fourier', 'emb_fourier', FOURIER)
  yield Layer('noise_linear', 'emb_noise', WEIGHT)
  yield Layer('label_linear', 'emb_label', WEIGHT)
  yield Layer('conv_in', f'enc.{size}x{size}_conv', KERNEL)
  yield Layer('conv_out', 'out_conv', KERNEL)
  last = len(network.multipliers) - 1
  for level in range(last + 1):
    place = '{0}x{0}'.format(size >> level)
    if level > 0:
      yield from _block(f'down_{level}_first', f'enc.{place}_down')
    for i in range(network.num_blocks):
      yield from _block(f'down_{level}_{i}', f'enc.{place}_block{i}')
    if level < last:
      yield from _block(f'up_{level}_first', f'dec.{place}_up')
    for i in range(network.num_blocks + 1):
      yield from _block(f'up_{level}_{i}', f'dec.{place}_block{i}')
  lowest = '{0}x{0}'.format(size >> last)
  for i in range(2):
    yield from _block(f'middle_{i}', f'dec.{lowest}_in{i}')


def _block(ours: str, theirs: str) -> Iterator[Layer]:
  yield Layer(f'{ours}_block', theirs, GAIN)
  yield from within(f'{ours}_block', theirs, BLOCK)
