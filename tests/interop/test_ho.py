import jax
import numpy as np
import pytest

from diffusion_jax.interop import ho, names
from tests.interop import literal
from tests.interop.literal import (
  apply,
  assert_close,
  attend,
  correlate,
  group_norm,
  nearest,
  silu,
)

NOISE = np.array([0.0, 714.0])


def dense(w, name, x, out):
  """recipes 1.1: kernels [in, out]."""
  return x @ w.get(f'{name}/W', x.shape[-1], out, scale=0.2) + w.get(
    f'{name}/b', out
  )


def nin(w, name, x, out):
  return dense(w, name, x.transpose(0, 2, 3, 1), out).transpose(0, 3, 1, 2)


def conv(w, name, x, out, stride=1):
  """recipes 1.1: HWIO, TensorFlow's 'SAME', below and right at stride 2."""
  kernel = w.get(f'{name}/W', 3, 3, x.shape[1], out, scale=0.1)
  padding = (1, 1) if stride == 1 else (0, 1)
  y = correlate(x, kernel.transpose(3, 2, 0, 1), stride, padding)
  return y + w.get(f'{name}/b', out)[:, None, None]


def norm(w, name, x):
  """recipes 1.1: 32 groups, epsilon 1e-6."""
  return group_norm(w, name, x, 32, 1e-6, 'gamma', 'beta', '/')


def residual(w, name, x, temb, out):
  h = conv(w, f'{name}/conv1', silu(norm(w, f'{name}/norm1', x)), out)
  h = h + dense(w, f'{name}/temb_proj', silu(temb), out)[:, :, None, None]
  h = conv(w, f'{name}/conv2', silu(norm(w, f'{name}/norm2', h)), out)
  if x.shape[1] != out:
    x = nin(w, f'{name}/nin_shortcut', x, out)
  return x + h


def attention(w, name, x):
  c, h = x.shape[1], norm(w, f'{name}/norm', x)
  q, k, v = (
    nin(w, f'{name}/{part}', h, c).reshape(len(x), c, -1) for part in 'qkv'
  )
  h = np.stack([attend(*parts) for parts in zip(q, k, v, strict=True)])
  return x + nin(w, f'{name}/proj_out', h.reshape(x.shape), c)


def unet(w, x, t):
  """recipes 1.1: two levels of one block, attention at the second."""
  temb = np.concatenate(literal.sinusoid(t, 32, last=15), axis=1)
  temb = dense(w, 'temb/dense0', temb, 128)
  temb = dense(w, 'temb/dense1', silu(temb), 128)
  hs = [conv(w, 'conv_in', x, 32)]
  hs.append(residual(w, 'down_0/block_0', hs[-1], temb, 32))
  hs.append(conv(w, 'down_0/downsample/conv', hs[-1], 32, stride=2))
  h = residual(w, 'down_1/block_0', hs[-1], temb, 64)
  hs.append(attention(w, 'down_1/attn_0', h))
  h = residual(w, 'mid/block_1', hs[-1], temb, 64)
  h = attention(w, 'mid/attn_1', h)
  h = residual(w, 'mid/block_2', h, temb, 64)
  join = lambda h: np.concatenate([h, hs.pop()], axis=1)
  for i in range(2):
    h = residual(w, f'up_1/block_{i}', join(h), temb, 64)
    h = attention(w, f'up_1/attn_{i}', h)
  h = conv(w, 'up_1/upsample/conv', nearest(h), 64)
  for i in range(2):
    h = residual(w, f'up_0/block_{i}', join(h), temb, 32)
  assert not hs
  return conv(w, 'conv_out', silu(norm(w, 'norm_out', h)), 3)


@pytest.fixture(scope='module')
def theirs():
  w, x = literal.Weights(), literal.images(8)
  return w, x, unet(w, x, NOISE)


def graph(w):
  """Returns a checkpoint: Adam's variables, the step and averages too."""
  found = {'global_step': np.array(9), 'beta1_power': np.array(0.5)}
  for name, x in w.file().items():
    found[f'model/{name}'] = np.zeros_like(x)
    found[f'model/{name}/Adam'] = found[f'model/{name}/Adam_1'] = x - 1.0
    found[f'model/{name}/ExponentialMovingAverage'] = x
  return found


def test_the_averages_of_a_graph(theirs, tmp_path):
  w, x, expected = theirs
  np.savez(tmp_path / 'model.npz', **graph(w))
  found = ho.load(tmp_path / 'model.npz', image_size=8)
  assert_close(apply(found, x, NOISE), expected)
  assert found.sections['network']['attention_resolutions'] == (4,)
  assert found.sections['network']['multipliers'] == (1, 2)
  assert found.sections['noise_input'] == {'name': 'step'}


def test_variables_without_a_prefix_or_averages(theirs):
  w, _, _ = theirs
  found = ho.from_tensors(w.file(), ema=False, image_size=8).params
  trained = ho.from_tensors(graph(w), ema=False, image_size=8).params
  assert found['conv_in']['kernel'].any()
  assert not any(x.any() for x in jax.tree.leaves(trained))
  message = 'no EMA variables, such as conv_in/W/ExponentialMovingAverage'
  with pytest.raises(ValueError, match=message):
    ho.from_tensors(w.file(), image_size=8)


def test_the_network_of_cifar10_is_found_by_its_variables():
  """35,746,307 parameters (recipes 0); attention at 16 means images of 32."""
  model = ho.describe({}, 32)  # of the defaults of UNet
  params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), model.shapes())
  variables = names.write(model.table(), params)
  assert sum(x.size for x in variables.values()) == 35_746_307
  found = ho.from_tensors(variables, ema=False)
  assert found.network == ho.UNet(dropout=0.1)
  assert found.facts == {'image_shape': (32, 32, 3)}
  assert found.sections['sampling']['sampler']['variance'] == 'fixed_large'
  assert found.notes == ('images are 32x32, so that attention is at 16x16',)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'conv_in/W': None}, 'no variable conv_in/W'),
    ({'conv_out/b': None}, '^missing: conv_out/b$'),
    ({'conv_out/b': (6,)}, 'conv_out has 6 channels: a learned log-var'),
    ({'temb/dense0/W': (16, 128)}, r'temb/dense0/W \(16, 128\) for noise_dens'),
  ],
)
def test_what_does_not_fit_is_named(theirs, changes, message):
  variables = theirs[0].file()
  for name, shape in changes.items():
    variables.pop(name, None)
    if shape:
      variables[name] = np.zeros(shape)
  with pytest.raises(ValueError, match=message):
    ho.from_tensors(variables, ema=False, image_size=8)


def test_attention_elsewhere_needs_the_size_of_the_images(theirs):
  variables = theirs[0].file()
  variables['down_0/attn_0/q/W'] = np.zeros((32, 32))
  with pytest.raises(ValueError, match='at 2 resolutions: give image_size'):
    ho.from_tensors(variables, ema=False)
