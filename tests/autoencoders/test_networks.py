"""Compares the networks of VAEs with float64 NumPy and with hand counts."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from diffusion_jax.autoencoders.networks import (
  Autoencoder,
  HierarchicalAutoencoder,
  PerceptronAutoencoder,
  Transition,
  layers_of,
)
from tests.networks.literal import close, conv3x3, dense, nearest, norm, randomised, residual, swish

TINY = dict(channels=8, multipliers=(1, 2), num_blocks=1, num_groups=4, out_channels=2)
X = np.random.default_rng(0).standard_normal((2, 4, 4, 1))


def shapes(network):
  init = lambda: network.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
  return jax.eval_shape(init)['params']


def down(p, x):
  """Computes the encoder without its last layer."""
  h = residual(p['down_0_0_block'], conv3x3(p['conv_in'], x))
  h = conv3x3(p['down_1_downsample']['conv'], h)[:, 1::2, 1::2]
  h = residual(p['down_1_0_block'], h)
  return swish(norm(p['norm_out'], h, 4))


def up(p, h):
  """Computes the decoder without its first layer."""
  h = nearest(residual(p['up_1_0_block'], h))
  h = residual(p['up_0_0_block'], conv3x3(p['up_1_upsample']['conv'], h))
  return conv3x3(p['conv_out'], swish(norm(p['norm_out'], h, 4)))


def halves(h):
  mean, log_variance = np.split(h, 2, axis=-1)
  return mean, 10.0 * np.tanh(log_variance / 10.0)


def call(network, params, method, *inputs):
  apply = jax.jit(lambda p, z: network.apply(p, *inputs, z, method=method))
  return lambda z: apply({'params': params}, np.float32(z))


def test_a_latent_vector_literally():
  network = Autoencoder((4, 4), latent_dim=5, **TINY)
  p = randomised(shapes(network))
  h = down(p['encoder'], X).reshape(2, -1)
  expected = halves(dense(p['encoder']['dense_out'], h))
  assert expected[0].shape == (2, 5)
  close(call(network, p, 'encode')(X), expected)
  z = expected[0]
  h = dense(p['decoder']['dense_in'], z).reshape(2, 2, 2, 16)
  close(call(network, p, 'decode')(z), up(p['decoder'], h))


NETWORK = PerceptronAutoencoder((4, 4), 2, latent_dim=5, hidden=(7, 6))


def layers(p, h):
  for name in ('dense_0', 'dense_1'):
    h = np.tanh(dense(p[name], h))
  return dense(p['dense_out'], h)


def test_both_halves_literally():
  p = randomised(shapes(NETWORK))
  expected = halves(layers(p['encoder'], X.reshape(2, 16)))
  assert expected[0].shape == (2, 5)
  close(call(NETWORK, p, 'encode')(X), expected)
  pixels = layers(p['decoder'], expected[0]).reshape(2, 4, 4, 2)
  close(call(NETWORK, p, 'decode')(expected[0]), pixels)


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
  assert_allclose(mean, z, atol=1e-4)
  assert_allclose(log_variance, 0.0, atol=1e-4)
