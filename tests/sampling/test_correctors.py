"""Where churn adds nothing; the rest is in test_solvers.py and papers/."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from tests.sampling.moments import DDPM, GAUSSIAN, SCHEDULES


def first_step(sampler, schedule, key, t=1.0):
  level_t, level_s = schedule(jnp.array(t)), schedule(jnp.array(0.4))
  levels = {'level_s': level_s, 'level_t': level_t}

  @jax.jit
  def step(x):
    return sampler.step(key, x, (), GAUSSIAN.denoise, **levels)[0]

  return np.asarray(step(np.linspace(-2.0, 2.0, 8, dtype='f').reshape(4, 2)))


@pytest.mark.parametrize('name', SCHEDULES)
def test_churn_adds_nothing_beyond_the_end_of_a_schedule(name, key):
  schedule = SCHEDULES[name]
  plain = first_step(dj.ddim(), schedule, key)
  churned = first_step(dj.churn(dj.ddim(), schedule, 0.4), schedule, key)
  if name in ('geometric_ve', 'karras'):  # which go on
    assert np.abs(churned - plain).max() > 0.1
  else:
    np.testing.assert_array_equal(churned, plain)


def test_churn_adds_the_noise_between_the_two_levels(key):
  """The marginal at the raised level, for all x_t of a marginal."""
  calls = []

  def step(key, x, state, denoise, *, level_s, level_t):
    calls.append((x, level_t))
    return x, state

  schedule = dj.LinearVPSchedule()
  level = schedule(jnp.array(0.5))
  x = jnp.sqrt(level.alpha**2 + level.sigma**2)
  x = x * jax.random.normal(key, (100_000, 2))
  for s_noise in (1.0, 1.2):
    sampler = dj.churn(
      dj.Sampler(lambda x: (), step), schedule, 0.3, s_noise=s_noise
    )
    levels = {'level_s': schedule(0.4), 'level_t': level}
    sampler.step(jax.random.key(1), x, (), None, **levels)
    raised, hat = calls.pop()
    ratio = hat.sigma / hat.alpha
    np.testing.assert_allclose(ratio, 1.3 * level.sigma / level.alpha, 1e-5)
    shrunk = np.float64(hat.alpha / level.alpha) ** 2
    added = np.float64(hat.sigma) ** 2 - shrunk * np.float64(level.sigma) ** 2
    expected = shrunk + s_noise**2 * added
    np.testing.assert_allclose(np.var(raised), expected, rtol=0.015)


@pytest.mark.parametrize('limits', [{'s_min': 1.0}, {'s_max': 0.1}])
def test_churn_is_limited_in_sigma_over_alpha(limits, key):
  t = 0.2
  level = DDPM(jnp.array(t))
  assert 0.1 < level.sigma / level.alpha < 1.0
  plain = first_step(dj.ddim(), DDPM, key, t)
  sampler = dj.churn(dj.ddim(), DDPM, 0.4, **limits)
  np.testing.assert_array_equal(first_step(sampler, DDPM, key, t), plain)
  freely = first_step(dj.churn(dj.ddim(), DDPM, 0.4), DDPM, key, t)
  assert np.abs(freely - plain).max() > 1e-3


def test_gamma_of_churn():
  assert dj.churn_gamma(40.0, 256) == 40.0 / 256
  assert dj.churn_gamma(80.0, 18) == 2.0**0.5 - 1.0
