import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.ddpmpp import DDPMpp
from tests.networks.literal import (
  conv3x3,
  dense,
  mean_of_blocks,
  nearest,
  norm,
  randomised,
  softmax,
  swish,
)

TINY = dict(
  channels=8, multipliers=(1, 2), num_blocks=1, attention_resolutions=(8,)
)


def shapes(network, size=8, cond=None):
  x = jnp.zeros((1, size, size, 3))
  return jax.eval_shape(
    lambda: network.init(jax.random.key(0), x, jnp.zeros(1), cond)['params']
  )


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
  'classes, expected', [(0, 55_733_891), (10, 55_735_299)]
)
def test_edms_network_has_the_published_number_of_parameters(classes, expected):
  """recipes 0."""
  network = DDPMpp(augment_dim=9, num_classes=classes)
  label = {'label': jnp.zeros(1, int)} if classes else None
  assert count(shapes(network, 32, label)) == expected


def test_song_et_als_network_counted_from_its_description():
  """recipes 5: nf 128, (1, 2, 2, 2), 4 blocks, attention at 16, no labels."""
  ch, multipliers = 128, (1, 2, 2, 2)
  conv = lambda i, o, k=3: k * k * i * o + o
  attention = lambda c: 2 * c + 4 * conv(c, c, 1)

  def block(i, o, resampled=False):
    shortcut = conv(i, o, 1) if i != o or resampled else 0
    inner = 2 * i + conv(i, o) + 2 * o + conv(o, o)
    return inner + conv(4 * ch, o, 1) + shortcut

  total = conv(ch, 4 * ch, 1) + conv(4 * ch, 4 * ch, 1) + conv(3, ch)
  skips, width = [ch], ch
  for level, m in enumerate(multipliers):
    for _ in range(4):
      total += block(width, m * ch)
      total += attention(m * ch) if level == 1 else 0
      width = m * ch
      skips.append(width)
    if level < 3:
      total += block(width, width, True)
      skips.append(width)
  total += 2 * block(width, width) + attention(width)
  for level, m in reversed(list(enumerate(multipliers))):
    for _ in range(5):
      total += block(width + skips.pop(), m * ch)
      width = m * ch
    total += attention(width) if level == 1 else 0
    total += block(width, width, True) if level else 0
  total += 2 * width + conv(width, 3)
  assert not skips
  network = DDPMpp(multipliers=multipliers, dropout=0.1)
  assert count(shapes(network, 32)) == total


