"""Layers in NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from numpy.testing import assert_allclose


def shapes(network, size=8, channels=3, cond=None):
  """Returns the abstract parameters of a network of images."""
  x = jnp.zeros((1, size, size, channels))
  init = jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros(1), cond)
  return init['params']


def taken(network, layer, place, *args):
  """Returns what a layer takes as its argument `place`."""
  found = []

  def see(call, args, kwargs, context):
    if context.module.name == layer:
      found.append(args[place])
    return call(*args, **kwargs)

  with nn.intercept_methods(see):
    network.apply(*args)
  return found[0]


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def close(found, expected, rtol=2e-4, atol=2e-4):
  """Compares two trees of arrays."""
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    assert_allclose(a, b, rtol=rtol, atol=atol)


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


def layer_norm(x, p=None):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  return x * p['scale'] + p['bias'] if p else x


def swish(x):
  return x / (1.0 + np.exp(-x))


def conv3x3(p, x):
  kernel = np.asarray(p['kernel'], np.float64)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  h, w = x.shape[1:3]
  out = sum(padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))
  return out + np.asarray(p['bias'])


def randomised(abstract, seed=0, scale=0.5):
  """Returns random parameters, so that each of them matters."""
  rng = np.random.default_rng(seed)
  draw = lambda x: np.float32(rng.normal(0.0, scale, x.shape))
  return jax.tree.map(draw, abstract)


def random_params(network, *inputs, seed=0, scale=0.5):
  """Returns random parameters of a network for these inputs."""
  found = jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs))
  return randomised(found['params'], seed, scale)


def nearest(x):
  return np.kron(x, np.ones((1, 2, 2, 1)))


def softmax(logits):
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def residual(p, x, embedding=0.0):
  """A ResNet block with the projected embedding added in its middle."""
  h = conv3x3(p['conv_1'], swish(norm(p['norm_1'], x, 4))) + embedding
  h = conv3x3(p['conv_2'], swish(norm(p['norm_2'], h, 4)))
  return h + (dense(p['shortcut'], x) if 'shortcut' in p else x)


def gelu(x):
  """Hendrycks & Gimpel 2016, the form with tanh."""
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def heads(x, count):
  return x.reshape(*x.shape[:2], count, -1)


def attend(q, k, v, mask=None):
  """Vaswani et al. 2017, [B, T, heads, C], image by image and head by head."""
  out = np.zeros(q.shape)
  for b, h in np.ndindex(q.shape[0], q.shape[2]):
    seen = slice(None) if mask is None else mask[b]
    scores = q[b, :, h] @ k[b, seen, h].T / np.sqrt(q.shape[-1])
    out[b, :, h] = softmax(scores) @ v[b, seen, h]
  return out.reshape(*q.shape[:2], -1)


def attention(p, x):
  """Computes one head, with logits times C^-1/2 and a softmax of all pixels."""
  b, height, width, c = x.shape
  h = norm(p['norm'], x, 4).reshape(b, height * width, c)
  q, k, v = (dense(p[name], h) for name in ('query', 'key', 'value'))
  weights = softmax(q @ k.swapaxes(1, 2) / np.sqrt(c))
  return x + dense(p['proj_out'], weights @ v).reshape(x.shape)
