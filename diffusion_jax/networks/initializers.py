"""The initial weights of layers."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.networks.options import Initialization
from diffusion_jax.ranges import check_value

Initializer = nn.initializers.Initializer


def initializers(
  kind: Initialization, fan_in: int, zero: bool = False, scale: float = 1.0
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
  check_value('initializer', kind, Initialization)
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
