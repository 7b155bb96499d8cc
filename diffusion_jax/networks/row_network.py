"""Networks of rows of a table, whose tokens are the columns."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.networks.options import Checked
from diffusion_jax.ranges import Count, Size

Array = jax.Array
IMPOSSIBLE = -1e4  # the logit of a category that a column does not have


class RowNetwork(Checked):
  """Computes outputs of rows: {'numbers': [B, N], 'categories': int [B, C]} -> outputs.

  The outputs are {'numbers': [B, N], 'categories': logits [B, C, K + 1]}, where column j has
  sizes[j] <= K categories, and K is the masked one; noise [B, N] and [B, C] has a level for
  each cell. A cell is a token of `features` numbers: linear in a number, embedded by column
  and category. `network` takes the tokens [B, N + C, features], noise [B, N + C], and is a
  `DiT` with patch_size=1, or an `MLP`, with out_channels=features; its outputs are read by a
  linear map of each column. at: of the block of `network` whose tokens are returned after the
  outputs.
  """

  network: nn.Module
  num_numbers: Count
  sizes: tuple[Size, ...]
  features: Size = 32

  @nn.compact
  def __call__(
    self,
    x: dict,
    noise: dict,
    cond: dict | None = None,
    *,
    train: bool = False,
    at: int | None = None,
  ) -> Any:
    numbers, width = self.num_numbers, self.features
    tokens, most = [], max(self.sizes, default=0)
    normal = nn.initializers.normal
    if numbers:
      scale = self.param('number_scale', normal(1.0), (numbers, width))
      shift = self.param('number_shift', normal(1.0), (numbers, width))
      tokens.append(x['numbers'][..., None] * scale[None] + shift[None])
    if self.sizes:
      count = len(self.sizes)
      embedding = self.param('embedding', normal(1.0), (count * (most + 1), width))
      place = jnp.arange(count)[None] * (most + 1) + x['categories']
      tokens.append(jnp.take(embedding, place, axis=0))
    names = [name for name in ('numbers', 'categories') if name in x]
    h = jnp.concatenate(tokens, axis=1)
    noise_of_each, hidden = jnp.concatenate([noise[n] for n in names], axis=1), None
    if at is None:
      h = self.network(h, noise_of_each, cond, train=train)
    else:
      h, hidden = self.network(h, noise_of_each, cond, train=train, at=at)
    h, of_columns, outputs = h.astype(jnp.float32), normal(width**-0.5), {}
    if numbers:
      out = self.param('number_out', of_columns, (numbers, width))
      outputs['numbers'] = jnp.sum(h[:, :numbers] * out[None], axis=-1)
    if self.sizes:
      out = self.param('category_out', of_columns, (len(self.sizes), most + 1, width))
      bias = self.param('category_bias', nn.initializers.zeros, (len(self.sizes), most + 1))
      logits = jnp.einsum('bcd,ckd->bck', h[:, numbers:], out) + bias[None]
      possible = jnp.arange(most + 1)[None] < jnp.array(self.sizes)[:, None]
      outputs['categories'] = jnp.where(possible[None], logits, IMPOSSIBLE)
    return outputs if at is None else (outputs, hidden)
