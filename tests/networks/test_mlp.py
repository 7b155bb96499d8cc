"""The perceptron agrees with literal NumPy, on vectors and on flattened arrays."""

import functools

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.mlp import MLP
from tests.networks.literal import dense, layer_norm, random_params, swish, taken

NOISE = np.array([0.3, 0.9, 0.1], np.float32)
LABELLED = Inputs(num_classes=3, null_class=True, context=(5,))
small_params = functools.partial(random_params, scale=0.3)


def vectors(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.standard_normal((3, *shape), np.float32)


@pytest.mark.parametrize(('modulation', 'features'), [(True, 256), (False, 12)])
def test_the_whole_network_in_numpy(modulation, features):
  """Adaptive layer norm of noise, class and context, or a norm of its own; two blocks."""
  network = MLP(
    8, 2, out_channels=4, noise_features=features, modulation=modulation, inputs=LABELLED
  )
  x, context, label = vectors(4), vectors(5, seed=1), np.array([2, 0, 1])
  cond = {'label': label, 'context': context}
  p = small_params(network, x, NOISE, cond)
  found = jax.jit(network.apply)({'params': p}, x, NOISE, cond)

  half = features // 2
  angles = NOISE[:, None] * np.exp(-np.log(1e4) * np.arange(half) / half)
  c = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
  c = dense(p['noise_dense_2'], swish(dense(p['noise_dense_1'], c)))
  c = c + p['label_embedding']['table']['embedding'][label]
  e = p['context']
  c = c + dense(e['dense_out'], swish(dense(e['dense_0'], context)))

  def norm(h, name):
    if not modulation:
      return swish(layer_norm(h) * p[f'{name}_norm']['scale'] + p[f'{name}_norm']['bias'])
    shift, scale = np.split(dense(p[f'{name}_modulation'], swish(c)), 2, axis=1)
    return swish(layer_norm(h) * (1 + scale) + shift)

  h = c + dense(p['dense_in'], x)
  for i in range(2):
    r = swish(dense(p[f'block_{i}_dense_1'], norm(h, f'block_{i}')))
    h = h + dense(p[f'block_{i}_dense_2'], r)
  expected = dense(p['dense_out'], norm(h, 'out'))
  assert np.std(expected) > 0.15
  assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_levels_of_numbers_are_side_by_side():
  """Their embeddings are the input of the first layer of the noise."""
  network, noise = MLP(8, 1, out_channels=4), np.abs(vectors(4, seed=2))
  x = vectors(4)
  p = small_params(network, x, noise)
  angles = np.asarray(noise, np.float64)[..., None] * np.exp(-np.log(1e4) * np.arange(128) / 128)
  h = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1).reshape(3, -1)
  first = taken(network, 'noise_dense_1', 0, {'params': p}, x, noise)
  assert_allclose(first, h, atol=1e-6)


def test_an_array_is_flattened():
  network = MLP(8, 1, out_channels=4)
  x = vectors(4, 3, 2)

  @jax.jit
  def both(params):
    flat = MLP(8, 1, out_channels=4 * x[0].size // 2)
    found = network.apply({'params': params}, x, NOISE)
    return found, flat.apply({'params': params}, x.reshape(3, -1), NOISE)

  found, flat = jax.device_get(both(small_params(network, x, NOISE)))
  assert found.shape == (3, 4, 3, 4) and np.abs(found).max() > 0.1
  assert_array_equal(found, flat.reshape(found.shape))


def test_the_output_begins_at_0(key):
  """'ho' begins a last layer at 1e-5 of the others' weights."""
  first = jax.jit(MLP(8, 1, out_channels=4).init_with_output)
  output, _ = first(key, vectors(2), NOISE)
  assert np.abs(output).max() < 1e-3
