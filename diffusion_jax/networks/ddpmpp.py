"""DDPM++ and NCSN++ (Song et al. 2021), EDM's networks for small images.

NCSN++ changes the resolution by a factor of 2 after a filter (Zhang 2019;
StyleGAN2, Karras et al. 2020). It has weights such as (1, 3, 3, 1), divided by
their sum, for rows and for columns, and zeros beyond the edges. The weights (1,
1) give means of 2x2 pixels and nearest neighbours.
"""

import functools
from collections.abc import Sequence
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from diffusion_jax.aliases import Fused
from diffusion_jax.declared import Free, declares
from diffusion_jax.networks.attention import Attention
from diffusion_jax.networks.blocks import ResnetBlock, decode, encode, make_block
from diffusion_jax.networks.embeddings import (
  FourierEmbedding,
  LabelLinear,
  noise_layers,
  of_step,
  sinusoidal,
  with_inputs,
)
from diffusion_jax.networks.fused import of_unet
from diffusion_jax.networks.inputs import STEP_INPUTS, Inputs
from diffusion_jax.networks.layers import Conv, GroupNorm, average_pool, dense, nearest_upsample
from diffusion_jax.networks.options import (
  Checked,
  Dtype,
  Multipliers,
  RematPolicy,
  Sinusoids,
  check_sides,
  count_groups,
)
from diffusion_jax.ranges import Positive, Rate, Size

Array = jax.Array


def check_filter(weights: Sequence[float]) -> None:
  """Raises ValueError for an odd number of weights, or a sum of 0."""
  if len(weights) < 2 or len(weights) % 2 or not sum(weights):
    raise ValueError(
      f'resample_filter={tuple(weights)} must be an even number of weights '
      'with a sum that is not 0, such as 1,3,3,1'
    )


def downsample(x: Array, weights: Sequence[float]) -> Array:
  """Halves images after the filter: [B, H, W, C] -> [B, H/2, W/2, C]."""
  half = len(weights) // 2
  return _on_both_axes(x, weights, half - 1, half - 1, stride=2)


def upsample(x: Array, weights: Sequence[float]) -> Array:
  """Doubles images before the filter: [B, H, W, C] -> [B, 2H, 2W, C].

  Zeros are put between the pixels, and the result is multiplied by 4.
  """
  half = len(weights) // 2
  return 4.0 * _on_both_axes(x, weights[::-1], half, half, interior=1)


def blur(x: Array, weights: Sequence[float]) -> Array:
  """Filters images before a 3x3 convolution of stride 2 without padding.

  [B, H, W, C] -> [B, H + 1, W + 1, C].
  """
  half = len(weights) // 2
  return _on_both_axes(x, weights, half, half)


def _on_both_axes(x, weights, before, after, stride=1, interior=0):
  for axis in (1, 2):
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (before, after, interior)
    padded = lax.pad(x, jnp.zeros((), x.dtype), padding)
    count = (padded.shape[axis] - len(weights)) // stride + 1
    end = (count - 1) * stride + 1
    # Slices, since XLA:CPU has no fast convolution of single channels.
    slices = [
      w / sum(weights) * lax.slice_in_dim(padded, k, k + end, stride, axis)
      for k, w in enumerate(weights)
    ]
    x = functools.reduce(jnp.add, slices)
  return x


GROUP_WIDTH = 4  # Minimum channels of a group of a group norm.
# Sums with a shortcut are multiplied by skip_scale.
BLOCK = {'group_width': GROUP_WIDTH, 'skip_scale': 0.5**0.5}


