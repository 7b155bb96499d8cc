"""Tests the text encoder, cross-attention, and networks with both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from diffusion_jax.data import text
from diffusion_jax.networks.attention import CrossAttention
from diffusion_jax.networks.context import NUM_TOKENS, TextEncoder, TextFeatures, mean_of_words
from diffusion_jax.networks.inputs import Inputs, Text
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.networks.unet import UNet
from tests.networks import literal

SENTENCES = ['a red circle', 'a blue square below', 'x']


def random(module, *args, scale=0.3):
  """Returns random variables; branches and biases would begin at 0."""
  return {'params': literal.random_params(module, *args, scale=scale)}


@pytest.fixture(scope='module')
def encoder():
  module = TextEncoder(width=16, num_layers=2, num_heads=2)
  tokens, mask = text.encode(SENTENCES, 24)
  variables = random(module, tokens, mask)
  return jax.jit(module.apply), variables, tokens, mask


def test_tokens_of_data_are_those_of_the_network():
  assert text.NUM_TOKENS == NUM_TOKENS


def literal_encoder(p, tokens, mask, num_layers, heads):
  """Computes Vaswani et al. 2017 with norms first, by sentences and heads."""
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), p)

  norm = lambda h, name: literal.layer_norm(h, p[name])
  linear = lambda h, name: literal.dense(p[name], h)

  width = p['table']['embedding'].shape[1]
  half = width // 2
  frequencies = 1e4 ** (-np.arange(half) / (half - 1))
  out = []
  for row, known in zip(tokens, mask, strict=True):
    row = row[known]
    angles = np.arange(len(row))[:, None] * frequencies
    h = np.concatenate([np.sin(angles), np.cos(angles)], -1)
    h = h + p['table']['embedding'][row]
    for i in range(num_layers):
      qkv = linear(norm(h, f'attention_{i}_norm'), f'attention_{i}_qkv')
      q, k, v = np.split(qkv, 3, axis=-1)
      parts = []
      for a in range(heads):
        of = slice(a * width // heads, (a + 1) * width // heads)
        weights = softmax(q[:, of] @ k[:, of].T / np.sqrt(width // heads), axis=-1)
        parts.append(weights @ v[:, of])
      h = h + linear(np.concatenate(parts, -1), f'attention_{i}_out')
      inner = linear(norm(h, f'mlp_{i}_norm'), f'mlp_{i}_in')
      # GELU is approximated by tanh (Hendrycks & Gimpel 2016).
      cubic = np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)
      h = h + linear(0.5 * inner * (1 + np.tanh(cubic)), f'mlp_{i}_out')
    out.append(norm(h, 'norm_out'))
  return out


def test_the_encoder_is_the_papers(encoder):
  apply, variables, tokens, mask = encoder
  words = np.asarray(apply(variables, tokens, mask))
  texts = literal_encoder(variables['params'], tokens, mask, 2, 2)
  for found, known, expected in zip(words, mask, texts, strict=True):
    np.testing.assert_allclose(found[known], expected, atol=2e-4)


def test_cross_attention_is_its_formula(rng):
  """The formula is a loop over images, heads and pixels."""
  x = rng.standard_normal((2, 3, 2, 8), np.float32)
  words = rng.standard_normal((2, 5, 6), np.float32)
  mask = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], bool)
  module = CrossAttention(num_heads=2, num_groups=4)
  variables = random(module, x, words, mask)
  found = jax.jit(module.apply)(variables, x, words, mask)
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables['params'])
  x, words = np.asarray(x, np.float64), np.asarray(words, np.float64)
  linear = lambda h, name: literal.dense(p[name], h)
  for image, row, known, result in zip(x, words, mask, found, strict=True):
    h = literal.norm(p['norm'], image[None], 4).reshape(6, 8)
    q = linear(h, 'query')
    k, v = linear(row[known], 'key'), linear(row[known], 'value')
    out = np.zeros((6, 8))
    for a in range(2):
      of = slice(4 * a, 4 * a + 4)
      for i in range(6):
        weights = softmax(k[:, of] @ q[i, of] / 2.0)
        out[i, of] = weights @ v[:, of]
    expected = image + linear(out, 'proj_out').reshape(image.shape)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_the_mean_of_words_leaves_out_the_padding():
  words = jnp.arange(12.0).reshape(2, 3, 2)
  mask = jnp.array([[True, True, False], [True, False, False]])
  expected = [[1.0, 2.0], [6.0, 7.0]]
  np.testing.assert_allclose(mean_of_words(words, mask), expected)


X = np.random.default_rng(3).standard_normal((3, 4, 4, 3), np.float32)
NOISE = np.array([0.1, 5.0, 9.0], np.float32)
TOKENS, MASK = text.encode(SENTENCES, 24)
COND = {'text': TOKENS, 'text_mask': MASK}
INPUTS = Inputs(text=Text(width=16, layers=1, heads=2), num_classes=4, null_class=True)
NETWORKS = {
  'unet': UNet(8, (1,), 1, (), num_groups=4, inputs=INPUTS, remat=True),
  'joint': DiT(8, 2, 2, inputs=INPUTS),
  'cross': DiT(8, 2, 2, inputs=INPUTS, text_attention='cross'),
}


@pytest.fixture(scope='module', params=NETWORKS)
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
  np.testing.assert_array_equal(found[::2], changed[::2])
  assert np.abs(found - changed)[1].max() > 1e-3
  same = network(LABELLED | {'text': np.where(MASK, TOKENS, 77)})
  np.testing.assert_array_equal(found, same)
  changed = network(LABELLED | {'label': np.array([0, 3, 2])})
  assert np.abs(found - changed)[1].max() > 1e-3


def test_a_dropped_text_is_a_missing_text(network):
  """A dropped example has the output of an empty cond, others do not change."""
  drop = np.array([True, False, True])
  mask = MASK & np.array([[False], [True], [True]])
  found = network(LABELLED | {'text_mask': mask, 'drop': drop})
  said, nothing = network(LABELLED), network({})
  np.testing.assert_allclose(found[1], said[1], atol=1e-5)
  np.testing.assert_allclose(found[::2], nothing[::2], atol=1e-4)
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
  np.testing.assert_allclose(words[:2], expected[:2], atol=1e-5)
  np.testing.assert_array_equal(mask_out[:2], mask[:2])
  np.testing.assert_allclose(mean_of_words(words, mask_out)[2], np.ravel(p['null']), rtol=1e-5)
