"""The filters and first weights of DDPM++ and NCSN++ are the published ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.signal import upfirdn

from diffusion_jax.networks import ddpmpp
from diffusion_jax.networks.ddpmpp import DDPMpp
from diffusion_jax.networks.inputs import Inputs


def test_initial_weights(key):
  """Factors of the variance: 1e-10 at the ends of branches, 0.2 for q, k, v."""
  network = DDPMpp(16, (1,), 1, (8,), inputs=Inputs(augment_dim=9))
  expected = {
    ('noise_dense_2',): (64 + 64, 1.0),
    ('augment_dense',): (9 + 16, 1.0),
    ('down_0_0_block', 'conv_1'): (9 * (16 + 16), 1.0),
    ('down_0_0_block', 'conv_2'): (9 * (16 + 16), 1e-10),
    ('down_0_0_attention', 'qkv'): (16 + 48, 0.2),
    ('middle_attention', 'proj_out'): (16 + 16, 1e-10),
    ('conv_out',): (9 * (16 + 3), 1e-10),
  }

  @jax.jit
  def layers(key):
    p = network.init(key, jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))['params']
    return [functools.reduce(dict.__getitem__, path, p) for path in expected]

  found = jax.device_get(layers(key))
  for layer, (fans, factor) in zip(found, expected.values(), strict=True):
    limit = np.sqrt(factor * 6 / fans)
    largest = np.abs(layer['kernel']).max()
    assert 0.9 * limit < largest <= 1.001 * limit
    assert 'bias' not in layer or not layer['bias'].any()


X = np.random.default_rng(0).standard_normal((2, 8, 6, 3))
FILTERS = [(1, 3, 3, 1), (1, 2, 3, 4), (1, 1), (1, 0, 2, 2, 5, 1)]


def filtered(x, weights, up, down, start, count):
  """Applies scipy's upfirdn, a convolution, along both axes."""
  h = np.array(weights) / np.sum(weights) * up
  for axis in (1, 2):
    n = int(x.shape[axis] * count[0]) + count[1]
    full = upfirdn(h, x, up, 1, axis)
    full = np.moveaxis(full, axis, 0)
    padded = np.concatenate([full, np.zeros((8, *full.shape[1:]))])
    x = np.moveaxis(padded[start : start + n * down : down], 0, axis)
  return x


@pytest.mark.parametrize('weights', FILTERS)
def test_filters_are_upfirdn(weights):
  """recipes 5: score_sde correlates going down, and convolves going up."""
  m = len(weights) // 2
  x = jnp.float32(X)
  turned = weights[::-1]  # a correlation is the convolution of the reverse
  close = lambda a, b: assert_allclose(a, b, rtol=0, atol=2e-6)
  f = ddpmpp
  run = lambda x: [g(x, weights) for g in (f.downsample, f.upsample, f.blur)]
  down, up, blurred = jax.jit(run)(x)
  close(down, filtered(X, turned, 1, 2, m, (0.5, 0)))
  close(up, filtered(X, weights, 2, 1, m - 1, (2, 0)))
  close(blurred, filtered(X, turned, 1, 1, m - 1, (1, 1)))
