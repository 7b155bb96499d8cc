"""The U-Nets of Ho et al. 2020 and of OpenAI, and OpenAI's noisy classifier."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.aliases import Fused
from diffusion_jax.declared import Free, declares
from diffusion_jax.networks.attention import Attention, CrossAttention, attend
from diffusion_jax.networks.blocks import (
  MakePart,
  ResnetBlock,
  decode,
  encode,
  make_block,
  output_conv,
)
from diffusion_jax.networks.context import TextFeatures, mean_of_words, read_context
from diffusion_jax.networks.embeddings import (
  noise_and_label,
  noise_layers,
  of_step,
  sinusoidal,
  with_inputs,
)
from diffusion_jax.networks.fused import of_unet
from diffusion_jax.networks.inputs import STEP_INPUTS, Inputs
from diffusion_jax.networks.layers import (
  Conv,
  Downsample,
  GroupNorm,
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
  check_block,
  check_sides,
  count_heads,
)
from diffusion_jax.ranges import Positive, Rate, Size, at_least

Array = jax.Array


@declares(
  what='a U-Net (Ho et al. 2020): convolutions and changes of resolution on every axis',
  needs='a sequence [N, C], an image [H, W, C], a volume [D, H, W, C]',
)
class UNet(Checked):
  """Computes a U-Net: x [B, H, W, C], noise [B] -> [B, H, W, out_channels].

  The defaults are DDPM's network for CIFAR-10, 35,746,307 parameters, without
  its dropout of 0.1. Sequences are x [B, N, C], and volumes [B, D, H, W, C].
  All sides must be multiples of 2^(levels - 1). Attention follows every block
  whose feature maps have a height in `attention_resolutions`; for sequences and
  volumes a number of positions.

  `inputs` are the entries of cond. The `LabelEmbedding` of the label and
  `of_step` are added to the embedding of the noise, and `with_inputs` to the
  channels of x. With a prompt, a `CrossAttention` to its words (`TextFeatures`)
  follows every attention, and their mean is added to the embedding of the
  noise. `read_context` reads a context: its embedding is added to the noise's,
  the words are attended to like a prompt's, the channels join x's.

  Options of OpenAI's networks (Nichol & Dhariwal 2021, Dhariwal & Nichol 2021)
  are described in `ResnetBlock`, `Attention`, `Downsample`, `initializers` and
  `sinusoidal`. With `resblock_updown` residual blocks change the resolution.
  `stem_channels` is the width of the first convolution. `middle_attention` has
  a norm before it ('norm'), has no norm ('plain', as in diffusers with
  scale_shift), or is left out ('none'). `remat` and `remat_policy` save memory
  (`maybe_remat`). at: of the block, whose feature map is returned after the output, with its
  attention: num_blocks at each level of the encoder, two in the middle, and num_blocks + 1 at
  each level of the decoder, counted from 0.
  """

  takes: ClassVar = ('label', 'text', 'image', 'x0', 'context', *STEP_INPUTS)

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
  remat: Free[bool] = False
  remat_policy: RematPolicy = 'nothing'
  dtype: Dtype = jnp.float32

  @property
  def fused(self) -> Fused:
    return of_unet(self.qkv, self.num_heads, self.head_channels, self.scale_shift)

  @nn.compact
  def __call__(
    self,
    x: Array,
    noise: Array,
    cond: dict | None = None,
    *,
    train: bool = False,
    at: int | None = None,
  ) -> Any:
    cond, levels = cond or {}, len(self.multipliers)
    check_block(at, 2 + levels * (2 * self.num_blocks + 1))
    check_sides(x, levels, (1, 2, 3))
    self.inputs.check(cond)
    embedding, words, x = self._conditions(x, noise, cond)

    def attend(h, name):
      options: dict = {'implementation': self.attention}
      if name == 'middle':
        if self.middle_attention == 'none':
          return h
        options['pre_norm'] = self.middle_attention != 'plain'
      h = make_block(Attention, self, f'{name}_attention', **options)(h)
      for kind, sequence in words.items():
        h = make_block(CrossAttention, self, f'{name}_{kind}')(h, *sequence)
      return h

    def double(h, level, name):
      if self.resblock_updown:
        return residual(h, level, name, nearest_upsample)
      return Upsample(**self.style, name=name)(h)

    blocks: list[Array] = []
    down = down_and_middle(self, x, embedding, attend, train, blocks.append)
    h, maps, residual, block = down
    h = decode(h, maps, levels, self.num_blocks + 1, block, double)
    output = output_conv(self, self.out_channels, h)
    return output if at is None else (output, blocks[at])

  def _conditions(self, x, noise, cond):
    # Returns the embedding, the words by kind with masks, and x with conditions.
    width, words = 4 * self.channels, {}
    h = sinusoidal(noise, self.channels, kind=self.noise_embedding)
    embedding = noise_and_label(h, cond, width, self.inputs, **self.style)
    embedding += of_step(self.inputs, cond, self.channels, width, self.noise_embedding, self.dtype)
    if text := self.inputs.text:
      null = self.inputs.null_class
      features = TextFeatures(text.width, text.layers, text.heads, null, **self.style, name='text')
      words['text'] = features(cond, x.shape[0])
      embedding += dense(mean_of_words(*words['text']), width, 'text_pooled', **self.style)
    channels = None
    if self.inputs.context:
      context = read_context(self.inputs, x, cond, width, **self.style)
      channels = context.channels
      if context.embedding is not None:
        embedding += context.embedding
      if context.words is not None:
        words['context'] = context.words
    return embedding, words, with_inputs(self.inputs, x, cond, channels)


def down_and_middle(
  network: Any,
  x: Array,
  embedding: Array,
  attend: Callable[[Array, str], Array],
  train: bool,
  see: Callable[[Array], object] = lambda h: None,
) -> tuple[Array, list[Array], Callable, MakePart]:
  """Applies the encoder and the middle of a `UNet` or a `NoisyClassifier`.

  attend: (h, name) -> h, the attention after a block; see: called with the feature map after
  each block. Returns the output, the
  feature maps of the encoder, and the functions that make residual blocks and
  blocks with attention.
  """
  widths = [int(network.channels * m) for m in network.multipliers]

  def residual(h, level, name, resample=None):
    width = widths[level]
    module = make_block(ResnetBlock, network, name, features=width, resample=resample)
    return module(h, embedding, train)

  def block(h, level, name):
    h = residual(h, level, f'{name}_block')
    attends = attention_size(h.shape[1:-1]) in network.attention_resolutions
    h = attend(h, name) if attends else h
    see(h)
    return h

  def halve(h, level, name):
    if network.resblock_updown:
      return residual(h, level, name, average_pool)
    return Downsample(network.downsample_padding, **style, name=name)(h)

  stem, style = network.stem_channels, network.style
  stem = network.channels if stem is None else stem
  h = Conv(stem, **style, name='conv_in')(x)
  maps = encode(h, len(widths), network.num_blocks, block, halve)
  h = attend(residual(maps[-1], -1, 'middle_0_block'), 'middle')
  see(h)
  h = residual(h, -1, 'middle_1_block')
  see(h)
  return h, maps, residual, block


@declares(
  what='the encoder of the U-Net with attention pooling, which '
  '[guides](guidance.md#with-a-classifier)',
  needs='an image only',
)
class NoisyClassifier(Checked):
  """Computes logits [B, K], float32, of noisy images x [B, H, W, C].

  The layers are the encoder and the middle of `UNet`, with its options, then
  norm, swish and `AttentionPool` to K = num_classes logits. noise: [B]. cond
  must be empty. Width and depth depend on the size of the images; the other
  defaults are the paper's.
  """

  num_classes: Annotated[int, at_least(2)]
  channels: Size = 128
  multipliers: Multipliers = (1, 2, 2, 2)
  num_blocks: Size = 2
  attention_resolutions: Sequence[Size] = (16, 8)
  dropout: Rate = 0.0
  num_groups: Size = 32
  stem_channels: Size | None = None
  noise_embedding: Sinusoids = 'openai'
  scale_shift: bool = True
  resblock_updown: bool = True
  downsample_padding: DownsamplePadding = 'symmetric'
  num_heads: Size = 1
  head_channels: Size | None = None
  qkv: QKV = 'new'
  norm_eps: Positive = 1e-5
  initializer: Initialization = 'torch'
  dtype: Dtype = jnp.float32

  @property
  def fused(self) -> Fused:
    return of_unet(self.qkv, self.num_heads, self.head_channels, self.scale_shift)

  @nn.compact
  def __call__(self, x: Array, noise: Array, cond: dict | None = None, *, train=False) -> Array:
    check_sides(x, len(self.multipliers))
    if cond:
      raise ValueError(f'the network has no condition {sorted(cond)}')
    h = sinusoidal(noise, self.channels, kind=self.noise_embedding)
    embedding = noise_layers(h, 4 * self.channels, **self.style)

    def attend(h, name):
      return make_block(Attention, self, f'{name}_attention')(h)

    h, *_ = down_and_middle(self, x, embedding, attend, train)
    # The last layers are always float32.
    norm = GroupNorm(self.num_groups, self.norm_eps, name='norm_out')
    pool = AttentionPool(
      self.num_classes, self.num_heads, self.head_channels, self.initializer, name='pool'
    )
    return pool(nn.swish(norm(h)))


class AttentionPool(Checked):
  """Pools images by attention: [B, H, W, C] -> [B, features].

  The mean of the pixels is put before them as one more token, a learned
  embedding of the position is added to each, and the attention of the first
  token to all is mapped to features (Radford et al. 2021; Dhariwal & Nichol
  2021). For the heads see `Attention`, whose layout 'new' is used. The input of
  the last layer, [B, C], is sown as 'hidden'.
  """

  features: Size
  num_heads: Size = 1
  head_channels: Size | None = None
  initializer: Initialization = 'ho'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    batch, height, width, channels = x.shape
    tokens = x.reshape(batch, height * width, channels)
    tokens = jnp.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1)
    normal = nn.initializers.normal(channels**-0.5)
    tokens += self.param('places', normal, tokens.shape[1:], jnp.float32)[None]
    heads = count_heads(self.num_heads, self.head_channels, channels)
    qkv = dense(tokens, 3 * channels, 'qkv', initializer=self.initializer)
    q, k, v = jnp.moveaxis(qkv.reshape(*tokens.shape[:2], 3, heads, channels // heads), 2, 0)
    h = attend(q[:, :1], k, v).reshape(batch, channels)
    if not self.is_initializing():
      self.sow('hidden', 'pooled', h)
    return dense(h, self.features, 'proj_out', initializer=self.initializer)
