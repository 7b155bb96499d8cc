"""The layers of all image networks.

The defaults are the layers of Ho et al. 2020; options give those of OpenAI
(Nichol & Dhariwal 2021, Dhariwal & Nichol 2021) and of DDPM++ (Song et al.
2021, Karras et al. 2022). Parameters, norms and softmax are float32; other
computations have the type `dtype`.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffusion_jax.networks.cpu.convolution import conv2d
from diffusion_jax.networks.cpu.products import linear
from diffusion_jax.networks.group_norm import GroupNorm
from diffusion_jax.networks.remat import POLICIES, maybe_remat

Array = jax.Array
Initializer = nn.initializers.Initializer

INITIALIZERS = ('ho', 'torch', 'lecun')
PADDINGS = {'same': (0, 1), 'symmetric': (1, 1)}
QKV = ('separate', 'legacy', 'new', 'interleaved')
MIDDLE = ('norm', 'plain', 'none')
DTYPES = ('float32', 'bfloat16')
ATTENTION = ('xla', 'cudnn')
OPTIONS = {
  'initializer': INITIALIZERS,
  'downsample_padding': tuple(PADDINGS),
  'qkv': QKV,
  'middle_attention': MIDDLE,
  'dtype': DTYPES,
  'attention': ATTENTION,
  'remat_policy': tuple(POLICIES),
}


def check_name(field: str, value: str, known: Iterable[str]) -> None:
  """Raises ValueError, with the known names, if `value` is none of them."""
  if value not in known:
    raise ValueError(f'{field} {value!r} is not one of {", ".join(known)}')


def check_options(network: nn.Module, **options: Iterable[str]) -> None:
  """Raises ValueError for an option of a network that has an unknown name.

  The names of OPTIONS are known, and those of `options` (field=names). A dtype
  may also be a type, such as `jnp.bfloat16`, which is not checked. Raises it
  too for options that have no effect, or no implementation, by the others.
  """
  given: Any = vars(network)
  for field, known in (OPTIONS | options).items():
    value = given.get(field)
    if isinstance(value, str):
      check_name(field, value, known)
  if given.get('remat_policy', 'nothing') != 'nothing' and not given['remat']:
    raise ValueError('remat_policy has no effect without remat=True')
  cudnn = given.get('attention') == 'cudnn'
  if cudnn and jnp.dtype(given['dtype']) != jnp.bfloat16:
    raise ValueError("attention='cudnn' needs dtype bfloat16, or take 'xla'")


def check_sides(x: Array, num_levels: int) -> None:
  """Raises ValueError if [B, H, W, C] cannot be halved between levels."""
  factor = 2 ** (num_levels - 1)
  if x.shape[1] % factor or x.shape[2] % factor:
    raise ValueError(
      f'images of {x.shape[1]}x{x.shape[2]} cannot be halved '
      f'{num_levels - 1} times: sides must be multiples of {factor}, or '
      'network.multipliers shorter'
    )


def check_groups(num_groups: int, widths: Iterable[int]) -> None:
  """Raises ValueError if num_groups does not divide one of the widths."""
  for width in widths:
    if width < 1 or width % num_groups:
      raise ValueError(
        f'num_groups={num_groups} does not divide the {width} channels of a '
        'level: change num_groups, channels or multipliers'
      )


def initializers(
  kind: str, fan_in: int, zero: bool = False, scale: float = 1.0
) -> tuple[Initializer, Initializer]:
  """Returns the initializers of the kernel and of the bias of a layer.

  `zero` is for the last layer of a residual branch; `scale` multiplies the
  variance of the kernel.

  'ho': kernels are variance scaling over the mean of fan in and out, uniform,
  times 1e-10 at the end of a branch; biases are 0. 'torch': both are uniform
  within +-1 / sqrt(fan_in), PyTorch's default, and 0 at the end of a branch.
  'lecun', Flax's default: kernels are normal of variance 1 / fan_in, truncated,
  and 0 at the end of a branch; biases are 0.
  """
  check_name('initializer', kind, INITIALIZERS)
  zeros = nn.initializers.zeros
  if kind == 'lecun':
    normal = nn.initializers.variance_scaling(
      scale, 'fan_in', 'truncated_normal'
    )
    return zeros if zero else normal, zeros
  if kind == 'ho':
    scale = 1e-10 if zero else scale
    return nn.initializers.variance_scaling(scale, 'fan_avg', 'uniform'), zeros
  if zero:
    return zeros, zeros

  def uniform(variance):
    limit = (variance / fan_in) ** 0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
      key, shape, dtype, -limit, limit
    )

  return uniform(scale), uniform(1.0)


class Conv(nn.Module):
  """Computes a convolution with bias (`convolution.conv2d`).

  `padding` (before, after) applies to both axes; by default the padding is even
  and the output has the size of the input / stride. See `initializers` for
  `zero`.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  padding: tuple[int, int] | None = None
  initializer: str = 'ho'
  zero: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    size = self.kernel_size
    shape = (size, size, x.shape[-1], self.features)
    kernel_init, bias_init = initializers(
      self.initializer, size * size * x.shape[-1], self.zero
    )
    kernel = self.param('kernel', kernel_init, shape, jnp.float32)
    bias = self.param('bias', bias_init, (self.features,), jnp.float32)
    pad = self.padding or ((size - 1) // 2, size // 2)
    x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
    out = conv2d(x, kernel, self.stride, (pad, pad))
    return out + bias[None, None, None]


def dense(
  x: Array,
  features: int,
  name: str,
  *,
  initializer: str = 'ho',
  zero: bool = False,
  scale: float = 1.0,
  use_bias: bool = True,
  dtype: DTypeLike = jnp.float32,
) -> Array:
  """Returns a linear map of the last axis by the caller's submodule `name`."""
  kernel_init, bias_init = initializers(initializer, x.shape[-1], zero, scale)
  return nn.Dense(
    features,
    use_bias,
    dtype=dtype,
    kernel_init=kernel_init,
    bias_init=bias_init,
    dot_general=linear,
    name=name,
  )(x)


def group_norm(
  num_groups: int,
  dtype: DTypeLike = jnp.float32,
  name: str | None = None,
  epsilon: float = 1e-6,
) -> nn.Module:
  """Returns group normalisation with statistics in float32.

  The epsilon of Ho et al. is 1e-6.
  """
  return GroupNorm(num_groups, epsilon, dtype, name=name)


def count_groups(num_groups: int, channels: int, width: int) -> int:
  """Returns num_groups, or fewer, so that groups have >= `width` channels.

  Raises ValueError if the groups do not divide the channels.
  """
  groups = min(num_groups, channels // width)
  if groups < 1 or channels % groups:
    raise ValueError(
      f'num_groups={num_groups} does not divide the {channels} channels of a '
      f'norm (groups have {width} or more): change num_groups, channels or '
      'multipliers'
    )
  return groups


def average_pool(x: Array) -> Array:
  """Returns the mean of every 2x2 block: [B, H, W, C] -> [B, H/2, W/2, C]."""
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def nearest_upsample(x: Array) -> Array:
  """Repeats every pixel as a 2x2 block: [B, H, W, C] -> [B, 2H, 2W, C]."""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class ResnetBlock(nn.Module):
  """Adds to its input: norm, swish, conv, norm, swish, dropout, conv.

  x: [B, H, W, C], embedding: [B, E] -> [B, H, W, features]. The projected
  embedding is added after the first convolution; None, for networks without a
  noise level, adds nothing. The shortcut is a 1x1 projection if the width
  changes (Ho et al. 2020). With `scale_shift` the embedding gives (scale,
  shift) and the second norm becomes norm * (1 + scale) + shift (Nichol &
  Dhariwal 2021). `resample`, `average_pool` or `nearest_upsample`, is applied
  before the first convolution and to the shortcut (Dhariwal & Nichol 2021, who
  keep the width there). With `zero_embedding` the projection of the embedding
  has no bias and begins at 0 (Kingma et al. 2021).

  The options of DDPM++: norms have groups of at least `group_width` channels,
  `project_resampled` makes the shortcut of a block with `resample` a projection
  too, and the sum is multiplied by `skip_scale`.
  """

  features: int
  dropout: float = 0.0
  num_groups: int = 32
  norm_eps: float = 1e-6
  scale_shift: bool = False
  resample: Callable[[Array], Array] | None = None
  zero_embedding: bool = False
  group_width: int = 1
  project_resampled: bool = False
  skip_scale: float = 1.0
  initializer: str = 'ho'
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, embedding: Array | None, train: bool) -> Array:
    style = {'initializer': self.initializer, 'dtype': self.dtype}

    def norm(h, name):
      groups = count_groups(self.num_groups, h.shape[-1], self.group_width)
      return group_norm(groups, self.dtype, name, self.norm_eps)(h)

    h = nn.swish(norm(x, 'norm_1'))
    if self.resample is not None:
      h, x = self.resample(h), self.resample(x)
    h = Conv(self.features, **style, name='conv_1')(h)
    if embedding is None:
      h = norm(h, 'norm_2')
    else:
      h = self._with_embedding(h, embedding, norm)
    h = nn.swish(h)
    h = nn.Dropout(self.dropout, deterministic=not train, name='dropout')(h)
    h = Conv(self.features, zero=True, **style, name='conv_2')(h)
    resampled = self.project_resampled and self.resample is not None
    if resampled or x.shape[-1] != self.features:
      x = dense(x, self.features, 'shortcut', **style)
    return self.skip_scale * (x + h)

  def _with_embedding(self, h, embedding, norm):
    # Returns the second norm, which depends on the embedding.
    style = {'initializer': self.initializer, 'dtype': self.dtype}
    width = self.features * (2 if self.scale_shift else 1)
    start = {'zero': self.zero_embedding, 'use_bias': not self.zero_embedding}
    embedding = nn.swish(embedding)
    embedding = dense(embedding, width, 'embedding_proj', **start, **style)
    embedding = embedding[:, None, None, :]
    if not self.scale_shift:
      return norm(h + embedding, 'norm_2')
    scale, shift = jnp.split(embedding, 2, axis=-1)
    return norm(h, 'norm_2') * (1.0 + scale) + shift


class Attention(nn.Module):
  """Adds self-attention over all pixels to its input; softmax in float32.

  x: [B, H, W, C] -> [B, H, W, C]. There are `num_heads` heads, or with
  `head_channels` C / head_channels; they must divide C. `qkv`: 'separate'
  projections (Ho et al. 2020), or one of 3C channels, laid out as [heads, qkv,
  C / heads] ('legacy') or [qkv, heads, C / heads] ('new'), which are the two
  orders of OpenAI's checkpoints, or [heads, C / heads, qkv] ('interleaved',
  EDM's). `qkv_scale` multiplies the variance of their initial weights;
  group_width and skip_scale as in `ResnetBlock`. Without `pre_norm` the input
  is not normalised. `implementation` is that of `jax.nn.dot_product_attention`;
  'cudnn' needs a GPU, bfloat16 and heads of at most 128 channels.
  """

  num_heads: int = 1
  head_channels: int | None = None
  qkv: str = 'separate'
  num_groups: int = 32
  norm_eps: float = 1e-6
  group_width: int = 1
  qkv_scale: float = 1.0
  skip_scale: float = 1.0
  pre_norm: bool = True
  implementation: Any = None
  initializer: str = 'ho'
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    batch, height, width, channels = x.shape
    check_name('qkv', self.qkv, QKV)
    style = {'initializer': self.initializer, 'dtype': self.dtype}
    h = x
    if self.pre_norm:
      groups = count_groups(self.num_groups, channels, self.group_width)
      h = group_norm(groups, self.dtype, 'norm', self.norm_eps)(x)
    h = h.reshape(batch, height * width, channels)
    heads = count_heads(self.num_heads, self.head_channels, channels)
    split = heads, channels // heads
    if self.implementation == 'cudnn' and (split[1] > 128 or split[1] % 8):
      raise ValueError(
        f"attention='cudnn' has heads of 8, 16, ... 128 channels, not "
        f'{split[1]}: set head_channels (64, for instance), or take xla'
      )
    if self.qkv == 'separate':
      q, k, v = (
        dense(h, channels, name, scale=self.qkv_scale, **style).reshape(
          *h.shape[:2], *split
        )
        for name in ('query', 'key', 'value')
      )
    else:
      fused = dense(h, 3 * channels, 'qkv', scale=self.qkv_scale, **style)
      place = {'new': 0, 'legacy': 1, 'interleaved': 2}[self.qkv]
      layout = (*split[:place], 3, *split[place:])
      fused = fused.reshape(*h.shape[:2], *layout)
      q, k, v = jnp.moveaxis(fused, 2 + place, 0)
    h = jax.nn.dot_product_attention(
      q, k, v, implementation=self.implementation
    ).reshape(h.shape)
    h = dense(h, channels, 'proj_out', zero=True, **style)
    return self.skip_scale * (x + h.reshape(x.shape))


class CrossAttention(nn.Module):
  """Adds attention of the pixels to the words of a text; softmax in float32.

  x: [B, H, W, C], text: [B, L, D], mask: bool [B, L], True at words, at least
  one in each row -> [B, H, W, C]. Queries are projections of the normalised
  image, keys and values of the text (Rombach et al. 2022, Section 3.3). Padding
  has weight 0. Heads and options are those of `Attention`.
  """

  num_heads: int = 1
  head_channels: int | None = None
  num_groups: int = 32
  norm_eps: float = 1e-6
  initializer: str = 'ho'
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, text: Array, mask: Array) -> Array:
    batch, height, width, channels = x.shape
    style = {'initializer': self.initializer, 'dtype': self.dtype}
    h = group_norm(self.num_groups, self.dtype, 'norm', self.norm_eps)(x)
    h = h.reshape(batch, height * width, channels)
    heads = count_heads(self.num_heads, self.head_channels, channels)

    def project(a, name):
      a = dense(a, channels, name, **style)
      return a.reshape(*a.shape[:2], heads, channels // heads)

    q, k, v = project(h, 'query'), project(text, 'key'), project(text, 'value')
    h = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None, :])
    h = dense(
      h.reshape(batch, -1, channels), channels, 'proj_out', zero=True, **style
    )
    return x + h.reshape(x.shape)


