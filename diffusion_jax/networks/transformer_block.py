"""The blocks of diffusion transformers: DiT's, JiT's and MM-DiT's."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffusion_jax.networks.attention import attend
from diffusion_jax.networks.cpu.bilinear import linear
from diffusion_jax.networks.cpu.half import times
from diffusion_jax.networks.layers import Dense, add_bias, gelu
from diffusion_jax.networks.options import AttentionImplementation, Checked, Dtype
from diffusion_jax.networks.placement import on_gpu
from diffusion_jax.networks.tokens import EPSILON, layer_norm, rotate, split_heads
from diffusion_jax.ranges import Rate, Size

Array = jax.Array

Initializer = nn.initializers.Initializer
XAVIER = nn.initializers.xavier_uniform()
ZERO = nn.initializers.zeros
Norm = Literal['layer', 'rms']
MLP = Literal['gelu', 'swiglu']


# The values of x, and of the tokens of a text.
LayerValues = tuple[Array, Array | None]


class Beside(NamedTuple):
  """What tokens [B, T, D] have beside themselves.

  c: the embedding of noise and label, [B, D], or [B, T, D] of each token; angles: of
  `rotate`, None for no rotation; mask: which tokens are seen, by all, bool [B, T], or by
  each, [B or 1, T, T]; None for all.
  """

  c: Array
  angles: Array | None = None
  mask: Array | None = None


class Kept(NamedTuple):
  """The tokens after one of the blocks of a loop, [B, T, D].

  left: int [], the number of blocks before that one; below 0 after it.
  """

  left: Array
  tokens: Array

  def after(self, tokens: Array) -> 'Kept':
    """Returns what is kept after another block, whose output is `tokens`."""
    return Kept(self.left - 1, jnp.where(self.left == 0, tokens, self.tokens))


# Tokens x, text tokens, and what is kept of x.
Carry = tuple[Array, Array | None, Kept | None]


class Block(Checked):
  """Computes one block: (x, text, kept) -> ((x, text, kept), values), as `nn.scan` takes it.

  x: tokens [B, T, D]; c, of `Beside`, is mapped to shifts, scales and gates (adaLN-Zero,
  Peebles & Xie 2023):

    x += gate_1 attention(norm(x) (1 + scale_1) + shift_1)
    x += gate_2 mlp(norm(x) (1 + scale_2) + shift_2)

  All gates begin at 0, so a new block is the identity. norm: 'layer' (without
  parameters) or 'rms'. `qk_norm` normalises queries and keys of each head (RMS
  with a learned scale) before the rotation by `angles` (`rotate`; None: no
  rotation). mlp: 'gelu' (tanh form, width 4D) or 'swiglu' (width 8D / 3).
  Dropout is applied to the output of attention and inside of the MLP.

  With text='joint' (MM-DiT, Esser et al. 2024) the tokens `text` [B, L, D] have
  their own weights and share one attention with x; with `text_ends` they serve
  only as keys and values. With 'cross', x also attends to words [B, L, E]
  between attention and MLP, with a projection that begins at 0. text_mask: bool
  [B, L].

  first_values: V_1, the values of the first block, which replace this block's by
  a V_1 + b V, learned numbers that begin at 1/2 (ResFormer, Zhou et al. 2025).
  With `gives_values` its own are returned, else None. With a mask for each token all see
  the words, which see words alone.
  """

  num_heads: Size
  norm: Norm = 'layer'
  qk_norm: bool = False
  mlp: MLP = 'gelu'
  dropout: Rate = 0.0
  text: Literal['', 'joint', 'cross'] = ''
  text_ends: bool = False
  gives_values: bool = False
  attention: AttentionImplementation = 'auto'
  scanned: bool = True
  train: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    carry: Carry,
    beside: Beside,
    words: Array | None,
    text_mask: Array | None,
    first_values: LayerValues | None = None,
  ) -> tuple[Carry, LayerValues | None]:
    x, text, kept = carry
    first, first_of_text = first_values or (None, None)
    c, angles, mask = beside
    c = nn.silu(c)
    (q, k, v), finish = self._stream(x, c, '', first)
    if angles is not None:
      q, k = rotate(q, angles), rotate(k, angles)
    if self.text != 'joint':
      values = (v, None) if self.gives_values else None
      x = finish(self._attend(q, k, v, mask), words, text_mask)
      return (x, text, kept and kept.after(x)), values
    assert text is not None and text_mask is not None
    of_words = c if c.ndim == 2 else c[:, 0]
    others, finish_text = self._stream(text, of_words, 'text_', first_of_text, ends=self.text_ends)
    values = (v, others[2]) if self.gives_values else None
    q, k, v = (jnp.concatenate(pair, axis=1) for pair in zip((q, k, v), others, strict=True))
    mask = with_words(mask, text_mask, x.shape[1])
    h, h_text = jnp.split(self._attend(q, k, v, mask), [x.shape[1]], axis=1)
    x = finish(h)
    return (x, finish_text(h_text), kept and kept.after(x)), values

  def _stream(
    self, x: Array, c: Array, prefix: str, first_values: Array | None, ends: bool = False
  ) -> tuple[tuple[Array, ...], Callable]:
    # Returns q, k and v of one kind of tokens, and a function of the output of
    # attention that computes the rest of the block.
    width = x.shape[-1]
    count = 2 if ends else 6
    shifts = self.dense(count * width, f'{prefix}modulation', ZERO)(c)
    parts = jnp.split(per_token(shifts), count, axis=-1)
    h = modulate(self._norm(x, f'{prefix}norm_1'), *parts[:2])
    qkv = QKV(self.dtype, name=f'{prefix}qkv')(h)
    q, k, v = (split_heads(a, self.num_heads) for a in qkv)
    q, k = self._normalise(q, k, prefix)
    if first_values is not None:
      half = nn.initializers.constant(0.5)
      weights = self.param(f'{prefix}value_weights', half, (2,), jnp.float32)
      a, b = weights.astype(self.dtype).reshape(2, *[1] * v.ndim)
      v = times(first_values, a) + times(v, b)

    def finish(attended, words=None, text_mask=None):
      if ends:
        return x
      gate_1, shift_2, scale_2, gate_2 = parts[2:]
      out = self._drop(self.dense(width, f'{prefix}proj')(attended))
      y = x + times(out, gate_1)
      if words is not None:
        y = self._cross(y, words, text_mask)
      h = modulate(self._norm(y, f'{prefix}norm_2'), shift_2, scale_2)
      return y + times(self._mlp(h, prefix), gate_2)

    return (q, k, v), finish

  def _cross(self, x, words, mask):
    width = x.shape[-1]
    h = self._norm(x, 'cross_norm')
    q, k, v = (
      split_heads(self.dense(width, f'cross_{name}')(a), self.num_heads)
      for name, a in (('query', h), ('key', words), ('value', words))
    )
    q, k = self._normalise(q, k, 'cross_')
    h = self._attend(q, k, v, mask)
    return x + self.dense(width, 'cross_proj', ZERO)(h)

  def _mlp(self, h, prefix):
    width = h.shape[-1]
    if self.mlp == 'swiglu':
      hidden = int(2 * (4 * width) / 3)
      h = self.dense(2 * hidden, f'{prefix}mlp_in')(h)
      gate, value = jnp.split(h, 2, axis=-1)
      h = self._again(lambda gate, value: nn.silu(gate) * value)(gate, value)
    else:
      h = self._again(gelu)(self.dense(4 * width, f'{prefix}mlp_in')(h))
    return self.dense(width, f'{prefix}mlp_out')(self._drop(h))

  def _again(self, function):
    # Gradients compute the function again from its inputs instead of storing
    # several intermediate results of their size. Outside of a loop XLA would
    # merge the two computations, and store the results.
    return jax.checkpoint(function, prevent_cse=not self.scanned)

  def _attend(self, q, k, v, mask=None):
    return attend(q, k, v, mask, self.attention)

  def _normalise(self, q, k, prefix):
    if not self.qk_norm:
      return q, k
    return tuple(
      rms_norm(f'{prefix}{name}_norm', self.dtype)(a) for name, a in (('query', q), ('key', k))
    )

  def _norm(self, x, name):
    return make_norm(self.norm, name, self.dtype)(x)

  def _drop(self, h):
    return nn.Dropout(self.dropout, deterministic=not self.train)(h)

  def dense(self, features: int, name: str, kernel_init: Initializer = XAVIER):
    """Returns a linear layer with bias, the submodule `name`."""
    return dense(features, name, kernel_init, self.dtype)


class QKV(nn.Module):
  """Computes queries, keys and values, each [B, T, D] as the input.

  They are one product with the kernel [D, 3D]. On GPUs they are three products
  with its parts, because attention there needs arrays that are not parts of
  another: a copy, and two in the gradient.
  """

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, h: Array) -> list[Array]:
    width = h.shape[-1]
    kernel = self.param('kernel', XAVIER, (width, 3 * width), jnp.float32)
    bias = self.param('bias', ZERO, (3 * width,), jnp.float32)
    h, kernel, bias = (a.astype(self.dtype) for a in (h, kernel, bias))
    parts = 3 if on_gpu() else 1
    kernels, biases = jnp.split(kernel, parts, -1), jnp.split(bias, parts)
    results = [linear(h, part) for part in kernels]
    results = [add_bias(y, b[None, None]) for y, b in zip(results, biases, strict=True)]
    return results if parts == 3 else jnp.split(results[0], 3, axis=-1)


def dense(
  features: int,
  name: str,
  kernel_init: Initializer = XAVIER,
  dtype: DTypeLike = jnp.float32,
  use_bias: bool = True,
) -> nn.Module:
  """Returns a linear layer; weights are Xavier-uniform by default, biases 0."""
  return Dense(features, use_bias, dtype, kernel_init, name=name)


def per_token(shifts: Array) -> Array:
  """Returns shifts [B, D] as [B, 1, D], and [B, T, D] of each token as they are."""
  return shifts[:, None] if shifts.ndim == 2 else shifts


def with_words(mask: Array | None, text_mask: Array, num_tokens: int) -> Array:
  """Returns the mask of tokens and the words after them, [B, T + L] or [B, T + L, T + L].

  mask: of `Beside`; text_mask: bool [B, L]. With a mask for each token words see words alone.
  """
  if mask is None:
    return jnp.pad(text_mask, ((0, 0), (num_tokens, 0)), constant_values=True)
  size, count = text_mask.shape
  if mask.ndim == 2:
    return jnp.concatenate([mask, text_mask], axis=1)
  mask = jnp.broadcast_to(mask, (size, *mask.shape[1:]))
  tokens = jnp.pad(mask, ((0, 0), (0, count), (0, 0)))
  words = jnp.broadcast_to(text_mask[:, None], (size, num_tokens + count, count))
  return jnp.concatenate([tokens, words], axis=2)


def modulate(h: Array, shift: Array, scale: Array) -> Array:
  """Returns h (1 + scale) + shift, adaptive layer normalisation's last step."""
  return add_bias(times(h, 1.0 + scale), shift)


def rms_norm(name: str, dtype: DTypeLike = jnp.float32) -> nn.Module:
  """Returns x / rms(x) times a learned scale, statistics in float32."""
  return nn.RMSNorm(EPSILON, dtype=dtype, name=name)


def make_norm(kind: Norm, name: str, dtype: DTypeLike = jnp.float32) -> nn.Module:
  """Returns the norm `kind`: 'layer', without parameters, or 'rms'."""
  if kind == 'rms':
    return rms_norm(name, dtype)
  return layer_norm(name, dtype, affine=False)
