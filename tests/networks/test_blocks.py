"""Dropout of residual blocks, whose equations are in tests/interop/."""

import jax
import numpy as np
from numpy.testing import assert_allclose

from diffusion_jax.networks.blocks import ResnetBlock
from tests.networks.literal import conv3x3, dense, norm, random_params, swish


def test_resnet_block_in_training_literally(key, rng):
  """Dropout, here read off its output, is before the second convolution."""
  x = rng.standard_normal((2, 4, 4, 8), np.float32)
  embedding = rng.standard_normal((2, 6), np.float32)
  module = ResnetBlock(8, dropout=0.4, num_groups=4)
  p = random_params(module, x, embedding, False)

  @jax.jit
  def apply(p):
    return module.apply(
      {'params': p},
      x,
      embedding,
      True,
      rngs={'dropout': key},
      capture_intermediates=lambda module, _: module.name == 'dropout',
    )

  found, state = apply(p)
  (dropped,) = state['intermediates']['dropout']['__call__']
  mask = np.asarray(dropped) != 0.0
  assert 0.4 < mask.mean() < 0.8 and mask.size == 256
  x, embedding = np.asarray(x, np.float64), np.asarray(embedding, np.float64)
  h = conv3x3(p['conv_1'], swish(norm(p['norm_1'], x, 4)))
  e = dense(p['embedding_proj'], swish(embedding))[:, None, None]
  h = swish(norm(p['norm_2'], h + e, 4)) * mask / 0.6
  expected = x + conv3x3(p['conv_2'], h)
  assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
