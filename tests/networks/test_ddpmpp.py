import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.ddpmpp import DDPMpp
from tests.networks.literal import (
  conv3x3,
  count,
  dense,
  mean_of_blocks,
  nearest,
  norm,
  randomised,
  shapes,
  softmax,
  swish,
)

TINY = dict(
  channels=8, multipliers=(1, 2), num_blocks=1, attention_resolutions=(8,)
)
SMALL = TINY | dict(multipliers=(1,), attention_resolutions=())


@pytest.mark.parametrize(
  'classes, expected', [(0, 55_733_891), (10, 55_735_299)]
)
def test_edms_network_has_the_published_number_of_parameters(classes, expected):
  """The numbers are in recipes 0."""
  network = DDPMpp(augment_dim=9, num_classes=classes)
  label = {'label': jnp.zeros(1, int)} if classes else None
  assert count(shapes(network, 32, cond=label)) == expected


def groups(channels):
  return min(32, channels // 4)


def residual(p, x, e, resample=lambda h: h):
  """recipes 6: resamples before conv_1, and divides the sum by sqrt 2."""
  h = resample(swish(norm(p['norm_1'], x, groups(x.shape[-1]))))
  h = conv3x3(p['conv_1'], h)
  h = h + dense(p['embedding_proj'], swish(e))[:, None, None]
  h = conv3x3(p['conv_2'], swish(norm(p['norm_2'], h, groups(h.shape[-1]))))
  x = resample(x)
  x = dense(p['shortcut'], x) if 'shortcut' in p else x
  return (x + h) / np.sqrt(2)


def attention(p, x):
  """There is one head; channels 3c, 3c + 1, 3c + 2 are q, k, v of c."""
  b, height, width, c = x.shape
  h = norm(p['norm'], x, groups(c)).reshape(b, height * width, c)
  qkv = dense(p['qkv'], h)
  q, k, v = (qkv[:, :, i::3] for i in range(3))
  a = softmax(q @ k.swapaxes(1, 2) / np.sqrt(c)) @ v
  return (x + dense(p['proj_out'], a).reshape(x.shape)) / np.sqrt(2)


def embedding(p, noise, cond, width=8):
  """Labels are added to the sinusoids before the two dense layers."""
  if 'noise_fourier' in p:
    f = np.asarray(p['noise_fourier']['frequencies'], np.float64)
    angles = 2 * np.pi * noise[:, None] * f
  else:
    half = width // 2
    angles = noise[:, None] * 1e-4 ** (np.arange(half) / (half - 1))
  e = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
  if 'label' in cond:
    one_hot = np.eye(3)[cond['label']] * ~cond['drop'][:, None]
    e = e + dense(p['label_embedding']['linear'], np.sqrt(3) * one_hot)
  if 'augment' in cond:
    e = e + cond['augment'] @ np.asarray(p['augment_dense']['kernel'])
  e = dense(p['noise_dense_1'], e)
  return dense(p['noise_dense_2'], swish(e))


def network_literally(p, x, noise, cond):
  """recipes 6, two levels, one block each, attention at full resolution."""
  e = embedding(p, noise, cond)
  x = np.concatenate([x, cond['x0']], axis=-1) if 'x0' in cond else x
  hs = [conv3x3(p['conv_in'], x)]
  h = residual(p['down_0_0_block'], hs[-1], e)
  hs.append(attention(p['down_0_0_attention'], h))
  hs.append(residual(p['down_0_downsample'], hs[-1], e, mean_of_blocks))
  hs.append(residual(p['down_1_0_block'], hs[-1], e))
  h = residual(p['middle_0_block'], hs[-1], e)
  h = attention(p['middle_attention'], h)
  h = residual(p['middle_1_block'], h, e)
  join = lambda h: np.concatenate([h, hs.pop()], axis=-1)
  h = residual(p['up_1_0_block'], join(h), e)
  h = residual(p['up_1_1_block'], join(h), e)
  h = residual(p['up_1_upsample'], h, e, nearest)
  h = residual(p['up_0_0_block'], join(h), e)
  h = residual(p['up_0_1_block'], join(h), e)  # the last of the level's blocks
  h = attention(p['up_0_1_attention'], h)
  assert not hs
  return conv3x3(p['conv_out'], swish(norm(p['norm_out'], h, 2)))


def test_a_network_sees_the_image_of_its_condition():
  """The image is further channels of the input, and 0 if dropped."""
  network = DDPMpp(**SMALL, image_channels=1)
  rng = np.random.default_rng(1)
  image = rng.standard_normal((2, 8, 8, 1), np.float32)
  x = rng.standard_normal((2, 8, 8, 3), np.float32)
  cond = {'image': image, 'drop': np.array([False, True])}
  p = randomised(shapes(network, cond=jax.tree.map(lambda a: a[:1], cond)))
  found = jax.jit(network.apply)({'params': p}, x, jnp.ones(2), cond)
  shown = np.stack([image[0], 0 * image[1]])
  inputs = np.concatenate([x, shown], axis=-1)
  plain = DDPMpp(**SMALL)
  expected = jax.jit(plain.apply)({'params': p}, inputs, jnp.ones(2))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


FULL = TINY | dict(
  num_classes=3, null_class=True, augment_dim=9, self_conditioning=True
)


@pytest.mark.parametrize(
  'options', [FULL, TINY | dict(noise_embedding='fourier')], ids=['edm', 've']
)
def test_the_network_literally(options):
  network = DDPMpp(**options)
  rng = np.random.default_rng(1)
  x = rng.standard_normal((2, 8, 8, 3), np.float32)
  noise, cond = np.array([-1.5, 0.75], np.float32), {}
  if 'num_classes' in options:
    cond = {
      'label': np.array([0, 2]),
      'drop': np.array([False, True]),
      'augment': rng.standard_normal((2, 9), np.float32),
      'x0': rng.standard_normal((2, 8, 8, 3), np.float32),
    }
  p = randomised(shapes(network, cond=jax.tree.map(lambda a: a[:1], cond)))
  assert 'up_0_0_attention' not in p and 'down_1_0_attention' not in p
  found = np.asarray(jax.jit(network.apply)({'params': p}, x, noise, cond))
  wide = lambda a: np.asarray(a, np.float64 if a.dtype == jnp.float32 else None)
  expected = network_literally(
    p, wide(x), wide(noise), jax.tree.map(wide, cond)
  )
  scale = np.abs(expected).max()
  np.testing.assert_allclose(found / scale, expected / scale, atol=5e-5)


def test_the_gradient_reaches_all_but_the_frequencies():
  network = DDPMpp(**SMALL, noise_embedding='fourier', augment_dim=9)
  rng = np.random.default_rng(1)
  x = rng.standard_normal((2, 8, 8, 3), np.float32)
  cond = {'augment': np.ones((2, 9), np.float32)}
  p = randomised(shapes(network, cond=jax.tree.map(lambda a: a[:1], cond)))

  def loss(p):
    out: Any = network.apply({'params': p}, x, np.float32([-1.5, 0.75]), cond)
    return jnp.sum(out**2)

  gradients = jax.device_get(jax.jit(jax.grad(loss))(p))
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    trained = path[-1].key != 'frequencies'
    assert np.isfinite(leaf).all() and leaf.any() == trained


@pytest.fixture(scope='module')
def applied():
  network = DDPMpp(**FULL | SMALL, dropout=0.5)
  p = randomised(shapes(network, cond={'label': jnp.zeros(1, int)}))
  apply = jax.jit(
    functools.partial(network.apply, {'params': p}), static_argnames='train'
  )
  x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  return lambda cond, **kw: np.asarray(apply(x, jnp.ones(2), cond, **kw))


def test_what_is_not_given_is_zero(applied):
  """The label of the first image is dropped, the second label is invalid."""
  found = applied(
    {
      'label': jnp.array([2, 3]),
      'drop': jnp.array([True, False]),
      'augment': jnp.zeros((2, 9)),
      'x0': jnp.zeros((2, 8, 8, 3)),
    }
  )
  expected = applied({})[0]
  np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-4)
  assert np.isnan(found[1]).all()


