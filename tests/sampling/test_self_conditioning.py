"""A sampler with self-conditioning passes each estimate to the next call, without more calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from tests.jitted import level_at, level_grid
from tests.transcribed import transcribes

SCHEDULE = dj.CosineSchedule()


def make_denoise(x0_prev):
  """Returns x_0 = 0.5 x + 0.25 x0_prev + 0.1."""
  return lambda x, level: dj.Prediction(0.5 * x + 0.25 * x0_prev + 0.1)


@transcribes('Analog Bits (Chen et al. 2022)', 'Alg. 2: sampling with it', '`self_conditioned`')
def test_a_chain_by_hand(key):
  """The chain is Analog Bits, Alg. 2, in float64 with DDIM's ODE."""
  levels = level_grid(SCHEDULE, 4)
  x = jnp.array([[1.0, -2.0], [0.5, 0.25]])
  found = dj.sample(key, make_denoise, dj.self_conditioned(dj.ddim()), levels, x)
  alpha, sigma = (np.asarray(a, np.float64) for a in (levels.alpha, levels.sigma))
  x, x0 = np.asarray(x, np.float64), np.zeros((2, 2))
  for i in range(4):
    x0 = 0.5 * x + 0.25 * x0 + 0.1
    eps = (x - alpha[i] * x0) / sigma[i]
    x = alpha[i + 1] * x0 + sigma[i + 1] * eps
  assert_allclose(found, x, rtol=1e-5, atol=1e-6)


def twice():
  """A sampler with a second call elsewhere, like second-order methods."""

  def step(key, x, state, denoise, *, level_s, level_t):
    first = denoise(x, level_t).x0
    second = denoise(first, level_s).x0
    return first + second, state + 1

  return dj.Sampler(lambda x: jnp.zeros((), int), step)


@pytest.mark.parametrize('sampler, calls', [(dj.ddim(), 1), (twice(), 2)])
def test_the_network_is_not_called_more_often(sampler, calls, key):
  count = []

  def counted(x0):
    def denoise(x, level):
      count.append(level)
      return make_denoise(x0)(x, level)

    return denoise

  wrapped = dj.self_conditioned(sampler)
  x = jnp.ones((2, 3))
  t, s = level_at(SCHEDULE, 0.8), level_at(SCHEDULE, 0.4)
  state = wrapped.init(x)
  assert_array_equal(state[1], jnp.zeros((2, 3)))
  step = lambda x, state: wrapped.step(key, x, state, counted, level_s=s, level_t=t)
  x, state = jax.jit(step)(x, state)
  assert len(count) == calls
  # The next step gets the estimate at x, not the one elsewhere.
  assert_allclose(state[1], 0.6, rtol=1e-6)
  if calls == 2:
    assert state[0] == 1  # The sampler's own state.
    assert_allclose(x, 0.6 + 0.5 * 0.6 + 0.1, rtol=1e-6)
