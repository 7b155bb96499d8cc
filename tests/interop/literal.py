"""Layers of other projects in float64 NumPy, NCHW as in PyTorch."""

import functools
import json

import jax
import numpy as np
import safetensors.numpy
from numpy.testing import assert_allclose

from tests.networks.literal import softmax, swish

silu = swish


class Weights(dict):
  """Random tensors, made when their names are first used; exact in float32."""

  def __init__(self, seed=0):
    super().__init__()
    self.rng = np.random.default_rng(seed)

  def get(self, name, *shape, around=0.0, scale=None):
    if name not in self:
      fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1
      scale = scale or (1.0 / np.sqrt(fan_in) if len(shape) > 1 else 0.3)
      values = around + scale * self.rng.standard_normal(shape)
      self[name] = values.astype(np.float32).astype(np.float64)
    assert self[name].shape == shape, name
    return self[name]

  def file(self):
    return {name: np.asarray(x, np.float32) for name, x in self.items()}


def correlate(x, kernel, stride, padding):
  """x [B, I, H, W], kernel [O, I, k, k], padding (before, after)."""
  x = np.pad(x, ((0, 0), (0, 0), padding, padding))
  k = kernel.shape[-1]
  windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))
  windows = windows[:, :, ::stride, ::stride]
  return np.einsum('bihwkl,oikl->bohw', windows, kernel, optimize=True)


def conv(w, name, x, out, size=3, stride=1, padding=None):
  """PyTorch's Conv2d; padding on all sides, size // 2 by default."""
  kernel = w.get(f'{name}.weight', out, x.shape[1], size, size)
  padding = (size // 2, size // 2) if padding is None else padding
  return correlate(x, kernel, stride, padding) + w.get(f'{name}.bias', out)[:, None, None]


def conv1d(w, name, x, out):
  """PyTorch's Conv1d of size 1, [B, C, T]."""
  kernel = w.get(f'{name}.weight', out, x.shape[1], 1)[:, :, 0]
  return np.einsum('bct,oc->bot', x, kernel) + w.get(f'{name}.bias', out)[:, None]


def linear(w, name, x, out, bias=True):
  """PyTorch's Linear, [B, C]."""
  y = x @ w.get(f'{name}.weight', out, x.shape[1]).T
  return y + w.get(f'{name}.bias', out) if bias else y


def normalised(x, groups, eps):
  grouped = x.reshape(len(x), groups, -1)
  mean = grouped.mean(axis=-1, keepdims=True)
  return ((grouped - mean) / np.sqrt(grouped.var(axis=-1, keepdims=True) + eps)).reshape(x.shape)


def group_norm(w, name, x, groups, eps):
  c = x.shape[1]
  around = (1, c) + (1,) * (x.ndim - 2)
  scale = w.get(f'{name}.weight', c, around=1.0).reshape(around)
  return normalised(x, groups, eps) * scale + w.get(f'{name}.bias', c).reshape(around)


def attend(q, k, v):
  """Computes one head, [C, T] each -> [C, T], by a softmax over the keys of q.k / sqrt C."""
  return v @ softmax(q.T @ k / np.sqrt(len(q))).T


def attention(qkv, split):
  """[B, C, T] of [B, 3C, T]; split(image) has q, k, v of each head."""
  images = ([attend(*parts) for parts in split(image)] for image in qkv)
  return np.stack([np.concatenate(heads) for heads in images])


def pooled(x):
  return np.mean([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)


def nearest(x):
  return np.repeat(np.repeat(x, 2, axis=2), 2, axis=3)


FIR = np.array([1.0, 3.0, 3.0, 1.0])


def each_channel(x, kernel, stride, padding):
  channels = np.split(x, x.shape[1], axis=1)
  kernel = kernel[None, None]
  return np.concatenate([correlate(c, kernel, stride, padding) for c in channels], axis=1)


def fir_down(x, stride=2, padding=(1, 1)):
  """recipes 5: 4x4 windows, two pixels apart, that begin one outside."""
  return each_channel(x, np.outer(FIR, FIR) / 64, stride, padding)


def fir_up(x):
  """Zeros between the pixels, two before and one after, then 4x4 windows."""
  b, c, height, width = x.shape
  wide = np.zeros((b, c, 2 * height, 2 * width))
  wide[:, :, ::2, ::2] = x
  return each_channel(wide, np.outer(FIR, FIR) / 16, 1, (2, 1))


# The places of a U-Net that change the resolution, and those with attention.
MEANS = {'enc.4x4_down': pooled, 'dec.8x8_up': nearest}
FILTERS = {'enc.4x4_down': fir_down, 'dec.8x8_up': fir_up}
ATTENDS = 'enc.4x4_block0', 'dec.4x4_in0', 'dec.4x4_block0', 'dec.4x4_block1'


def join(*parts):
  return np.concatenate(parts, axis=1)


def unet(h, block, join=join, after_down=lambda h: h):
  """Two levels; block(place, h, n) has n times the first one's channels."""
  hs = [h, block('enc.8x8_block0', h, 1)]
  hs.append(after_down(block('enc.4x4_down', hs[-1], 1)))
  hs.append(block('enc.4x4_block0', hs[-1], 2))
  h = block('dec.4x4_in1', block('dec.4x4_in0', hs[-1], 2), 2)
  for place in ('dec.4x4_block0', 'dec.4x4_block1'):
    h = block(place, join(h, hs.pop()), 2)
  h = block('dec.8x8_up', h, 2)
  for place in ('dec.8x8_block0', 'dec.8x8_block1'):
    h = block(place, join(h, hs.pop()), 1)
  assert not hs
  return h


def sinusoid(noise, features, last):
  """[sin, cos] of noise * 10000^(-i / last), i < features / 2, transposed."""
  angles = np.outer(noise, np.exp(-np.log(10000) * np.arange(features // 2) / last))
  return np.sin(angles), np.cos(angles)


def random_like(shapes, seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda x: rng.standard_normal(x.shape).astype(np.float32)
  return jax.tree.map(draw, shapes)


def store(folder, w, options):
  path = folder / 'a.safetensors'
  safetensors.numpy.save_file(w.file(), path)
  path.with_suffix('.json').write_text(json.dumps(options))
  return path


def images(size, channels=3, batch=2, seed=1):
  x = np.random.default_rng(seed).standard_normal((batch, channels, size, size))
  return x.astype(np.float32).astype(np.float64)


@functools.partial(jax.jit, static_argnums=0)
def run(network, params, *inputs):
  """Runs our network, compiled once for all tests with the same shapes."""
  return network.apply({'params': params}, *inputs)


def apply(imported, x, noise, cond=None):
  """Runs the imported network, NCHW in and out."""
  cond = {k: _nhwc(v) for k, v in (cond or {}).items()}
  network, params = imported.network, imported.params
  out = run(network, params, _nhwc(x), np.float32(noise), cond)
  return np.asarray(out).transpose(0, 3, 1, 2) if out.ndim == 4 else out


def _nhwc(x):
  x = np.asarray(x)
  x = x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
  return x.astype(np.float32) if x.dtype == np.float64 else x


def assert_close(found, expected):
  """Within 1e-5 of the largest |output|, which is not a rounding error."""
  assert found.shape == expected.shape
  largest = np.abs(expected).max()
  assert largest > 0.1
  assert_allclose(found, expected, rtol=0.0, atol=1e-5 * largest)
