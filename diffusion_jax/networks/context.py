"""Real-valued conditions of networks: numbers, sets, sequences and arrays."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.networks.inputs import (
  ContextEncoder,
  ContextKind,
  Inputs,
  context_of,
)
from diffusion_jax.networks.layers import dense
from diffusion_jax.networks.options import Checked, Dtype, Initialization
from diffusion_jax.networks.text import TextEncoder, mean_of_words
from diffusion_jax.ranges import Size

Array = jax.Array


class Context(NamedTuple):
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
  and the context itself for 'channels'. It is sown as intermediate, before a
  learned vector replaces it where cond['drop'] [B] is True: the unconditional
  model, if `has_null`. cond['context_code'] is taken instead if it is given.
  Without both the result is the learned vector, with one word for 'words'.
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
      self.sow('intermediates', 'context_code', code)
    if not self.has_null:
      assert code is not None  # `Inputs.check`
      return code
    sizes = {'words': self.options.width, 'channels': shape[-1]}
    size = sizes.get(self.kind, self.features)
    init = nn.initializers.normal(1.0)
    null = self.param('null', init, (size,), jnp.float32).astype(self.dtype)
    if code is None:
      places = {'words': (1,), 'channels': shape[1:-1]}.get(self.kind, ())
      return jnp.broadcast_to(null, (shape[0], *places, size))
    if cond.get('drop') is None:
      return code
    drop = cond['drop'].reshape(-1, *[1] * (code.ndim - 1))
    return jnp.where(drop, null.reshape(*[1] * (code.ndim - 1), -1), code)

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
) -> Context:
  """Returns what a network with `inputs` reads of the context of cond.

  x: [B, ..., C]; features: the width of the embedding of the noise, to which
  the mean of words is mapped. The submodules of the caller are context and
  context_pooled. A hidden sequence is one word, as in a cond without 'context'.
  """
  if not inputs.context:
    return Context()
  style = {'initializer': initializer, 'dtype': dtype}
  kind = inputs.context_kind(x.shape[1:-1])
  options = inputs.context_encoder
  module = ContextCode(
    kind, options, features, inputs.null_class, **style, name='context'
  )
  code = module(cond, (*x.shape[:-1], inputs.context[-1]))
  if kind == 'channels':
    return Context(channels=code)
  if kind != 'words':
    return Context(embedding=code)
  mask = jnp.ones(code.shape[:2], bool)
  if cond.get('drop') is not None:
    mask &= ~cond['drop'][:, None] | (jnp.arange(code.shape[1]) == 0)[None]
  pooled = mean_of_words(code, mask)
  pooled = dense(pooled, features, 'context_pooled', **style)
  return Context(pooled, (code, mask))
