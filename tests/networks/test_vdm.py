"""The score network of VDM agrees with literal NumPy."""

import functools

import jax
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.vdm import ScoreNetwork
from tests.networks.literal import (
  attention,
  conv3x3,
  dense,
  norm,
  randomised,
  residual,
  shapes,
  swish,
)
from tests.transcribed import transcribes

TINY = dict(channels=8, num_layers=2, num_groups=4, gamma_min=-8.0, gamma_max=4.0)


def score(p, z, gamma, flag, label):
  """recipes 4, the score net, with gamma from -8 to 4 and n_layer = 2."""
  t = (gamma + 8.0) / 12.0
  angles = 1000 * t[:, None] * np.exp(-np.arange(4) * np.log(1e4) / 3)
  e = np.concatenate([np.sin(angles), np.cos(angles), flag[:, None]], axis=1)
  e = swish(dense(p['noise_dense_1'], e))
  e = dense(p['noise_dense_2'], e)
  e = swish(e + p['label_embedding']['table']['embedding'][label])

  def block(name, h):
    e_in = e @ np.asarray(p[name]['embedding_proj']['kernel'], np.float64)
    return residual(p[name], h, e_in[:, None, None])

  def layer(name, h):
    return attention(p[f'{name}_attention'], block(name, h))

  angles = [2 * np.pi * 2.0**k * z for k in (6, 7)]
  features = [z, *map(np.sin, angles), *map(np.cos, angles)]
  h = conv3x3(p['conv_in'], np.concatenate(features, axis=-1))
  hs = [h]
  for i in range(2):
    hs.append(layer(f'down_{i}', hs[-1]))
  h = attention(p['middle_attention'], block('middle_0_block', hs[-1]))
  h = block('middle_1_block', h)
  for i in (2, 1, 0):
    h = layer(f'up_{i}', np.concatenate([h, hs.pop()], axis=-1))
  assert not hs
  return z + conv3x3(p['conv_out'], swish(norm(p['norm_out'], h, 4)))


@transcribes(
  'VDM (Kingma et al. 2021)',
  'score network, Fourier features',
  '`networks.vdm.ScoreNetwork`',
)
def test_the_score_network_literally():
  inputs, label = Inputs(num_classes=3), np.array([2, 0])
  network = ScoreNetwork(attention=True, inputs=inputs, **TINY)
  p = randomised(shapes(network, cond={'label': label[:1]}))
  z = np.random.default_rng(1).standard_normal((2, 4, 4, 3), np.float32)
  gamma, flag = np.float32([-7.0, 2.5]), np.float32([0.0, 1.0])
  apply = functools.partial(jax.jit(network.apply), {'params': p})
  cond = {'augmented': flag, 'label': label}
  found = np.asarray(apply(z, -gamma, cond))
  arrays = (np.asarray(a, np.float64) for a in (z, gamma, flag))
  expected = score(p, *arrays, label=label)
  scale = np.abs(expected).max()
  assert_allclose(found / scale, expected / scale, atol=2e-4)
  # gamma may be outside of gamma_min..gamma_max
  out = apply(z, np.full(2, -6.0, np.float32), cond)
  assert np.isfinite(out).all()


def test_at_first_the_network_says_z(key):
  """The last convolution begins at 0, so eps_hat = z."""
  network = ScoreNetwork(**TINY | {'num_layers': 1})
  z, t = np.zeros((2, 4, 4, 1), np.float32), np.zeros(2)
  last = jax.jit(lambda key: network.init(key, z, t)['params']['conv_out'])
  for leaf in jax.tree.leaves(last(key)):
    assert_array_equal(leaf, 0.0)
