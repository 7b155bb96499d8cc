"""The two samplers of the DDPM papers."""

import jax.numpy as jnp

from diffusion_jax.core.keys import draw_normal
from diffusion_jax.core.parametrization import eps_from_x0
from diffusion_jax.core.process import forgotten, p_reverse, signal_ratio
from diffusion_jax.sampling.sampler import Sampler


def ancestral(variance: str = 'fixed_small') -> Sampler:
  """Draws x_s from p(x_s | x_t) (DDPM Alg. 2); `variance` as `p_reverse`.

  No noise on the step to clean data. Over few, large steps samples come out too
  little spread, with 'fixed_small' in particular: its variance is the posterior
  one, exact only for data that are a single point.
  """

  def step(key, x, state, denoise, level_t, level_s):
    x0, var_frac = denoise(x, level_t)
    p = p_reverse(x0, x, level_s, level_t, variance, var_frac)
    std = jnp.where(level_s.sigma > 0.0, jnp.sqrt(p.variance), 0.0)
    return p.mean + std * draw_normal(key, x), state

  return Sampler(lambda x: (), step)


def ddim(eta: float = 0.0) -> Sampler:
  """DDIM (Song et al. 2021, Eq. 12 and 16): the ODE for eta = 0.

  eta = 1 is `ancestral('fixed_small')`. Raises ValueError outside [0, 1].
  """
  if not 0.0 <= eta <= 1.0:
    raise ValueError(f'eta is {eta}: DDIM needs a value in [0, 1]')

  def step(key, x, state, denoise, level_t, level_s):
    x0 = denoise(x, level_t).x0
    eps = eps_from_x0(x0, x, level_t)
    s, t = level_s.like(x), level_t.like(x)
    fresh = eta**2 * forgotten(s, t)  # share of sigma_s^2 that is new noise
    kept = signal_ratio(s, t) * s.sigma / t.sigma
    # 1 - fresh, which would lose all digits where fresh is close to 1
    old = 1.0 - eta**2 + eta**2 * kept**2
    x = s.alpha * x0 + s.sigma * jnp.sqrt(old) * eps
    return x + s.sigma * jnp.sqrt(fresh) * draw_normal(key, x), state

  return Sampler(lambda x: (), step)
