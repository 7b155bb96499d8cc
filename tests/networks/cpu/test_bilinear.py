"""The platform that a program is lowered for decides its operations."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import export, lax
from numpy.testing import assert_allclose

from diffusion_jax.networks import edm2, layers, transformer_block
from diffusion_jax.networks.blocks import ResnetBlock
from diffusion_jax.networks.cpu.bilinear import linear
from diffusion_jax.networks.cpu.convolution import conv2d
from diffusion_jax.runtime.sharding import make_mesh
from tests.networks import literal
from tests.networks.literal import close
from tests.rows import slow

OTHERS = ('tpu', 'cuda')
PADDING = ((1, 1), (1, 1))


def jax_conv(x, kernel, stride=1, padding=PADDING):
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def jax_product(x, kernel, dimension_numbers=None, precision=None):
  return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


@pytest.fixture
def nothing_known(monkeypatch):
  """Makes jax raise if it is asked for devices."""
  for name in ('default_backend', 'device_count', 'devices'):
    monkeypatch.setattr(jax, name, None)


def block():
  """Returns a residual block, its gradient, and abstract arguments."""
  module = ResnetBlock(64, num_groups=4)
  x, embedding = jnp.zeros((8, 8, 8, 32)), jnp.zeros((8, 16))
  init = jax.eval_shape(lambda key: module.init(key, x, embedding, False), jax.random.key(0))

  def apply(params, x, embedding):
    return jnp.asarray(module.apply(params, x, embedding, False))

  def loss(*arguments):
    return jnp.sum(apply(*arguments) ** 2)

  return apply, jax.grad(loss, (0, 1)), (init, x, embedding)


def operations(traced, platform):
  """Counts the operations of the program for a platform."""
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  return collections.Counter(re.findall(r'stablehlo\.(\w+)', text))


@pytest.mark.usefixtures('nothing_known')
def test_a_block_and_its_gradient_are_plain_unless_lowered_for_a_cpu(monkeypatch):
  """Other platforms have the operations of JAX's own convolution."""

  def programs(others=OTHERS):
    *functions, arguments = block()
    for function in functions:
      traced = jax.jit(function).trace(*arguments)
      yield [operations(traced, platform) for platform in others]

  found = list(programs((*OTHERS, 'cpu')))
  monkeypatch.setattr(layers, 'convolve', lambda x, k, s, p: jax_conv(x, k, s, (p, p)))
  monkeypatch.setattr(layers, 'linear', jax_product)
  for (*ours, cpu), plain in zip(found, programs(), strict=True):
    assert ours == plain
    assert all(ops['convolution'] > 0 for ops in ours)
    assert not any('optimization_barrier' in ops for ops in ours)
    assert cpu['optimization_barrier'] and cpu != ours[0]


@pytest.mark.usefixtures('nothing_known')
def test_one_exported_program_runs_on_three_platforms(rng):
  apply, _, (shapes, x, embedding) = block()
  params = literal.randomised(shapes, scale=0.1)
  exported = export.export(jax.jit(apply), platforms=('cpu', *OTHERS))
  exported = exported(params, x, embedding)
  x, embedding = (rng.standard_normal(a.shape, np.float32) for a in (x, embedding))
  found = exported.call(params, x, embedding)
  p = params['params']
  c = literal.dense(p['embedding_proj'], literal.swish(embedding))
  expected = literal.residual(p, np.float64(x), c[:, None, None])
  assert np.abs(expected).max() > 1.0
  assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def derivatives(function, x, w):
  """Returns derivatives with shared weights, and with weights per example."""
  loss = lambda x, w: jnp.sum(jnp.sin(function(x, w)))
  gradient = jax.grad(loss, (0, 1))
  tangents = jnp.cos(x), jnp.sin(w)
  hessian = jax.jvp(jax.vmap(gradient, (0, None)), (x, w), tangents)
  # reverse over reverse
  norm = lambda x, w: jnp.sum(gradient(x, w)[1] ** 2)
  again = jax.vmap(jax.grad(norm, (0, 1)), (0, None))(x, w)
  ws = jnp.stack([w, 2.0 * w])
  twice = jax.vmap(jax.vmap(gradient, (0, None)), (None, 0))(x, ws)
  summed = jax.grad(lambda x, ws: jnp.sum(jax.vmap(loss, (None, 0))(x, ws) ** 2), (0, 1))(x, ws)
  return hessian, again, twice, summed


