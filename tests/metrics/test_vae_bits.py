"""Bits per dimension of a VAE whose bound is known."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.metrics import vae_bits

BITS = 3.0


@pytest.mark.parametrize('metric', [vae_bits.vae_elbo(), vae_bits.importance_weighted(5)])
def test_a_posterior_that_is_the_prior_leaves_the_reconstruction(metric, key, tmp_path):
  """Then each draw of z has the weight p(x | z), here of 3 bits/dim."""
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
  assert metric.report(arrays, tmp_path)['bits_per_dim'] == pytest.approx(BITS)
