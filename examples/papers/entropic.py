"""Entropic times (Stancevic, Handke & Ambrogioni 2025, arXiv 2504.13612) and EDM's grid.

Sampling steps of equal information have H[x_0 | x_t] falling by equal amounts. With x_t = x_0 +
sigma eps the slope of H in log sigma is mmse(sigma) / sigma^2, which a training loss estimates and
an oracle knows. Each seed draws a mixture of three Gaussians; the error is the distance of DDIM in
16 steps to the exact map of the ODE, point by point.

  python -m benchmarks.claims entropic
"""

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.core.levels import NoiseLevel
from diffusion_jax.testing import oracles

HIGH, LOW, STEPS = 20.0, 0.005, 16


def level_of(sigma) -> NoiseLevel:
  """Returns the level x_t = x_0 + sigma eps."""
  return NoiseLevel(sigma, jnp.ones_like(sigma), sigma)


def grid(density, log_sigma, steps: int = STEPS):
  """Returns log sigma [steps + 1] with equal integrals of a density over log sigma between them.

  log_sigma: [M], falling, where the density [M] is known.
  """
  parts = 0.5 * (density[1:] + density[:-1]) * -jnp.diff(log_sigma)
  integral = jnp.append(0.0, jnp.cumsum(parts))
  return jnp.interp(jnp.linspace(0.0, integral[-1], steps + 1), integral, log_sigma)


def entropy_rate(key, oracle: oracles.Mixture, sigma):
  """Returns dH[x_0 | x_t] / d log sigma, [M], at each sigma [M], from 8,192 draws."""
  x0_key, eps_key = jax.random.split(key)
  x0 = oracle.sample(x0_key, 8192)
  eps = jax.random.normal(eps_key, x0.shape)

  def rate(sigma):
    error = oracle.denoise(x0 + sigma * eps, level_of(sigma)).x0 - x0
    return jnp.square(error).sum(axis=1).mean() / sigma**2

  return jax.lax.map(rate, sigma)


@jax.jit
def errors(key):
  """Returns log of the root mean square distance to the exact map, for each grid."""
  key, again, weight_key, mean_key, std_key, rate_key = jax.random.split(key, 6)
  weights = jax.nn.softmax(jax.random.normal(weight_key, (3,)))
  means = 1.5 * jax.random.normal(mean_key, (3, 1))
  std = jnp.exp(jax.random.uniform(std_key, (3, 1), minval=jnp.log(0.03), maxval=jnp.log(0.5)))
  oracle = oracles.Mixture(weights, means, std**2, jnp.ones((3, 1, 1)))
  log_sigma = jnp.linspace(jnp.log(HIGH), jnp.log(LOW), 200)
  rate = entropy_rate(rate_key, oracle, jnp.exp(log_sigma))
  edm = jnp.linspace(HIGH ** (1 / 7), LOW ** (1 / 7), STEPS + 1) ** 7  # Karras et al. 2022, Eq. 5

  def error(key, sigma):
    x = oracle.sample(key, 512)
    x += HIGH * jax.random.normal(jax.random.fold_in(key, 1), x.shape)
    levels = level_of(sigma)
    exact = oracle.flow_map(x, levels.take(0), levels.take(-1), rtol=1e-5, atol=1e-5)
    found = dj.sample(key, oracle.denoise, dj.ddim(), levels, x)
    return 0.5 * jnp.log(jnp.square(found - exact).mean())

  entropic, root = (jnp.exp(grid(f, log_sigma)) for f in (rate, jnp.sqrt(rate)))
  cases = {'edm': (key, edm), 'again': (again, edm), 'entropic': (key, entropic)}
  return {name: error(*case) for name, case in (cases | {'root': (key, root)}).items()}


def track(seed: int) -> dict[str, float]:
  """Measures log errors of EDM's grid, of other draws, and of two grids of the entropy."""
  return {name: float(x) for name, x in errors(jax.random.key(seed)).items()}