def count_heads(
  num_heads: int, head_channels: int | None, channels: int
) -> int:
  """Returns the number of heads: num_heads, or channels / head_channels.

  Raises ValueError if the heads do not divide the channels.
  """
  if head_channels is None:
    if num_heads < 1 or channels % num_heads:
      raise ValueError(
        f'num_heads={num_heads} does not divide the {channels} channels '
        'of an attention layer: change num_heads or the width of that level'
      )
    return num_heads
  if head_channels < 1 or channels % head_channels:
    raise ValueError(
      f'head_channels={head_channels} does not divide the {channels} '
      'channels of an attention layer: change head_channels or the width of '
      'that level'
    )
  return channels // head_channels


def make_block(
  block: type[nn.Module], network: Any, name: str, **options: Any
) -> Callable[..., Any]:
  """Returns the submodule `name`: a `ResnetBlock`, `Attention` or similar.

  Each field that the network has by the same name (num_groups, dropout, dtype,
  ...) has the network's value, unless `options` has another. If `network.remat`
  is true, the block is computed again in the backward pass instead of storing
  its activations (`maybe_remat`): the same results with less memory.
  """
  shared = {
    field.name: getattr(network, field.name)
    for field in dataclasses.fields(block)
    if field.name not in ('name', 'parent') and hasattr(network, field.name)
  }
  # `train` is a Python bool. Arguments are counted from self.
  static = (3,) if block is ResnetBlock else ()
  kind = maybe_remat(block, network, static_argnums=static)
  return kind(**shared | options, name=name)


