"""The noise of a Brownian path has its law, in whole and in parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.core.keys import draw_normal, repeat_key
from tests.jitted import jitted, level_at, level_grid
from tests.transcribed import transcribes

SCHEDULE = dj.CosineSchedule(-30.0, 30.0)
PLACES = np.array([-14.0, -3.0, -2.99, 0.0, 0.7, 5.0, 14.0])  # of lambda
N = 20_000
X = np.zeros((100, N // 100), np.float32)
path_noise = jitted(dj.path_noise)


@functools.cache
def noise_of_steps():
  """Returns the noise between PLACES, [6, N], and from first to last."""

  @jax.jit
  def noise(lambdas):
    x = jnp.zeros((100, N // 200))
    keys = jax.random.split(jax.random.key(1), 100)

    def between(pair):
      low, high = map(SCHEDULE.from_logsnr, 2.0 * pair)
      each = jax.random.key(0), keys
      halves = [dj.path_noise(key, x, high, low) for key in each]
      return jnp.stack(halves).ravel()

    return jax.lax.map(between, lambdas)

  pairs = [*zip(PLACES[:-1], PLACES[1:], strict=True), (PLACES[0], PLACES[-1])]
  *parts, whole = np.asarray(noise(np.float32(pairs)))
  return np.stack(parts), whole


def test_steps_of_a_path_are_independent_and_standard_normal():
  z, _ = noise_of_steps()
  error = 5 / np.sqrt(N)
  assert_allclose(z.mean(axis=1), 0.0, atol=error)
  covariance = z @ z.T / N
  assert_allclose(covariance, np.eye(6), atol=error * np.sqrt(1 + np.eye(6)).max())
  assert_allclose((z**4).mean(axis=1), 3.0, atol=error * 96**0.5)


@transcribes('Brownian tree (Li et al. 2020)', 'section 4: one path for all grids', '`path_noise`')
def test_a_step_is_made_of_its_parts():
  """sqrt(SNR_s - SNR_t) z adds up, here relative to the last SNR."""
  z, whole = noise_of_steps()
  snr = np.exp(2.0 * (PLACES - PLACES[-1]))
  parts = np.sqrt(np.diff(snr))[:, None] * z
  expected = np.sqrt(snr[-1] - snr[0]) * whole
  assert_allclose(parts.sum(axis=0), expected, atol=2e-5)


def test_steps_below_the_resolution_keep_their_variance():
  levels = jax.jit(SCHEDULE.from_logsnr)(2.0 * np.float32([0.1, 0.1001]))
  levels = jax.device_get(levels)
  z = np.asarray(path_noise(jax.random.key(0), X, levels.take(1), levels.take(0)))
  # The difference of two float32 numbers near 0.1 has 4 digits.
  assert abs(np.std(z) - 1.0) < 5 / np.sqrt(2 * N) + 1e-3


def test_noise_from_no_signal_and_to_clean_data_is_finite():
  levels = jax.device_get(level_at(dj.RectifiedFlowSchedule(), np.float32([1.0, 0.5, 0.0])))
  key = jax.random.key(0)
  z = np.asarray(path_noise(key, X, levels.take(1), levels.take(0)))
  assert abs(np.std(z) - 1.0) < 5 / np.sqrt(2 * N)
  last = np.asarray(path_noise(key, X, levels.take(2), levels.take(1)))
  assert np.isfinite(last).all()
  # Nothing of W is left over from one step to the next.
  assert abs(np.mean(z * last)) < 5 / np.sqrt(N)


def test_a_sampler_chooses_the_keys_of_its_steps():
  """The same key for all steps draws the same noise n times."""

  def step(key, x, state, denoise, *, level_s, level_t):
    return x + draw_normal(key, x), state

  levels = level_grid(dj.CosineSchedule(), 3)
  sampler = dj.Sampler(lambda x: (), step, repeat_key)
  denoise = lambda x, level: dj.Prediction(x)
  x = np.zeros((2, 3), np.float32)
  for key in (jax.random.key(0), jax.random.split(jax.random.key(0), 2)):
    run = lambda key: (dj.sample(key, denoise, sampler, levels, x), draw_normal(key, x))
    found, each = jax.jit(run)(key)
    assert_allclose(found, 3.0 * np.asarray(each), rtol=1e-6)
  for brownian in (False, True):
    sampler = dj.dpm_solver_pp_sde(brownian=brownian)
    assert (sampler.keys is repeat_key) == brownian
    assert dj.self_conditioned(sampler).keys is sampler.keys
