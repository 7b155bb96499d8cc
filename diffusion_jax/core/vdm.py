"""Variational diffusion models: the diffusion part of the bound, in nats.

The bound of Kingma et al. 2021 (Eq. 11) has three parts: the prior loss, KL of
q(z_1 | x) and N(0, I); the reconstruction loss, `elbo.categorical_nll` of
z_0 ~ q(z_0 | x); and the diffusion loss. This module computes the diffusion
loss: a weight times |x_0 - x0_hat|^2 at one random time. The schedule must have
0 < SNR < inf at both ends: z_0 is not x_0.
"""

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import check_same_shape, weighted_sum
from diffusion_jax.core.checked import checked
from diffusion_jax.core.levels import NoiseLevel, Schedule
from diffusion_jax.core.losses import Weight
from diffusion_jax.ranges import Size

Array = jax.Array


@checked
def vdm_weight(schedule: Schedule, num_steps: Size | None = None) -> Weight:
  """Makes the weight of |x_0 - x0_hat|^2 in VDM's bound, for t ~ U(0, 1).

  It is -SNR'(t) / 2 in continuous time (Eq. 15), and T (SNR(t - 1 / T) -
  SNR(t)) / 2 for T steps, t in {1 / T..1} (Eq. 13). num_steps: T, or None for
  continuous time. `denoising_loss` takes the weight.
  """

  def weight(level: NoiseLevel) -> Array:
    return 0.5 * level.snr * _relative_snr_decrease(schedule, level, num_steps)

  return weight


@checked
def vdm_diffusion_loss(
  x0: Array, x0_hat: Array, schedule: Schedule, t: Array | float, num_steps: Size | None = None
) -> Array:
  """Computes one draw of VDM's diffusion loss at time t, in nats (Eq. 13, 15).

  If x0_hat is computed from an estimate of eps these are Eq. 14 and 17; at high
  SNR float32 is more accurate in eps itself (`denoising_loss` with
  `vdm_weight`). x0, x0_hat: [B, ...]; t: uniform, [] or [B]. Returns the sum
  over data axes, [B].
  """
  check_same_shape(x0=x0, x0_hat=x0_hat)
  return weighted_sum(vdm_weight(schedule, num_steps)(schedule(t)), jnp.square(x0 - x0_hat))


def _relative_snr_decrease(schedule, level, num_steps):
  # Returns gamma'(t) or T expm1(gamma(t) - gamma(s)), with gamma = -logsnr.
  if num_steps is None:
    tangents = (jnp.ones_like(level.t),)
    return jax.jvp(lambda t: -schedule(t).logsnr, (level.t,), tangents)[1]
  level_s = schedule(jnp.maximum(level.t - 1.0 / num_steps, 0.0))
  return num_steps * jnp.expm1(level_s.logsnr - level.logsnr)
