"""Autoencoders with a Gaussian encoder: one layer of latents, or a chain.

They are the encoder and decoder of VAEs (Kingma & Welling 2014), and of the KL
autoencoder of Rombach et al. 2022 (section 3.1) without its discriminator and
its perceptual loss. Without these the loss is a bound on log p(x).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.declared import declares
from diffusion_jax.networks.attention import Attention
from diffusion_jax.networks.blocks import ResnetBlock, make_block, output_conv
from diffusion_jax.networks.layers import Conv, Downsample, GroupNorm, Upsample, dense
from diffusion_jax.networks.options import (
  Checked,
  Dtype,
  Initialization,
  MiddleAttention,
  Multipliers,
  check_sides,
)
from diffusion_jax.ranges import Count, Positive, Rate, Size

Array = jax.Array

LOG_VARIANCE = 10.0


def soft_clip(x: Array, limit: float) -> Array:
  """Returns limit * tanh(x / limit), which is near x for small |x|."""
  return limit * jnp.tanh(x / limit)


def mean_and_log_variance(h: Array, limits: Sequence[float] | None = None) -> tuple[Array, Array]:
  """Splits the channels in halves, the second clipped to +-LOG_VARIANCE.

  The clipping is soft. With limits (low, high) it is hard, and the gradient
  beyond them is 0.
  """
  mean, log_variance = jnp.split(h, 2, axis=-1)
  if limits is not None:
    return mean, jnp.clip(log_variance, *limits)
  return mean, soft_clip(log_variance, LOG_VARIANCE)


class Layers(NamedTuple):
  """Holds the options that an encoder and its decoder share."""

  channels: int
  multipliers: Sequence[float]
  num_blocks: int
  attention_resolutions: Sequence[int]
  dropout: float
  num_groups: int
  norm_eps: float
  initializer: Initialization
  dtype: Dtype

  @property
  def widths(self):
    """The channels of each level, the first at full resolution."""
    return [int(self.channels * m) for m in self.multipliers]

  @property
  def style(self):
    """Options of the inner layers; the last layers are always float32."""
    return {'initializer': self.initializer, 'dtype': self.dtype}


class Encoder(nn.Module):
  """Encodes [B, H, W, C] -> [B, h, w, features], float32, h = H / 2^(levels-1).

  The encoder of a U-Net and `middle_blocks`. With `flat` a last dense layer
  maps all features to [B, features].
  """

  features: int
  layers: Layers
  flat: bool = False
  middle: MiddleAttention | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    c = self.layers
    check_sides(x, len(c.multipliers))
    h = Conv(c.channels, **c.style, name='conv_in')(x)
    for level, width in enumerate(c.widths):
      if level > 0:
        h = Downsample(**c.style, name=f'down_{level}_downsample')(h)
      for i in range(c.num_blocks):
        h = block(c, h, width, train, f'down_{level}_{i}')
    h = middle_blocks(c, h, train, self.middle)
    h = nn.swish(GroupNorm(c.num_groups, c.norm_eps, name='norm_out')(h))
    if not self.flat:
      conv = Conv(self.features, initializer=c.initializer, name='conv_out')
      return conv(h)
    h = h.reshape(len(h), -1)
    return dense(h, self.features, 'dense_out', initializer=c.initializer)


class Decoder(nn.Module):
  """Decodes z [B, h, w, c] -> [B, H, W, out_channels], float32.

  With `flat` = (h, w), z is [B, D] and a dense layer comes first;
  `middle_blocks` follow. A level has `num_blocks` blocks, by default as many as
  in the encoder. The last convolution begins at 0, so the output of a new
  decoder does not depend on z.
  """

  out_channels: int
  layers: Layers
  flat: tuple[int, int] | None = None
  middle: MiddleAttention | None = None
  num_blocks: int | None = None

  @nn.compact
  def __call__(self, z: Array, train: bool = False) -> Array:
    c = self.layers
    width = c.widths[-1]
    if self.flat is None:
      h = Conv(width, **c.style, name='conv_in')(z)
    else:
      h = dense(z, width * self.flat[0] * self.flat[1], 'dense_in', **c.style)
      h = h.reshape(len(z), *self.flat, width)
    h = middle_blocks(c, h, train, self.middle)
    count = c.num_blocks if self.num_blocks is None else self.num_blocks
    for level, width in reversed(list(enumerate(c.widths))):
      for i in range(count):
        h = block(c, h, width, train, f'up_{level}_{i}')
      if level > 0:
        h = Upsample(**c.style, name=f'up_{level}_upsample')(h)
    return output_conv(c, self.out_channels, h)


def block(c: Layers, h: Array, width: int, train: bool, name: str) -> Array:
  """Applies a residual block and, at some heights, attention: `name`_*."""
  h = make_block(ResnetBlock, c, f'{name}_block', features=width)(h, None, train)
  if h.shape[1] in c.attention_resolutions:
    h = make_block(Attention, c, f'{name}_attention')(h)
  return h


def middle_blocks(c: Layers, h: Array, train: bool, middle: MiddleAttention | None) -> Array:
  """Applies two residual blocks with attention of one head between them.

  middle: see `middle_attention` of `UNet`; None applies no blocks at all.
  """
  if middle is None:
    return h
  for i in range(2):
    if i and middle != 'none':
      pre_norm = middle == 'norm'
      h = make_block(Attention, c, 'middle_attention', pre_norm=pre_norm, num_heads=1)(h)
    h = make_block(ResnetBlock, c, f'middle_{i}_block', features=h.shape[-1])(h, None, train)
  return h


@declares(
  what='`latent_dim` = D: latents are a vector of D numbers; `latent_dim=0`: an image of '
  '`latent_channels`, halved once for every entry of `multipliers` but the first',
  needs='`objective=vae`',
)
class Autoencoder(Checked):
  """Computes the parameters of a Gaussian q(z | x) and of p(x | z).

  encode: x [B, H, W, C] -> (mean, log_variance) of z; decode: z -> [B, H, W,
  out_channels], the parameters of a distribution of x. z is a vector
  [B, latent_dim], or with latent_dim=0 an image [B, h, w, latent_channels], h =
  H / 2^(levels - 1), as in Rombach et al. 2022. image_size: (H, W).
  Log-variances are clipped softly to +-10.

  The published networks of Rombach et al. have `middle_attention` (see
  `middle_blocks`), `decoder_blocks` = num_blocks + 1 blocks per level of the
  decoder, 1x1 convolutions around z (`latent_convs`), and log-variances clipped
  to `log_variance_limits` = (-30, 20).
  """

  image_size: tuple[Size, Size]
  out_channels: Size
  latent_dim: Count = 0
  latent_channels: Size = 4
  channels: Size = 64
  multipliers: Multipliers = (1, 2, 2)
  num_blocks: Size = 1
  attention_resolutions: Sequence[Size] = ()
  dropout: Rate = 0.0
  num_groups: Size = 32
  norm_eps: Positive = 1e-6
  middle_attention: MiddleAttention | None = None
  decoder_blocks: Size | None = None
  latent_convs: bool | None = None
  log_variance_limits: tuple[float, float] | None = None
  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32

  def setup(self):
    layers = layers_of(self)
    factor = 2 ** (len(self.multipliers) - 1)
    flat = self.latent_dim > 0
    size = tuple(side // factor for side in self.image_size) if flat else None
    features = 2 * (self.latent_dim if flat else self.latent_channels)
    middle = self.middle_attention
    self.encoder = Encoder(features, layers, flat, middle)
    self.decoder = Decoder(self.out_channels, layers, size, middle, self.decoder_blocks)
    if self.latent_convs:
      if flat:
        raise ValueError('latent_convs need image latents: set latent_dim=0')
      size = {'kernel_size': 1, 'initializer': self.initializer}
      self.encoder_conv = Conv(features, **size)
      self.decoder_conv = Conv(self.latent_channels, **size)

  def encode(self, x: Array, train: bool = False) -> tuple[Array, Array]:
    """Returns (mean, log_variance) of q(z | x)."""
    h = self.encoder(x, train)
    if self.latent_convs:
      h = self.encoder_conv(h)
    return mean_and_log_variance(h, self.log_variance_limits)

  def decode(self, z: Array, train: bool = False) -> Array:
    """Returns the parameters of p(x | z), [B, H, W, out_channels]."""
    if self.latent_convs:
      z = self.decoder_conv(z)
    return self.decoder(z, train)

  def __call__(self, x: Array, train: bool = False) -> Array:
    """Returns `decode` at the mean of z, which uses all parameters."""
    return self.decode(self.encode(x, train)[0], train)


def layers_of(module: nn.Module) -> Layers:
  """Returns the `Layers` of a module with these fields."""
  return Layers(*(getattr(module, name) for name in Layers._fields))


class Perceptron(nn.Module):
  """Maps [B, D] -> [B, outputs] by hidden layers with tanh, then dropout."""

  outputs: int
  hidden: Sequence[int]
  dropout: float
  initializer: Initialization

  @nn.compact
  def __call__(self, h: Array, train: bool = False) -> Array:
    for i, width in enumerate(self.hidden):
      h = dense(h, width, f'dense_{i}', initializer=self.initializer)
      h = nn.Dropout(self.dropout, deterministic=not train)(nn.tanh(h))
    return dense(h, self.outputs, 'dense_out', initializer=self.initializer)


@declares(
  what='`hidden`, `latent_dim` = D (Burda et al. 2016): latents are a vector of D numbers',
  needs='`objective=vae`',
)
class PerceptronAutoencoder(Checked):
  """Computes the parameters of q(z | x) and of p(x | z) by perceptrons.

  encode: x [B, H, W, C] -> (mean, log_variance) of z [B, latent_dim]; decode: z
  -> [B, H, W, out_channels]. The hidden layers of the decoder are the encoder's
  in reverse; two of 200 with 50 latents are used by Burda et al. 2016. Any size
  of image is allowed; log-variances are clipped softly to +-10.
  """

  image_size: tuple[Size, Size]
  out_channels: Size
  latent_dim: Size = 50
  hidden: Sequence[Size] = (200, 200)
  dropout: Rate = 0.0
  initializer: Initialization = 'lecun'

  def setup(self):
    height, width = self.image_size
    style = {'dropout': self.dropout, 'initializer': self.initializer}
    self.encoder = Perceptron(2 * self.latent_dim, self.hidden, **style)
    pixels = height * width * self.out_channels
    self.decoder = Perceptron(pixels, self.hidden[::-1], **style)

  def encode(self, x: Array, train: bool = False) -> tuple[Array, Array]:
    """Returns (mean, log_variance) of q(z | x)."""
    return mean_and_log_variance(self.encoder(x.reshape(len(x), -1), train))

  def decode(self, z: Array, train: bool = False) -> Array:
    """Returns the parameters of p(x | z), [B, H, W, out_channels]."""
    h = self.decoder(z, train)
    return h.reshape(len(h), *self.image_size, self.out_channels)

  def __call__(self, x: Array, train: bool = False) -> Array:
    """Returns `decode` at the mean of z, which uses all parameters."""
    return self.decode(self.encode(x, train)[0], train)


class Transition(nn.Module):
  """Maps latents z [B, h, w, c] to (mean, log_variance) of the next ones.

  The mean is z plus the output of residual blocks, so that a new chain passes z
  from layer to layer: with a mean of 0 the upper layers would never be used.
  """

  layers: Layers

  @nn.compact
  def __call__(self, z: Array, train: bool = False) -> tuple[Array, Array]:
    c = self.layers
    width = c.widths[-1]
    h = Conv(width, **c.style, name='conv_in')(z)
    for i in range(c.num_blocks):
      h = block(c, h, width, train, f'middle_{i}')
    h = output_conv(c, 2 * z.shape[-1], h)
    mean, log_variance = mean_and_log_variance(h)
    return z + mean, log_variance


@declares(what='`num_latents` = T: latents are T images of one size', needs='`objective=hvae`')
class HierarchicalAutoencoder(Checked):
  """Computes q(z_t | z_{t-1}) and p(z_{t-1} | z_t), t = 1..T, z_0 = x.

  encode(t, z_{t-1}) -> (mean, log_variance) of z_t; decode(t, z_t) -> (mean,
  log_variance) of z_{t-1}, or for t = 1 the parameters of p(x | z_1). All
  T = num_latents layers are images [B, h, w, latent_channels], h = H /
  2^(levels - 1). Options are described in `Autoencoder`. t: Python int.
  """

  out_channels: Size
  num_latents: Size = 3
  latent_channels: Size = 4
  channels: Size = 64
  multipliers: Multipliers = (1, 2, 2)
  num_blocks: Size = 1
  attention_resolutions: Sequence[Size] = ()
  dropout: Rate = 0.0
  num_groups: Size = 32
  norm_eps: Positive = 1e-6
  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32

  def setup(self):
    layers = layers_of(self)
    self.encoder = Encoder(2 * self.latent_channels, layers)
    self.decoder = Decoder(self.out_channels, layers)

    def steps(name):
      return [Transition(layers, name=f'{name}_{t}') for t in range(2, self.num_latents + 1)]

    self.encoders, self.decoders = steps('encode'), steps('decode')

  def encode(self, t: int, z: Array, train: bool = False):
    """Returns (mean, log_variance) of q(z_t | z_{t-1})."""
    if t == 1:
      return mean_and_log_variance(self.encoder(z, train))
    return self.encoders[t - 2](z, train)

  def decode(self, t: int, z: Array, train: bool = False):
    """Returns (mean, log_variance) of p(z_{t-1} | z_t); or p(x | z_1)."""
    if t == 1:
      return self.decoder(z, train)
    return self.decoders[t - 2](z, train)

  def __call__(self, x: Array, train: bool = False) -> Array:
    """Encodes and decodes by the means, which uses all parameters."""
    z = x
    for t in range(1, self.num_latents + 1):
      z, _ = self.encode(t, z, train)
    for t in range(self.num_latents, 1, -1):
      z, _ = self.decode(t, z, train)
    return self.decoder(z, train)
