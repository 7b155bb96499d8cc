import functools
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.unet import UNet
from tests.networks.literal import (
  conv3x3,
  count,
  dense,
  mean_of_blocks,
  nearest,
  norm,
  openai_attention,
  randomised,
  shapes,
  swish,
)

TINY = dict(
  channels=8,
  multipliers=(1, 2),
  num_blocks=1,
  attention_resolutions=(4,),
  num_groups=4,
  out_channels=3,
)
ONE_LEVEL = dict(
  channels=4,
  multipliers=(1,),
  num_blocks=1,
  attention_resolutions=(4,),
  num_groups=2,
  num_heads=2,
  scale_shift=True,
)
# Shared by all networks of OpenAI. Six outputs: the variance is learned.
OPENAI = dict(
  noise_embedding='openai',
  initializer='torch',
  norm_eps=1e-5,
  scale_shift=True,
  downsample_padding='symmetric',
  out_channels=6,
)
IDDPM = OPENAI | dict(num_heads=4, qkv='legacy')
ADM = OPENAI | dict(resblock_updown=True, head_channels=64)


def test_ddpm_cifar10_has_the_published_number_of_parameters():
  assert count(shapes(UNet(), 32)) == 35_746_307


IDDPM_CIFAR10 = IDDPM | dict(num_blocks=3, attention_resolutions=(16, 8))
ADM_64 = ADM | dict(
  channels=192,
  multipliers=(1, 2, 3, 4),
  num_blocks=3,
  attention_resolutions=(32, 16, 8),
  num_classes=1000,
  qkv='new',
)
ADM_256 = ADM | dict(
  channels=256,
  multipliers=(1, 1, 2, 2, 4, 4),
  attention_resolutions=(32, 16, 8),
  qkv='legacy',
)


@pytest.mark.parametrize(
  'options, size, expected',
  [
    (IDDPM_CIFAR10, 32, 52_546_438),
    pytest.param(
      IDDPM_CIFAR10 | dict(multipliers=(1, 2, 3, 4)),
      64,
      121_063_942,
      marks=pytest.mark.slow,
    ),
    (ADM_64, 64, 295_904_454),
    pytest.param(
      ADM_64 | dict(out_channels=3), 64, 295_899_267, marks=pytest.mark.slow
    ),
    (ADM_256, 256, 552_814_086),
  ],
  ids=['iddpm_cifar10', 'iddpm_64', 'adm_64', 'adm_64_mean', 'adm_256'],
)
def test_openais_networks_have_their_numbers_of_parameters(
  options, size, expected
):
  """recipes 0 and 3.3."""
  label = {'label': jnp.zeros(1, int)} if 'num_classes' in options else None
  assert count(shapes(UNet(**options), size, cond=label)) == expected


def test_the_null_class_and_dropout_act(key):
  network = UNet(**ONE_LEVEL, dropout=0.5, num_classes=3, null_class=True)
  x = np.random.default_rng(1).standard_normal((2, 4, 4, 3), np.float32)
  noise, label = np.array([3.0, 700.0]), {'label': np.array([0, 2])}
  params = randomised(shapes(network, 4, cond={'label': jnp.zeros(1, int)}))
  jitted = jax.jit(network.apply, static_argnames='train')
  apply = functools.partial(jitted, {'params': params}, x, noise)
  out = apply(label)
  assert out.shape == (2, 4, 4, 3) and out.dtype == np.float32
  for changed in apply({}), apply(label, train=True, rngs={'dropout': key}):
    assert (np.abs(changed - out).max(axis=(1, 2, 3)) > 1e-4).all()


def test_bfloat16_keeps_parameters_norms_and_softmax_in_float32(key):
  x = jax.random.normal(key, (2, 4, 4, 3))
  noise = jnp.array([3.0, 700.0])
  options = ONE_LEVEL | dict(attention_resolutions=())
  full, half = UNet(**options), UNet(**options, dtype=jnp.bfloat16)
  abstract = shapes(half, 4)
  for leaf in jax.tree.leaves(abstract):
    assert leaf.dtype == jnp.float32
  variables = {'params': randomised(abstract)}
  a, b = (
    np.asarray(jax.jit(n.apply)(variables, x, noise)) for n in (full, half)
  )
  assert 0.0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()

  used = {}
  jaxpr = jax.make_jaxpr(half.apply)(variables, x, noise)
  for eqn in all_equations(jaxpr.jaxpr):
    used.setdefault(eqn.primitive.name, set()).add(
      str(eqn.outvars[0].aval.dtype)
    )
  assert used['rsqrt'] == {'float32'}  # of the norms
  assert used['exp'] == {'float32'}  # of the softmax
  assert 'bfloat16' in used['conv2d'] and 'bfloat16' in used['linear']


def all_equations(jaxpr):
  for eqn in jaxpr.eqns:
    yield eqn
    for inner in jax.extend.core.jaxprs_in_params(eqn.params):
      yield from all_equations(inner)


