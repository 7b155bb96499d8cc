import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj


def line(params, t):
  return params['low'] + params['span'] * t


def schedule(low=-13.3, span=18.3):
  return dj.LearnedSchedule({'low': low, 'span': span}, line)


def loss(x0_hat, schedule, t, num_steps=None):
  x0 = jnp.zeros_like(x0_hat)
  return dj.vdm_diffusion_loss(x0, x0_hat, schedule, t, num_steps)


def test_the_weight_is_that_of_ddpms_bound_at_neighbouring_steps():
  """Eq. 12 of DDPM with fixed_small is 1 / T of Eq. 14 of VDM."""
  T = 50
  discrete = dj.DiscreteSchedule.from_betas(dj.linear_betas(T, 1e-3, 0.2))
  i = jnp.array([2, 20, 50])
  level_s, level_t = discrete.at_step(i - 1), discrete.at_step(i)
  rng = np.random.default_rng(0)
  eps, eps_hat = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
  expected = dj.weighted_eps_loss(eps, eps_hat, level_s, level_t)
  found = dj.denoising_loss(
    'eps', eps_hat, eps, eps, level_t, dj.vdm_weight(discrete, T)
  )
  np.testing.assert_allclose(found / T, expected, rtol=2e-5)
