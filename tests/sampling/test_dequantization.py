"""Bits of grey levels from densities, and dequantisation."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from hypothesis import given, settings, strategies as st

import diffusion_jax as dj
from tests.schedules import anything


@settings(anything, max_examples=15)
@given(st.integers(2, 256), st.integers(0, 2**31 - 1))
def test_bits_of_a_histogram_are_exact(num_levels, seed):
  """If the density is constant on bins, log p gives -log2 P of every image."""
  rng = np.random.default_rng(seed)
  mass = rng.dirichlet(np.ones(num_levels))
  values = np.linspace(-1.0, 1.0, num_levels)
  index = rng.integers(num_levels, size=(5, 12))
  x = dj.dequantize(
    jax.random.key(seed), jnp.asarray(values[index], jnp.float32), num_levels
  )
  # The density at x follows from the edges of the bins.
  width = values[1] - values[0]
  edges = values[0] + width * (np.arange(num_levels + 1) - 0.5)
  at = np.searchsorted(edges, x, side='right') - 1
  # float32 may round x to the far edge of its bin.
  assert ((at == index) | (np.abs(x - edges[index + 1]) < 1e-6)).all()
  log_p = np.log(mass[index] / width).sum(axis=1)
  found = dj.ode_bits_per_dim(jnp.asarray(log_p), (12,), num_levels)
  expected = -np.log2(mass[index]).mean(axis=1)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_dequantised_data_fill_their_bins(key):
  x0, keys = np.zeros((4, 20_000), np.float32), jax.random.split(key, 4)
  dequantize = jax.jit(dj.dequantize, static_argnums=2)
  x = np.asarray(dequantize(keys, x0, 17)) * 8.0
  assert x.min() >= -0.5 and x.max() <= 0.5
  assert scipy.stats.kstest(x.ravel() + 0.5, 'uniform').pvalue > 1e-5
  alone = np.asarray(dequantize(keys[2:3], x0[:1], 17))
  np.testing.assert_array_equal(alone[0] * 8.0, x[2])


def test_gaussian_dequantisation_of_independent_levels_is_exact(key):
  """p(x_0 | z) is exact for equally likely levels, so the bound is tight."""
  num_levels, shape = 5, (16, 3)
  values = np.linspace(-1.0, 1.0, num_levels)
  x0 = jax.random.choice(key, jnp.asarray(values, jnp.float32), shape)
  alpha, sigma = 0.9, 0.2
  level = dj.NoiseLevel(*map(jnp.asarray, (0.0, alpha, sigma)))
  dequantize = jax.jit(dj.gaussian_dequantize, static_argnums=3)
  z, log_weight = dequantize(key, x0, level, num_levels)
  densities = scipy.stats.norm.pdf(
    np.asarray(z, np.float64)[..., None], alpha * values, sigma
  )
  log_p = np.log(densities.mean(axis=-1)).sum(axis=-1)  # of z, [B]
  np.testing.assert_allclose(log_p + log_weight, -3 * np.log(5), rtol=1e-5)
  keys, x0 = jax.random.split(key, 16), np.asarray(x0)
  z = np.asarray(dequantize(keys, x0, level, num_levels)[0])
  alone, _ = dequantize(keys[3:4], x0[3:4], level, num_levels)
  np.testing.assert_allclose(np.asarray(alone)[0], z[3], rtol=1e-6)
  noise = (z - alpha * x0).ravel() / sigma
  assert scipy.stats.kstest(noise, 'norm').pvalue > 1e-5
