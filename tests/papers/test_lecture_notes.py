"""Equations of lecture notes that no paper has."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from tests.jitted import jitted
from tests.transcribed import transcribes


@transcribes('lecture notes', 'lecture 8: the Gaussian closest to the data', '`kl`, `log_prob`')
def test_the_closest_gaussian_has_the_moments_of_the_data():
  """Lecture 8: KL(q || N(m, s^2)) is least at the moments of q.

  The KL is a quadrature over a mixture's density.
  """
  q = oracles.mixture([0.3, 0.7], [[-1.0], [1.5]], np.array([0.2, 0.5])[:, None, None])
  x = np.linspace(-8.0, 10.0, 4001, dtype=np.float32)
  log_q = np.asarray(jax.jit(q.log_prob)(x[:, None], dj.clean_level()))
  mass = np.exp(log_q) * np.float32(18 / 4000)
  assert_allclose(mass.sum(), 1.0, atol=1e-5)

  @jax.jit
  def divergence(mean, log_variance):
    p = dj.Normal(mean, jnp.exp(log_variance))
    return jnp.sum(mass * (log_q - jitted(dj.log_prob)(p, x)))

  mean, cov = jax.jit(lambda: (q.mean, q.cov))()
  mean, log_variance = np.asarray(mean)[0], np.log(np.asarray(cov)[0, 0])
  slopes = jax.jit(jax.grad(divergence, argnums=(0, 1)))(mean, log_variance)
  assert_allclose(slopes, 0.0, atol=1e-5)
  least = divergence(mean, log_variance)
  assert least > 0.01  # A mixture is not a Gaussian.
  for step in np.random.default_rng(0).normal(scale=0.3, size=(10, 2)):
    assert divergence(mean + step[0], log_variance + step[1]) > least