VARIANTS = {
  'iddpm': TINY | IDDPM | dict(num_heads=2, norm_eps=1.0),
  # The first multiplier is not an integer, as at 512 pixels.
  'adm': TINY
  | ADM
  | dict(
    multipliers=(0.5, 1),
    stem_channels=4,
    attention_resolutions=(8, 4),
    head_channels=4,
    qkv='new',
    num_classes=3,
    norm_eps=1.0,  # large enough to be seen, here and above
  ),
}


@pytest.fixture(scope='module', params=VARIANTS)
def variant(request):
  """Returns (options, random parameters, inputs) of a tiny network."""
  options = VARIANTS[request.param]
  labels = 'num_classes' in options
  example = {'label': jnp.zeros(1, int)} if labels else None
  abstract = shapes(UNet(**options), 8, cond=example)
  x = np.random.default_rng(1).standard_normal((2, 8, 8, 3), np.float32)
  cond = {'label': np.array([0, 2])} if labels else None
  inputs = x, np.array([3.0, 700.25]), cond
  return options, randomised(abstract), inputs


def openai_residual(p, h, e, eps, resample=lambda h: h):
  """recipes 3.1, with scale-shift norm and an optional change of resolution."""
  out = conv3x3(p['conv_1'], resample(swish(norm(p['norm_1'], h, 4, eps))))
  scale, shift = np.split(dense(p['embedding_proj'], swish(e)), 2, axis=-1)
  out = norm(p['norm_2'], out, 4, eps)
  out = out * (1 + scale[:, None, None]) + shift[:, None, None]
  h = dense(p['shortcut'], h) if 'shortcut' in p else h
  return resample(h) + conv3x3(p['conv_2'], swish(out))


def openai_unet(p, x, t, cond, options):
  """recipes 3.1, block by block in float64."""
  eps, half = options['norm_eps'], options['channels'] // 2
  angles = t[:, None] * np.exp(-np.log(10000) * np.arange(half) / half)
  e = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
  e = dense(p['noise_dense_2'], swish(dense(p['noise_dense_1'], e)))
  if cond:
    e += np.asarray(p['label_embedding']['table']['embedding'])[cond['label']]

  def attend(name, h):
    ch = options.get('head_channels') or h.shape[-1] // options['num_heads']
    return openai_attention(p[name], h, options['qkv'], ch, eps)

  def block(name, h, factor):
    h = openai_residual(p[f'{name}_block'], h, e, eps)
    # OpenAI names attention by the factor of downsampling from 8 pixels.
    if factor in [8 // size for size in options['attention_resolutions']]:
      h = attend(f'{name}_attention', h)
    return h

  updown = options.get('resblock_updown')
  h = conv3x3(p['conv_in'], x)
  skips = [h]
  for level, factor in enumerate((1, 2)):
    for i in range(options['num_blocks']):
      h = block(f'down_{level}_{i}', h, factor)
      skips.append(h)
    if level == 0:
      down = p['down_0_downsample']
      if updown:
        h = openai_residual(down, h, e, eps, mean_of_blocks)
      else:  # stride 2 and padding 1: every second window
        h = conv3x3(down['conv'], h)[:, ::2, ::2]
      skips.append(h)
  h = openai_residual(p['middle_0_block'], h, e, eps)
  h = attend('middle_attention', h)
  h = openai_residual(p['middle_1_block'], h, e, eps)
  for level, factor in ((1, 2), (0, 1)):
    for i in range(options['num_blocks'] + 1):
      h = np.concatenate([h, skips.pop()], axis=-1)
      h = block(f'up_{level}_{i}', h, factor)
    if level == 1:
      up = p['up_1_upsample']
      if updown:
        h = openai_residual(up, h, e, eps, nearest)
      else:
        h = conv3x3(up['conv'], nearest(h))
  assert not skips
  return conv3x3(p['conv_out'], swish(norm(p['norm_out'], h, 4, eps)))


def test_openais_networks_literally(variant):
  options, params, (x, noise, cond) = variant
  network = UNet(**options)

  def apply(params) -> Any:
    return network.apply({'params': params}, x, noise, cond)

  found = np.asarray(jax.jit(apply)(params))
  assert found.shape == (2, 8, 8, 6)
  x, noise = np.asarray(x, np.float64), np.asarray(noise, np.float64)
  expected = openai_unet(params, x, noise, cond, options)
  scale = np.abs(expected).max()
  np.testing.assert_allclose(found / scale, expected / scale, atol=2e-5)


def test_cudnn_attention_has_bfloat16_and_narrow_heads(key):
  x, noise = jnp.zeros((1, 8, 8, 3)), jnp.zeros(1)
  options = TINY | {'attention': 'cudnn', 'head_channels': 4}
  with pytest.raises(ValueError, match="'cudnn' needs dtype bfloat16"):
    UNet(**options)
  with pytest.raises(ValueError, match='heads of 8, 16, ... 128 channels, not'):
    jax.eval_shape(UNet(**options, dtype='bfloat16').init, key, x, noise)
  wide = UNet(**TINY | {'channels': 256}, attention='cudnn', dtype='bfloat16')
  with pytest.raises(ValueError, match='not 512: set head_channels'):
    jax.eval_shape(wide.init, key, x, noise)


def test_remat_changes_neither_parameters_nor_results(key):
  """Names of parameters, dropout, outputs and gradients are equal.

  An initial value depends only on the key and the name of its parameter.
  """
  x, noise = jax.random.normal(key, (2, 4, 4, 3)), jnp.array([3.0, 700.0])
  options = ONE_LEVEL | dict(dropout=0.5, attention_resolutions=())
  plain = UNet(**options)
  again = UNet(**options, remat=True, remat_policy='products')
  params = randomised(shapes(plain, 4))
  assert shapes(again, 4) == shapes(plain, 4)
  stored = []  # numbers that are kept for the backward pass

  def run(network):
    def apply(params):
      rngs = {'dropout': jax.random.key(5)}
      return network.apply({'params': params}, x, noise, train=True, rngs=rngs)

    out, pullback = jax.vjp(apply, params)
    stored.append(count(pullback) - count(params))
    return pullback(2 * out), out

  both = jax.jit(lambda: (run(plain), run(again)))
  expected, found = jax.device_get(both())
  # A softmax ignores a constant: the gradient of a key's bias is rounding.
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
  assert all(np.isfinite(a).all() and a.any() for a in jax.tree.leaves(found))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-5, atol=1e-6 * largest
    ),
    found,
    expected,
  )
  assert stored[1] < 0.25 * stored[0]


