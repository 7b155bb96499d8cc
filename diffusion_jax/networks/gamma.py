"""gamma(t) = -log SNR of learned noise schedules, of the shape of t, [] or [B].

All increase with t in [0, 1] for any parameters, because weights enter by their
absolute value. No parameter is called `kernel`, so weight decay of the kernels
does not change them; the weight decay `not_biases` does.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.aliases import Params, PyTree
from diffusion_jax.networks.options import Checked
from diffusion_jax.ranges import Size

Array = jax.Array


class LinearGamma(nn.Module):
  """Computes a line from gamma_min at t = 0 to gamma_max at t = 1.

  `learned`: bias + |weight| t, two parameters that begin at this line.
  """

  gamma_min: float = -13.3
  gamma_max: float = 5.0
  learned: bool = True

  @nn.compact
  def __call__(self, t: Array) -> Array:
    span = self.gamma_max - self.gamma_min
    if not self.learned:
      return self.gamma_min + span * t
    constant = nn.initializers.constant
    bias = self.param('bias', constant(self.gamma_min), (), jnp.float32)
    weight = self.param('weight', constant(span), (), jnp.float32)
    return bias + jnp.abs(weight) * t


class MonotoneGamma(Checked):
  """Computes `LinearGamma` plus a monotone network of one hidden layer.

  |w_3| . 2 (sigmoid(|w_2| (2 t - 1) + b_2) - 1/2) / features is added to the
  line (Kingma et al. 2021, appendix H). As in the code they released, the end
  points are learned with the rest. 3,074 parameters at 1,024 features.
  """

  gamma_min: float = -13.3
  gamma_max: float = 5.0
  features: Size = 1024

  learned: ClassVar[bool] = True

  @nn.compact
  def __call__(self, t: Array) -> Array:
    line = LinearGamma(self.gamma_min, self.gamma_max, name='line')(t)
    normal, zeros = nn.initializers.normal(1e-2), nn.initializers.zeros
    shape = (self.features,)
    inner = jnp.abs(self.param('inner_weight', normal, shape, jnp.float32))
    bias = self.param('inner_bias', zeros, shape, jnp.float32)
    outer = jnp.abs(self.param('outer_weight', normal, shape, jnp.float32))
    shape = (1,) * t.ndim + shape
    inner, bias = inner.reshape(shape), bias.reshape(shape)
    hidden = jax.nn.sigmoid(inner * (2.0 * t[..., None] - 1.0) + bias)
    # The noise schedule is part of the process, so its precision is full.
    steps = jnp.dot(2.0 * (hidden - 0.5), outer, precision='highest')
    return line + steps / self.features


class GammaFn(NamedTuple):
  """The function gamma_fn(params, t) of a module, for `dj.LearnedSchedule`.

  params: the parameters of the module; t: [] or [B]. Functions of equal modules
  are equal, as static fields of a jitted function's argument must be.
  """

  module: nn.Module

  def __call__(self, params: Params, t: Array) -> Array:
    """Returns gamma(t), of the shape of t."""
    gamma: PyTree = self.module.apply({'params': params}, t)
    return gamma
