"""Compares the perceptrons of a VAE with float64 NumPy."""

import functools

import jax
import numpy as np

from diffusion_jax.networks.autoencoder import PerceptronAutoencoder
from tests.networks.literal import close, count, dense, randomised
from tests.networks.test_autoencoder import X, call, halves, shapes

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


def test_parameters_are_those_counted_by_hand():
  """The decoder has the hidden layers of the encoder in reverse."""
  encoder = (16 * 7 + 7) + (7 * 6 + 6) + (6 * 10 + 10)
  decoder = (5 * 6 + 6) + (6 * 7 + 7) + (7 * 32 + 32)
  assert count(shapes(NETWORK)) == encoder + decoder


def test_dropout_is_drawn_in_training_only(key):
  network = NETWORK.clone(dropout=0.5)
  params = {'params': randomised(shapes(network))}

  @functools.partial(jax.jit, static_argnums=0)
  def mean(train, key):
    rngs = {'dropout': key}
    return network.apply(params, X, train, rngs=rngs, method='encode')[0]

  other = jax.random.fold_in(key, 1)
  assert not np.allclose(mean(True, key), mean(True, other))
  np.testing.assert_array_equal(mean(False, key), mean(False, other))
