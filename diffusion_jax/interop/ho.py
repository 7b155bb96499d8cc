"""Weights of Ho, Jain & Abbeel 2020, of their TensorFlow graph.

The variables are read from an npz by their names in the graph, with or without
'model/' before them; docs/weights.md says how to write one. Kernels are stored
as ours are, so that only names differ. The variables give the sizes of the
network.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.interop.files import read_tensors
from diffusion_jax.interop.layers import (
  Kind,
  Layer,
  Style,
  expand,
  resnet_block,
)
from diffusion_jax.interop.names import SAME
from diffusion_jax.interop.reader import (
  Imported,
  Model,
  eps_sections,
  facts_of,
)
from diffusion_jax.networks.unet import UNet

SHADOW = '/ExponentialMovingAverage'  # of tf.train
ADAM = '/Adam', '/Adam_1'

_LINEAR = Kind({'kernel': ('W', SAME), 'bias': ('b', SAME)}, '/')
_NORM = Kind({'scale': ('gamma', SAME), 'bias': ('beta', SAME)}, '/')
BLOCK = resnet_block(
  Style(_LINEAR, _LINEAR, _NORM, _LINEAR),
  'norm1',
  'conv1',
  'temb_proj',
  'norm2',
  'conv2',
  'nin_shortcut',
)
ATTENTION = (
  Layer('norm', 'norm', _NORM),
  Layer('query', 'q', _LINEAR),
  Layer('key', 'k', _LINEAR),
  Layer('value', 'v', _LINEAR),
  Layer('proj_out', 'proj_out', _LINEAR),
)
LAYERS = {
  'noise_dense_1': ('temb/dense0', _LINEAR),
  'noise_dense_2': ('temb/dense1', _LINEAR),
  'conv_in': ('conv_in', _LINEAR),
  'down_{level}_{i}_block': ('down_{level}/block_{i}', BLOCK),
  'down_{level}_{i}_attention': ('down_{level}/attn_{i}', ATTENTION),
  'down_{level}_downsample/conv': ('down_{level}/downsample/conv', _LINEAR),
  'middle_0_block': ('mid/block_1', BLOCK),
  'middle_attention': ('mid/attn_1', ATTENTION),
  'middle_1_block': ('mid/block_2', BLOCK),
  'up_{level}_{i}_block': ('up_{level}/block_{i}', BLOCK),
  'up_{level}_{i}_attention': ('up_{level}/attn_{i}', ATTENTION),
  'up_{level}_upsample/conv': ('up_{level}/upsample/conv', _LINEAR),
  'norm_out': ('norm_out', _NORM),
  'conv_out': ('conv_out', _LINEAR),
}


def load(
  path: str | Path, *, ema: bool = True, image_size: int = 0
) -> Imported:
  """Returns the network of an npz of the variables of a TensorFlow graph.

  ema: the averaged variables, which TensorFlow names with SHADOW, or else the
  trained ones. image_size: 0 is that at which attention is at 16x16, as in all
  their networks. Raises ValueError for variables that do not fit.
  """
  return from_tensors(read_tensors(path), ema=ema, image_size=image_size)


def from_tensors(
  tensors: Mapping[str, np.ndarray], *, ema: bool = True, image_size: int = 0
) -> Imported:
  """Returns the network of the variables; the arguments are those of `load`."""
  variables = model_variables(tensors, ema)
  fields, size = _sizes(variables, image_size)
  imported = describe(fields, size, variables['conv_out/b'].size).read(
    variables
  )
  if image_size:
    return imported
  note = f'images are {size}x{size}, so that attention is at 16x16'
  return imported._replace(notes=(note,))


def describe(fields: Mapping[str, Any], size: int, channels: int = 3) -> Model:
  """Returns the network of images [size, size, channels]; fields: of `UNet`."""
  network = UNet(**fields, out_channels=channels)
  # their scripts: beta for CIFAR-10, that of the posterior for 256x256
  variance = 'fixed_large' if size <= 32 else 'fixed_small'
  sampler = {'name': 'ancestral', 'variance': variance}
  sections = eps_sections(
    {'name': 'linear', 'num_steps': 1000},
    {'name': 'step'},
    {'sampler': sampler, 'num_steps': 1000},
  )
  sections['network'] = {'name': 'unet', **fields}
  facts = facts_of((size, size, channels), 0)
  return Model(network, expand(LAYERS, network), sections, facts)


def model_variables(
  tensors: Mapping[str, np.ndarray], ema: bool
) -> dict[str, np.ndarray]:
  """Returns the variables of the network by their names, without a prefix.

  Those of the optimizer and the step are left out. Raises ValueError if there
  is no network in the file, or no average of it.
  """
  first = [n for n in tensors if n.endswith('conv_in/W')]
  if not first:
    raise ValueError('no variable conv_in/W: this is no network of Ho et al.')
  prefix = first[0].removesuffix('conv_in/W')
  if ema and first[0] + SHADOW not in tensors:
    raise ValueError(
      f'no averages, variables {first[0] + SHADOW} and so on: ema=False takes '
      'the variables themselves'
    )
  variables = {}
  for name, x in tensors.items():
    variable = name.removesuffix(SHADOW)
    inside = variable.startswith(prefix) and '/' in variable
    if inside and (variable != name) == ema and not variable.endswith(ADAM):
      variables[variable.removeprefix(prefix)] = x
  return variables


def _sizes(variables, image_size):
  # Returns the fields of UNet that the names and shapes determine, and the
  # height of the images.
  def width(name):
    if name not in variables:
      raise ValueError(f'missing: {name}')
    return variables[name].shape[-1]

  def count(pattern):
    return sum(bool(re.fullmatch(pattern, name)) for name in variables)

  channels, levels = width('conv_in/W'), count(r'down_\d+/block_0/conv1/W')
  attending = [n for n in range(levels) if f'down_{n}/attn_0/q/W' in variables]
  if not image_size and len(attending) != 1:
    raise ValueError(
      f'attention at {len(attending)} resolutions: give image_size, which is '
      'only known for networks with attention at 16x16'
    )
  size = image_size or 16 * 2 ** attending[0]
  if width('conv_out/b') != variables['conv_in/W'].shape[-2]:
    raise ValueError(
      f'conv_out has {width("conv_out/b")} channels: a variance learned as a '
      'logarithm, which our networks do not have'
    )
  fields = {
    'channels': channels,
    'multipliers': tuple(
      _ratio(width(f'down_{level}/block_0/conv1/W'), channels)
      for level in range(levels)
    ),
    'num_blocks': count(r'down_0/block_\d+/conv1/W'),
    'attention_resolutions': tuple(size // 2**level for level in attending),
    'dropout': 0.1 if size <= 32 else 0.0,
  }
  return fields, size


def _ratio(width, channels):
  ratio = width / channels
  return int(ratio) if ratio.is_integer() else ratio
