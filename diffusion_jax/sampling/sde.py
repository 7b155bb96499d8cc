"""Discretisations of the reverse SDE (Song et al. 2021; Ma et al. 2024)."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import expand_to
from diffusion_jax.core.checked import checked
from diffusion_jax.core.denoiser import predict
from diffusion_jax.core.keys import draw_normal
from diffusion_jax.core.levels import NoiseLevel, Schedule
from diffusion_jax.core.parametrization import score_from_x0
from diffusion_jax.core.process import (
  alpha_ratio,
  noisy_time,
  one_minus_snr_ratio,
  sde_coefficients,
  velocity,
)
from diffusion_jax.declared import declares
from diffusion_jax.ranges import NonNegative
from diffusion_jax.sampling.sampler import Sampler

Array = jax.Array

# w(t) / scale of `velocity_sde`.
DIFFUSIONS: dict[str, Callable[[Schedule, NoiseLevel], Array]] = {
  'constant': lambda schedule, level: jnp.ones_like(level.sigma),
  'sigma': lambda schedule, level: level.sigma,
  'sde': lambda schedule, level: sde_coefficients(schedule, noisy_time(level))[1],
}


@declares(what='score SDE, Eq. 6', calls='N', draws_noise=True)
@checked
def euler_maruyama(schedule: Schedule) -> Sampler:
  """Makes Euler-Maruyama on the reverse SDE (Song et al. 2021, Eq. 6), in t.

  x_s = x - (f x - g^2 score) (t - s) + g sqrt(t - s) z. The step to clean data
  returns x_0 itself, without noise (their last denoising, by Tweedie's
  formula). From step i of a `DiscreteSchedule` to step i - 1 it undoes alpha_i,
  with f and g of the interval between them. The step is not finite at alpha_t =
  0, where f and g are infinite. schedule: the schedule of the levels.
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    x0 = predict(denoise, x, level_t).x0
    f, g2 = sde_coefficients(schedule, noisy_time(level_t))
    f, g2 = expand_to(f, x), expand_to(g2, x)
    dt = expand_to(level_t.t, x) - expand_to(level_s.t, x)
    mean = x - (f * x - g2 * score_from_x0(x0, x, level_t)) * dt
    noisy = mean + jnp.sqrt(g2 * dt) * draw_normal(key, x)
    return jnp.where(expand_to(level_s.sigma, x) > 0.0, noisy, x0), state

  return Sampler(lambda x: (), step)


@declares(what='score SDE, appendix E', calls='N', draws_noise=True)
def reverse_diffusion() -> Sampler:
  """Makes the reverse of the forward step (Song et al. 2021, appendix E).

  x_s = (2 - r) x + G^2 score + G z with the forward step's r = alpha_t /
  alpha_s and G^2 = sigma_t^2 (1 - SNR_t / SNR_s). The step to clean data adds
  no noise. The step from alpha_t = 0 is finite but doubles x, so the steps must
  be small.
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    score = score_from_x0(predict(denoise, x, level_t).x0, x, level_t)
    s, t = level_s.expand_to(x), level_t.expand_to(x)
    g2 = t.sigma**2 * one_minus_snr_ratio(s, t)
    mean = (2.0 - alpha_ratio(s, t)) * x + g2 * score
    std = jnp.where(s.sigma > 0.0, jnp.sqrt(g2), 0.0)
    return mean + std * draw_normal(key, x), state

  return Sampler(lambda x: (), step)


@declares(what='SiT Eq. 5, with any w(t)', calls='N', draws_noise=True)
@checked
def velocity_sde(
  schedule: Schedule,
  diffusion: Literal['constant', 'sigma', 'sde'] = 'sigma',
  diffusion_scale: NonNegative = 1.0,
) -> Sampler:
  """Makes Euler-Maruyama on dx = (v - w score / 2) dt + sqrt(w) dW, backwards.

  The SDE of SiT (Ma et al. 2024, Eq. 5) has the schedule's marginals for every
  diffusion coefficient w(t) >= 0, which may be chosen after training. The step
  to clean data returns x_0 itself, without noise.

  Args:
    schedule: The schedule of the levels.
    diffusion: w is diffusion_scale times 1 ('constant'), sigma ('sigma') or g^2
      of the schedule's own SDE ('sde', not finite at alpha_t = 0). ValueError
      for others.
    diffusion_scale: 0 gives Euler's method on the ODE; 2 is `diffusion-norm` 1
      of SiT's code. ValueError for < 0.
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    x0 = predict(denoise, x, level_t).x0
    w = diffusion_scale * DIFFUSIONS[diffusion](schedule, level_t)
    w = expand_to(w, x)
    dt = expand_to(level_t.t, x) - expand_to(level_s.t, x)
    drift = velocity(schedule, x0, x, level_t)
    drift -= 0.5 * w * score_from_x0(x0, x, level_t)
    noisy = x - dt * drift + jnp.sqrt(w * dt) * draw_normal(key, x)
    s = level_s.expand_to(x)
    return jnp.where(s.sigma > 0.0, noisy, s.alpha * x0), state

  return Sampler(lambda x: (), step)
