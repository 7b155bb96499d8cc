"""The U-Nets of Ho et al. 2020 and of OpenAI."""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.networks.attention import Attention, CrossAttention
from diffusion_jax.networks.blocks import ResnetBlock, make_block, output_conv
from diffusion_jax.networks.context import read_context
from diffusion_jax.networks.embeddings import (
  noise_and_label,
  of_step,
  sinusoidal,
  with_inputs,
)
from diffusion_jax.networks.inputs import STEP_INPUTS, Inputs, Text
from diffusion_jax.networks.layers import (
  Conv,
  Downsample,
  Upsample,
  average_pool,
  dense,
  nearest_upsample,
)
from diffusion_jax.networks.options import (
  QKV,
  AttentionImplementation,
  Checked,
  DownsamplePadding,
  Dtype,
  Initialization,
  MiddleAttention,
  Multipliers,
  RematPolicy,
  Sinusoids,
  attention_size,
  check_sides,
)
from diffusion_jax.networks.text import TextFeatures, mean_of_words
from diffusion_jax.ranges import Positive, Rate, Size

Array = jax.Array


class UNet(Checked):
  """Computes a U-Net: x [B, H, W, C], noise [B] -> [B, H, W, out_channels].

  The defaults are DDPM's network for CIFAR-10, 35,746,307 parameters, without
  its dropout of 0.1. Sequences are x [B, N, C], and volumes [B, D, H, W, C].
  All sides must be multiples of 2^(levels - 1). Attention follows every block
  whose feature maps have a height in `attention_resolutions`; for sequences and
  volumes a number of positions.

  `inputs` are the entries of cond. The `LabelEmbedding` of the label and
  `of_step` are added to the embedding of the noise, and `with_inputs` to the
  channels of x. With a text, a `CrossAttention` to its words (`TextFeatures`)
  follows every attention, and their mean is added to the embedding of the
  noise. A context is read by `read_context`: its embedding is added to the
  noise's, its words are attended to as a text's, its channels join x's.

  Options of OpenAI's networks (Nichol & Dhariwal 2021, Dhariwal & Nichol 2021)
  are described in `ResnetBlock`, `Attention`, `Downsample`, `initializers` and
  `sinusoidal`. With `resblock_updown` residual blocks change the resolution.
  `stem_channels` is the width of the first convolution. `middle_attention` has
  a norm before it ('norm'), has no norm ('plain', as in diffusers with
  scale_shift), or is left out ('none'). `remat` and `remat_policy` save memory
  (`maybe_remat`).
  """

  takes: ClassVar = (
    'label', 'text', 'image', 'x0', 'context', *STEP_INPUTS
  )  # fmt: skip

  channels: Size = 128
  multipliers: Multipliers = (1, 2, 2, 2)
  num_blocks: Size = 2
  attention_resolutions: Sequence[Size] = (16,)
  dropout: Rate = 0.0
  out_channels: Size = 3
  num_groups: Size = 32
  inputs: Inputs = Inputs()
  stem_channels: Size | None = None
  noise_embedding: Sinusoids = 'ho'
  scale_shift: bool = False
  resblock_updown: bool = False
  downsample_padding: DownsamplePadding = 'same'
  num_heads: Size = 1
  head_channels: Size | None = None
  qkv: QKV = 'separate'
  middle_attention: MiddleAttention = 'norm'
  norm_eps: Positive = 1e-6
  initializer: Initialization = 'ho'
  attention: AttentionImplementation = 'auto'
  remat: bool = False
  remat_policy: RematPolicy = 'nothing'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, noise: Array, cond: dict | None = None, *, train=False
  ) -> Array:
    widths = [int(self.channels * m) for m in self.multipliers]
    stem = self.channels if self.stem_channels is None else self.stem_channels
    cond = cond or {}
    check_sides(x, len(widths), (1, 2, 3))
    self.inputs.check(cond)
    embedding = self._embed(noise, cond)
    words = ()
    if self.inputs.text:
      words, pooled = self._text(self.inputs.text, cond, len(x))
      embedding += pooled
    context = read_context(
      self.inputs, x, cond, 4 * self.channels, **self._style()
    )
    if context.embedding is not None:
      embedding += context.embedding
    x = with_inputs(self.inputs, x, cond, context.channels)
    last = len(widths) - 1

    def residual(h, width, name, resample=None):
      options = {'features': width, 'resample': resample}
      block = make_block(ResnetBlock, self, name, **options)
      return block(h, embedding, train)

    def block(h, level, name):
      h = residual(h, widths[level], f'{name}_block')
      if attention_size(h.shape[1:-1]) in self.attention_resolutions:
        h = attend(h, name)
      return h

    def attend(h, name, **options):
      options['implementation'] = self.attention
      h = make_block(Attention, self, f'{name}_attention', **options)(h)
      if self.inputs.text:
        h = make_block(CrossAttention, self, f'{name}_text')(h, *words)
      if context.words is not None:
        cross = make_block(CrossAttention, self, f'{name}_context')
        h = cross(h, *context.words)
      return h

    h = Conv(stem, **self._style(), name='conv_in')(x)
    skips = [h]
    for level in range(last + 1):
      for i in range(self.num_blocks):
        h = block(h, level, f'down_{level}_{i}')
        skips.append(h)
      if level < last:
        name = f'down_{level}_downsample'
        if self.resblock_updown:
          h = residual(h, widths[level], name, average_pool)
        else:
          h = Downsample(self.downsample_padding, **self._style(), name=name)(h)
        skips.append(h)

    h = residual(h, widths[last], 'middle_0_block')
    if self.middle_attention != 'none':
      h = attend(h, 'middle', pre_norm=self.middle_attention != 'plain')
    h = residual(h, widths[last], 'middle_1_block')

    for level in reversed(range(last + 1)):
      for i in range(self.num_blocks + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = block(h, level, f'up_{level}_{i}')
      if level > 0:
        name = f'up_{level}_upsample'
        if self.resblock_updown:
          h = residual(h, widths[level], name, nearest_upsample)
        else:
          h = Upsample(**self._style(), name=name)(h)

    return output_conv(self, self.out_channels, h)

  def _style(self):
    return {'initializer': self.initializer, 'dtype': self.dtype}

  def _text(self, text: Text, cond, batch_size):
    # Returns (words [B, L, D], mask [B, L]) and the projection of their mean.
    null, style = self.inputs.null_class, self._style()
    sizes = text.width, text.layers, text.heads
    features = TextFeatures(*sizes, null, **style, name='text')
    words, mask = features(cond, batch_size)
    pooled = mean_of_words(words, mask)
    pooled = dense(pooled, 4 * self.channels, 'text_pooled', **style)
    return (words, mask), pooled

  def _embed(self, noise, cond):
    h = sinusoidal(noise, self.channels, kind=self.noise_embedding)
    embedding = noise_and_label(
      h, cond, 4 * self.channels, self.inputs, **self._style()
    )
    steps = self.channels, 4 * self.channels, self.noise_embedding
    return embedding + of_step(self.inputs, cond, *steps, self.dtype)
