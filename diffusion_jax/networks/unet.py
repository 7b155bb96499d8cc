"""The U-Nets of Ho et al. 2020 and of OpenAI."""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.networks.attention import Attention, CrossAttention
from diffusion_jax.networks.blocks import (
  ResnetBlock,
  decode,
  encode,
  make_block,
  output_conv,
)
from diffusion_jax.networks.context import read_context
from diffusion_jax.networks.embeddings import (
  noise_and_label,
  of_step,
  sinusoidal,
  with_inputs,
)
from diffusion_jax.networks.inputs import STEP_INPUTS, Inputs
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
  noise's, its words are attended to like a text's, its channels join x's.

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
    embedding, words, x = self._conditions(x, noise, cond)

    def residual(h, level, name, resample=None):
      options = {'features': widths[level], 'resample': resample}
      return make_block(ResnetBlock, self, name, **options)(h, embedding, train)

    def block(h, level, name):
      h = residual(h, level, f'{name}_block')
      if attention_size(h.shape[1:-1]) in self.attention_resolutions:
        h = attend(h, name)
      return h

    def attend(h, name, **options):
      options['implementation'] = self.attention
      h = make_block(Attention, self, f'{name}_attention', **options)(h)
      for kind, sequence in words.items():
        h = make_block(CrossAttention, self, f'{name}_{kind}')(h, *sequence)
      return h

    def halve(h, level, name):
      if self.resblock_updown:
        return residual(h, level, name, average_pool)
      return Downsample(self.downsample_padding, **self.style, name=name)(h)

    def double(h, level, name):
      if self.resblock_updown:
        return residual(h, level, name, nearest_upsample)
      return Upsample(**self.style, name=name)(h)

    h = Conv(stem, **self.style, name='conv_in')(x)
    maps = encode(h, len(widths), self.num_blocks, block, halve)
    h = residual(maps[-1], -1, 'middle_0_block')
    if self.middle_attention != 'none':
      h = attend(h, 'middle', pre_norm=self.middle_attention != 'plain')
    h = residual(h, -1, 'middle_1_block')
    h = decode(h, maps, len(widths), self.num_blocks + 1, block, double)
    return output_conv(self, self.out_channels, h)

  def _conditions(self, x, noise, cond):
    # Returns the embedding of noise and conditions, the words by kind with
    # their masks, and x with further channels.
    width, words = 4 * self.channels, {}
    h = sinusoidal(noise, self.channels, kind=self.noise_embedding)
    embedding = noise_and_label(h, cond, width, self.inputs, **self.style)
    steps = self.channels, width, self.noise_embedding
    embedding += of_step(self.inputs, cond, *steps, self.dtype)
    if text := self.inputs.text:
      sizes = text.width, text.layers, text.heads, self.inputs.null_class
      features = TextFeatures(*sizes, **self.style, name='text')
      words['text'] = features(cond, len(x))
      pooled = mean_of_words(*words['text'])
      embedding += dense(pooled, width, 'text_pooled', **self.style)
    context = read_context(self.inputs, x, cond, width, **self.style)
    if context.embedding is not None:
      embedding += context.embedding
    if context.words is not None:
      words['context'] = context.words
    return embedding, words, with_inputs(self.inputs, x, cond, context.channels)
