"""The samplers of DDPM and DDIM on data with known moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.sampling import ancestral
from diffusion_jax.testing import oracles
from tests.jitted import level_grid
from tests.rows import normal
from tests.sampling import moments
from tests.sampling.moments import CLUSTERS, GAUSSIAN
from tests.transcribed import transcribes

SCHEDULES = moments.SCHEDULES | {
  'continuous_cosine': dj.CosineSchedule(-12.0, 12.0),
  'five_steps': dj.DiscreteSchedule.from_alphas([0.5, 0.4, 0.2, 0.1, 0.05]),
}
SAMPLERS = {
  'ancestral_small': dj.ancestral('fixed_small'),
  'ancestral_large': dj.ancestral('fixed_large'),
  'ddim_0': dj.ddim(0.0),
  'ddim_half': dj.ddim(0.5),
  'ddim_1': dj.ddim(1.0),
}


@jax.jit
def paths(key, levels):
  """Returns the trajectories of DDIM(1) and of 'fixed_small'."""
  x = dj.prior_sample(key, (256, 2), levels.take(0))
  return [
    dj.trajectory(key, GAUSSIAN.denoise, SAMPLERS[name], levels, x)
    for name in ('ddim_1', 'ancestral_small')
  ]


@transcribes('DDPM (Ho et al. 2020)', 'Alg. 2: sampling', '`sample(…, ancestral(), …)`')
@transcribes('DDIM (Song et al. 2021)', 'η = 1 is DDPM', '`ddim(1.0)`, `ancestral()`')
@pytest.mark.parametrize('name', SCHEDULES)
@pytest.mark.parametrize('num_steps', [3, 50])
def test_ddim_1_is_ancestral_fixed_small(name, num_steps, key):
  """DDIM with eta = 1 and `ancestral` agree at every step, the last included."""
  levels = jax.device_get(level_grid(SCHEDULES[name], 50))
  if num_steps == 3:
    levels = levels.take(np.array([0, 17, 34, 50]))
  a, b = paths(key, levels)
  largest = np.abs(b).max(axis=(1, 2), keepdims=True)
  assert (np.abs(a - b) < 2e-6 * largest).all()


def test_eta_may_be_traced(key):
  """DDIM's eta can be an argument of a program."""
  levels, x = level_grid(dj.LinearVPSchedule(), 4), np.ones((8, 2), np.float32)
  draw = lambda eta: dj.sample(key, GAUSSIAN.denoise, dj.ddim(eta), levels, x)
  traced, fixed = jax.jit(lambda etas: (jax.vmap(draw)(etas), [draw(0), draw(1)]))(
    np.float32([0, 1])
  )
  assert_allclose(traced, fixed, rtol=1e-5, atol=1e-6)


@jax.jit
def inversion_errors(num_steps, schedule, x0):
  """Returns the errors of x_0 there and back, and of x_T; the first level repeats.

  The data are a mixture: steps of a Gaussian commute.
  """
  data = oracles.mixture(*CLUSTERS)
  denoise = data.denoise
  # The exact map starts at the cleanest level before x_0, which is fixed.
  u = jnp.arange(799.0, -1.0, -1.0) / (num_steps - 1.0)
  t = jnp.append(0.02 + 0.98 * jnp.minimum(u, 1.0), 0.0)
  levels = schedule(t)
  levels = levels._replace(alpha=levels.alpha.at[-1].set(1.0), sigma=levels.sigma.at[-1].set(0.0))
  up = dj.ddim_invert(denoise, levels, x0)
  again = ancestral.ddim_solve(denoise, levels, up)
  first = dj.ddim_invert(denoise, levels.take(slice(-2, None)), x0)
  truth = data.flow_map(first, levels.take(-2), levels.take(0))
  return jnp.abs(again - x0).max(), jnp.abs(up - truth).max()


@transcribes('DDIM (Song et al. 2021)', 'section 4.3: the ODE from x_0 to x_T', '`ddim_invert`')
def test_inversion_is_of_first_order():
  """The errors of x_0 and of the ODE's x_T halve with the step."""
  x0 = normal(64, 2)
  schedule = dj.CosineSchedule(-12.0, 12.0)
  errors = np.array([inversion_errors(n, schedule, x0) for n in (200, 400, 800)])
  found = np.log2(errors[:-1]) - np.log2(errors[1:])
  assert_allclose(found, 1.0, atol=0.15)


def test_inversion_of_clean_data_takes_eps_at_the_level_reached():
  """A step of the inversion is alpha x_0 + sigma eps(alpha x_0)."""
  x0 = np.float32([[1.0, -2.0], [0.3, 0.4]])
  levels = level_grid(dj.LinearVPSchedule(), 1, t_start=0.3)
  found = jax.jit(lambda x0: dj.ddim_invert(GAUSSIAN.denoise, levels, x0))(x0)
  alpha, sigma = np.float64(levels.alpha[0]), np.float64(levels.sigma[0])
  mean, cov = np.array([0.5, -0.3]), np.array([[1.0, 0.8], [0.8, 1.5]])
  x = alpha * np.float64(x0)
  marginal = alpha**2 * cov + sigma**2 * np.eye(2)
  eps = sigma * np.linalg.solve(marginal, (x - alpha * mean).T).T
  assert_allclose(found, x + sigma * eps, atol=1e-5)
