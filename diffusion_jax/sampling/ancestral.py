"""The samplers of DDPM and DDIM, and DDIM's inversion."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import as_float
from diffusion_jax.core.checked import checked
from diffusion_jax.core.denoiser import Denoiser, predict
from diffusion_jax.core.keys import draw_normal
from diffusion_jax.core.levels import Grid, NoiseLevel, select_level
from diffusion_jax.core.parametrization import eps_from_x0
from diffusion_jax.core.process import (
  Variance,
  alpha_ratio,
  one_minus_snr_ratio,
  p_reverse,
  sigma_ratio,
  snr_ratio,
)
from diffusion_jax.declared import declares
from diffusion_jax.ranges import Probability
from diffusion_jax.sampling.sampler import Sampler

Array = jax.Array


@declares(what='DDPM Alg. 2', calls='N', draws_noise=True)
@checked
def ancestral(
  variance: Variance = 'fixed_small', mean_shift: Callable[[Array, NoiseLevel], Array] | None = None
) -> Sampler:
  """Makes the sampler that draws x_s from p(x_s | x_t) (DDPM Alg. 2).

  The step to clean data adds no noise. Samples of few, large steps have too
  little spread, especially with 'fixed_small': the posterior variance is only
  exact if the data are a single point.

  Args:
    variance: As in `reverse_variance`; ValueError for others.
    mean_shift: (x_t, level_t) -> [B, ...], such as `log_prob_gradient`; the
      mean becomes mean + variance * shift (Dhariwal & Nichol 2021, Alg. 1).
      `classifier_guided` always shifts by the variance of 'fixed_large', times
      alpha_s / alpha_t (VP schedules).
  """

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


@declares(what='DDIM Eq. 12', order=1, calls='N')
@checked
def ddim(eta: Probability = 0.0) -> Sampler:
  """Makes the DDIM sampler (Song et al. 2021, Eq. 12 and 16).

  eta: 0 for the ODE, 1 for `ancestral('fixed_small')`; ValueError outside
  [0, 1].
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    x0 = predict(denoise, x, level_t).x0
    return ddim_step(x0, x, level_s, level_t, eta, draw_normal(key, x)), state

  return Sampler(lambda x: (), step)


def ddim_step(
  x0: Array,
  x: Array,
  level_s: NoiseLevel,
  level_t: NoiseLevel,
  eta: Array | float = 0.0,
  z: Array | float = 0.0,
) -> Array:
  """Computes x_s from x_t, x_0 and normal noise z (DDIM Eq. 12 and 16).

  x_s = alpha_s x_0 + sigma_s (sqrt(1 - new) eps + sqrt(new) z)
  eps = (x_t - alpha_t x_0) / sigma_t,   new = eta^2 (1 - SNR_t / SNR_s)
  """
  s, t = level_s.expand_to(x), level_t.expand_to(x)
  scale = sigma_ratio(s, t)
  if not isinstance(eta, Array) and not eta:  # A traced eta may be any.
    return s.alpha * x0 + scale * (x - t.alpha * x0)
  # 1 - new would lose all digits for a new near 1.
  scale *= jnp.sqrt(1.0 - eta**2 + eta**2 * snr_ratio(s, t))
  std = jnp.sqrt(s.sigma**2 * (eta**2 * one_minus_snr_ratio(s, t)))
  return s.alpha * x0 + scale * (x - t.alpha * x0) + std * z


def ddim_solve(denoise: Denoiser, levels: Grid, x: Array) -> Array:
  """Computes what `ddim()` takes x to, without a key: the ODE has no noise.

  levels: the grid of `sample`, [N+1]; x: [B, ...] at the first level.
  """

  def body(x, pair):
    level_t, level_s = pair
    return ddim_step(predict(denoise, x, level_t).x0, x, level_s, level_t), None

  pairs = levels.take(slice(None, -1)), levels.take(slice(1, None))
  return jax.lax.scan(body, x, pairs)[0]


@checked
def ddim_invert(denoise: Denoiser, levels: Grid, x0: Array) -> Array:
  """Computes the x at levels[0] that `ddim()` takes to x0 (DDIM, section 4.3).

  It follows the same ODE up the grid, to first order, with eps at the start of
  each step. Clean data have no eps: the first step uses eps at its end, of x0
  scaled to that level. levels: the grid of `sample`, [N+1]; x0: [B, ...].
  """

  def body(x, pair):
    level_s, level_t = pair
    clean = level_s.sigma == 0.0
    level = select_level(clean, level_t, level_s)
    s, t = level_s.expand_to(x), level_t.expand_to(x)
    scaled = alpha_ratio(s, level.expand_to(x)) * x
    eps = eps_from_x0(predict(denoise, scaled, level).x0, scaled, level)
    ratio = alpha_ratio(s, t)
    return ratio * x + (t.sigma - ratio * s.sigma) * eps, None

  pairs = levels.take(slice(1, None)), levels.take(slice(None, -1))
  return jax.lax.scan(body, as_float(x0), pairs, reverse=True)[0]
