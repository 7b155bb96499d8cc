"""The expected bound against entropy and quadrature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

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
@pytest.mark.parametrize('schedule', [DDPM, dj.GeometricVESchedule(0.05, 10.0)])
def test_the_bound_of_the_exact_denoiser_is_its_closed_form(schedule, variance):
  """Three Hermite nodes are exact, as terms are quadratic in (x_0, eps)."""
  nodes, weights = np.polynomial.hermite_e.hermegauss(3)
  axes = np.stack(np.meshgrid(*[nodes] * 4, indexing='ij')).reshape(4, -1).T
  weight = np.prod(np.stack(np.meshgrid(*[weights / weights.sum()] * 4)), axis=0).ravel()
  root = np.linalg.cholesky(np.asarray(GAUSSIAN.cov, np.float64))
  x0 = np.asarray(GAUSSIAN.mean) + axes[:, :2] @ root.T
  eps = np.broadcast_to(axes[:, 2:], (6, *axes[:, 2:].shape))
  levels = level_grid(schedule, 6)
  arrays = (np.asarray(a, np.float32) for a in (x0, eps))
  terms = np.asarray(terms_at(variance, levels, *arrays), np.float64) @ weight
  found = bounds.expected_bound(GAUSSIAN, levels, variance)
  expected = [found['prior'], *found['diffusion'], found['reconstruction']]
  assert_allclose(terms, expected, rtol=1e-4, atol=1e-6)
  assert_allclose(terms.sum(), found['total'], rtol=1e-4)


@pytest.mark.parametrize('schedule', [DDPM, dj.CosineSchedule(-12.0, 12.0)])
def test_it_is_a_bound_and_closes_on_the_entropy(schedule):
  """-ELBO >= H(x_0); for 'fixed_small' a gap remains at the first steps."""
  gaps, entropy = {}, float(jax.jit(GAUSSIAN.entropy)())
  for num_steps in (4, 30, 1000):
    levels = level_grid(schedule, num_steps)
    for variance in VARIANCES:
      total = bounds.expected_bound(GAUSSIAN, levels, variance)['total']
      gaps[variance, num_steps] = total - entropy
  assert min(gaps.values()) > 0.0
  large = [gaps['fixed_large', n] for n in (4, 30, 1000)]
  assert large[0] > large[1] > large[2]
  assert large[2] < 0.05


def test_fixed_large_is_exact_for_standard_normal_data():
  """The variance is then the true reverse variance (DDPM section 3.2)."""
  oracle = oracles.gaussian(np.zeros(3), np.eye(3))
  found = bounds.expected_bound(oracle, level_grid(DDPM, 5), 'fixed_large')
  entropy = jax.jit(oracle.entropy)()
  assert_allclose(found['total'], entropy, rtol=1e-5)


@pytest.mark.parametrize('variance', VARIANCES)
def test_diffusion_terms_are_a_difference_of_mutual_information(variance):
  """Sum of L_{t-1} -> I(x_0; x_1) - I(x_0; x_T), I = sum log(1 + SNR v) / 2."""
  logsnr = np.linspace(-8.0, 8.0, 4001, dtype=np.float32)
  levels = jax.jit(dj.CosineSchedule().from_logsnr)(logsnr)
  levels = jax.tree.map(np.append, levels, dj.clean_level())
  found = bounds.expected_bound(GAUSSIAN, levels, variance)['diffusion']
  v = np.linalg.eigvalsh(GAUSSIAN.cov)
  low, high = (0.5 * np.log1p(np.exp(s) * v).sum() for s in (-8.0, 8.0))
  assert_allclose(found.sum(), high - low, rtol=5e-3)
