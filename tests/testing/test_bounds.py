"""The expected bound against entropy and quadrature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.testing import bounds, oracles
from tests.jitted import level_grid

GAUSSIAN = oracles.gaussian([0.5, -0.3], [[1.0, 0.8], [0.8, 1.5]])
DDPM = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
VARIANCES = ['fixed_small', 'fixed_large']


@functools.partial(jax.jit, static_argnums=0)
def terms_at(variance, levels, x0, eps):
  """Returns the library's KL terms at x_0 [n, 2] and noise [N, n, 2]."""
  count = levels.t.shape[0] - 1
  last = levels.take(0)
  q = dj.Normal(last.alpha * x0, last.sigma**2)
  p = dj.Normal(0.0, last.alpha**2 + last.sigma**2)
  prior = dj.kl(q, p).sum(axis=1)

  def step(i):
    t, s = levels.take(i), levels.take(i + 1)
    xt = dj.q_sample(x0, eps[i], t)
    x0_hat = GAUSSIAN.denoise(xt, t).x0
    return dj.q_posterior(x0, xt, s, t), (x0_hat, xt, s, t)

  def diffusion(i):
    q, args = step(i)
    return dj.kl(q, dj.p_reverse(*args, variance)).sum(axis=1)

  before, _ = step(count - 2)
  first = before.variance if variance == 'fixed_small' else None
  p = dj.p_reverse(*step(count - 1)[1], variance, first=first)
  terms = jax.vmap(diffusion)(jnp.arange(count - 1))
  return jnp.concatenate([prior[None], terms, -dj.log_prob(p, x0).sum(axis=1)[None]])


@pytest.mark.parametrize('variance', VARIANCES)
@pytest.mark.parametrize(
  'schedule, num_steps', [(DDPM, 3), (DDPM, 20), (dj.GeometricVESchedule(0.05, 10.0), 6)]
)
def test_the_bound_of_the_exact_denoiser_is_its_closed_form(schedule, num_steps, variance):
  """Three Hermite nodes are exact, as terms are quadratic in (x_0, eps)."""
  nodes, weights = np.polynomial.hermite_e.hermegauss(3)
  axes = np.stack(np.meshgrid(*[nodes] * 4, indexing='ij')).reshape(4, -1).T
  weight = np.prod(np.stack(np.meshgrid(*[weights / weights.sum()] * 4)), axis=0).ravel()
  root = np.linalg.cholesky(np.asarray(GAUSSIAN.cov, np.float64))
  x0 = np.asarray(GAUSSIAN.mean) + axes[:, :2] @ root.T
  eps = np.broadcast_to(axes[:, 2:], (num_steps, *axes[:, 2:].shape))
  levels = level_grid(schedule, num_steps)
  arrays = (np.asarray(a, np.float32) for a in (x0, eps))
  terms = np.asarray(terms_at(variance, levels, *arrays), np.float64) @ weight
  found = bounds.expected_bound(GAUSSIAN, levels, variance)
  expected = [found['prior'], *found['diffusion'], found['reconstruction']]
  np.testing.assert_allclose(terms, expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(terms.sum(), found['total'], rtol=1e-4)
