"""DPS, DiffPIR's step and RED-diff, against their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.core.keys import draw_normal
from tests.jitted import level_at
from tests.posteriors.test_reconstruction import (
  COV,
  DATA,
  MATRIX,
  MEAN,
  SCHEDULE,
  Y,
  measured,
)
from tests.rows import normal
from tests.transcribed import transcribes

ENDS = {'level_t': level_at(SCHEDULE, 0.5), 'level_s': level_at(SCHEDULE, 0.4)}


def gain(level):
  """Returns J = alpha C (alpha^2 C + sigma^2 I)^-1 of Gaussian data."""
  alpha, sigma = float(level.alpha), float(level.sigma)
  return alpha * COV @ np.linalg.inv(alpha**2 * COV + sigma**2 * np.eye(4))


@transcribes('DPS (Chung et al. 2023)', 'Alg. 1, as released', '`likelihood_guided`')
@pytest.mark.parametrize('sampler', [dj.ancestral(), dj.ddim()])
def test_dps_descends_along_the_norm_of_the_residual(sampler, key):
  """x_s - zeta grad |y - A x_0_hat|, and the norm is not squared."""
  x = normal(3, 4)
  guided = dj.likelihood_guided(sampler, measured(0.1).distance, 0.7)

  @jax.jit
  def steps(x):
    return [s.step(key, x, (), DATA.denoise, **ENDS)[0] for s in (sampler, guided)]

  plain, found = map(np.asarray, steps(x))
  j, alpha = gain(ENDS['level_t']), float(ENDS['level_t'].alpha)
  x0 = MEAN[None] + (np.asarray(x, np.float64) - alpha * MEAN[None]) @ j.T
  residual = Y[None] - x0 @ MATRIX.T
  norm = np.linalg.norm(residual, axis=1, keepdims=True)
  gradient = -(residual / norm) @ MATRIX @ j
  assert_allclose(found - plain, -0.7 * gradient, atol=1e-5)


def test_a_sampler_of_several_calls_has_each_of_them(key):
  """Heun's second call is at another x and level."""
  calls = []

  def denoise(x, level):
    calls.append(level)
    return DATA.denoise(x, level)

  guided = dj.likelihood_guided(dj.heun(), measured(0.1).distance, 0.0)
  x = normal(3, 4)
  state = guided.init(x)

  @jax.jit
  def steps(x):
    found = guided.step(key, x, state, denoise, **ENDS)[0]
    return found, dj.heun().step(key, x, state, DATA.denoise, **ENDS)[0]

  found, expected = steps(x)
  assert len(calls) == 2
  assert_allclose(found, expected, atol=1e-6)


@transcribes('DiffPIR (Zhu et al. 2023)', 'Alg. 1, line 7', '`renoised`')
def test_renoised_has_its_share_of_new_noise(key):
  x = normal(3, 4)
  t, s = jax.device_get((ENDS['level_t'], ENDS['level_s']))
  shares = 0.0, 0.3, 1.0

  @jax.jit
  def steps(x):
    found = [dj.renoised(share).step(key, x, (), DATA.denoise, **ENDS)[0] for share in shares]
    return found, DATA.denoise(x, t).x0, draw_normal(key, x)

  found, x0, z = jax.device_get(steps(x))
  eps = (x - t.alpha * x0) / t.sigma
  for share, x_s in zip(shares, found, strict=True):
    noise = (1 - share) ** 0.5 * eps + share**0.5 * z
    assert_allclose(x_s, s.alpha * x0 + s.sigma * noise, atol=1e-5)


@transcribes('RED-diff (Mardani et al. 2024)', 'Alg. 1', '`red_diff`')
def test_red_diff_stops_where_its_mean_gradient_is_zero(key):
  """A^T (A x - y) + weight (I - alpha J) (x - mean) = 0 for Gaussian data."""
  level, weight, rate, steps = level_at(SCHEDULE, 0.5), 4.0, 0.02, 500
  levels = jax.tree.map(lambda a, b: np.append(np.full(steps, a), b), level, dj.clean_level())
  m = measured(1.0)

  @jax.jit
  def run(key):
    return dj.red_diff(
      key,
      DATA.denoise,
      levels,
      lambda x: 0.5 * m.distance(x) ** 2,
      jnp.zeros((2000, 4)),
      optimizer=optax.sgd(rate),
      weight=weight,
    )

  found = np.asarray(run(key), np.float64).mean(axis=0)
  kept = weight * (np.eye(4) - float(level.alpha) * gain(level))
  system = MATRIX.T @ MATRIX + kept
  expected = np.linalg.solve(system, MATRIX.T @ Y + kept @ MEAN)
  assert_allclose(found, expected, atol=0.03)