def test_torch_initialisers_end_in_zeros(key):
  """The output of a new network of OpenAI's is 0."""
  network = UNet(**ONE_LEVEL, initializer='torch')
  x = jnp.zeros((1, 4, 4, 3))
  params = jax.jit(network.init)(key, x, jnp.zeros(1))['params']
  zeros = {
    '/'.join(k.key for k in path[:-1])
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    if path[-1].key == 'kernel' and not leaf.any()
  }
  blocks = {f'{name}/conv_2' for name in params if name.endswith('_block')}
  ends = {f'{name}/proj_out' for name in params if name.endswith('attention')}
  assert zeros == blocks | ends | {'conv_out'}
  assert not params['conv_out']['bias'].any()


def test_estimate_and_image_are_more_channels(key):
  """They follow the channels of x, and are 0 if dropped or not given."""
  options = ONE_LEVEL | dict(attention_resolutions=())
  network = UNet(**options, self_conditioning=True, image_channels=2)
  p = randomised(shapes(network, 4))
  assert p['conv_in']['kernel'].shape == (3, 3, 8, 4)
  rng = np.random.default_rng(1)
  x, x0 = rng.standard_normal((2, 2, 4, 4, 3), np.float32)
  image = rng.standard_normal((2, 4, 4, 2), np.float32)
  shown = image * np.array([1, 0], np.float32)[:, None, None, None]
  drop = {'drop': np.array([False, True])}
  noise = np.ones(2)
  apply, wide = (
    jax.jit(lambda *a, n=n: n.apply({'params': p}, *a))
    for n in (network, UNet(**options))
  )
  outputs = []
  for cond, estimate, seen in (
    ({'x0': x0, 'image': image} | drop, x0, shown),
    ({}, 0 * x0, 0 * image),
  ):
    found = np.asarray(apply(x, noise, cond))
    inputs = np.concatenate([x, estimate, seen], axis=-1)
    expected = wide(inputs, noise)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    outputs.append(found)
  assert (np.abs(outputs[0] - outputs[1]).max(axis=(1, 2, 3)) > 1e-2).all()
  one = jnp.zeros((1, 4, 4, 3))
  for name, value in (('x0', one), ('image', one[..., :2])):
    with pytest.raises(ValueError, match=rf"no condition \['{name}'\]"):
      shapes(UNet(**options), 4, cond={name: value})
  with pytest.raises(ValueError, match=r'has shape \[1, 2, 2, 2\], but'):
    shapes(network, 4, cond={'image': one[:, :2, :2, :2]})


def test_refusals(key):
  x = jnp.zeros((1, 8, 8, 3))
  with pytest.raises(ValueError, match='7x8 cannot be halved 1 times'):
    UNet(**TINY).init(key, jnp.zeros((1, 7, 8, 3)), jnp.zeros(1))
  with pytest.raises(ValueError, match=r"no condition \['label'\]"):
    UNet(**TINY).init(key, x, jnp.zeros(1), {'label': jnp.zeros(1, int)})
  for options, message in (
    ({'num_groups': 3}, 'num_groups=3 does not divide the 8 channels'),
    ({'multipliers': (1, 0.2)}, 'num_groups=4 does not divide the 9 channels'),
    ({'stem_channels': 6}, 'does not divide the 6 channels'),
  ):
    with pytest.raises(ValueError, match=message):
      shapes(UNet(**TINY | options), 8)
