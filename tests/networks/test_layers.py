from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks import layers


def close(found, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4),
    found,
    expected,
  )


def test_conv_module_is_flaxs(key):
  x = jax.random.normal(key, (2, 6, 6, 3))
  conv = layers.Conv(5)
  params = {'params': randomised(jax.eval_shape(conv.init, key, x)['params'])}
  theirs = nn.Conv(5, (3, 3))
  close(jax.jit(conv.apply)(params, x), jax.jit(theirs.apply)(params, x))


def test_downsample_is_tensorflows_same():
  """For even sizes TF pads bottom and right only: window i is 2i..2i+2."""
  x = np.arange(36.0).reshape(1, 6, 6, 1)
  module = layers.Downsample()
  kernel = np.zeros((3, 3, 1, 1))
  kernel[2, 1] = 1.0  # picks row 2i + 2, column 2j + 1
  params = {'conv': {'kernel': np.float32(kernel), 'bias': np.zeros(1)}}
  found: Any = jax.jit(module.apply)({'params': params}, np.float32(x))
  found = np.asarray(found)
  padded = np.pad(x[0, :, :, 0], ((0, 1), (0, 1)))
  np.testing.assert_array_equal(found[0, :, :, 0], padded[2::2, 1::2][:3, :3])


def test_symmetric_downsample_is_pytorchs_padding_1():
  """One row and column of zeros all around: window i is 2i-1..2i+1."""
  x = np.arange(1.0, 37.0).reshape(1, 6, 6, 1)
  kernel = np.zeros((3, 3, 1, 1))
  kernel[0, 2] = 1.0  # picks row 2i - 1, column 2j + 1
  params = {'conv': {'kernel': np.float32(kernel), 'bias': np.zeros(1)}}
  module = layers.Downsample('symmetric')
  found: Any = jax.jit(module.apply)({'params': params}, np.float32(x))
  found = np.asarray(found)
  expected = [[0.0, 0.0, 0.0], [8.0, 10.0, 12.0], [20.0, 22.0, 24.0]]
  np.testing.assert_array_equal(found[0, :, :, 0], expected)


def test_upsample_doubles_every_pixel():
  x = np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1)
  kernel = np.zeros((3, 3, 1, 1), np.float32)
  kernel[1, 1] = 1.0
  params = {'conv': {'kernel': kernel, 'bias': np.zeros(1, np.float32)}}
  found: Any = jax.jit(layers.Upsample().apply)({'params': params}, x)
  found = np.asarray(found)
  expected = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
  np.testing.assert_array_equal(found[0, :, :, 0], expected)


def conv_params(key, **options):
  conv = layers.Conv(128, **options)
  p = jax.jit(conv.init)(key, np.zeros((1, 4, 4, 64)))['params']
  return np.asarray(p['kernel']), np.asarray(p['bias'])


def test_initialisers_are_variance_scaling_over_fan_avg(key):
  """Uniform of variance 1 / mean(fan_in, fan_out); 1e-10 of it at the ends."""
  limit = np.sqrt(3.0 / (9 * (64 + 128) / 2))
  w, bias = conv_params(key)
  assert 0.99 * limit < np.abs(w).max() <= limit
  np.testing.assert_allclose(w.var(), limit**2 / 3, rtol=0.02)
  assert not bias.any()
  w, bias = conv_params(key, zero=True)
  assert 0.0 < np.abs(w).max() <= 1e-5 * limit * 1.001
  assert not bias.any()


def test_torch_initialisers_are_uniform_over_fan_in(key):
  """Within +-1 / sqrt(fan_in), biases too; nothing but 0 at the ends."""
  limit = 1.0 / np.sqrt(9 * 64)
  for values, rtol in zip(
    conv_params(key, initializer='torch'), (0.02, 0.4), strict=True
  ):
    assert 0.9 * limit < np.abs(values).max() <= limit
    np.testing.assert_allclose(values.var(), limit**2 / 3, rtol=rtol)
  for values in conv_params(key, initializer='torch', zero=True):
    assert not values.any()
  with pytest.raises(ValueError, match="'he' is not one of ho, torch, lecun"):
    conv_params(key, initializer='he')


def test_lecun_initialisers_are_flaxs(key):
  """Of variance 1 / fan_in, cut at two standard deviations; 0 at the ends."""
  w, bias = conv_params(key, initializer='lecun')
  np.testing.assert_allclose(w.var(), 1.0 / (9 * 64), rtol=0.02)
  assert 2.0 < np.abs(w).max() * np.sqrt(9 * 64) < 2.3 and not bias.any()
  for values in conv_params(key, initializer='lecun', zero=True):
    assert not values.any()