def output_conv(network: Any, features: int, h: Array) -> Array:
  """Returns norm, swish and a convolution that begins at 0, always float32.

  num_groups, norm_eps and initializer are those of the network; the submodules
  are norm_out and conv_out.
  """
  norm = group_norm(
    network.num_groups, name='norm_out', epsilon=network.norm_eps
  )
  conv = Conv(
    features, initializer=network.initializer, zero=True, name='conv_out'
  )
  return conv(nn.swish(norm(h)))


class Downsample(nn.Module):
  """Computes a 3x3 convolution of stride 2.

  `padding`: 'same' pads at the bottom and right only (TF 'SAME', Ho et al.),
  'symmetric' on all sides (PyTorch's padding=1, OpenAI).
  """

  padding: str = 'same'
  initializer: str = 'ho'
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    check_name('downsample_padding', self.padding, PADDINGS)
    conv = Conv(
      x.shape[-1],
      stride=2,
      padding=PADDINGS[self.padding],
      initializer=self.initializer,
      dtype=self.dtype,
      name='conv',
    )
    return conv(x)


class Upsample(nn.Module):
  """Computes `nearest_upsample`, then a 3x3 convolution."""

  initializer: str = 'ho'
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = Conv(
      x.shape[-1],
      initializer=self.initializer,
      dtype=self.dtype,
      name='conv',
    )
    return conv(nearest_upsample(x))