def groups(channels):
  return min(32, channels // 4)


def residual(p, x, e, resample=lambda h: h):
  """recipes 6: embedding added, resampling before conv0, sum over sqrt 2."""
  h = resample(swish(norm(p['norm_1'], x, groups(x.shape[-1]))))
  h = conv3x3(p['conv_1'], h)
  h = h + dense(p['embedding_proj'], swish(e))[:, None, None]
  h = conv3x3(p['conv_2'], swish(norm(p['norm_2'], h, groups(h.shape[-1]))))
  x = resample(x)
  x = dense(p['shortcut'], x) if 'shortcut' in p else x
  return (x + h) / np.sqrt(2)


def attention(p, x):
  """One head; output channels 3c, 3c + 1, 3c + 2 are q, k, v of channel c."""
  b, height, width, c = x.shape
  h = norm(p['norm'], x, groups(c)).reshape(b, height * width, c)
  qkv = dense(p['qkv'], h)
  q, k, v = (qkv[:, :, i::3] for i in range(3))
  a = softmax(q @ k.swapaxes(1, 2) / np.sqrt(c)) @ v
  return (x + dense(p['proj_out'], a).reshape(x.shape)) / np.sqrt(2)


def embedding(p, noise, cond, width=8):
  """Labels join the sinusoid before the two dense layers."""
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
  """As more channels of the input; zeros where it is dropped."""
  network = DDPMpp(**TINY, image_channels=1)
  rng = np.random.default_rng(1)
  image = rng.standard_normal((2, 8, 8, 1), np.float32)
  x = rng.standard_normal((2, 8, 8, 3), np.float32)
  cond = {'image': image, 'drop': np.array([False, True])}
  p = randomised(shapes(network, cond=jax.tree.map(lambda a: a[:1], cond)))
  found = jax.jit(network.apply)({'params': p}, x, jnp.ones(2), cond)
  shown = np.stack([image[0], 0 * image[1]])
  inputs = np.concatenate([x, shown], axis=-1)
  plain = DDPMpp(**TINY)
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

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def gradient(p):
    out: Any = network.apply({'params': p}, x, noise, cond)
    return jnp.sum(out**2), out

  gradients, found = jax.device_get(gradient(p))
  wide = lambda a: np.asarray(a, np.float64 if a.dtype == jnp.float32 else None)
  expected = network_literally(
    p, wide(x), wide(noise), jax.tree.map(wide, cond)
  )
  scale = np.abs(expected).max()
  np.testing.assert_allclose(found / scale, expected / scale, atol=5e-5)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    trained = path[-1].key != 'frequencies'
    assert np.isfinite(leaf).all() and leaf.any() == trained


@pytest.fixture(scope='module')
def applied():
  network = DDPMpp(**FULL | dict(multipliers=(1,), dropout=0.5))
  p = randomised(shapes(network, cond={'label': jnp.zeros(1, int)}))
  apply = jax.jit(
    functools.partial(network.apply, {'params': p}), static_argnames='train'
  )
  x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  return lambda cond, **kw: np.asarray(apply(x, jnp.ones(2), cond, **kw))


def test_what_is_not_given_is_zero(applied):
  label = {'label': jnp.array([0, 2])}
  zeros = {'augment': jnp.zeros((2, 9)), 'x0': jnp.zeros((2, 8, 8, 3))}
  np.testing.assert_allclose(applied(label), applied(label | zeros), rtol=1e-5)
  dropped = label | {'drop': jnp.array([True, True])}
  np.testing.assert_allclose(applied(dropped), applied({}), rtol=1e-5)
  assert np.isnan(applied({'label': jnp.array([3, 0])})[0]).all()


def test_dropout_acts_in_training_only(applied):
  keys = jax.random.split(jax.random.key(3))
  a, b = (applied({}, train=True, rngs={'dropout': k}) for k in keys)
  assert np.abs(a - b).max() > 1e-3


def test_initial_weights(key):
  """Xavier-uniform, 1e-5 at the ends of branches, 0.2 of it for q, k, v."""
  one_level = dict(channels=16, multipliers=(1,), augment_dim=9)
  network = DDPMpp(**TINY | one_level)
  x = jax.random.normal(key, (1, 8, 8, 3))
  out, variables = jax.jit(network.init_with_output)(key, x, jnp.zeros(1))
  assert 0.0 < np.abs(out).max() < 1e-3
  p = jax.device_get(variables['params'])
  for layer, fans, factor in (
    (p['noise_dense_2'], 64 + 64, 1.0),
    (p['augment_dense'], 9 + 16, 1.0),
    (p['down_0_0_block']['conv_1'], 9 * (16 + 16), 1.0),
    (p['down_0_0_block']['conv_2'], 9 * (16 + 16), 1e-10),
    (p['down_0_0_attention']['qkv'], 16 + 48, 0.2),
    (p['middle_attention']['proj_out'], 16 + 16, 1e-10),
  ):
    limit = np.sqrt(factor * 6 / fans)
    largest = np.abs(layer['kernel']).max()
    assert 0.9 * limit < largest <= 1.001 * limit
    assert 'bias' not in layer or not layer['bias'].any()


def test_remat_and_bfloat16_leave_parameters_alone(key):
  plain = shapes(DDPMpp(**TINY, augment_dim=9))
  other = DDPMpp(**TINY, remat=True, dtype=jnp.bfloat16, augment_dim=9)
  assert shapes(other) == plain
  paths = jax.tree_util.tree_flatten_with_path(plain)[0]
  names = {key.key for path, _ in paths for key in path}
  assert not [name for name in names if name[0].isupper()]
  p = randomised(plain)
  x, noise = jax.random.normal(key, (1, 8, 8, 3)), jnp.ones(1)
  full, half = (
    np.asarray(
      jax.jit(DDPMpp(**TINY, augment_dim=9, dtype=d).apply)(
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
    ({'noise_embedding': 'edm'}, {}, "'edm' is not one of ho, openai"),
  ):
    with pytest.raises(ValueError, match=message):
      shapes(DDPMpp(**TINY | options), cond=cond)
