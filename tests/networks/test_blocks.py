import jax
import numpy as np
import pytest

from diffusion_jax.networks.blocks import ResnetBlock
from diffusion_jax.networks.layers import average_pool, nearest_upsample
from tests.networks.literal import (
  conv3x3,
  dense,
  mean_of_blocks,
  nearest,
  norm,
  random_params,
  swish,
)

BLOCKS = {
  'ho': {'features': 8},
  'ho_shortcut': {'features': 4},
  'scale_shift': {'features': 4, 'scale_shift': True, 'norm_eps': 0.1},
  'down': {'features': 8, 'resample': average_pool},
  'up': {'features': 8, 'resample': nearest_upsample, 'scale_shift': True},
  'zero': {'features': 4, 'zero_embedding': True},
}


RESAMPLE = {'down': mean_of_blocks, 'up': nearest}


@pytest.mark.parametrize('name', BLOCKS)
def test_resnet_block_literally(name, key):
  """recipes 1.1: GN, swish, conv, + Dense(swish(temb)), and again, + x.

  recipes 3.1: GN(h) * (1 + scale) + shift; resampling between swish and conv.
  """
  options = BLOCKS[name]
  x = jax.random.normal(key, (2, 4, 4, 8))
  embedding = jax.random.normal(key, (2, 6))
  module = ResnetBlock(**options, num_groups=4)
  p = random_params(module, x, embedding, False)
  apply = jax.jit(module.apply, static_argnums=3)
  found = apply({'params': p}, x, embedding, False)

  x, embedding = np.asarray(x, np.float64), np.asarray(embedding, np.float64)
  eps = options.get('norm_eps', 1e-6)
  resample = RESAMPLE.get(name, lambda h: h)
  h = conv3x3(p['conv_1'], resample(swish(norm(p['norm_1'], x, 4, eps))))
  e = dense(p['embedding_proj'], swish(embedding))[:, None, None]
  if 'scale_shift' in options:
    half = e.shape[-1] // 2
    scale, shift = e[..., :half], e[..., half:]
    h = norm(p['norm_2'], h, 4, eps) * (1 + scale) + shift
  else:
    h = norm(p['norm_2'], h + e, 4, eps)
  h = conv3x3(p['conv_2'], swish(h))
  skip = resample(x) if options['features'] == 8 else dense(p['shortcut'], x)
  assert ('shortcut' in p) == (options['features'] != 8)
  assert ('bias' in p['embedding_proj']) == (name != 'zero')
  np.testing.assert_allclose(found, skip + h, rtol=1e-4, atol=1e-4)


def test_resnet_block_in_training_literally(key):
  """Dropout is between the second swish and the second convolution.

  Its mask is read off where its output is 0; kept values are divided by the
  probability of keeping them.
  """
  x = jax.random.normal(key, (2, 4, 4, 8))
  embedding = jax.random.normal(key, (2, 6))
  module = ResnetBlock(8, dropout=0.4, num_groups=4)
  p = random_params(module, x, embedding, False)

  @jax.jit
  def apply(p):
    return module.apply(
      {'params': p}, x, embedding, True, rngs={'dropout': key},
      capture_intermediates=lambda module, _: module.name == 'dropout',
    )  # fmt: skip

  found, state = apply(p)
  (dropped,) = state['intermediates']['dropout']['__call__']
  mask = np.asarray(dropped) != 0.0
  assert 0.4 < mask.mean() < 0.8 and mask.size == 256
  x, embedding = np.asarray(x, np.float64), np.asarray(embedding, np.float64)
  h = conv3x3(p['conv_1'], swish(norm(p['norm_1'], x, 4)))
  e = dense(p['embedding_proj'], swish(embedding))[:, None, None]
  h = swish(norm(p['norm_2'], h + e, 4)) * mask / 0.6
  expected = x + conv3x3(p['conv_2'], h)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
