"""A residual network of vectors."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.aliases import Fused
from diffusion_jax.declared import declares
from diffusion_jax.networks.context import read_context
from diffusion_jax.networks.embeddings import noise_and_label, of_step, sinusoidal, with_inputs
from diffusion_jax.networks.fused import pieces
from diffusion_jax.networks.inputs import STEP_INPUTS, Inputs
from diffusion_jax.networks.layers import dense
from diffusion_jax.networks.options import Checked, Dtype, Sinusoids, check_block
from diffusion_jax.networks.tokens import layer_norm
from diffusion_jax.networks.transformer_block import modulate
from diffusion_jax.ranges import Rate, Size

Array = jax.Array


@declares(what='residual blocks', needs='a vector [D]', element_levels=True)
class MLP(Checked):
  """Computes residual blocks: x [B, D], noise [B] -> [B, out_channels].

  Arrays x [B, ..., C] are flattened, and the output is [B, ..., out_channels]. Of noise
  [B, N], one for each index of the first axis, the embeddings are side by side.
  With c, the sum of the embeddings of noise, step, label and context, a block
  is

    h += W_2 dropout(silu(W_1 silu(norm(h) (1 + scale) + shift)))

  where scale and shift are linear in silu(c) (adaptive layer norm, Peebles &
  Xie 2023), or parameters without `modulation`. The first h is c + W x, and the
  last layer has such a norm too. W_2 and the last layer begin at 0. `inputs` are
  the entries of cond: other arrays than a vector or a set join the channels of x
  (`with_inputs`). noise_features: of the embedding of each noise. at: of the block, counted
  from 0, whose h [B, channels] is returned after the output.
  """

  takes: ClassVar = ('label', 'image', 'x0', 'context', *STEP_INPUTS)

  channels: Size = 256
  num_blocks: Size = 4
  dropout: Rate = 0.0
  out_channels: Size = 3
  noise_embedding: Sinusoids = 'openai'
  noise_features: Size = 256
  modulation: bool = True
  inputs: Inputs = Inputs()
  dtype: Dtype = jnp.float32

  @property
  def fused(self) -> Fused:
    return {'modulation': pieces(self.channels)}

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
    check_block(at, self.num_blocks)
    cond, inputs, width = cond or {}, self.inputs, self.channels
    inputs.check(cond)
    h = sinusoidal(noise, self.noise_features, kind=self.noise_embedding)
    h = h.reshape(x.shape[0], -1)
    c = noise_and_label(h, cond, width, inputs, dtype=self.dtype)
    c += of_step(inputs, cond, self.noise_features, width, self.noise_embedding, self.dtype)
    channels = None
    if inputs.context:
      context = read_context(inputs, x, cond, width, dtype=self.dtype)
      channels = context.channels
      if context.words is not None:
        raise ValueError(
          'network mlp has no attention to the words of a context: set its kind '
          "to 'set' (its order does not matter) or 'vector', or use unet or dit"
        )
      if context.embedding is not None:
        c += context.embedding
    drop = nn.Dropout(self.dropout, deterministic=not train)

    def norm(h, name):
      if not self.modulation:
        return nn.silu(layer_norm(f'{name}_norm', self.dtype)(h))
      shifts = dense(nn.silu(c), 2 * width, f'{name}_modulation', dtype=self.dtype)
      h = layer_norm(f'{name}_norm', self.dtype, affine=False)(h)
      return nn.silu(modulate(h, *jnp.split(shifts, 2, axis=-1)))

    flat = with_inputs(inputs, x, cond, channels).reshape(x.shape[0], -1)
    h, hidden = c + dense(flat, width, 'dense_in', dtype=self.dtype), None
    for i in range(self.num_blocks):
      name = f'block_{i}'
      r = dense(norm(h, name), width, f'{name}_dense_1', dtype=self.dtype)
      r, last = drop(nn.silu(r)), f'{name}_dense_2'
      h += dense(r, width, last, zero=True, dtype=self.dtype)
      hidden = h if i == at else hidden

    # The last layer is always float32.
    shape = *x.shape[:-1], self.out_channels
    out = dense(norm(h, 'out'), math.prod(shape[1:]), 'dense_out', zero=True)
    out = out.reshape(shape)
    return out if at is None else (out, hidden)
