"""Sampling with flow maps, against the exact ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.testing import oracles

STRAIGHT = dj.RectifiedFlowSchedule()
GAUSSIAN = oracles.gaussian([0.5, -0.3], [[1.0, 0.8], [0.8, 1.5]])


def test_the_exact_map_is_the_same_in_any_number_of_steps(key):
  """To the closed form; without `stochastic` no random number matters."""
  x = jax.random.normal(key, (8, 2))
  exact = GAUSSIAN.ode_map(x, STRAIGHT(jnp.ones(())), dj.clean_level())
  for n in (1, 3):
    levels = dj.level_grid(STRAIGHT, n)
    sample = jax.jit(
      functools.partial(dj.sample_map, flow_map=GAUSSIAN.flow_map)
    )
    found = sample(jax.random.key(n), levels=levels, x=x)
    np.testing.assert_allclose(found, exact, atol=2e-6)


def test_multistep_consistency_sampling_by_hand(key):
  """Algorithm 1: x + sqrt(sigma^2 - sigma_min^2) z, then f again.

  The map is f = x / 2 + sigma; the keys are those of `split_key`.
  """
  schedule = dj.KarrasSchedule()
  levels = dj.level_grid(schedule, 3, end_clean=False)

  def f(xt, level_t, level_s):
    return 0.5 * xt + level_t.sigma

  x = 80.0 * jax.random.normal(key, (4, 2))
  found = jax.jit(lambda x: dj.sample_map(key, f, levels, x, stochastic=True))(
    x
  )
  sigma = np.asarray(levels.sigma, np.float64)
  expected = np.asarray(x, np.float64)
  for i, step_key in enumerate(dj.core.keys.split_key(key, 3)):
    expected = 0.5 * expected + sigma[i]
    if i < 2:
      z = np.asarray(jax.random.normal(step_key, x.shape), np.float64)
      expected += np.sqrt(sigma[i + 1] ** 2 - sigma[-1] ** 2) * z
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_allclose(sigma[-1], 0.002, rtol=1e-5)


def test_multistep_samples_of_the_exact_map_are_the_data(key):
  """Mean and covariance of 20,000 samples in three steps, on either path."""
  n = 20_000
  for schedule, end_clean in ((STRAIGHT, True), (dj.KarrasSchedule(), False)):
    levels = dj.level_grid(schedule, 3, end_clean=end_clean)
    x = dj.prior_sample(key, (n, 2), levels.take(0))
    if end_clean:
      # EDM's first level has a little signal, which the prior leaves out.
      assert levels.alpha[0] == 0.0
    found = jax.jit(
      lambda x, levels=levels: dj.sample_map(
        key, GAUSSIAN.flow_map, levels, x, stochastic=True
      )
    )(x)
    np.testing.assert_allclose(found.mean(0), GAUSSIAN.mean, atol=0.05)
    np.testing.assert_allclose(np.cov(found.T), GAUSSIAN.cov, atol=0.06)
