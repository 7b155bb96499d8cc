"""Composed denoisers against the closed form of gaussian_linear."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from tests.jitted import jitted, level_at
from tests.rows import normal, slow
from tests.transcribed import transcribes

D = 10
PRIOR = oracles.gaussian(np.zeros(D), 0.1 * np.eye(D))
STD = 0.1**0.5
single = functools.partial(PRIOR.denoiser_given, std=STD)


def problem(n, d=D, std=STD, prior=PRIOR):
  """Returns observations [n, d] and the exact p(x_0 | y_1..n)."""
  rng = np.random.default_rng(n)
  ys = 0.3 * rng.normal(size=d) + std * rng.normal(size=(n, d))
  exact = prior.posterior(np.eye(d), ys.mean(axis=0), std / n**0.5)
  return jnp.asarray(ys, jnp.float32), exact


def gauss(ys, prior, std):
  """Composes by the exact covariances of single observations."""
  d = ys.shape[1]
  covariances = [prior.posterior(np.eye(d), y, std).cov for y in np.asarray(ys)]
  return dj.gauss_composed(
    functools.partial(prior.denoiser_given, std=std),
    ys,
    prior.denoise,
    np.stack(covariances),
    prior.cov,
  )


def test_the_denoiser_given_an_observation_is_the_posteriors():
  mixed = oracles.mixture([0.3, 0.7], [[-1.0, 0.0], [0.5, 1.0]], [np.eye(2)] * 2)
  y = np.array([0.4, -0.2])
  exact = mixed.posterior(np.eye(2), y, 0.7)
  x = normal(16, 2)
  given = jax.jit(mixed.denoiser_given(np.float32(y), 0.7))
  for level in (
    level_at(dj.CosineSchedule(), np.linspace(0.0, 1.0, 16)),
    level_at(dj.KarrasSchedule(2e-3, 40.0), 0.6),
  ):
    found = given(x, level)
    expected = jitted(exact.denoise)(x, level).x0
    assert_allclose(found.x0, expected, atol=1e-5)


CORRELATED = oracles.gaussian(np.ones(2), [[1.0, 0.8], [0.8, 1.5]])


@transcribes('Linhart et al. 2024', 'GAUSS', '`gauss_composed`')
@pytest.mark.parametrize('n, prior', [slow(1, PRIOR), (32, PRIOR), (5, CORRELATED)])
def test_the_composition_of_gaussians_is_exact(n, prior):
  """The composition is exact at clean and signal-free levels too, on two paths."""
  d = len(prior.means[0])
  ys, exact = problem(n, d, STD, prior)
  denoise = gauss(ys, prior, STD)

  @jax.jit
  def estimates(key):
    eps = jax.random.normal(key, (18, d))
    x0 = exact.sample(jax.random.key(1), 18)
    paths = dj.CosineSchedule(), dj.KarrasSchedule(2e-3, 40.0)
    levels = [path(jnp.linspace(0.0, 1.0, 9)) for path in paths]
    levels = jax.tree.map(lambda *each: jnp.concatenate(each), *levels)
    x = dj.q_sample(x0, eps, levels)
    return exact.denoise(x, levels).x0, denoise(x, levels).x0

  expected, found = estimates(jax.random.key(0))
  deviation = float(exact.cov[0, 0]) ** 0.5
  assert_allclose(found, expected, atol=1e-4 * deviation)


def test_an_observation_never_adds_uncertainty():
  """An estimate wider than the prior counts as no observation."""
  ys, _ = problem(2)
  wide = np.stack([0.05 * np.eye(D), 0.3 * np.eye(D)])
  denoise = dj.gauss_composed(single, ys, PRIOR.denoise, wide, PRIOR.cov)
  x = normal(4, D)
  level = level_at(dj.CosineSchedule(), 0.5)

  @jax.jit
  def estimates(x):
    denoisers = PRIOR.denoise, single(ys[0]), single(ys[1]), denoise
    return [f(x, level).x0 for f in denoisers]

  x0, one, two, found = map(np.asarray, estimates(x))
  base = 10.0 + float(level.snr)
  # The second has the precision of the prior, and a mean of its own.
  expected = x0 + (one - x0) + (two - x0) * base / (base + 10.0)
  assert_allclose(found, expected, atol=1e-5)


@transcribes('Geffner et al. 2023', 'F-NPSE: n scores and the bridging prior', '`bridged`')
def test_the_bridge_is_its_sum_of_scores():
  """Geffner et al. 2023, literally in float64."""
  ys, _ = problem(3)
  level = level_at(dj.CosineSchedule(), 0.3)
  x = normal(4, D)
  denoise = dj.bridged(single, ys, lambda x: -x / 0.1)

  @jax.jit
  def run(x):
    estimates = [single(y)(x, level).x0 for y in ys]
    return dj.score_from_x0(denoise(x, level).x0, x, level), *estimates

  t, alpha, sigma = (float(a) for a in level)
  found, *estimates = (np.asarray(a, np.float64) for a in run(x))
  x = np.asarray(x, np.float64)
  scores = [(alpha * x0 - x) / sigma**2 for x0 in estimates]
  expected = sum(scores) + (1 - 3) * (1 - t) * -x / 0.1
  assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
