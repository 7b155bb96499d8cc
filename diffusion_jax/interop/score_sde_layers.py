"""The layers of Song et al. 2021's networks, in Flax and in PyTorch.

Query, key and value are separate there; our network has one layer, in which
they alternate.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from diffusion_jax.interop.layers import (
  TORCH,
  Kind,
  Layer,
  Style,
  resnet_block,
  within,
)
from diffusion_jax.interop.names import SAME, Params, Rule, Tensors
from diffusion_jax.networks.ddpmpp import DDPMpp


def _nin(dot):
  return Kind({'kernel': ('W', SAME), 'bias': ('b', SAME)}, dot)


def _flax(kernel, name='kernel'):
  return Kind({'kernel': (name, kernel), 'bias': ('bias', SAME)}, '/')


# A 1x1 convolution is [1, 1, in, out].
_POINTWISE = Rule(lambda x: x.reshape(x.shape[2:]), lambda x: x[None, None])
FLAX = Style(
  _flax(SAME),
  _flax(SAME),
  Kind({'scale': ('scale', SAME), 'bias': ('bias', SAME)}, '/'),
  _flax(_POINTWISE),
)
QKV = 'NIN_0', 'NIN_1', 'NIN_2'
FUSED = 'NIN_0..2'  # our name for the three as one layer


def _classes(style):
  # {class: the kind of the layer, or the layers within it}
  dot = style.conv.separator
  # Their Conv2d, which follows a filter.
  filtered = style.conv if style is TORCH else _flax(SAME, 'weight')
  block = 'GroupNorm_0', 'Conv_0', 'Dense_0', 'GroupNorm_1', 'Conv_1', 'Conv_2'
  return {
    'GaussianFourierProjection': Kind({'frequencies': ('W', SAME)}, dot),
    'Conv': style.conv,
    'Dense': style.linear,
    'GroupNorm': style.norm,
    'Downsample': (Layer('', 'Conv2d_0', filtered),),
    'ResnetBlockBigGANpp': resnet_block(style, *block),
    'AttnBlockpp': (
      Layer('norm', 'GroupNorm_0', style.norm),
      Layer('qkv', FUSED, _nin(dot)),
      Layer('proj_out', 'NIN_3', _nin(dot)),
    ),
  }


def layers_of(network: DDPMpp, shapes: Params, style: Style) -> Iterator[Layer]:
  """Yields the layers that `shapes` has, with q, k and v as one, FUSED.

  They are numbered in the order of the calls: in PyTorch all together, in
  legacy Flax each class separately.
  """
  classes, dot = _classes(style), style.conv.separator
  seen: Counter[str] = Counter()
  for kind, ours in _order(network):
    if ours not in shapes:
      continue
    name = 'all_modules' if style is TORCH else kind
    theirs = f'{name}{dot if style is TORCH else "_"}{seen[name]}'
    seen[name] += 1
    inner = classes[kind]
    if isinstance(inner, Kind):
      yield Layer(ours, theirs, inner)
    else:
      yield from within(ours, theirs, inner)


def _order(network: DDPMpp) -> Iterator[tuple[str, str]]:
  # (their class, our name) in the order in which both call them.
  yield 'GaussianFourierProjection', 'noise_fourier'
  yield 'Dense', 'noise_dense_1'
  yield 'Dense', 'noise_dense_2'
  yield 'Conv', 'conv_in'
  last, count = len(network.multipliers) - 1, network.num_blocks
  for level in range(last + 1):
    for i in range(count):
      yield 'ResnetBlockBigGANpp', f'down_{level}_{i}_block'
      yield 'AttnBlockpp', f'down_{level}_{i}_attention'
    yield 'ResnetBlockBigGANpp', f'down_{level}_downsample'
    yield 'Downsample', f'down_{level}_pyramid'
  yield 'ResnetBlockBigGANpp', 'middle_0_block'
  yield 'AttnBlockpp', 'middle_attention'
  yield 'ResnetBlockBigGANpp', 'middle_1_block'
  for level in reversed(range(last + 1)):
    for i in range(count + 1):
      yield 'ResnetBlockBigGANpp', f'up_{level}_{i}_block'
    yield 'AttnBlockpp', f'up_{level}_{count}_attention'
    yield 'ResnetBlockBigGANpp', f'up_{level}_upsample'
  yield 'GroupNorm', 'norm_out'
  yield 'Conv', 'conv_out'


def fuse(tensors: Tensors) -> dict[str, np.ndarray]:
  """Returns the tensors with query, key and value as one layer, FUSED.

  [in, out] each -> [in, 3 out], and [out] -> [3 out], where column 3 c + j is
  column c of the jth. If one of the three is missing, the others stay separate.
  """
  fused = dict(tensors)
  for name in tensors:
    parts = [name.replace(QKV[0], part) for part in QKV]
    if QKV[0] not in name or any(part not in tensors for part in parts):
      continue
    stacked = np.stack([fused.pop(part) for part in parts], axis=-1)
    shape = *stacked.shape[:-2], -1
    fused[name.replace(QKV[0], FUSED)] = stacked.reshape(shape)
  return fused
