"""Convolutions on a CPU have XLA's values and derivatives, to the second order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.networks.cpu.convolution import conv2d, convolve
from tests.networks.cpu.test_bilinear import jax_conv

SHAPES = {
  'odd_size': ((2, 7, 5, 3), 3, 4, 1, (1, 1)),
  'one_channel': ((2, 4, 4, 1), 3, 1, 1, (1, 1)),
  'down_ho': ((2, 8, 8, 4), 3, 4, 2, (0, 1)),
  'down_odd': ((2, 7, 9, 4), 3, 4, 2, (1, 1)),
  'five': ((2, 6, 6, 2), 5, 3, 1, (2, 2)),
  'one_by_one': ((2, 4, 4, 3), 1, 2, 1, (0, 0)),
  'two_by_two': ((2, 5, 5, 3), 2, 2, 1, (0, 1)),
  'valid': ((2, 6, 6, 3), 3, 2, 1, (0, 0)),
}


@pytest.fixture(params=SHAPES)
def convs(request):
  """Returns (our function, XLA's, x, kernel, if it has second derivatives)."""
  shape, size, features, stride, pad = SHAPES[request.param]
  rng = np.random.default_rng(0)
  x = rng.standard_normal(shape, np.float32)
  kernel = rng.standard_normal((size, size, shape[-1], features), np.float32)
  padding = (pad, pad)
  bind = lambda f: functools.partial(f, stride=stride, padding=padding)
  return bind(conv2d), bind(jax_conv), x, kernel, request.param in ('odd_size', 'down_odd')


def test_first_and_second_derivatives_in_both_modes(convs):
  """custom_vjp, the usual way to replace a gradient, has no forward mode.

  The second derivatives consist of the same three functions as the first.
  """
  *both, x, kernel, second = convs
  tangents = np.cos(x), np.sin(kernel)

  def derivatives(conv, x, kernel):
    push = jax.jvp(conv, (x, kernel), tangents)
    loss = lambda x, kernel: jnp.sum(jnp.sin(conv(x, kernel)))
    gradient = jax.grad(loss, argnums=(0, 1))
    of_gradient = jax.jvp(gradient, (x, kernel), tangents) if second else gradient(x, kernel)
    return push, of_gradient

  found, expected = jax.jit(lambda *a: [derivatives(conv, *a) for conv in both])(x, kernel)
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    scale = np.abs(b).max()
    assert_allclose(a / scale, b / scale, rtol=0, atol=5e-5)


@pytest.mark.parametrize('stride, padding', [(1, (1, 1)), (2, (0, 1))])
@pytest.mark.parametrize('sides', [(7,), (6, 5, 4)])
def test_sequences_and_volumes_are_convolved_as_by_xla(sides, stride, padding):
  """The value, both gradients, and under vmap."""
  rng, n = np.random.default_rng(0), len(sides)
  x = rng.standard_normal((2, *sides, 3), np.float32)
  kernel = rng.standard_normal((*[3] * n, 3, 4), np.float32)

  def whole(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride,) * n,
      (padding,) * n,
      dimension_numbers=('NXYZ'[: n + 1] + 'C', 'XYZ'[:n] + 'IO', 'NXYZ'[: n + 1] + 'C'),
    )

  def of(conv):
    loss = lambda *args: jnp.sum(jnp.sin(conv(*args)))
    mapped = jax.vmap(conv, (0, None))(x[:, None], kernel)
    return conv(x, kernel), mapped, *jax.grad(loss, (0, 1))(x, kernel)

  ours = lambda x, kernel: convolve(x, kernel, stride, padding)
  for a, b in zip(*jax.jit(lambda: (of(ours), of(whole)))(), strict=True):
    assert_allclose(a, b, rtol=1e-4, atol=1e-4)
