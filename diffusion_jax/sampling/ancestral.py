"""The samplers of DDPM and DDIM, and the way back from image to noise."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.core.denoiser import Denoiser, predict
from diffusion_jax.core.keys import draw_normal
from diffusion_jax.core.levels import NoiseLevel
from diffusion_jax.core.parametrization import eps_from_x0
from diffusion_jax.core.process import (
  alpha_ratio,
  check_variance,
  one_minus_snr_ratio,
  p_reverse,
)
from diffusion_jax.sampling.sampler import Sampler

Array = jax.Array


def ancestral(
  variance: str = 'fixed_small',
  mean_shift: Callable[[Array, NoiseLevel], Array] | None = None,
) -> Sampler:
  """Draws x_s from p(x_s | x_t) (DDPM Alg. 2); `variance` as `p_reverse`.

  No noise on the step to clean data. Over few, large steps samples come out too
  little spread, with 'fixed_small' in particular: its variance is the posterior
  one, exact only for data that are a single point.

  mean_shift(x_t, level_t) -> [B, ...]: the mean becomes mean + variance * shift
  (Dhariwal & Nichol 2021, Alg. 1, with `log_prob_gradient`). A shift of x_0 as
  in `classifier_guided` moves this mean by alpha_s / alpha_t times the variance
  of 'fixed_large' instead (VP schedules), whatever `variance` is. Raises
  ValueError for another `variance`.
  """
  check_variance(variance)

  def step(key, x, state, denoise, *, level_s, level_t):
    x0, var_frac = predict(denoise, x, level_t)
    p = p_reverse(x0, x, level_s, level_t, variance, var_frac)
    noisy = level_s.expand_to(x).sigma > 0.0
    std = jnp.where(noisy, jnp.sqrt(p.variance), 0.0)
    mean = p.mean
    if mean_shift is not None:
      mean += p.variance * mean_shift(x, level_t)
    return mean + std * draw_normal(key, x), state

  return Sampler(lambda x: (), step)


def ddim(eta: float = 0.0) -> Sampler:
  """DDIM (Song et al. 2021, Eq. 12 and 16): the ODE for eta = 0.

  eta = 1 is `ancestral('fixed_small')`. Raises ValueError outside [0, 1].
  """
  if not 0.0 <= eta <= 1.0:
    raise ValueError(f'eta is {eta}: DDIM needs a value in [0, 1]')

  def step(key, x, state, denoise, *, level_s, level_t):
    x0 = predict(denoise, x, level_t).x0
    s, t = level_s.expand_to(x), level_t.expand_to(x)
    # The share of sigma_s^2 that is new noise:
    new_share = eta**2 * one_minus_snr_ratio(s, t)
    ratio = alpha_ratio(s, t) * (s.sigma / t.sigma)
    # This is 1 - new_share, which would lose all digits where that is close
    # to 1.
    old_share = 1.0 - eta**2 + eta**2 * ratio**2
    std = jnp.sqrt(s.sigma**2 * new_share)
    mean = ddim_step(x0, x, s, t, old_share)
    return mean + std * draw_normal(key, x), state

  return Sampler(lambda x: (), step)


def ddim_step(
  x0: Array,
  x: Array,
  level_s: NoiseLevel,
  level_t: NoiseLevel,
  old_share: Array | float = 1.0,
) -> Array:
  """alpha_s x_0 + sigma_s sqrt(old) eps, eps being the noise in x at level t.

  DDIM's step; what sigma_s^2 lacks, the share 1 - old, is new noise to add. s
  and t broadcast against x (`level.expand_to(x)`).
  """
  s, t = level_s, level_t
  scale = jnp.sqrt(old_share) * (s.sigma / t.sigma)
  return s.alpha * x0 + scale * (x - t.alpha * x0)


def ddim_invert(denoise: Denoiser, levels: NoiseLevel, x0: Array) -> Array:
  """The x at levels[0] that `ddim()` takes to x0 [B, ...] (section 4.3).

  Walks the grid [N+1] of `sample` upwards along the same ODE, eps taken at the
  level that is left. Out of clean data, where there is no eps, it is that of
  x0 scaled to the level reached. First order, like the way down.
  """

  def body(x, pair):
    level_s, level_t = pair
    clean = level_s.sigma == 0.0
    level = jax.tree.map(lambda s, t: jnp.where(clean, t, s), level_s, level_t)
    s, t = level_s.expand_to(x), level_t.expand_to(x)
    scaled = alpha_ratio(s, level.expand_to(x)) * x
    eps = eps_from_x0(predict(denoise, scaled, level).x0, scaled, level)
    ratio = alpha_ratio(s, t)
    return ratio * x + (t.sigma - ratio * s.sigma) * eps, None

  pairs = levels.take(slice(1, None)), levels.take(slice(None, -1))
  return jax.lax.scan(body, x0, pairs, reverse=True)[0]
