"""The oracles themselves, against quadrature, scipy and autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import diffusion_jax as dj
from diffusion_jax.testing import oracles

MEAN, COV = [0.5, -0.3], [[1.0, 0.8], [0.8, 1.5]]
GAUSSIAN = oracles.gaussian(MEAN, COV)
MIXTURE = oracles.mixture(
  [0.3, 0.7],
  [[-1.0, 0.5], [1.0, 0.0]],
  [np.eye(2) * 0.05, [[0.2, 0.1], [0.1, 0.3]]],
)
LEVEL = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000)).at_step(300)
ORACLES = pytest.mark.parametrize(
  'oracle', [GAUSSIAN, MIXTURE], ids=['gaussian', 'mixture']
)


def points(oracle, key, n=6):
  x0 = jax.jit(oracle.sample, static_argnums=1)(key, n)
  return dj.q_sample(x0, jax.random.normal(key, x0.shape), LEVEL)


def test_gaussian_log_prob_is_scipys(key):
  x = points(GAUSSIAN, key)
  cov = LEVEL.alpha**2 * np.array(COV) + LEVEL.sigma**2 * np.eye(2)
  exact = scipy.stats.multivariate_normal(LEVEL.alpha * np.array(MEAN), cov)
  np.testing.assert_allclose(
    jax.jit(GAUSSIAN.log_prob)(x, LEVEL), exact.logpdf(x), rtol=1e-4
  )


@ORACLES
def test_score_is_the_gradient_of_log_prob(oracle, key):
  x = points(oracle, key)
  expected = jax.jit(jax.grad(lambda x: oracle.log_prob(x, LEVEL).sum()))(x)
  np.testing.assert_allclose(
    jax.jit(oracle.score)(x, LEVEL), expected, atol=1e-5
  )


@ORACLES
def test_tweedie_connects_denoiser_and_score(oracle, key):
  x = points(oracle, key)
  found = dj.score_from_x0(jax.jit(oracle.denoise)(x, LEVEL).x0, x, LEVEL)
  np.testing.assert_allclose(found, jax.jit(oracle.score)(x, LEVEL), atol=2e-5)


@ORACLES
def test_denoiser_is_the_posterior_mean_by_importance_sampling(oracle, key):
  x = points(oracle, key)
  sample = jax.jit(oracle.sample, static_argnums=1)
  x0 = sample(jax.random.fold_in(key, 1), 200_000)
  distance = (x[:, None] - LEVEL.alpha * x0[None]) ** 2
  log_weight = -0.5 * jnp.sum(distance, -1) / LEVEL.sigma**2
  weight = jax.nn.softmax(log_weight, axis=1)
  mean = weight @ x0
  # five standard errors of the self-normalised estimate
  spread = jnp.sum(weight[..., None] ** 2 * (x0[None] - mean[:, None]) ** 2, 1)
  error = jnp.abs(jax.jit(oracle.denoise)(x, LEVEL).x0 - mean)
  assert (error < 5 * jnp.sqrt(spread)).all()


@ORACLES
def test_samples_have_mean_and_cov(oracle, key):
  x = np.asarray(oracle.sample(key, 100_000))
  np.testing.assert_allclose(x.mean(0), oracle.mean, atol=0.02)
  np.testing.assert_allclose(np.cov(x.T), oracle.cov, atol=0.04)


@ORACLES
def test_levels_may_differ_per_example(oracle, key):
  x = points(oracle, key, 3)
  schedule = dj.LinearVPSchedule()
  t = jnp.array([0.1, 0.5, 1.0])
  log_prob = jax.jit(oracle.log_prob)
  many = log_prob(x, schedule(t))
  for i in range(3):
    one = log_prob(x[i : i + 1], schedule(t[i]))
    np.testing.assert_allclose(many[i], one[0], rtol=1e-5)


@ORACLES
def test_no_signal_left_gives_the_prior_mean(oracle, key):
  level = dj.NoiseLevel(*(jnp.asarray(v) for v in (1.0, 0.0, 1.0)))
  x = jax.random.normal(key, (3, 2))
  expected = np.broadcast_to(oracle.mean, (3, 2))
  np.testing.assert_allclose(oracle.denoise(x, level).x0, expected, rtol=1e-5)


def test_weights_need_not_be_normalised():
  a = oracles.mixture([1, 3], np.zeros((2, 1)), np.ones((2, 1, 1)))
  np.testing.assert_allclose(a.weights, [0.25, 0.75])


def test_shapes_are_checked():
  with pytest.raises(ValueError, match=r'must be \[K\], \[K, D\]'):
    oracles.mixture(np.ones(2), np.ones((3, 2)), np.ones((3, 2, 2)))
  for cov in ([[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.5], [0.0, 1.0]]):
    with pytest.raises(ValueError, match='symmetric and positive'):
      oracles.gaussian(np.zeros(2), cov)