def dense(p, x):
  out = x @ np.asarray(p['kernel'], np.float64)
  return out + np.asarray(p['bias']) if 'bias' in p else out


def norm(p, x, groups, epsilon=1e-6):
  b, h, w, c = x.shape
  grouped = x.reshape(b, h, w, groups, c // groups)
  mean = grouped.mean((1, 2, 4), keepdims=True)
  var = grouped.var((1, 2, 4), keepdims=True)
  out = ((grouped - mean) / np.sqrt(var + epsilon)).reshape(x.shape)
  return out * np.asarray(p['scale']) + np.asarray(p['bias'])


def swish(x):
  return x / (1.0 + np.exp(-x))


def conv3x3(p, x):
  kernel = np.asarray(p['kernel'], np.float64)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  h, w = x.shape[1:3]
  out = sum(
    padded[:, i : i + h, j : j + w] @ kernel[i, j]
    for i in range(3)
    for j in range(3)
  )
  return out + np.asarray(p['bias'])


def randomised(abstract, seed=0):
  """No parameter at 0 or 1, so that each of them matters."""
  rng = np.random.default_rng(seed)
  draw = lambda x: np.float32(rng.normal(0.0, 0.5, x.shape))
  return jax.tree.map(draw, abstract)


def mean_of_blocks(x):
  corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
  return sum(corners) / 4.0


def nearest(x):
  return np.kron(x, np.ones((1, 2, 2, 1)))


BLOCKS = {
  'ho': {'features': 8},
  'ho_shortcut': {'features': 4},
  'scale_shift': {'features': 4, 'scale_shift': True, 'norm_eps': 0.1},
  'down': {'features': 8, 'resample': layers.average_pool},
  'up': {
    'features': 8,
    'resample': layers.nearest_upsample,
    'scale_shift': True,
  },
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
  module = layers.ResnetBlock(**options, num_groups=4)
  abstract = jax.eval_shape(
    lambda: module.init(key, x, embedding, False)['params']
  )
  p = randomised(abstract)
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
  """Dropout stands between the second swish and the second convolution.

  Its mask is read off where its output is 0; kept values are divided by the
  probability of keeping them.
  """
  x = jax.random.normal(key, (2, 4, 4, 8))
  embedding = jax.random.normal(key, (2, 6))
  module = layers.ResnetBlock(8, dropout=0.4, num_groups=4)
  abstract = jax.eval_shape(lambda: module.init(key, x, embedding, False))
  p = randomised(abstract['params'])

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


def softmax(logits):
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


@pytest.fixture(scope='module')
def attention():
  """(apply(params, **options), an image, parameters of separate q, k, v)."""
  key = jax.random.key(0)
  x = jax.random.normal(key, (2, 3, 4, 8))
  base = layers.Attention(num_groups=4)
  abstract = jax.eval_shape(lambda: base.init(key, x)['params'])

  def apply(p, **options):
    module = layers.Attention(num_groups=4, **options)
    return jax.jit(module.apply)({'params': p}, x)

  return apply, np.asarray(x, np.float64), randomised(abstract)


def test_attention_literally(attention):
  """One head of full width, logits times C^-1/2, softmax over all pixels."""
  apply, x, p = attention
  found = apply(p)
  h = norm(p['norm'], x, 4).reshape(2, 12, 8)
  q, k, v = (dense(p[name], h) for name in ('query', 'key', 'value'))
  weights = softmax(q @ k.swapaxes(1, 2) / np.sqrt(8))
  out = dense(p['proj_out'], weights @ v).reshape(x.shape)
  np.testing.assert_allclose(found, x + out, rtol=1e-4, atol=1e-4)


def fused(p, order):
  """The parameters of separate projections, laid out for 2 heads of 4."""

  def join(leaf):
    parts = [np.asarray(p[n][leaf]) for n in ('query', 'key', 'value')]
    out = np.stack(parts, axis=-2)  # [..., 3, C]
    if order == 'legacy':
      out = out.reshape(*out.shape[:-1], 2, 4).swapaxes(-3, -2)
    return out.reshape(*parts[0].shape[:-1], 24)

  qkv = {'kernel': join('kernel'), 'bias': join('bias')}
  return {'norm': p['norm'], 'qkv': qkv, 'proj_out': p['proj_out']}


def openai_attention(p, x, order, head_channels, epsilon=1e-6):
  """recipes 3.1 in OpenAI's layout [B, channels, T]."""
  (b, height, width, c), ch = x.shape, head_channels
  time, heads = height * width, c // ch
  h = norm(p['norm'], x, 4, epsilon).reshape(b, time, c)
  qkv = dense(p['qkv'], h).swapaxes(1, 2)  # [B, 3C, T]
  if order == 'legacy':
    q, k, v = np.split(qkv.reshape(b * heads, 3 * ch, time), 3, axis=1)
  else:
    parts = np.split(qkv, 3, axis=1)
    q, k, v = (part.reshape(b * heads, ch, time) for part in parts)
  scale = ch**-0.25
  weights = softmax(np.einsum('bct,bcs->bts', q * scale, k * scale))
  a = np.einsum('bts,bcs->bct', weights, v).reshape(b, c, time)
  return x + dense(p['proj_out'], a.swapaxes(1, 2)).reshape(x.shape)


@pytest.mark.parametrize('heads', [{'num_heads': 2}, {'head_channels': 4}])
@pytest.mark.parametrize('order', ['legacy', 'new'])
def test_fused_attention_is_openais(attention, order, heads):
  apply, x, p = attention
  p = fused(p, 'new')  # any weights would do
  found = apply(p, qkv=order, **heads)
  expected = openai_attention(p, x, order, 4)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_orders_differ_by_a_permutation_of_the_projection(attention):
  apply, _, p = attention
  separate = apply(p, num_heads=2)
  for order in ('legacy', 'new'):
    found = apply(fused(p, order), qkv=order, num_heads=2)
    np.testing.assert_allclose(found, separate, rtol=1e-4, atol=1e-4)
  mistaken = apply(fused(p, 'new'), qkv='legacy', num_heads=2)
  assert np.abs(mistaken - separate).max() > 0.1


def test_the_interleaved_projection_is_edms(attention):
  """Of head h, output 3c + j is q, k, v of its channel c."""
  apply, x, p = attention
  parts = [p[name] for name in ('query', 'key', 'value')]
  join = lambda leaf: np.stack([q[leaf] for q in parts], axis=-1)
  qkv = {n: join(n).reshape(*p['query'][n].shape[:-1], 24) for n in p['query']}
  woven = {'norm': p['norm'], 'qkv': qkv, 'proj_out': p['proj_out']}
  for heads in (1, 2):
    found = apply(woven, qkv='interleaved', num_heads=heads)
    expected = apply(p, num_heads=heads)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    scaled = apply(woven, qkv='interleaved', num_heads=heads, skip_scale=0.25)
    np.testing.assert_allclose(scaled, 0.25 * expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kind', layers.INITIALIZERS)
def test_a_scale_multiplies_the_variance_of_kernels_only(kind, key):
  draw = lambda init: np.asarray(init(key, (64, 128), jnp.float32))
  kernel, bias = layers.initializers(kind, 64)
  scaled, same = layers.initializers(kind, 64, scale=0.25)
  np.testing.assert_allclose(draw(scaled), 0.5 * draw(kernel), rtol=1e-5)
  np.testing.assert_array_equal(draw(same), draw(bias))


def test_small_norms_have_groups_of_a_least_width():
  """recipes 6: min(32, C / 4) groups."""
  found = [layers.count_groups(32, c, 4) for c in (8, 48, 128, 384)]
  assert found == [2, 12, 32, 32]
  with pytest.raises(ValueError, match='num_groups=32 does not divide the 200'):
    layers.count_groups(32, 200, 4)
  with pytest.raises(ValueError, match='the 3 channels of a norm'):
    layers.count_groups(32, 3, 4)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'num_heads': 3}, 'num_heads=3 does not divide the 8 channels'),
    ({'num_heads': 0}, 'num_heads=0 does not divide'),
    ({'head_channels': 16}, 'head_channels=16 does not divide the 8 channels'),
    ({'qkv': 'old'}, "qkv 'old' is not one of separate, legacy, new"),
  ],
)
def test_attention_refusals(attention, options, message):
  with pytest.raises(ValueError, match=message):
    attention[0](attention[2], **options)


def test_an_unknown_padding_is_refused(key):
  with pytest.raises(ValueError, match="'valid' is not one of same, symmetric"):
    layers.Downsample('valid').init(key, jnp.zeros((1, 4, 4, 1)))
