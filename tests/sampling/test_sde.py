"""Discretisations of the reverse SDE against steps written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from tests.transcribed import transcribes

X, X0 = np.array([[0.3, -1.2]]), np.array([[0.5, 0.1]])


def step(sampler, key, level_s, level_t):
  """Returns the step from X of a denoiser that returns X0, and its noise."""

  @jax.jit
  def run(x, x0, level_s, level_t):
    denoise = lambda x, level: dj.Prediction(x0)
    return sampler.step(key, x, (), denoise, level_s=level_s, level_t=level_t)[0]

  z = np.float64(jax.random.normal(key, X.shape))
  x, x0 = np.float32(X), np.float32(X0)
  return run(x, x0, level_s, level_t), z


FLOW = dj.RectifiedFlowSchedule()


@transcribes('SiT (Ma et al. 2024)', '5: the SDE with any diffusion coefficient', '`velocity_sde`')
@pytest.mark.parametrize(
  'diffusion, w', [('constant', 1.0), ('sigma', 0.7), ('sde', 2 * 0.7 / (1 - 0.7))]
)
def test_the_step_of_sit_literally(diffusion, w, key):
  """In SiT's time s = 1 - t the drift is u + w score / 2."""
  sampler = dj.velocity_sde(FLOW, diffusion, 0.5)
  found, z = step(sampler, key, FLOW(0.6), FLOW(0.7))
  noise = (X - 0.3 * X0) / 0.7
  u, score = X0 - noise, -noise / 0.7
  mean = X + 0.1 * (u + 0.25 * w * score)
  expected = mean + np.sqrt(0.5 * w * 0.1) * z
  assert_allclose(found, expected, rtol=5e-6)


def variance_at_the_end(sampler, w, num_steps, data_variance=0.4):
  """Returns the variance of samples of Gaussian data without Monte Carlo."""
  key, ends = jax.random.key(0), jnp.array([[0.0], [1.0]])

  def denoise(x, level):
    t = level.expand_to(x)
    total = t.alpha**2 * data_variance + t.sigma**2
    return dj.Prediction(t.alpha * data_variance / total * x)

  def body(i, variance):
    t, s = FLOW(1.0 - i / num_steps), FLOW(1.0 - (i + 1) / num_steps)
    keys = jnp.stack([key, key])  # The same noise cancels.
    x, _ = sampler.step(keys, ends, (), denoise, level_s=s, level_t=t)
    added = jnp.where(s.sigma > 0, w(t.sigma) * (t.t - s.t), 0.0)
    return (x[1, 0] - x[0, 0]) ** 2 * variance + added

  return jax.lax.fori_loop(0, num_steps, body, jnp.ones(()))


@transcribes('SiT (Ma et al. 2024)', '5: the SDE with any diffusion coefficient')
@pytest.mark.parametrize(
  'diffusion, scale, w',
  [
    ('sigma', 2.0, lambda sigma: 2.0 * sigma),
    ('constant', 0.5, lambda sigma: 0.5),
    ('constant', 0.0, lambda sigma: 0.0),
  ],
)
def test_every_diffusion_has_the_marginals_to_first_order(diffusion, scale, w):
  with jax.enable_x64(True):
    sampler = dj.velocity_sde(FLOW, diffusion, scale)
    run = jax.jit(variance_at_the_end, static_argnums=(0, 1))
    errors = [float(run(sampler, w, n)) - 0.4 for n in (200, 400, 800)]
  errors = np.abs(errors)
  assert errors[-1] < 4e-3
  assert_allclose(np.log2(errors[:-1] / errors[1:]), 1.0, atol=0.15)
