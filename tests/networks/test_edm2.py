"""Tests EDM2's network: its equations in float64, sizes and magnitudes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.edm2 import EDM2, EDM2Block
from diffusion_jax.networks.layers import average_pool, nearest_upsample
from diffusion_jax.networks.magnitude import magnitude
from tests.networks.literal import mean_of_blocks, nearest, randomised, shapes

FIXED = 'frequencies', 'phases'


def trained(tree):
  return sum(
    x.size
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
    if path[-1].key not in FIXED
  )


PUBLISHED = {  # width: latents of 512x512 pixels, and 64x64 pixels
  128: (124_713_253, 124_710_949),
  192: (280_212_837, 280_209_381),
  256: (497_807_781, 497_803_173),
  320: (777_498_085, 777_492_325),
  384: (1_119_283_749, 1_119_276_837),
  448: (1_523_164_773, None),
}


@pytest.mark.parametrize(
  'channels, colours',
  [
    pytest.param(n, c, marks=[pytest.mark.slow] if (n, c) != (128, 4) else [])
    for n in PUBLISHED
    for c in (4, 3)
  ],
)
def test_sizes_are_as_published(channels, colours):
  """The sizes include the 128 weights of u, without fixed frequencies."""
  label = {'label': jnp.zeros(1, jnp.int32)}
  expected = PUBLISHED[channels][4 - colours]
  if expected is not None:
    network = EDM2(channels, out_channels=colours, num_classes=1000)
    found = shapes(network, 64, colours, label)
    assert trained(found) + 128 == expected


# The equations, literally.


def wide(tree):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def unit(x, axis=-1):
  return x / (1e-4 + np.sqrt(np.mean(x**2, axis=axis, keepdims=True)))


def silu(x):
  return x / (1 + np.exp(-x)) / 0.596


def add(a, b, t):
  return ((1 - t) * a + t * b) / np.sqrt((1 - t) ** 2 + t**2)


def join(a, b):
  n, m = a.shape[-1], b.shape[-1]
  c = np.sqrt((n + m) / (0.5**2 + 0.5**2))
  parts = [a * c * 0.5 / np.sqrt(n), b * c * 0.5 / np.sqrt(m)]
  return np.concatenate(parts, axis=-1)


def rows(p):
  """Returns weights [features, fan in] of norm 1 up to the epsilon."""
  w = p['kernel'].reshape(-1, p['kernel'].shape[-1]).T
  return unit(w) / np.sqrt(w.shape[1])


def linear(p, x):
  return x @ rows(p).T


def conv(p, x):
  """Computes a 3x3 convolution with zeros around, pixel by pixel."""
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  out = np.zeros((*x.shape[:3], p['kernel'].shape[-1]))
  for i in range(x.shape[1]):
    for j in range(x.shape[2]):
      window = padded[:, i : i + 3, j : j + 3].reshape(len(x), -1)
      out[:, i, j] = window @ rows(p).T
  return out


def attention(p, x, width):
  """Channel ((head * width) + c) * 3 + i of qkv is q, k or v by i."""
  b, height, w, channels = x.shape
  out = np.zeros((b, height * w, channels))
  qkv = linear(p['qkv'], x).reshape(b, height * w, -1)
  for n in range(b):
    for first in range(0, channels, width):
      at = 3 * np.arange(first, first + width)
      q, k, v = (unit(qkv[n][:, at + i]) for i in range(3))
      scores = q @ k.T / np.sqrt(width)
      weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
      out[n][:, first : first + width] = weights @ v
  return linear(p['proj_out'], out.reshape(x.shape))


def block(p, x, e, decoder, width=0, resample=lambda x: x):
  x = resample(x)
  if not decoder:
    x = linear(p['shortcut'], x) if 'shortcut' in p else x
    x = unit(x)
  y = conv(p['conv_1'], silu(x))
  y = (
    y
    * (1 + p['embedding_gain'] * linear(p['embedding_proj'], e))[:, None, None]
  )
  y = conv(p['conv_2'], silu(y))
  if decoder and 'shortcut' in p:
    x = linear(p['shortcut'], x)
  x = add(x, y, 0.3)
  if width:
    x = add(x, attention(p, x, width), 0.3)
  return np.clip(x, -256, 256)


RESAMPLE = {
  'encoder': (average_pool, mean_of_blocks),
  'decoder': (nearest_upsample, nearest),
}


@pytest.mark.parametrize('side', RESAMPLE)
def test_a_block_literally(side, key):
  """The block changes the width and the resolution, and has two heads."""
  ours, theirs = RESAMPLE[side]
  module = EDM2Block(
    8, decoder=side == 'decoder', num_heads=2, resample=ours, dropout=0.5
  )
  keys = jax.random.split(key)
  x = jax.random.normal(keys[0], (2, 4, 6, 6))
  e = jax.random.normal(keys[1], (2, 5))
  abstract = jax.eval_shape(lambda: module.init(key, x, e, False)['params'])
  p = randomised(abstract)
  found = jax.jit(lambda p: module.apply({'params': p}, x, e, False))(p)
  decoder = side == 'decoder'
  expected = block(wide(p), wide(x), wide(e), decoder, 4, theirs)
  assert found.shape == expected.shape and np.abs(expected).max() > 1.0
  np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-6)


TINY = dict(
  channels=4,
  multipliers=(1, 2),
  num_blocks=1,
  attention_resolutions=(4,),
  head_channels=4,
)
LABELS = dict(num_classes=3, null_class=True)
COND = {'label': jnp.array([0, 2]), 'drop': jnp.array([False, True])}


def network_literally(p, x, noise, cond):
  """Computes two levels of one block, attention at half the resolution."""
  f = p['noise_fourier']
  angles = noise[:, None] * f['frequencies'] + f['phases']
  e = np.sqrt(2) * np.cos(2 * np.pi * angles)
  e = linear(p['noise_linear'], e)
  row = np.where(cond['drop'], 3, cond['label'])  # the null class is one more
  e = add(e, linear(p['label_linear'], np.sqrt(4) * np.eye(4)[row]), 0.5)
  e = silu(e)
  go = lambda name, h, side, width=0, resample=lambda h: h: block(
    p[f'{name}_block'], h, e, side == 'decoder', width, resample
  )
  h = conv(p['conv_in'], np.concatenate([x, 0 * x[..., :1] + 1], axis=-1))
  skips = [h]
  skips.append(h := go('down_0_0', h, 'encoder'))
  skips.append(h := go('down_1_first', h, 'encoder', 0, mean_of_blocks))
  skips.append(h := go('down_1_0', h, 'encoder', 4))
  h = go('middle_0', h, 'decoder', 4)
  h = go('middle_1', h, 'decoder')
  h = go('up_1_0', join(h, skips.pop()), 'decoder', 4)
  h = go('up_1_1', join(h, skips.pop()), 'decoder', 4)
  h = go('up_0_first', h, 'decoder', 0, nearest)
  h = go('up_0_0', join(h, skips.pop()), 'decoder')
  h = go('up_0_1', join(h, skips.pop()), 'decoder')
  assert not skips
  return p['gain_out'] * conv(p['conv_out'], h)


def test_the_network_literally_and_its_gradient(key):
  network = EDM2(**TINY, **LABELS)
  x = jax.random.normal(key, (2, 8, 8, 3))
  noise = jnp.array([-1.5, 0.75])
  one = jax.tree.map(lambda a: a[:1], COND)
  p = randomised(shapes(network, cond=one))

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def gradient(p):
    out = network.apply({'params': p}, x, noise, COND)
    return jnp.sum(out**2), out  # pyright: ignore[reportOperatorIssue]

  gradients, found = jax.device_get(gradient(p))
  cond = {name: np.asarray(value) for name, value in COND.items()}
  expected = network_literally(wide(p), wide(x), wide(noise), cond)
  np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all()
    assert leaf.any() == (path[-1].key not in FIXED), path


@pytest.mark.parametrize(
  'decoder, heads, least', [(False, 0, 0.9), (True, 0, 0.9), (False, 2, 0.83)]
)
def test_magnitudes_stay_1_through_8_blocks(decoder, heads, least, key):
  """The first magnitudes are 1 within 10 %.

  Attention to all pixels alike gives their mean, whose magnitude is nearly 0:
  0.7 / sqrt(0.58) = 0.92 of the input is left, which the next block of the
  encoder normalises. At 16x16, since zeros beyond the edges take something too.
  """
  x = jax.random.normal(key, (2, 16, 16, 16))
  e = jax.random.normal(key, (2, 16))
  module = EDM2Block(16, decoder=decoder, num_heads=heads)
  apply = jax.jit(lambda k, h: module.init_with_output(k, h, e, False)[0])
  h = x
  for k in jax.random.split(key, 8):
    h = apply(k, h)
    assert least < magnitude(h, None).item() < 1.1


def test_bfloat16_ends_in_float32_and_dropout_acts(key):
  small = TINY | dict(multipliers=(1,), attention_resolutions=())
  p = randomised(shapes(EDM2(**small)))
  x, noise = jax.random.normal(key, (1, 8, 8, 3)), jnp.ones(1)
  full, half = (
    np.asarray(
      jax.jit(EDM2(**small, dtype=dtype).apply)({'params': p}, x, noise)
    )
    for dtype in (jnp.float32, jnp.bfloat16)
  )
  assert half.dtype == np.float32
  assert 0.0 < np.abs(full - half).max() < 0.1 * np.abs(full).max()
  dropping = EDM2(**small, dropout=0.5, remat=True)
  rngs = {'dropout': key}
  dropped = jax.jit(dropping.apply, static_argnames='train')(
    {'params': p}, x, noise, train=True, rngs=rngs
  )
  assert np.abs(dropped - full).max() > 1e-3


def test_refusals():
  for options, cond, message in (
    ({}, {'label': jnp.zeros(1, int)}, r"no condition \['label'\]"),
    ({}, {'x0': jnp.zeros((1, 8, 8, 3))}, r"no condition \['x0'\]"),
    ({'num_classes': 3}, {}, 'no null class'),
    ({'multipliers': (1, 1, 1, 1, 1)}, {}, 'cannot be halved 4 times'),
    ({'head_channels': 3}, {}, 'head_channels=3 does not divide the 8'),
  ):
    with pytest.raises(ValueError, match=message):
      shapes(EDM2(**TINY | options), cond=cond)
