"""Weights of Ho, Jain & Abbeel 2020, from their TensorFlow graph.

The variables are read from an npz by their names in the graph, with or without
the prefix 'model/'; docs/weights.md says how to write one. Kernels are stored
as in Flax, so that only names differ. The variables give the sizes of the
network.
"""

import re
from pathlib import Path

from diffusion_jax.interop import reader
from diffusion_jax.interop.files import read_tensors
from diffusion_jax.interop.layers import (
  Kind,
  Layer,
  Style,
  expand,
  resnet_block,
)
from diffusion_jax.interop.names import SAME, Tensors, find, require
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
) -> reader.Imported:
  """Returns the network in an npz of the variables of a TensorFlow graph.

  ema: read the averaged variables, whose names end in SHADOW, not the trained
  ones. image_size: 0 for the size at which attention is at 16x16, as in all of
  their networks. Raises ValueError for variables that do not fit.
  """
  return from_tensors(read_tensors(path), ema=ema, image_size=image_size)


def from_tensors(
  tensors: Tensors, *, ema: bool = True, image_size: int = 0
) -> reader.Imported:
  """Returns the network of the variables; the arguments are as for `load`."""
  variables = model_variables(tensors, ema)
  fields, size = _sizes(variables, image_size)
  model = describe(fields, size, variables['conv_out/b'].size)
  if not image_size:
    note = f'images are {size}x{size}, so that attention is at 16x16'
    model = model._replace(notes=(note,))
  return model.read(variables)


def describe(
  fields: reader.Sections, size: int, channels: int = 3
) -> reader.Model:
  """Returns the network of images [size, size, channels]; fields: of `UNet`."""
  network = UNet(**fields, out_channels=channels)
  # Their scripts take beta for CIFAR-10, the posterior's variance for 256x256.
  variance = 'fixed_large' if size <= 32 else 'fixed_small'
  sampler = {'name': 'ancestral', 'variance': variance}
  sections = reader.eps_sections(
    {'name': 'linear', 'num_steps': 1000},
    {'name': 'step'},
    {'sampler': sampler, 'num_steps': 1000},
  )
  sections['network'] = {'name': 'unet', **fields}
  layers = expand(LAYERS, network.num_blocks, len(network.multipliers))
  return reader.Model(
    network, layers, sections, reader.facts_of((size, size, channels), 0)
  )


def model_variables(tensors: Tensors, ema: bool) -> Tensors:
  """Returns the variables of the network by their names, without a prefix.

  Variables of the optimizer and the step are left out. Raises ValueError if the
  file does not contain a network, or averages of it.
  """
  first = next((n for n in tensors if n.endswith('conv_in/W')), '')
  require(
    bool(first), 'there is no variable conv_in/W: not a network of Ho et al.'
  )
  prefix = first.removesuffix('conv_in/W')
  require(
    not ema or first + SHADOW in tensors,
    f'there are no EMA variables, such as {first + SHADOW}: pass ema=False to '
    'read the trained ones',
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
    return find(variables, name).shape[-1]

  def count(pattern):
    return sum(bool(re.fullmatch(pattern, name)) for name in variables)

  channels, levels = width('conv_in/W'), count(r'down_\d+/block_0/conv1/W')
  attending = [n for n in range(levels) if f'down_{n}/attn_0/q/W' in variables]
  require(
    image_size > 0 or len(attending) == 1,
    f'there is attention at {len(attending)} resolutions: give image_size, '
    'which is known only for networks with attention at 16x16',
  )
  size = image_size or 16 * 2 ** attending[0]
  require(
    width('conv_out/b') == variables['conv_in/W'].shape[-2],
    f'conv_out has {width("conv_out/b")} channels: a learned log-variance is '
    'not supported',
  )
  ratios = [
    width(f'down_{level}/block_0/conv1/W') / channels for level in range(levels)
  ]
  fields = {
    'channels': channels,
    'multipliers': tuple(int(r) if r.is_integer() else r for r in ratios),
    'num_blocks': count(r'down_0/block_\d+/conv1/W'),
    'attention_resolutions': tuple(size // 2**level for level in attending),
    'dropout': 0.1 if size <= 32 else 0.0,
  }
  return fields, size
