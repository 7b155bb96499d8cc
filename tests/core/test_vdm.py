import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj


@pytest.mark.parametrize('num_steps', [None, 7])
def test_gradients_reach_the_schedule(num_steps):
  """The slopes in the line's parameters are the formula's derivatives."""

  def loss(low, span):
    params = {'low': low, 'span': span}
    line = lambda params, t: params['low'] + params['span'] * t
    schedule, x0_hat = dj.LearnedSchedule(params, line), jnp.full((1, 2), 0.3)
    args = 0 * x0_hat, x0_hat, schedule, jnp.array([6 / 7]), num_steps
    return dj.vdm_diffusion_loss(*args)[0]

  def expected(low, span):
    gamma = low + span * 6 / 7
    if num_steps is None:
      return 0.5 * span * np.exp(-gamma) * 0.18
    return 3.5 * np.expm1(span / 7) * np.exp(-gamma) * 0.18

  found, h = jax.jit(jax.grad(loss, (0, 1)))(-4.0, 6.0), 1e-5
  low = (expected(-4.0 + h, 6.0) - expected(-4.0 - h, 6.0)) / (2 * h)
  span = (expected(-4.0, 6.0 + h) - expected(-4.0, 6.0 - h)) / (2 * h)
  np.testing.assert_allclose(found, (low, span), rtol=1e-4)
