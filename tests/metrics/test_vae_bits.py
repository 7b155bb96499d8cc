"""Bits per dimension of a VAE, and of latents, whose bound is known."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.core.normal import log_prob
from diffusion_jax.metrics import vae_bits
from diffusion_jax.testing import oracles

BITS = 3.0


@pytest.mark.parametrize('metric', [vae_bits.vae_elbo(), vae_bits.importance_weighted(5)])
def test_a_posterior_that_is_the_prior_leaves_the_reconstruction(metric, key, tmp_path):
  """Where q(z | x) is the prior, each draw of z has the weight p(x | z), here of 3 bits/dim."""
  x0 = jnp.zeros((2, 4, 4, 1))
  nats = BITS * x0[0].size * np.log(2.0)
  model: Any = SimpleNamespace(
    num_latents=1,
    encode=lambda params, t, x: dj.Normal(jnp.zeros((2, 2, 2, 3)), jnp.ones((2, 2, 2, 3))),
    log_likelihood_of=lambda params: lambda x, z: jnp.full(2, -nats),
  )
  measure = jax.jit(metric.measure(model))
  arrays = jax.device_get(measure({'network': {}}, jax.random.split(key, 2), x0, {}))
  assert_allclose(arrays['total'], BITS, rtol=1e-6)
  [score] = metric.compute(arrays)
  assert score.estimate.value == pytest.approx(BITS) and score.note == 'bits/dim'


class LinearLatents:
  """z ~ N(0, 4 I), x | z ~ N(z, I / 4): all that `latent_ode` needs of it."""

  def autoencoder(self):
    return self

  def denoiser(self, params, cond):
    """Returns the exact denoiser of scale z, with scale = 0.3."""
    return oracles.gaussian(np.zeros(4), np.eye(4) * 0.6**2).denoise

  def schedule(self, params):
    return dj.CosineSchedule()

  def encode(self, params, t, x):
    precision = 1 / 4 + 4.0
    return dj.Normal(4.0 * x / precision, 1.0 / precision)

  def log_likelihood_of(self, params):
    return lambda x, z: log_prob(dj.Normal(z, 0.25), x).sum(axis=-1)


def test_the_bound_of_the_exact_posterior_is_the_likelihood():
  """x ~ N(0, (4 + 1/4) I), for any scale of the latents that are diffused."""
  measure = vae_bits.latent_ode(t_min=1e-4, tolerance=1e-6)
  x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
  params = {'autoencoder': {'network': {}, 'scale': jnp.float32(0.3)}}
  keys = jax.random.split(jax.random.key(0), 3)
  function = jax.jit(measure.measure(LinearLatents()))
  bits = function(params, keys, x, {})['total']
  exact = -scipy.stats.norm.logpdf(x, 0.0, 4.25**0.5).sum(axis=-1)
  assert_allclose(bits, exact / (4 * np.log(2.0)), atol=2e-3)