@declares(what='DDPM++ in the widths of [EDM](#edm); NCSN++', needs='an image only', data='grid')
class DDPMpp(Checked):
  """Computes a U-Net: x [B, H, W, C], noise [B] -> [B, H, W, out_channels].

  Residual blocks change the resolution. Attention follows every block of the
  encoder at the heights in `attention_resolutions`, the last block of such a
  level of the decoder, and the first middle block. The defaults are EDM's
  network for CIFAR-10 (55,733,891 parameters with augment_dim=9) without its
  dropout of 0.13. The network of Song et al. has multipliers (1, 2, 2, 2) and
  dropout 0.1. Their NCSN++ also has noise_embedding 'fourier', for noise on a
  logarithmic scale, `resample_filter` (1, 3, 3, 1), and
  `input_pyramid`: the filtered and halved input goes through a convolution and
  is added at every resolution, and the next level halves the sum.

  `inputs` are the entries of cond. Linear maps of the augmentation and of the
  label (`LabelLinear`) are added to the features of the noise, `of_step` to
  their embedding, and `with_inputs` to the channels of x.
  """

  takes: ClassVar = ('label', 'augment', 'image', 'x0', *STEP_INPUTS)

  channels: Size = 128
  multipliers: Multipliers = (2, 2, 2)
  num_blocks: Size = 4
  attention_resolutions: Sequence[Size] = (16,)
  dropout: Rate = 0.0
  out_channels: Size = 3
  num_groups: Size = 32
  num_heads: Size = 1
  inputs: Inputs = Inputs()
  noise_embedding: Literal[Sinusoids, 'fourier'] = 'ho'
  norm_eps: Positive = 1e-6
  resample_filter: Sequence[float] | None = None
  input_pyramid: bool | None = None
  remat: Free[bool] = False
  remat_policy: RematPolicy = 'nothing'
  dtype: Dtype = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    if self.resample_filter is not None:
      check_filter(self.resample_filter)

  @property
  def fused(self) -> Fused:
    return of_unet('interleaved', self.num_heads, None)

  @nn.compact
  def __call__(self, x: Array, noise: Array, cond: dict | None = None, *, train=False) -> Array:
    cond = cond or {}
    widths = [int(self.channels * m) for m in self.multipliers]
    check_sides(x, len(widths))
    self.inputs.check(cond)
    embedding = self._embed(noise, cond)
    pyramid = x = with_inputs(self.inputs, x, cond)
    pool, repeat = self._resamplers()
    count = self.num_blocks

    def residual(h, level, name, resample=None):
      options = {'features': widths[level], 'resample': resample, **BLOCK}
      options['project_resampled'] = True
      return make_block(ResnetBlock, self, name, **options)(h, embedding, train)

    def attention(h, name):
      return make_block(Attention, self, name, qkv='interleaved', qkv_scale=0.2, **BLOCK)(h)

    def block(h, level, name):
      h = residual(h, level, f'{name}_block')
      attends = name.startswith('down') or name == f'up_{level}_{count}'
      if attends and h.shape[1] in self.attention_resolutions:
        h = attention(h, f'{name}_attention')
      return h

    def halve(h, level, name):
      nonlocal pyramid
      h = residual(h, level, name, pool)
      if self.input_pyramid:
        h = pyramid = self._pyramid(pyramid, h, f'down_{level}_pyramid')
      return h

    def double(h, level, name):
      return residual(h, level, name, repeat)

    h = Conv(self.channels, dtype=self.dtype, name='conv_in')(x)
    maps = encode(h, len(widths), count, block, halve)
    h = residual(maps[-1], -1, 'middle_0_block')
    h = attention(h, 'middle_attention')
    h = residual(h, -1, 'middle_1_block')
    h = decode(h, maps, len(widths), count + 1, block, double)

    # The last layers are always float32.
    groups = count_groups(self.num_groups, h.shape[-1], GROUP_WIDTH)
    norm = GroupNorm(groups, self.norm_eps, name='norm_out')
    return Conv(self.out_channels, zero=True, name='conv_out')(nn.swish(norm(h)))

  def _resamplers(self):
    weights = self.resample_filter
    if weights is None:
      return average_pool, nearest_upsample
    halve = functools.partial(downsample, weights=weights)
    return halve, functools.partial(upsample, weights=weights)

  def _pyramid(self, pyramid, h, name):
    # Filters and halves the pyramid, and adds it to the blocks' output.
    filtered = blur(pyramid, self.resample_filter or (1, 1))
    pyramid = Conv(h.shape[-1], stride=2, padding=(0, 0), dtype=self.dtype, name=name)(filtered)
    return BLOCK['skip_scale'] * (pyramid + h)

  def _embed(self, noise, cond):
    if self.noise_embedding == 'fourier':
      h = FourierEmbedding(2 * self.channels, name='noise_fourier')(noise)
    else:
      h = sinusoidal(noise, self.channels, kind=self.noise_embedding)
    width = h.shape[-1]
    inputs = self.inputs
    if inputs.num_classes:
      style = {'dtype': self.dtype, 'name': 'label_embedding'}
      h += LabelLinear(inputs, width, **style)(cond, noise.shape[0])
    if inputs.augment_dim:
      augment = cond.get('augment', jnp.zeros((noise.shape[0], inputs.augment_dim)))
      style = {'use_bias': False, 'dtype': self.dtype}
      h += dense(augment, width, 'augment_dense', **style)
    embedding = noise_layers(h, 4 * self.channels, dtype=self.dtype)
    return embedding + of_step(inputs, cond, self.channels, 4 * self.channels, dtype=self.dtype)
