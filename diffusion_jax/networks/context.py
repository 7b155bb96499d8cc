"""Conditions of networks: texts, and real-valued contexts.

Their encoders are trained together with the network. Contexts are numbers,
sets, sequences and arrays.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.networks.attention import attend
from diffusion_jax.networks.embeddings import sinusoidal
from diffusion_jax.networks.inputs import (
  ContextEncoder,
  ContextKind,
  Inputs,
  check_not_null,
  context_of,
)
from diffusion_jax.networks.layers import dense, gelu
from diffusion_jax.networks.options import Checked, Dtype, Initialization, count_heads
from diffusion_jax.networks.tokens import split_heads
from diffusion_jax.ranges import Count, Size

Array = jax.Array

NUM_TOKENS = 257  # Bytes and padding (`data.text`).


class TextEncoder(Checked):
  """Encodes tokens [B, L], mask bool [B, L] -> [B, L, width].

  Instead of tokens it takes vectors [B, L, D], which it maps linearly first.
  A Transformer of `num_layers` layers (Vaswani et al. 2017) with norms before
  attention and MLP, MLPs of 4 width, sinusoidal positions and a norm at the
  end. Tokens where the mask is False do not affect the others.
  """

  width: Size = 64
  num_layers: Count = 2
  num_heads: Size = 4
  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, tokens: Array, mask: Array | None = None) -> Array:
    style = self.style
    heads = count_heads(self.num_heads, None, self.width)

    def norm(h, name):
      return nn.LayerNorm(dtype=self.dtype, name=name)(h)

    def attention(h, name):
      h = dense(norm(h, f'{name}_norm'), 3 * self.width, f'{name}_qkv', **style)
      parts = jnp.split(h, 3, axis=-1)
      q, k, v = (split_heads(a, heads) for a in parts)
      h = attend(q, k, v, mask)
      return dense(h, self.width, f'{name}_out', **style)

    def mlp(h, name):
      h = dense(norm(h, f'{name}_norm'), 4 * self.width, f'{name}_in', **style)
      return dense(gelu(h), self.width, f'{name}_out', **style)

    if tokens.ndim == 3:
      h = dense(tokens, self.width, 'linear', **style)
    else:
      init = nn.initializers.normal(1.0)
      table = nn.Embed(NUM_TOKENS, self.width, embedding_init=init, name='table')
      h = table(tokens).astype(self.dtype)
    position = sinusoidal(jnp.arange(tokens.shape[1]), self.width)
    h += position.astype(self.dtype)[None]
    for i in range(self.num_layers):
      h += attention(h, f'attention_{i}')
      h += mlp(h, f'mlp_{i}')
    return norm(h, 'norm_out')


class TextFeatures(Checked):
  """Computes (words [B, L, width], mask bool [B, L]) for `CrossAttention`.

  cond['text'] contains tokens, int [B, L], for `TextEncoder`, or vectors of
  another encoder, float [B, L, D], which are mapped linearly. cond['text_mask']
  [B, L] is True by default. With `null_text` a learned vector replaces texts
  where cond['drop'] [B] is True, and if cond has no 'text': the unconditional
  model.
  """

  width: Size = 64
  num_layers: Count = 2
  num_heads: Size = 4
  null_text: bool = False
  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, cond: dict, batch_size: int) -> tuple[Array, Array]:
    check_not_null(cond, 'text', 'text', self.null_text)
    text, drop = cond.get('text'), cond.get('drop')
    null = jnp.zeros(())  # It is not used without `null_text`.
    if self.null_text:
      null = self.param('null', nn.initializers.normal(1.0), (self.width,), jnp.float32)
    if text is None:
      words = jnp.broadcast_to(null, (batch_size, 1, self.width)).astype(self.dtype)
      return words, jnp.ones(words.shape[:2], bool)
    mask = cond.get('text_mask')
    mask = jnp.ones(text.shape[:2], bool) if mask is None else mask
    words = self._words(text, mask)
    if drop is None:
      return words, mask
    return hidden(words, drop, null), mask | drop[:, None]

  def _words(self, text, mask):
    if text.ndim == 3:
      return dense(text, self.width, 'linear', **self.style)
    encoder = TextEncoder(self.width, self.num_layers, self.num_heads, **self.style, name='encoder')
    return encoder(text, mask)


def hidden(code: Array, drop: Array, null: Array) -> Array:
  """Returns code [B, ..., D] with null [D], in float32, where drop [B] is True.

  The type is the code's; the gradient of null, a sum, is float32's.
  """
  drop = drop.reshape(-1, *[1] * (code.ndim - 1))
  null = null.reshape(*[1] * (code.ndim - 1), -1)
  return jnp.where(drop, null, code.astype(null.dtype)).astype(code.dtype)


def mean_of_words(words: Array, mask: Array) -> Array:
  """Returns the mean [B, D] of words [B, L, D] where the mask is True."""
  weights = mask / jnp.sum(mask, axis=1, keepdims=True)
  return jnp.einsum('bl,bld->bd', weights.astype(words.dtype), words)


class ReadContext(NamedTuple):
  """What a network reads of a context.

  embedding: [B, features], to be added to the noise's; words: ([B, L, D], mask
  [B, L]) for attention; channels: [B, ..., C] on the grid of x.
  """

  embedding: Array | None = None
  words: tuple[Array, Array] | None = None
  channels: Array | None = None


class ContextCode(Checked):
  """Encodes contexts [B, *shape], as `ContextEncoder` says.

  The result is [B, features] for 'vector' and 'set', [B, N, width] for 'words',
  and the context itself for 'channels'. With `has_null` a learned vector
  replaces it where cond['drop'] [B] is True: the unconditional model.
  cond['context_code'] is taken instead if it is given. Without both the result
  is the learned vector, with one word for 'words'.
  """

  kind: ContextKind
  options: ContextEncoder
  features: Size
  has_null: bool = False
  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, cond: dict, shape: tuple[int, ...]) -> Array:
    code = context_of(cond)
    if 'context_code' not in cond and code is not None:
      code = self._encode(code)
    if not self.has_null:
      assert code is not None  # `Inputs.check`
      return code
    sizes = {'words': self.options.width, 'channels': shape[-1]}
    size = sizes.get(self.kind, self.features)
    init = nn.initializers.normal(1.0)
    null = self.param('null', init, (size,), jnp.float32)
    if code is None:
      places = {'words': (1,), 'channels': shape[1:-1]}.get(self.kind, ())
      return jnp.broadcast_to(null, (shape[0], *places, size)).astype(self.dtype)
    return code if cond.get('drop') is None else hidden(code, cond['drop'], null)

  def _encode(self, context):
    style = self.style
    _, width, layers, heads = self.options
    if self.kind == 'channels':
      return context
    if self.kind == 'words':
      return TextEncoder(width, layers, heads, **style, name='encoder')(context)
    kept = 2 if self.kind == 'set' else 1
    h = context.reshape(*context.shape[:kept], -1)
    for i in range(layers - 1 + (self.kind == 'set')):
      h = nn.swish(dense(h, width, f'dense_{i}', **style))
    h = h.mean(axis=1) if self.kind == 'set' else h
    return dense(h, self.features, 'dense_out', **style)


def read_context(
  inputs: Inputs,
  x: Array,
  cond: dict,
  features: int,
  initializer: Initialization = 'ho',
  dtype: Dtype = jnp.float32,
) -> ReadContext:
  """Returns what a network whose `inputs` have a context reads of that of cond.

  x: [B, ..., C]; features: the width of the embedding of the noise, to which
  the mean of words is mapped. The calling module gets submodules `context` and
  `context_pooled`. A hidden sequence is one word, as in a cond without 'context'.
  """
  style = {'initializer': initializer, 'dtype': dtype}
  kind = inputs.context_kind(x.shape[1:-1])
  options = inputs.context_encoder
  module = ContextCode(kind, options, features, inputs.null_class, **style, name='context')
  code = module(cond, (*x.shape[:-1], inputs.context[-1]))
  if kind == 'channels':
    return ReadContext(channels=code)
  if kind != 'words':
    return ReadContext(embedding=code)
  mask = jnp.ones(code.shape[:2], bool)
  if cond.get('drop') is not None:
    mask &= ~cond['drop'][:, None] | (jnp.arange(code.shape[1]) == 0)[None]
  pooled = mean_of_words(code, mask)
  pooled = dense(pooled, features, 'context_pooled', **style)
  return ReadContext(pooled, (code, mask))
