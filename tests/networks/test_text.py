"""Tests the text encoder, cross-attention, and networks with both."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.data import text
from diffusion_jax.networks.attention import CrossAttention
from diffusion_jax.networks.context import NUM_TOKENS, TextEncoder, TextFeatures, mean_of_words
from diffusion_jax.networks.inputs import Inputs, Text
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.networks.unet import UNet
from tests.networks import literal
from tests.rows import slow
from tests.transcribed import transcribes

SENTENCES = ['a red circle', 'a blue square below', 'x']


def random(module, *args, scale=0.3):
  """Returns random variables; branches and biases would begin at 0."""
  return {'params': literal.random_params(module, *args, scale=scale)}


def test_tokens_of_data_are_those_of_the_network():
  assert text.NUM_TOKENS == NUM_TOKENS


def linear_and_norm(variables):
  """Returns the dense layers and norms of a network by their names."""
  p = jax.tree.map(np.float64, variables['params'])
  return lambda h, name: literal.dense(p[name], h), lambda h, name: literal.layer_norm(h, p[name])


@transcribes(
  'Transformer (Vaswani et al. 2017)',
  'the encoder, with norms before the layers',
  '`networks.context.TextEncoder`',
)
def test_the_encoder_is_the_papers():
  """Vaswani et al. 2017 with norms first."""
  tokens, mask = text.encode(SENTENCES, 24)
  module = TextEncoder(width=16, num_layers=2, num_heads=2)
  variables = random(module, tokens, mask)
  found = jax.jit(module.apply)(variables, tokens, mask)
  linear, norm = linear_and_norm(variables)
  angles = np.arange(24)[:, None] * 1e4 ** (-np.arange(8) / 7)
  h = np.asarray(variables['params']['table']['embedding'], np.float64)[tokens]
  h = h + np.concatenate([np.sin(angles), np.cos(angles)], -1)
  for i in range(2):
    qkv = linear(norm(h, f'attention_{i}_norm'), f'attention_{i}_qkv')
    q, k, v = (literal.heads(part, 2) for part in np.split(qkv, 3, axis=-1))
    h = h + linear(literal.attend(q, k, v, mask), f'attention_{i}_out')
    inner = linear(norm(h, f'mlp_{i}_norm'), f'mlp_{i}_in')
    h = h + linear(literal.gelu(inner), f'mlp_{i}_out')
  assert_allclose(found[mask], norm(h, 'norm_out')[mask], atol=2e-4)


@transcribes(
  'Latent diffusion (Rombach et al. 2022)',
  'section 3.3: cross-attention',
  '`networks.attention.CrossAttention`',
)
def test_cross_attention_is_its_formula(rng):
  x = rng.standard_normal((2, 3, 2, 8), np.float32)
  words = rng.standard_normal((2, 5, 6), np.float32)
  mask = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], bool)
  module = CrossAttention(num_heads=2, num_groups=4)
  variables = random(module, x, words, mask)
  found = jax.jit(module.apply)(variables, x, words, mask)
  linear, _ = linear_and_norm(variables)
  h = literal.norm(variables['params']['norm'], np.float64(x), 4).reshape(2, 6, 8)
  q = literal.heads(linear(h, 'query'), 2)
  k, v = (literal.heads(linear(np.float64(words), name), 2) for name in ('key', 'value'))
  out = linear(literal.attend(q, k, v, mask), 'proj_out').reshape(x.shape)
  assert_allclose(found, x + out, atol=1e-5)


def test_the_mean_of_words_leaves_out_the_padding():
  words = jnp.arange(12.0).reshape(2, 3, 2)
  mask = jnp.array([[True, True, False], [True, False, False]])
  expected = [[1.0, 2.0], [6.0, 7.0]]
  assert_allclose(mean_of_words(words, mask), expected)


X = np.random.default_rng(3).standard_normal((3, 4, 4, 3), np.float32)
NOISE = np.array([0.1, 5.0, 9.0], np.float32)
TOKENS, MASK = text.encode(SENTENCES, 24)
COND = {'text': TOKENS, 'text_mask': MASK}
INPUTS = Inputs(text=Text(width=16, layers=0), num_classes=4, null_class=True)
ENCODED = dataclasses.replace(INPUTS, text=Text(width=16, layers=1, heads=2))
NETWORKS = {
  'unet': UNet(8, (1,), 1, (), num_groups=4, inputs=INPUTS, remat=True),
  'joint': DiT(8, 2, 2, inputs=INPUTS),
  'cross': DiT(8, 2, 2, inputs=ENCODED, text_attention='cross'),
}


@pytest.fixture(scope='module', params=[slow(n) if n == 'cross' else n for n in NETWORKS])
def network(request):
  """Returns a network with random weights as a function of cond."""
  module = NETWORKS[request.param]
  variables = random(module, X, NOISE, COND | {'label': np.zeros(3, int)})
  apply = jax.jit(module.apply)
  return lambda cond: np.asarray(apply(variables, X, NOISE, cond))


LABELLED = COND | {'label': np.arange(3), 'drop': np.zeros(3, bool)}


def test_a_picture_knows_its_own_text_and_label(network):
  found = network(LABELLED)
  other = TOKENS.copy()
  other[1, 3] = 50
  changed = network(LABELLED | {'text': other})
  assert_array_equal(found[::2], changed[::2])
  assert np.abs(found - changed)[1].max() > 1e-3
  same = network(LABELLED | {'text': np.where(MASK, TOKENS, 77)})
  assert_array_equal(found, same)
  changed = network(LABELLED | {'label': np.array([0, 3, 2])})
  assert np.abs(found - changed)[1].max() > 1e-3


def test_a_dropped_text_is_a_missing_text(network):
  """A dropped example has the output of an empty cond, others do not change."""
  drop = np.array([True, False, True])
  mask = MASK & np.array([[False], [True], [True]])
  found = network(LABELLED | {'text_mask': mask, 'drop': drop})
  said, nothing = network(LABELLED), network({})
  assert_allclose(found[1], said[1], atol=1e-5)
  assert_allclose(found[::2], nothing[::2], atol=1e-4)
  assert np.abs(said[0] - nothing[0]).max() > 1e-2


def test_vectors_of_another_encoder_take_the_place_of_tokens():
  """A linear map replaces the encoder, and the mask applies."""
  rng = np.random.default_rng(1)
  vectors = rng.standard_normal((3, 5, 7), np.float32)
  mask = np.arange(5)[None] < np.array([5, 2, 3])[:, None]
  module = TextFeatures(width=16, null_text=True)
  cond = {'text': vectors, 'text_mask': mask}
  dropped = cond | {'drop': np.array([False, False, True])}
  variables = random(module, dropped, 3, scale=1.0)
  p = variables['params']
  words, mask_out = jax.device_get(jax.jit(lambda cond: module.apply(variables, cond, 3))(dropped))
  expected = vectors @ p['linear']['kernel'] + p['linear']['bias']
  assert_allclose(words[:2], expected[:2], atol=1e-5)
  assert_array_equal(mask_out[:2], mask[:2])
  assert_allclose(mean_of_words(words, mask_out)[2], np.ravel(p['null']), rtol=1e-5)
