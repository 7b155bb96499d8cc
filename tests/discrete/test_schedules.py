"""Schedules of discrete states against their formulas in float64."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from tests.transcribed import transcribes

T = np.array([1e-4, 0.1, 0.5, 0.9, 0.9999])
ALPHAS = {
  dj.PolynomialMasking(): 1 - T,
  dj.PolynomialMasking(3.0): 1 - T**3,
  dj.CosineMasking(): 1 - np.cos(np.pi / 2 * (1 - T)),
}


@transcribes(
  'MD4 (Shi et al. 2024)',
  'linear, polynomial, cosine schedules',
  '`PolynomialMasking`, `CosineMasking`',
)
@pytest.mark.parametrize('schedule', ALPHAS)
def test_masking_schedules(schedule):
  """Masking schedules equal MD4's table; both ends and the inverse are right."""
  alpha = ALPHAS[schedule]

  @jax.jit
  def levels(t):
    level = schedule(t)
    again = schedule.from_logsnr(level.logsnr[1:4])
    return level, again, schedule(0.0), schedule(1.0)

  level, again, first, last = jax.device_get(levels(np.float32(T)))
  assert_allclose(level.alpha, alpha, rtol=2e-3, atol=1e-9)
  assert_allclose(level.alpha[1:4], alpha[1:4], rtol=1e-6)
  assert_allclose(level.sigma[1:], 1 - alpha[1:], rtol=1e-6)
  assert_allclose(first.alpha, 1.0, rtol=1e-7)
  assert first.sigma == 0.0
  assert (last.alpha, last.sigma) == (0.0, 1.0)
  for a, b in zip(again, level.take(slice(1, 4)), strict=True):
    assert_allclose(a, b, rtol=1e-5)


@transcribes(
  'D3PM (Austin et al. 2021)',
  'masking is its absorbing process, α_t = Π(1 − β)',
  '`AlphaBarSchedule`',
)
def test_the_alpha_of_d3pm_is_the_product_of_1_minus_beta():
  betas = 1 / (10 - np.arange(10))  # The absorbing process has alpha_T = 0.
  betas[-1] = 0.9
  steps = dj.DiscreteSchedule.from_betas(betas)
  schedule = dj.AlphaBarSchedule(steps)

  @jax.jit
  def level_and_inverse(t):
    level = schedule(t)
    return level, schedule.from_logsnr(level.logsnr)

  level, again = level_and_inverse(np.arange(1, 11) / 10)
  alpha = np.cumprod(1 - betas)
  assert_allclose(level.alpha, alpha, rtol=2e-6)
  assert_allclose(level.sigma, 1 - alpha, rtol=2e-6)
  assert_allclose(again.alpha, alpha, rtol=1e-5)
  assert schedule.num_steps == 10
  with pytest.raises(AttributeError):
    _ = dj.AlphaBarSchedule(dj.CosineSchedule()).num_steps
