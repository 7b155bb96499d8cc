"""Winograd's convolution is the convolution, within a few millionths, where it is chosen."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

from diffusion_jax.networks.cpu import convolution, winograd
from tests.networks.cpu.test_bilinear import jax_conv
from tests.networks.literal import close

conv = jax.jit(winograd.conv, static_argnums=(2, 3))
kernel_gradient = jax.jit(winograd.kernel_gradient, static_argnums=(2, 3))
PLAIN = ((1, 1), (1, 1))
# shape of x, features, padding; sides that tiles do not fill, uneven padding
SHAPES = {
  'odd': ((1, 7, 10, 3), 2, PLAIN),
  'uneven': ((2, 9, 6, 2), 3, ((0, 1), (2, 1))),
  'valid': ((1, 10, 6, 2), 2, ((0, 0), (0, 0))),
}


def direct(x, kernel, padding) -> Any:
  """Returns the sum of nine products, float64."""
  x = np.pad(x, ((0, 0), *padding, (0, 0)))
  h, w = x.shape[1] - 2, x.shape[2] - 2
  return sum(
    np.einsum('bhwc,co->bhwo', x[:, i : i + h, j : j + w], kernel[i, j])
    for i in range(3)
    for j in range(3)
  )


@pytest.fixture(params=SHAPES)
def case(request, seeds):
  shape, features, padding = SHAPES[request.param]
  rng = np.random.default_rng(0)
  x = rng.standard_normal(shape)
  kernel = rng.standard_normal((3, 3, shape[-1], features))
  return x, kernel, padding


def test_in_float64_it_is_the_convolution(case):
  x, kernel, padding = case
  with jax.enable_x64(True):
    found = conv(x, kernel, padding, None)
  expected = direct(x, kernel, padding)
  assert found.shape == expected.shape
  assert_allclose(found, expected, rtol=0, atol=1e-11)


def test_the_kernel_gradient_is_the_transpose(case):
  """<g, conv(x, k)> = <gradient, k> for any k."""
  x, kernel, padding = case
  y = direct(x, kernel, padding)
  g = np.cos(np.arange(y.size)).reshape(y.shape)
  found = np.asarray(kernel_gradient(np.float32(x), np.float32(g), padding, None))
  assert found.shape == kernel.shape
  basis = np.zeros(kernel.shape)
  for index in np.ndindex(3, 3, 1, 1):
    basis[index] = 1.0
    expected = np.sum(g * direct(x, basis, padding))
    basis[index] = 0.0
    assert_allclose(found[index], expected, rtol=1e-4, atol=1e-4)


def test_the_error_in_float32_is_a_few_millionths(seeds):
  """The error is relative to the largest output, for realistic widths."""
  rng = np.random.default_rng(1)
  x = rng.standard_normal((2, 8, 8, 128))
  kernel = rng.standard_normal((3, 3, 128, 32)) / np.sqrt(9 * 128)
  found = conv(np.float32(x), np.float32(kernel), PLAIN, None)
  expected = direct(x, kernel, PLAIN)
  error = np.abs(found - expected).max() / np.abs(expected).max()
  assert 1e-8 < error < 5e-6


@pytest.fixture
def always(monkeypatch):
  """Makes conv2d use Winograd's algorithm for small shapes too."""
  monkeypatch.setattr(convolution, 'MIN_TILES', dict.fromkeys(convolution.MIN_TILES, 1))
  monkeypatch.setattr(convolution, 'MIN_CHANNELS', 1)


def products(function, *args):
  """Returns the names of the products in a lowered program."""
  text = jax.jit(function).lower(*args).as_text()
  names = ('dot_general', 'convolution')
  return {name for name in names if f'stablehlo.{name}' in text}


def test_conv2d_chooses_it_by_shape_type_precision_and_devices():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  places = NamedSharding(mesh, PartitionSpec('data'))

  def of(shape, features=64, dtype=jnp.float32, precision=None, **where):
    x = jax.ShapeDtypeStruct(shape, dtype, **where)
    kernel = jax.ShapeDtypeStruct((3, 3, shape[-1], features), dtype)
    ours = lambda x, k: convolution.conv2d(x, k, 1, PLAIN)
    with jax.default_matmul_precision(precision):
      return products(ours, x, kernel)

  large = (8, 16, 16, 64)
  assert of(large) == {'dot_general'}
  assert of(large, sharding=places) == {'convolution'}
  assert of(large, dtype=jnp.bfloat16) == {'dot_general'}
  assert of((8, 64, 64, 64), dtype=jnp.bfloat16, sharding=places) == {'convolution'}
  assert of(large, precision='highest') == {'convolution'}
  assert of(large, features=3) == {'convolution'}
  assert of((8, 4, 4, 64)) == {'convolution'}


@pytest.mark.usefixtures('always')
def test_all_derivatives_through_conv2d(rng):
  x = rng.standard_normal((2, 8, 4, 3), np.float32)
  kernel = rng.standard_normal((3, 3, 3, 2), np.float32) / 5
  ours = lambda x, k: convolution.conv2d(x, k, 1, PLAIN)

  def several(conv, x, kernel):
    tangents = jnp.cos(x), jnp.sin(kernel)
    loss = lambda x, k: jnp.sum(jnp.tanh(conv(x, k)))
    gradient = jax.grad(loss, argnums=(0, 1))

    def step(k, _):
      value = loss(x, k)
      found, hessian = jax.jvp(gradient, (x, k), tangents)
      return k - 0.01 * found[1], (value, found, hessian)

    return lax.scan(step, kernel, length=2)

  both = [jax.jit(lambda *a, f=f: several(f, *a)) for f in (ours, jax_conv)]
  assert products(ours, x, kernel) == {'dot_general'}
  close(*(f(x, kernel) for f in both), rtol=1e-4, atol=1e-4)
