"""The magnitude-preserving U-Net of Karras et al. 2024 (EDM2, config G).

The magnitude is the root mean square. For independent inputs of magnitude 1 the
outputs of its layers have magnitude 1 too, for any weights, without biases and
norms with parameters. Norms and weights are float32.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffusion_jax.aliases import Fused, Params
from diffusion_jax.declared import Free, declares
from diffusion_jax.networks.attention import attend
from diffusion_jax.networks.blocks import decode, encode, make_block
from diffusion_jax.networks.cpu.bilinear import linear
from diffusion_jax.networks.cpu.convolution import conv2d
from diffusion_jax.networks.cpu.half import times
from diffusion_jax.networks.embeddings import labelled
from diffusion_jax.networks.fused import of_unet
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.layers import average_pool, nearest_upsample
from diffusion_jax.networks.options import (
  AttentionImplementation,
  Checked,
  Dtype,
  Multipliers,
  RematPolicy,
  check_sides,
  count_heads,
)
from diffusion_jax.networks.placement import whole_weights
from diffusion_jax.ranges import Count, Rate, Size

Array = jax.Array
Axes = int | tuple[int, ...] | None

EPSILON = 1e-4  # added to the divisor of `normalize`


def magnitude(x: Array, axis: Axes) -> Array:
  """Returns the root mean square over `axis`, which is kept; float32."""
  square = jnp.mean(jnp.square(x.astype(jnp.float32)), axis, keepdims=True)
  # The root has no gradient at 0.
  return jnp.sqrt(jnp.maximum(square, 1e-30))


def normalize(x: Array, axis: Axes = -1) -> Array:
  """Returns x / (1e-4 + magnitude), float32 (EDM2, Eq. 30 and 50).

  Over the channels, axis -1, this is pixel normalisation.
  """
  return x.astype(jnp.float32) / (EPSILON + magnitude(x, axis))


def mp_silu(x: Array) -> Array:
  """Returns silu(x) / 0.596, of magnitude 1 for x ~ N(0, 1) (EDM2, Eq. 81)."""
  return jax.nn.silu(x) / 0.596


def mp_sum(a: Array, b: Array, t: float) -> Array:
  """Returns ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2) (EDM2, Eq. 88)."""
  return ((1.0 - t) * a + t * b) / math.hypot(1.0 - t, t)


def mp_cat(a: Array, b: Array, t: float = 0.5) -> Array:
  """Concatenates channels, which contribute as 1 - t to t (EDM2, Eq. 103).

  [..., N] and [..., M] -> [..., N + M]: a sqrt((N + M) / N) (1 - t) / h and
  b sqrt((N + M) / M) t / h with h = sqrt((1 - t)^2 + t^2).
  """
  n, m = a.shape[-1], b.shape[-1]
  h = math.hypot(1.0 - t, t)
  a = a * ((1.0 - t) / h * math.sqrt((n + m) / n))
  b = b * (t / h * math.sqrt((n + m) / m))
  return jnp.concatenate([a, b], axis=-1)


def unit_kernel(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
  """Draws a kernel [..., fan_in, features] of N(0, 1), normalised exactly."""
  return _exactly(jax.random.normal(key, shape, dtype))


def _exactly(kernel):
  # No epsilon: a step leaves the norms where they are, to rounding.
  return kernel / magnitude(kernel, _inputs(kernel))


def _inputs(kernel):
  return tuple(range(kernel.ndim - 1))


def normalize_kernels(params: Params) -> Params:
  """Returns the parameters with kernels of magnitude 1 per output channel.

  Forced weight normalisation (EDM2, section 2.3), after every step of an
  optimizer: a kernel of n inputs gets rows of norm sqrt(n). Other leaves are
  returned unchanged.
  """

  def leaf(path, x):
    return _exactly(x) if path[-1].key == 'kernel' else x

  return jax.tree_util.tree_map_with_path(leaf, params)


class MPConv(nn.Module):
  """Computes a linear map or a convolution with normalised weights.

  kernel_size 0: [..., C] -> [..., features]; else [B, H, W, C], with zeros
  around. The weights are gain normalize(kernel) / sqrt(fan_in), so that each
  row has the norm `gain` (EDM2, section 2.3).
  """

  features: int
  kernel_size: int = 0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, gain: Array | float = 1.0) -> Array:
    size = self.kernel_size
    window = (size, size) if size else ()
    shape = (*window, x.shape[-1], self.features)
    kernel = self.param('kernel', unit_kernel, shape, jnp.float32)
    fan_in = math.prod(shape[:-1])
    weight = normalize(kernel, _inputs(kernel)) * (gain / math.sqrt(fan_in))
    # Under FSDP a device normalises its part, and the result is gathered.
    weight = whole_weights(weight.astype(self.dtype))
    x = x.astype(self.dtype)
    if not size:
      return linear(x, weight)
    pad = (size - 1) // 2, size // 2
    return conv2d(x, weight, 1, (pad, pad))


class MPFourier(nn.Module):
  """Computes sqrt(2) cos(2 pi (f_i noise + p_i)): [B] -> [B, features].

  f_i ~ N(0, 1) and p_i ~ U(0, 1) are parameters that are not trained; always
  float32 (EDM2, Eq. 75).
  """

  features: int

  @nn.compact
  def __call__(self, noise: Array) -> Array:
    shape = (self.features,)
    frequencies = self.param('frequencies', nn.initializers.normal(1.0), shape, jnp.float32)
    phases = self.param('phases', nn.initializers.uniform(1.0), shape, jnp.float32)
    frequencies, phases = jax.lax.stop_gradient((frequencies, phases))
    turns = noise.astype(jnp.float32)[:, None] * frequencies[None]
    return math.sqrt(2.0) * jnp.cos(2.0 * math.pi * (turns + phases[None]))


class Uncertainty(Checked):
  """Computes u(noise) [B] of noise [B], the log-variance of a denoiser's error.

  An `MPConv` of an `MPFourier` of `channels` (EDM2, section 2.2 and
  appendix B).
  """

  channels: Size = 128

  @nn.compact
  def __call__(self, noise: Array) -> Array:
    h = MPFourier(self.channels, name='fourier')(noise)
    return MPConv(1, name='linear')(h)[:, 0]

  @staticmethod
  def constrain(params: Params) -> Params:
    """Returns the parameters as they are after a step: `normalize_kernels`."""
    return normalize_kernels(params)


BALANCE = 0.3  # t of `mp_sum` for the branch of a block and for attention
LARGEST = 256.0  # the largest activation between blocks


class EDM2Block(Checked):
  """Computes [B, H, W, C], embedding [B, E] -> [B, H, W, features].

  The branch is mp_silu, conv, times 1 + gain * linear(embedding), mp_silu,
  dropout, conv; gain begins at 0. In the encoder the input is resampled,
  projected to `features` if it has another width, and normalised per pixel
  before the branch; in the decoder (`decoder`) it is not normalised, and the
  branch sees it before the projection. With num_heads > 0 attention follows:
  queries, keys and values are normalised per head (EDM2, Figure 21).
  """

  features: Size
  decoder: bool = False
  num_heads: Count = 0
  resample: Callable[[Array], Array] | None = None
  dropout: Rate = 0.0
  attention: AttentionImplementation = 'auto'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, embedding: Array, train: bool) -> Array:
    if self.resample is not None:
      x = self.resample(x)
    if not self.decoder:
      x = normalize(self._shortcut(x)).astype(self.dtype)
    h = self._conv(mp_silu(x), 'conv_1', 3)
    gain = self.param('embedding_gain', nn.initializers.zeros, (), jnp.float32)
    project = MPConv(self.features, dtype=self.dtype, name='embedding_proj')
    scale = 1.0 + project(embedding, gain)
    h = mp_silu(times(h, scale[:, None, None]))
    h = nn.Dropout(self.dropout, deterministic=not train, name='dropout')(h)
    h = self._conv(h, 'conv_2', 3)
    if self.decoder:
      x = self._shortcut(x)
    x = mp_sum(x, h, BALANCE)
    if self.num_heads:
      x = mp_sum(x, self._attend(x), BALANCE)
    return jnp.clip(x, -LARGEST, LARGEST)

  def _conv(self, x, name, size=0, features=None):
    features = features or self.features
    return MPConv(features, size, dtype=self.dtype, name=name)(x)

  def _shortcut(self, x):
    if x.shape[-1] == self.features:
      return x
    return self._conv(x, 'shortcut')

  def _attend(self, x):
    batch, height, width, channels = x.shape
    h = self._conv(x, 'qkv', features=3 * channels)
    # The channels are [heads, channels of a head, q k v], as in EDM.
    h = h.reshape(batch, height * width, self.num_heads, -1, 3)
    h = normalize(h, -2).astype(self.dtype)
    q, k, v = jnp.moveaxis(h, -1, 0)
    h = attend(q, k, v, implementation=self.attention)
    return self._conv(h.reshape(x.shape), 'proj_out')


@declares(
  what="[EDM2](#edm2)'s U-Net, whose activations, weights and updates keep their magnitudes",
  needs='an image only',
  data='grid',
)
class EDM2(Checked):
  """Computes a U-Net: x [B, H, W, C], noise [B] -> [B, H, W, out_channels].

  x has magnitude 1 and noise is a logarithm, ln(sigma) / 4 (`dj.edm_input`).
  The widths of the sizes XS, S, M, L, XL and XXL are 128, 192, ..., 448
  channels. Attention, in heads of `head_channels`, follows each block at the
  heights in `attention_resolutions` and the first one of the decoder. Of
  `inputs` it takes the label, which enters as one-hot * sqrt(classes); the null
  class is one more (`labelled`). The output begins at 0. `constrain` must
  follow every step of the optimizer (forced weight normalisation).
  """

  takes: ClassVar = ('label',)

  channels: Size = 192
  multipliers: Multipliers = (1, 2, 3, 4)
  num_blocks: Size = 3
  attention_resolutions: Sequence[Size] = (16, 8)
  head_channels: Size = 64
  dropout: Rate = 0.0
  out_channels: Size = 3
  inputs: Inputs = Inputs()
  attention: AttentionImplementation = 'auto'
  remat: Free[bool] = False
  remat_policy: RematPolicy = 'nothing'
  dtype: Dtype = jnp.float32

  @staticmethod
  def constrain(params: Params) -> Params:
    """Returns the parameters as they are after a step: `normalize_kernels`."""
    return normalize_kernels(params)

  @property
  def fused(self) -> Fused:
    return of_unet('interleaved', 1, self.head_channels)

  @nn.compact
  def __call__(self, x: Array, noise: Array, cond: dict | None = None, *, train=False) -> Array:
    cond = cond or {}
    widths = [int(self.channels * m) for m in self.multipliers]
    check_sides(x, len(widths))
    self.inputs.check(cond)
    embedding = self._embed(noise, cond, widths)

    def make(h, level, name, attend=None, **options):
      if attend is None:
        attend = h.shape[1] in self.attention_resolutions
      width = widths[level]
      heads = count_heads(1, self.head_channels, width) if attend else 0
      options = {'features': width, 'num_heads': heads, **options}
      return make_block(EDM2Block, self, f'{name}_block', **options)(h, embedding, train)

    def decoded(h, level, name, **options):
      return make(h, level, name, decoder=True, **options)

    def halve(h, level, _):
      return make(h, level, f'down_{level + 1}_first', attend=False, resample=average_pool)

    def double(h, level, _):
      return decoded(h, level, f'up_{level - 1}_first', attend=False, resample=nearest_upsample)

    # A channel of ones takes the place of biases.
    h = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
    h = MPConv(widths[0], 3, dtype=self.dtype, name='conv_in')(h)
    levels, count = len(widths), self.num_blocks
    maps = encode(h, levels, count, make, halve)
    h = decoded(maps[-1], -1, 'middle_0', attend=True)
    h = decoded(h, -1, 'middle_1', attend=False)
    h = decode(h, maps, levels, count + 1, block=decoded, double=double, join=mp_cat)

    # The last layer is always float32.
    gain = self.param('gain_out', nn.initializers.zeros, (), jnp.float32)
    return MPConv(self.out_channels, 3, name='conv_out')(h, gain)

  def _embed(self, noise, cond, widths):
    # Returns [B, the largest width], float32 until it is projected.
    h = MPFourier(widths[0], name='noise_fourier')(noise)
    h = MPConv(max(widths), name='noise_linear')(h)
    classes = self.inputs.num_classes
    if classes:
      count = classes + self.inputs.null_class
      linear = MPConv(max(widths), name='label_linear')

      def row(label):
        return linear(math.sqrt(count) * jax.nn.one_hot(label, count))

      h = mp_sum(h, labelled(self.inputs, cond, row, noise.shape[0]), 0.5)
    return mp_silu(h)
