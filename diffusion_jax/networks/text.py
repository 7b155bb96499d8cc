"""Text encoders for cross-attention, trained together with the network."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.networks.attention import attend
from diffusion_jax.networks.embeddings import sinusoidal
from diffusion_jax.networks.inputs import check_not_null
from diffusion_jax.networks.layers import dense
from diffusion_jax.networks.options import (
  Checked,
  Dtype,
  Initialization,
  count_heads,
)
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
      return dense(nn.gelu(h), self.width, f'{name}_out', **style)

    if tokens.ndim == 3:
      h = dense(tokens, self.width, 'linear', **style)
    else:
      table = nn.Embed(
        NUM_TOKENS,
        self.width,
        dtype=self.dtype,
        embedding_init=nn.initializers.normal(1.0),
        name='table',
      )
      h = table(tokens)
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
      init = nn.initializers.normal(1.0)
      null = self.param('null', init, (self.width,), jnp.float32)
      null = null.astype(self.dtype)
    if text is None:
      shape = batch_size, 1
      return jnp.broadcast_to(null, (*shape, self.width)), jnp.ones(shape, bool)
    mask = cond.get('text_mask')
    mask = jnp.ones(text.shape[:2], bool) if mask is None else mask
    words = self._words(text, mask)
    if drop is None:
      return words, mask
    words = jnp.where(drop[:, None, None], null[None, None], words)
    return words, mask | drop[:, None]

  def _words(self, text, mask):
    if text.ndim == 3:
      return dense(text, self.width, 'linear', **self.style)
    encoder = TextEncoder(
      self.width, self.num_layers, self.num_heads, **self.style, name='encoder'
    )
    return encoder(text, mask)


def mean_of_words(words: Array, mask: Array) -> Array:
  """Returns the mean [B, D] of words [B, L, D] where the mask is True."""
  weights = mask / jnp.sum(mask, axis=1, keepdims=True)
  return jnp.einsum('bl,bld->bd', weights.astype(words.dtype), words)
