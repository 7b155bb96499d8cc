"""Reconstruction guidance against regression in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.testing import oracles

SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(4, 4))
COV = ROOT @ ROOT.T + 0.3 * np.eye(4)
MEAN = np.array([0.5, -0.2, 0.1, 1.0])
DATA = oracles.gaussian(MEAN, COV)
POOL = np.array([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])


def posterior_mean(a, y, x, level):
  """Computes E[x_0 | x_t, a x_0 = y] in float64 from both observations."""
  alpha, sigma = float(level.alpha), float(level.sigma)
  both = np.concatenate([alpha * np.eye(4), a])
  noise = np.diag([sigma**2] * 4 + [0.0] * len(a))
  gain = COV @ both.T @ np.linalg.inv(both @ COV @ both.T + noise)
  known = np.concatenate([np.asarray(x, np.float64), y], axis=1)
  return MEAN[None] + (known - (both @ MEAN)[None]) @ gain.T


@pytest.mark.parametrize('t', [0.05, 0.3, 1.0])
@pytest.mark.parametrize('num_known', [1, 2])
def test_it_is_bayes_rule_for_known_coordinates(t, num_known, key):
  """The result is exact with one iteration per known number."""
  level = SCHEDULE(jnp.array(t))
  x, known = jax.random.normal(key, (2, 3, 4))
  mask = jnp.arange(4)[None] < num_known
  guided = dj.reconstruction_guided(
    DATA.denoise, known, mask, num_iterations=num_known
  )
  found = jax.jit(guided)(x, level).x0
  a = np.eye(4)[:num_known]
  y = np.asarray(known, np.float64)[:, :num_known]
  expected = posterior_mean(a, y, x, level)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-3)
  np.testing.assert_allclose(found[:, :num_known], y, atol=2e-3)


def test_any_linear_observation(key):
  """Means of pairs are the super-resolution of four pixels."""
  level = SCHEDULE(jnp.array(0.4))
  x, truth = jax.random.normal(key, (2, 3, 4))
  observe = lambda x0: x0 @ jnp.asarray(POOL.T, jnp.float32)

  @jax.jit
  def guided(x):
    y = observe(truth)
    options = {'num_iterations': 2}
    return dj.observation_guided(DATA.denoise, observe, y, **options)(x, level)

  y = np.asarray(truth, np.float64) @ POOL.T
  expected = posterior_mean(POOL, y, x, level)
  np.testing.assert_allclose(guided(x).x0, expected, atol=2e-3)


def test_scale_and_the_first_iteration_go_along_the_gradient(key):
  """This is the direction of Ho et al.'s reconstruction guidance."""
  level = SCHEDULE(jnp.array(0.5))
  x, known = jax.random.normal(key, (2, 3, 4))
  mask = jnp.array([[True, True, False, False]])

  def misfit(x):
    x0 = DATA.denoise(x, level).x0
    return jnp.sum(jnp.where(mask, known - x0, 0.0) ** 2)

  @jax.jit
  def changes(scale):
    guided = dj.reconstruction_guided(DATA.denoise, known, mask, scale)
    return guided(x, level).x0 - DATA.denoise(x, level).x0

  change, half = np.asarray(changes(1.0)), changes(0.5)
  along = -np.asarray(jax.jit(jax.grad(misfit))(x))
  for a, b in zip(change, along, strict=True):
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 1 - 1e-5
  np.testing.assert_allclose(half, 0.5 * change, atol=1e-5)


def test_a_denoiser_without_a_gradient_is_not_changed(key):
  """x_0 stays the same if it ignores x, or agrees with the known pixels."""
  level = SCHEDULE(jnp.array(0.5))
  x = jax.random.normal(key, (2, 3))
  deaf = lambda x, level: dj.Prediction(jnp.full_like(x, 0.25))
  mask = jnp.array([[True, False, True]])
  for known in (jnp.ones((2, 3)), jnp.full((2, 3), 0.25)):
    guided = dj.reconstruction_guided(deaf, known, mask, num_iterations=3)
    np.testing.assert_array_equal(guided(x, level).x0, 0.25)
