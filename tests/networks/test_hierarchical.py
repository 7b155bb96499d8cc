"""Tests the chain of latents; test_autoencoder.py counts its parameters."""

import jax
import numpy as np

from diffusion_jax.networks.autoencoder import (
  HierarchicalAutoencoder,
  Transition,
  layers_of,
)
from tests.networks.literal import (
  close,
  conv3x3,
  norm,
  randomised,
  residual,
  swish,
)
from tests.networks.test_autoencoder import (
  TINY,
  X,
  call,
  down,
  halves,
  shapes,
  up,
)


def test_the_chain_literally():
  network = HierarchicalAutoencoder(num_latents=2, latent_channels=3, **TINY)
  p = randomised(shapes(network))
  close(
    call(network, p, 'encode', 1)(X),
    halves(conv3x3(p['encoder']['conv_out'], down(p['encoder'], X))),
  )
  z = np.random.default_rng(1).standard_normal((2, 2, 2, 3))
  for method in ('encode', 'decode'):
    q = p[f'{method}_2']
    h = residual(q['middle_0_block'], conv3x3(q['conv_in'], z))
    h = conv3x3(q['conv_out'], swish(norm(q['norm_out'], h, 4)))
    mean, log_variance = halves(h)
    close(call(network, p, method, 2)(z), (z + mean, log_variance))
  d = p['decoder']
  close(call(network, p, 'decode', 1)(z), up(d, conv3x3(d['conv_in'], z)))


def test_a_new_chain_hands_its_latent_on(key):
  """The first mean is the input, so no layer begins collapsed."""
  module = Transition(layers_of(HierarchicalAutoencoder(**TINY)))
  z = np.random.default_rng(1).standard_normal((2, 2, 2, 3), np.float32)
  init = jax.jit(lambda key: module.init_with_output(key, z, False)[0])
  mean, log_variance = init(key)
  np.testing.assert_allclose(mean, z, atol=1e-4)
  np.testing.assert_allclose(log_variance, 0.0, atol=1e-4)
