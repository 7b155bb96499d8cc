from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.classifier import AttentionPool, NoisyClassifier
from tests.networks.literal import (
  conv3x3,
  dense,
  mean_of_blocks,
  norm,
  openai_attention,
  randomised,
  softmax,
  swish,
)
from tests.networks.test_unet import openai_residual

TINY = dict(
  num_classes=5,
  channels=8,
  multipliers=(1, 2),
  num_blocks=1,
  attention_resolutions=(4,),
  num_groups=4,
  head_channels=4,
  norm_eps=1.0,  # large enough to be seen
)
X = np.random.default_rng(0).standard_normal((2, 8, 8, 3))
NOISE = np.array([3.0, 700.25])


def openai_pool(p, h, head_channels):
  """recipes 3.4: AttentionPool2d, one head and one image after the other."""
  b, height, width, c = h.shape
  tokens = h.reshape(b, height * width, c)
  tokens = np.concatenate([tokens.mean(axis=1)[:, None], tokens], axis=1)
  tokens = tokens + np.asarray(p['places'], np.float64)
  q, k, v = np.split(dense(p['qkv'], tokens), 3, axis=-1)
  out = np.empty((b, c))
  for image in range(b):
    for start in range(0, c, head_channels):
      head = slice(start, start + head_channels)
      logits = q[image, 0, head] @ k[image, :, head].T / head_channels**0.5
      out[image, head] = softmax(logits[None])[0] @ v[image, :, head]
  return dense(p['proj_out'], out)


def openai_classifier(p, x, t, eps, updown):
  """recipes 3.4: the encoder and the middle, then norm, swish and the pool."""
  angles = t[:, None] * np.exp(-np.log(10000) * np.arange(4) / 4)
  e = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
  e = dense(p['noise_dense_2'], swish(dense(p['noise_dense_1'], e)))
  h = conv3x3(p['conv_in'], x)
  h = openai_residual(p['down_0_0_block'], h, e, eps)
  down = p['down_0_downsample']
  if updown:
    h = openai_residual(down, h, e, eps, mean_of_blocks)
  else:
    h = conv3x3(down['conv'], h)[:, ::2, ::2]
  h = openai_residual(p['down_1_0_block'], h, e, eps)
  h = openai_attention(p['down_1_0_attention'], h, 'new', 4, eps)
  h = openai_residual(p['middle_0_block'], h, e, eps)
  h = openai_attention(p['middle_attention'], h, 'new', 4, eps)
  h = openai_residual(p['middle_1_block'], h, e, eps)
  return openai_pool(p['pool'], swish(norm(p['norm_out'], h, 4, eps)), 4)


def abstract(network):
  return jax.eval_shape(
    lambda: network.init(jax.random.key(0), X[:1], NOISE[:1])['params']
  )


@pytest.mark.parametrize('updown', [True, False])
def test_the_classifier_literally(updown):
  network = NoisyClassifier(**TINY, resblock_updown=updown)
  params = randomised(abstract(network))
  found = jax.jit(network.apply)(
    {'params': params}, np.float32(X), np.float32(NOISE)
  )
  assert found.shape == (2, 5) and found.dtype == jnp.float32
  expected = openai_classifier(params, X, NOISE, 1.0, updown)
  np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_places_begin_small_and_pixels_have_places(key):
  pool = AttentionPool(3, num_heads=2)
  x = np.random.default_rng(0).standard_normal((1, 8, 8, 64), np.float32)
  init: Any = jax.jit(pool.init)
  params = jax.device_get(init(key, x)['params'])
  assert params['places'].shape == (65, 64)
  np.testing.assert_allclose(np.std(params['places']), 1 / 8, rtol=0.1)
  apply = jax.jit(pool.apply)
  out, moved = (
    np.asarray(apply({'params': params}, a)) for a in (x, x[:, ::-1])
  )
  assert np.abs(moved - out).max() > 1e-4


def test_refusals(key):
  network = NoisyClassifier(**TINY)
  with pytest.raises(ValueError, match=r"has no condition \['label'\]"):
    jax.eval_shape(network.init, key, X, NOISE, {'label': jnp.zeros(2, int)})
  with pytest.raises(ValueError, match='images of 7x7 cannot be halved'):
    jax.eval_shape(network.init, key, X[:, :7, :7], NOISE)


def test_the_stem_may_be_narrower_than_the_network():
  """512x512 of guided-diffusion: half the width at the first resolution."""
  params = abstract(NoisyClassifier(**TINY, stem_channels=4))
  assert params['conv_in']['kernel'].shape == (3, 3, 3, 4)
  assert params['down_0_0_block']['norm_1']['scale'].shape == (4,)
