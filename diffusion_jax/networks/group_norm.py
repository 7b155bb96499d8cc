"""Group normalisation by sums of channels."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

Array = jax.Array


class GroupNorm(nn.Module):
  """Computes group normalisation (Wu & He 2018): [B, ..., C] -> [B, ..., C].

  Statistics are float32, or float64 for such inputs. The parameters are those
  of `nn.GroupNorm`, scale and bias [C]. Raises ValueError if num_groups does
  not divide C.
  """

  num_groups: int
  epsilon: float = 1e-6
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    batch, channels, groups = len(x), x.shape[-1], self.num_groups
    if groups < 1 or channels % groups:
      raise ValueError(
        f'num_groups={groups} does not divide {channels} channels'
      )
    scale = self.param('scale', nn.initializers.ones, (channels,), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (channels,), jnp.float32)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # Channels are summed first and groups of these sums after it: XLA:CPU sums
    # over some of the last axis far more slowly. What is left for each pixel,
    # x a + b, is one pass, with the sum before it and the swish after it.
    places = tuple(range(1, x.ndim - 1))

    def mean_of_group(values):
      values = values.mean(places).reshape(batch, groups, -1)
      return values.mean(-1, keepdims=True)

    mean, square = mean_of_group(x), mean_of_group(x * x)
    variance = jnp.maximum(square - mean**2, 0.0)
    a = scale.reshape(1, groups, -1) * lax.rsqrt(variance + self.epsilon)
    b = bias.reshape(1, groups, -1) - mean * a
    a, b = (v.reshape(batch, *(1 for _ in places), channels) for v in (a, b))
    return (x * a + b).astype(self.dtype)