@pytest.mark.parametrize('stride', [0, slow(1), 2])
def test_derivatives_of_derivatives_under_vmap(stride, rng):
  """Stride 0 stands for a linear layer; strides 1 and 2 are the same operator."""
  if stride:
    shapes = (2, 2, 4, 4, 3), (3, 3, 3, 2)
    ours, theirs = (
      functools.partial(f, stride=stride, padding=PADDING)
      for f in (
        conv2d,
        lambda x, w, stride, padding: jax_conv(
          x.reshape(-1, *x.shape[-3:]), w, stride, padding
        ).reshape(*x.shape[:-3], *(side // stride for side in x.shape[-3:-1]), -1),
      )
    )
  else:
    shapes, ours, theirs = ((2, 3, 4), (4, 5)), linear, jax_product
  x, w = (0.3 * rng.standard_normal(shape, np.float32) for shape in shapes)
  both = jax.jit(lambda x, w: [derivatives(f, x, w) for f in (ours, theirs)])
  close(*both(x, w), rtol=1e-4, atol=1e-4)


def test_an_axis_of_rows_alone_after_an_axis_of_both(rng):
  """The inner axis is of x and w, the outer of x: numbers of each differ."""
  x = rng.standard_normal((2, 3, 4, 5), np.float32)
  w = rng.standard_normal((3, 5, 6), np.float32)
  run = jax.jit(jax.vmap(jax.vmap(linear), (0, None)))
  close(run(x, w), np.einsum('abij,bjk->abik', x, w), rtol=1e-5, atol=1e-5)


def test_shard_map_sums_the_gradient_of_shared_weights(rng):
  mesh = make_mesh(8)
  spec = jax.sharding.PartitionSpec
  x = rng.standard_normal((8, 4, 4, 3), np.float32)
  kernel = rng.standard_normal((3, 3, 3, 2), np.float32)

  def gradient(conv):
    def loss(kernel, x):
      return lax.psum(jnp.sum(jnp.sin(conv(x, kernel, 1, PADDING))), 'data')

    specs = spec(), spec('data')
    mapped = jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=spec())
    return jax.jit(jax.grad(mapped))(kernel, x)

  assert_allclose(gradient(conv2d), gradient(jax_conv), rtol=1e-4, atol=1e-4)


class Layers(nn.Module):
  kind: str

  @nn.compact
  def __call__(self, x):
    if self.kind == 'layers':
      return layers.dense(x, 6, 'a')
    if self.kind == 'transformer':
      return transformer_block.dense(6, 'a')(x)
    return edm2.MPConv(6)(x)


@pytest.mark.parametrize('kind', ['layers', 'transformer', 'magnitude'])
def test_every_gradient_sums_over_one_axis_on_cpus(kind, key):
  """Feature maps [B, H, W, C] have three axes of rows."""
  x, network = np.ones((2, 3, 4, 8), np.float32), Layers(kind)
  params = jax.eval_shape(network.init, key, x)

  def loss(params, x):
    return jnp.sum(jnp.square(jnp.asarray(network.apply(params, x))))

  gradient = jax.jit(jax.grad(loss, (0, 1))).trace(params, x)

  def axes(platform):
    # Returns the axes that the products sum over.
    text = gradient.lower(lowering_platforms=(platform,)).as_text()
    return re.findall(r'dot_general.*contracting_dims = (\[.*?\]) x', text)

  assert len(axes('cpu')) == 3 and set(axes('cpu')) == {'[0]', '[1]'}
  assert len(axes('tpu')) == 3 and '[0, 1, 2]' in axes('tpu')
