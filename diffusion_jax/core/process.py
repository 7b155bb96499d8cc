"""The Gaussian process between any two noise levels (DDPM Eq. 1-7).

With x_t = alpha_t x_0 + sigma_t eps at every level, all transitions between a
cleaner level s and a noisier level t follow from the four numbers
(alpha_s, sigma_s, alpha_t, sigma_t). The fraction of information about x_0
that is lost between them,

  one_minus_snr_ratio = 1 - SNR_t / SNR_s,

is the only derived quantity: the step s -> t adds noise of variance sigma_t^2
times it, and q(x_s | x_t, x_0) has variance sigma_s^2 times it.
For DDPM's neighbours s = t - 1 these are beta_t and beta-tilde_t. Levels need
not be neighbours: skipping steps is the same formula.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import as_time, check_same_shape, expand_to
from diffusion_jax.core.checked import checked
from diffusion_jax.core.levels import NoiseLevel, Schedule, check_order
from diffusion_jax.core.normal import Normal
from diffusion_jax.ranges import NonNegative, Probability

Array = jax.Array


def alpha_ratio(level_s: NoiseLevel, level_t: NoiseLevel) -> Array:
  """Computes alpha_t / alpha_s for s < t; 0 where alpha_s = 0."""
  return level_t.alpha / jnp.where(level_s.alpha == 0.0, 1.0, level_s.alpha)


def sigma_ratio(level_s: NoiseLevel, level_t: NoiseLevel) -> Array:
  """Computes sigma_s / sigma_t for s < t; 1 between clean levels, where x stays."""
  s, t = _noisy_if_both_clean(level_s, level_t)
  return s.sigma / t.sigma


def _noisy_if_both_clean(level_s, level_t):
  # Between clean levels x stays, as between levels of equal noise.
  stays = (level_s.sigma == 0.0) & (level_t.sigma == 0.0)
  return (x._replace(sigma=jnp.where(stays, 1.0, x.sigma)) for x in (level_s, level_t))


def snr_ratio(level_s: NoiseLevel, level_t: NoiseLevel) -> Array:
  """Computes SNR_t / SNR_s for s < t; 0 where alpha_s = 0."""
  return (alpha_ratio(level_s, level_t) * sigma_ratio(level_s, level_t)) ** 2


def one_minus_snr_ratio(level_s: NoiseLevel, level_t: NoiseLevel) -> Array:
  """Computes 1 - SNR_t / SNR_s, 1 where alpha_s = 0; ValueError/NaN if < 0."""
  check_order(level_s, level_t)
  s, t = _noisy_if_both_clean(level_s, level_t)
  change = t.logsnr - jnp.where(s.alpha == 0.0, 0.0, s.logsnr)
  # Levels that are equal up to rounding add no noise.
  change = jnp.where(change > 1e-4, jnp.nan, jnp.minimum(change, 0.0))
  return -jnp.expm1(change)


@checked
def forward_step(x_s: Array, eps: Array, level_s: NoiseLevel, level_t: NoiseLevel) -> Array:
  """Computes a draw of q(x_t | x_s), s < t, from standard normal eps.

  DDPM Eq. 2. x_s, eps: [B, ...]; levels: [] or [B]. Returns x_t, [B, ...].
  """
  check_same_shape(x_s=x_s, eps=eps)
  s, t = (NoiseLevel.expand_to(level, x_s) for level in (level_s, level_t))
  # 1 - (alpha_t / alpha_s)^2 would lose 2.5e-3 of its value in float32 at
  # T = 4000.
  added = t.sigma * jnp.sqrt(one_minus_snr_ratio(s, t))
  return alpha_ratio(s, t) * x_s + added * eps


@checked
def q_sample(x0: Array, eps: Array, level: NoiseLevel) -> Array:
  """Computes x_t = alpha_t x_0 + sigma_t eps, [B, ...] (DDPM Eq. 4).

  x0, eps: [B, ...]; level: [] or [B].
  """
  check_same_shape(x0=x0, eps=eps)
  level = NoiseLevel.expand_to(level, x0)
  return level.alpha * x0 + level.sigma * eps


@checked
def q_posterior(x0: Array, xt: Array, level_s: NoiseLevel, level_t: NoiseLevel) -> Normal[Array]:
  """Computes q(x_s | x_t, x_0), s < t (DDPM Eq. 6-7; VDM appendix A.2).

  Eq. 6-7 are the case s = t - 1. The result is also exact if s is clean or
  alpha_t = 0. x0, xt: [B, ...]; levels: [] or [B], ValueError (under `jit`
  a variance of NaN) if s is noisier than t. Returns a Normal with mean [B, ...]
  and a variance that broadcasts against it.
  """
  check_same_shape(x0=x0, xt=xt)
  s, t = (NoiseLevel.expand_to(level, xt) for level in (level_s, level_t))
  # This regroups Eq. 7: x_0 at level s plus the part of the noise in x_t that
  # remains. The factors are multiplied in DDIM's order, so that the two agree
  # to the last digit.
  ratio = sigma_ratio(s, t)
  kept = alpha_ratio(s, t) * ratio * ratio
  mean = s.alpha * x0 + kept * (xt - t.alpha * x0)
  return Normal(mean, s.sigma**2 * one_minus_snr_ratio(s, t))


@checked
def sde_coefficients(schedule: Schedule, t: Array | Probability) -> tuple[Array, Array]:
  """Computes f and g^2 of dx = f(t) x dt + g(t) dw (Song et al. 2021, Eq. 5).

  This SDE has the marginals of the schedule: f is the slope of log alpha, g^2
  is -sigma^2 times the slope of the log-SNR, both of the shape of t. At step i
  of a `DiscreteSchedule` it takes the slopes on the cleaner side: f = T
  log(alpha_i) / 2.

  Args:
    schedule: A schedule with alpha and sigma > 0 at t.
    t: [] or [B]; ValueError for concrete values outside [0, 1].
  """

  def logs(t):
    level = schedule(t)
    return (jnp.log(level.alpha), level.logsnr), level.sigma

  t = as_time(t)
  _, slopes, sigma = jax.jvp(logs, (t,), (jnp.ones_like(t),), has_aux=True)
  return slopes[0], -(sigma**2) * slopes[1]


def level_slopes(schedule: Schedule, t: Array | float) -> tuple[Array, Array]:
  """Computes the derivatives of alpha and sigma in t, of the shape of t.

  alpha' x_0 + sigma' eps is the velocity dx_t/dt; its mean given x_t is the
  velocity of the probability-flow ODE (Lipman et al. 2022). Steps of a
  `DiscreteSchedule` and invalid t are treated as in `sde_coefficients`.
  """
  t = as_time(t)

  def pair(t):
    level = schedule(t)
    return level.alpha, level.sigma

  return jax.jvp(pair, (t,), (jnp.ones_like(t),))[1]


def velocity(schedule: Schedule, x0: Array, xt: Array, level: NoiseLevel) -> Array:
  """Computes alpha' x_0 + sigma' eps of x_t, [B, ...]; see `level_slopes`.

  schedule: the schedule of the level; x0, xt: [B, ...], x0 an estimate of
  E[x_0 | x_t]. It is 0 where the level is clean: the eps of data is not known.
  """
  slopes = level_slopes(schedule, noisy_time(level))
  alpha_slope, sigma_slope = (expand_to(a, xt) for a in slopes)
  t = level.expand_to(xt)
  noisy = t.sigma > 0.0
  v = alpha_slope * x0 + sigma_slope * (xt - t.alpha * x0) / jnp.where(noisy, t.sigma, 1.0)
  return jnp.where(noisy, v, 0.0)


def noisy_time(level: NoiseLevel) -> Array:
  """Returns t, and 1/2 where the level is clean: slopes may be infinite there."""
  return jnp.where(level.sigma > 0.0, level.t, 0.5)


Variance = Literal['fixed_small', 'fixed_large', 'learned']


@checked
def reverse_variance(
  kind: Variance,
  level_s: NoiseLevel,
  level_t: NoiseLevel,
  var_frac: Array | None = None,
  first: Array | NonNegative | None = None,
) -> Array:
  """Computes the variance of p(x_s | x_t), shaped like the levels or var_frac.

  Args:
    kind: 'fixed_small' is the variance of `q_posterior` (beta-tilde_t);
      'fixed_large' is exact for x_0 ~ N(0, I), and beta_t for neighbouring
      variance-preserving steps (DDPM section 3.2); 'learned' interpolates their
      logarithms (IDDPM Eq. 15). ValueError for others.
    var_frac: [B, ...], for 'learned': 0 is 'fixed_small', 1 is 'fixed_large'.
    first: The variance where s is clean, for a decoder. Published code uses
      beta-tilde_2 instead of beta-tilde_1 = 0, for all kinds.
  """
  s, t = level_s, level_t
  if kind != 'learned':
    var_frac = None
  elif var_frac is None:
    raise ValueError("variance 'learned' needs a network with var_frac")
  else:
    s, t = s.expand_to(var_frac), t.expand_to(var_frac)
  rate = one_minus_snr_ratio(s, t)
  clean = s.sigma == 0.0
  small = s.sigma**2 * rate
  large = t.sigma**2 * rate
  large *= (s.alpha**2 + s.sigma**2) / (t.alpha**2 + t.sigma**2)
  if first is not None:
    small = jnp.where(clean, first, small)
  if kind == 'fixed_small':
    return small
  if var_frac is None:
    return large if first is None else jnp.where(clean, first, large)
  log_small = jnp.log(jnp.maximum(small, jnp.finfo(small.dtype).tiny))
  learned = jnp.exp(var_frac * jnp.log(large) + (1.0 - var_frac) * log_small)
  return jnp.where(small > 0.0, learned, 0.0)


@checked
def p_reverse(
  x0_hat: Array,
  xt: Array,
  level_s: NoiseLevel,
  level_t: NoiseLevel,
  variance: Variance = 'fixed_small',
  var_frac: Array | None = None,
  first: Array | NonNegative | None = None,
) -> Normal[Array]:
  """Computes p(x_s | x_t): `q_posterior` at x0_hat (DDPM Eq. 1, 11).

  x0_hat, xt: [B, ...]; levels: [] or [B]; for the others see
  `reverse_variance`. Returns a Normal like `q_posterior`.
  """
  mean = q_posterior(x0_hat, xt, level_s, level_t).mean
  s, t = level_s.expand_to(xt), level_t.expand_to(xt)
  return Normal(mean, reverse_variance(variance, s, t, var_frac, first))