def test_dropout_acts_in_training_only(applied):
  keys = jax.random.split(jax.random.key(3))
  a, b = (applied({}, train=True, rngs={'dropout': k}) for k in keys)
  assert np.abs(a - b).max() > 1e-3


def test_initial_weights(key):
  """Factors of the variance: 1e-10 at the ends of branches, 0.2 for q, k, v."""
  one_level = dict(channels=16, multipliers=(1,), augment_dim=9)
  network = DDPMpp(**TINY | one_level)
  expected = {
    ('noise_dense_2',): (64 + 64, 1.0),
    ('augment_dense',): (9 + 16, 1.0),
    ('down_0_0_block', 'conv_1'): (9 * (16 + 16), 1.0),
    ('down_0_0_block', 'conv_2'): (9 * (16 + 16), 1e-10),
    ('down_0_0_attention', 'qkv'): (16 + 48, 0.2),
    ('middle_attention', 'proj_out'): (16 + 16, 1e-10),
    ('conv_out',): (9 * (16 + 3), 1e-10),
  }

  @jax.jit
  def layers(key):
    p = network.init(key, jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))['params']
    return [functools.reduce(dict.__getitem__, path, p) for path in expected]

  found = jax.device_get(layers(key))
  for layer, (fans, factor) in zip(found, expected.values(), strict=True):
    limit = np.sqrt(factor * 6 / fans)
    largest = np.abs(layer['kernel']).max()
    assert 0.9 * limit < largest <= 1.001 * limit
    assert 'bias' not in layer or not layer['bias'].any()


def test_bfloat16_ends_in_float32(key):
  p = randomised(shapes(DDPMpp(**SMALL, augment_dim=9)))
  x, noise = jax.random.normal(key, (1, 8, 8, 3)), jnp.ones(1)
  full, half = (
    np.asarray(
      jax.jit(DDPMpp(**SMALL, augment_dim=9, dtype=d).apply)(
        {'params': p}, x, noise
      )
    )
    for d in (jnp.float32, jnp.bfloat16)
  )
  assert half.dtype == np.float32
  assert 0.0 < np.abs(full - half).max() < 0.1 * np.abs(full).max()


def test_refusals():
  for options, cond, message in (
    ({}, {'label': jnp.zeros(1, int)}, r"no condition \['label'\]"),
    ({}, {'augment': jnp.zeros((1, 9))}, r"no condition \['augment'\]"),
    ({}, {'x0': jnp.zeros((1, 8, 8, 3))}, r"no condition \['x0'\]"),
    ({'num_classes': 3}, {}, 'no null class'),
    ({'multipliers': (1, 1, 1, 1, 1)}, {}, 'cannot be halved 4 times'),
    ({'channels': 9}, {}, 'does not divide the 9 channels of a norm'),
  ):
    with pytest.raises(ValueError, match=message):
      shapes(DDPMpp(**TINY | options), cond=cond)
