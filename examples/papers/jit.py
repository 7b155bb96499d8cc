"""JiT (Li & He 2025, arXiv 2511.13720): predicting x_0 survives tokens wider than the network.

Two moons lie in a plane of R^D. The best denoiser of R^D is the plane's, applied to the
projection: its error does not grow with D, and a network of x_0 need not know the rest. eps and the
velocity fill R^D, which a network of fewer channels cannot pass on. All three minimise the loss in
the velocity, and their distance to the exact denoiser is exact.

  python -m benchmarks.claims jit
"""

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.core.denoiser import Prediction
from diffusion_jax.testing import oracles
from diffusion_jax.training import objectives
from examples.papers.fitting import fit, small_mlp

CHANNELS, SCHEDULE = 32, dj.RectifiedFlowSchedule()


def moons() -> oracles.Mixture:
  """Returns two half circles of 12 normals each, of deviation 0.08, with mean 0."""
  angle = np.linspace(0.0, np.pi, 12)
  arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
  means = np.concatenate([arc, [1.0, 0.5] - arc])
  return oracles.mixture(np.ones(24), means - means.mean(axis=0), [0.08**2 * np.eye(2)] * 24)


def plane(key, size: int):
  """Draws an orthonormal basis of a plane of R^size, [size, 2]."""
  return jnp.linalg.qr(jax.random.normal(key, (size, 2)))[0]


def embedded(oracle: oracles.Mixture, basis) -> dj.Denoiser:
  """Returns the exact denoiser of the data in the plane of R^D."""
  return lambda xt, level: Prediction(oracle.denoise(xt @ basis, level).x0 @ basis.T)


def distance(key, x0, denoise: dj.Denoiser, exact: dj.Denoiser):
  """Returns log of the mean distance |x_0_hat - E[x_0 | x_t]|^2 / t^2, over t in (0.1, 0.95)."""
  t = jnp.linspace(0.1, 0.95, len(x0))
  xt = dj.q_sample(x0, jax.random.normal(key, x0.shape), SCHEDULE(t))
  error = denoise(xt, SCHEDULE(t)).x0 - exact(xt, SCHEDULE(t)).x0
  return jnp.log((jnp.square(error).sum(axis=1) / t**2).mean())


@jax.jit(static_argnums=(1, 2))
def trained_distance(key, kind, size):
  """Trains a network that predicts `kind` in R^size; returns its distance to the floor."""
  basis_key, init_key, fit_key, x_key, test_key = jax.random.split(key, 5)
  oracle, basis = moons(), plane(basis_key, size)
  network, init = small_mlp(CHANNELS, size, parametrization=kind)

  def times(key, n, schedule):
    return dj.uniform_times(key, n, schedule, 0.05)

  def batch(key):
    return {'x': oracle.sample(key, 128) @ basis.T}

  loss = objectives.denoising(network, SCHEDULE, times=times, weight=dj.min_flow_weight())
  params = fit(fit_key, loss, init(init_key), batch, steps=1500)
  x0 = oracle.sample(x_key, 2000) @ basis.T
  return distance(test_key, x0, network.denoiser(params), embedded(oracle, basis))


WIDE = 128
CASES = {'x': ('x0', WIDE), 'eps': ('eps', WIDE), 'v': ('flow', WIDE), 'narrow x': ('x0', 2)}


def track(seed: int) -> dict[str, float]:
  """Measures log distances in R^128 of a network of 32 channels, and of x in R^2."""
  keys = jax.random.split(jax.random.key(seed), 2)
  found = {name: float(trained_distance(keys[0], *case)) for name, case in CASES.items()}
  return found | {'again': float(trained_distance(keys[1], *CASES['x']))}
