"""Levels in float32 keep log-SNR accurate, and times are rounded to steps where they are steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.core.levels import check_one_level, round_near_step
from tests.core.test_step_schedules import NAMED
from tests.jitted import jitted


def test_logsnr_is_infinite_where_clean_and_where_all_is_noise():
  assert dj.clean_level().logsnr == jnp.inf
  assert dj.NoiseLevel(1.0, jnp.zeros(()), jnp.ones(())).logsnr == -jnp.inf


CONTINUOUS = [
  *(dj.CosineSchedule, dj.LinearVPSchedule, dj.SubVPSchedule),
  *(dj.GeometricVESchedule, dj.KarrasSchedule, dj.RectifiedFlowSchedule),
  dj.SigmoidSchedule,
]


@pytest.mark.parametrize('T', [1000, 4000])
@pytest.mark.parametrize('name', [*NAMED][:6])  # Of the others float32 rounds the ends more.
def test_the_error_of_log_snr_at_steps_in_float32(name, T):
  """alpha and sigma as stored, and `logsnr`, are close to float64."""
  betas = NAMED[name](T)
  log_alpha_bar = np.cumsum(np.log1p(-betas))
  truth = log_alpha_bar - np.log(-np.expm1(log_alpha_bar))
  levels = jax.jit(dj.DiscreteSchedule.from_betas(betas).at_step)(np.arange(1, T + 1))
  check_log_snr(levels, truth, 5e-7)


@pytest.mark.parametrize('schedule', CONTINUOUS)
def test_the_error_of_log_snr_in_float32(schedule):
  """The same formula in float64, at float32 times, is the truth."""
  t = (np.arange(1, 4000) / 4000).astype(np.float32)
  level_at = jax.jit(schedule().__call__)
  level = level_at(t)
  with jax.enable_x64(True):
    _, alpha, sigma = jax.device_get(level_at(np.float64(t)))
  truth = 2 * (np.log(alpha) - np.log(sigma))
  check_log_snr(level, truth, 2.5e-6)


def check_log_snr(level, truth, bound):
  alpha, sigma = (np.asarray(a, np.float64) for a in level[1:])
  stored = 2 * (np.log(alpha) - np.log(sigma))
  assert_allclose(stored, truth, rtol=0, atol=bound)
  assert_allclose(level.logsnr, truth, rtol=0, atol=2.5e-6)


@pytest.mark.parametrize('num_steps', [1, 3, 1000, 4000])
def test_rounding_finds_every_step_in_float32(num_steps):
  steps = np.arange(num_steps + 1)
  t = (steps / num_steps).astype(np.float32)
  found = jitted(round_near_step)(t * np.float32(num_steps), num_steps)
  assert_array_equal(found, steps)


def test_rounding_keeps_other_positions_and_the_slope():
  for position, num_steps in ((2.25, 1000), (2.002, 4000)):
    position = np.float32(position)
    found = np.asarray(jitted(round_near_step)(position, num_steps))
    assert found == position
  slope = jax.jit(jax.grad(lambda t: round_near_step(1000.0 * t, 1000)))
  assert slope(0.3) == 1000.0


@pytest.mark.parametrize('num_steps', [1, 5, 1000])
def test_rounding_does_not_take_the_smallest_times_for_clean(num_steps):
  """The likelihood starts at t = 1e-5, which is noisy for any T."""
  found = jitted(round_near_step)(np.float32(1e-5) * np.float32(num_steps), num_steps)
  assert np.asarray(found) > 0.0


@pytest.mark.parametrize(
  'shape, axes, takes',
  [((2, 3), 1, '[] or [B]'), ((2,), 0, '[]'), ((2, 3, 4), 2, '[], [B] or [B, T]')],
)
def test_levels_of_more_axes_are_refused(shape, axes, takes):
  def level(shape):
    return dj.CosineSchedule()(jnp.full(shape, 0.5))

  check_one_level(level(shape[:axes]), 'it', axes)
  with pytest.raises(ValueError) as error:
    check_one_level(level(shape), 'it', axes)
  assert str(error.value).startswith(f'it takes levels {takes}, not {list(shape)}: ')
