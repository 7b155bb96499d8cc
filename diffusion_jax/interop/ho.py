"""Weights of Ho, Jain & Abbeel 2020, of their TensorFlow graph.

The variables are read from an npz by their names in the graph, with or without
'model/' before them; docs/weights.md says how to write one. Kernels are stored
as ours are, so this is a table of names alone. The sizes of the network are
those of the variables.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.interop.files import read_tensors
from diffusion_jax.interop.layers import Kind, Layer, entries, within
from diffusion_jax.interop.names import SAME, Entry, Imported, read
from diffusion_jax.networks.unet import UNet

SHADOW = '/ExponentialMovingAverage'  # of tf.train
ADAM = '/Adam', '/Adam_1'

_LINEAR = Kind({'kernel': ('W', SAME), 'bias': ('b', SAME)}, '/')
_NORM = Kind({'scale': ('gamma', SAME), 'bias': ('beta', SAME)}, '/')
BLOCK = (
  Layer('norm_1', 'norm1', _NORM),
  Layer('conv_1', 'conv1', _LINEAR),
  Layer('embedding_proj', 'temb_proj', _LINEAR),
  Layer('norm_2', 'norm2', _NORM),
  Layer('conv_2', 'conv2', _LINEAR),
  Layer('shortcut', 'nin_shortcut', _LINEAR),
)
ATTENTION = (
  Layer('norm', 'norm', _NORM),
  Layer('query', 'q', _LINEAR),
  Layer('key', 'k', _LINEAR),
  Layer('value', 'v', _LINEAR),
  Layer('proj_out', 'proj_out', _LINEAR),
)


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
  options, size = _sizes(variables, image_size)
  network = UNet(**options, out_channels=variables['conv_out/b'].size)
  shapes = parameter_shapes(network, size)
  params = read(table(network, shapes), variables, shapes)
  fields = {f'network.{name}': value for name, value in options.items()} | {
    'network.name': 'unet',
    'data.image_shape': (size, size, 3),
    'schedule.name': 'linear',
    'schedule.num_steps': 1000,
    'conditioning.noise_input': 'step',
    'objective.parametrization': 'eps',
    'objective.weight': 'snr',
    'sampling.sampler': 'ancestral',
    'sampling.num_steps': 1000,
    # their scripts: beta for CIFAR-10, that of the posterior for 256x256
    'sampling.variance': 'fixed_large' if size <= 32 else 'fixed_small',
  }
  notes = ()
  if not image_size:
    notes = (f'images are {size}x{size}, so that attention is at 16x16',)
  return Imported(network, params, fields, notes)


def model_variables(
  tensors: Mapping[str, np.ndarray], ema: bool
) -> dict[str, np.ndarray]:
  """Returns the variables of the network by their names without a prefix.

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
  found = {}
  for name, x in tensors.items():
    variable = name.removesuffix(SHADOW)
    inside = variable.startswith(prefix) and '/' in variable
    if inside and (variable != name) == ema and not variable.endswith(ADAM):
      found[variable.removeprefix(prefix)] = x
  return found


def _sizes(variables, image_size):
  # Returns the options of UNet that the names and shapes determine, and the
  # height of the images.
  def width(name):
    if name not in variables:
      raise ValueError(f'missing: {name}')
    return variables[name].shape[-1]

  def count(pattern):
    found = (re.fullmatch(pattern, name) for name in variables)
    return len([match for match in found if match])

  channels, levels = width('conv_in/W'), count(r'down_\d+/block_0/conv1/W')
  attending = [n for n in range(levels) if f'down_{n}/attn_0/q/W' in variables]
  if not image_size and len(attending) != 1:
    raise ValueError(
      f'attention at {len(attending)} resolutions: give image_size, which is '
      'known for networks with attention at 16x16 alone'
    )
  size = image_size or 16 * 2 ** attending[0]
  if width('conv_out/b') != variables['conv_in/W'].shape[-2]:
    raise ValueError(
      f'conv_out has {width("conv_out/b")} channels: a variance learned as a '
      'logarithm, which is none of ours (sampling.variance)'
    )
  options = {
    'channels': channels,
    'multipliers': tuple(
      _ratio(width(f'down_{level}/block_0/conv1/W'), channels)
      for level in range(levels)
    ),
    'num_blocks': count(r'down_0/block_\d+/conv1/W'),
    'attention_resolutions': tuple(size // 2**level for level in attending),
    'dropout': 0.1 if size <= 32 else 0.0,
  }
  return options, size


def _ratio(width, channels):
  ratio = width / channels
  return int(ratio) if ratio.is_integer() else ratio


def parameter_shapes(network: UNet, size: int) -> dict:
  """Returns the shapes of the parameters of our network."""
  x = jnp.zeros((1, size, size, network.out_channels))
  return jax.eval_shape(
    lambda: network.init(jax.random.key(0), x, jnp.zeros(1))['params']
  )


def table(network: UNet, shapes: dict) -> list[Entry]:
  """Returns the names of the parameters in their graph, without a prefix."""
  return entries(_layers(network), shapes)


def _layers(network: UNet) -> Iterator[Layer]:
  yield Layer('noise_dense_1', 'temb/dense0', _LINEAR)
  yield Layer('noise_dense_2', 'temb/dense1', _LINEAR)
  yield Layer('conv_in', 'conv_in', _LINEAR)
  for way, extra, resampling in (
    ('down', 0, 'downsample'),
    ('up', 1, 'upsample'),
  ):
    for level in range(len(network.multipliers)):
      for i in range(network.num_blocks + extra):
        ours, theirs = f'{way}_{level}_{i}', f'{way}_{level}'
        yield from within(f'{ours}_block', f'{theirs}/block_{i}', BLOCK)
        yield from within(f'{ours}_attention', f'{theirs}/attn_{i}', ATTENTION)
      ours, theirs = f'{way}_{level}_{resampling}', f'{way}_{level}'
      yield Layer(f'{ours}/conv', f'{theirs}/{resampling}/conv', _LINEAR)
  yield from within('middle_0_block', 'mid/block_1', BLOCK)
  yield from within('middle_attention', 'mid/attn_1', ATTENTION)
  yield from within('middle_1_block', 'mid/block_2', BLOCK)
  yield Layer('norm_out', 'norm_out', _NORM)
  yield Layer('conv_out', 'conv_out', _LINEAR)
