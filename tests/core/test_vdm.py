import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj


def line(params, t):
  return params['low'] + params['span'] * t


def schedule(low=-13.3, span=18.3):
  return dj.LearnedSchedule({'low': low, 'span': span}, line)


def loss(x0_hat, schedule, t, num_steps=None):
  x0 = jnp.zeros_like(x0_hat)
  return dj.vdm_diffusion_loss(x0, x0_hat, schedule, t, num_steps)


@pytest.mark.parametrize('num_steps', [None, 7])
def test_gradients_reach_the_schedule(num_steps):
  """The slopes in the line's parameters are the formula's derivatives."""
  x0_hat, t = jnp.full((1, 2), 0.3), jnp.array([6 / 7])

  def expected(low, span):
    gamma = low + span * 6 / 7
    if num_steps is None:
      return 0.5 * span * np.exp(-gamma) * 0.18
    return 3.5 * np.expm1(span / 7) * np.exp(-gamma) * 0.18

  grads = jax.jit(jax.grad(lambda s: loss(x0_hat, s, t, num_steps)[0]))(
    schedule(-4.0, 6.0)
  ).params
  h = 1e-5
  low = (expected(-4.0 + h, 6.0) - expected(-4.0 - h, 6.0)) / (2 * h)
  span = (expected(-4.0, 6.0 + h) - expected(-4.0, 6.0 - h)) / (2 * h)
  np.testing.assert_allclose(grads['low'], low, rtol=1e-4)
  np.testing.assert_allclose(grads['span'], span, rtol=1e-4)
