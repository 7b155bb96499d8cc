"""Divisions that are compiled in one way; tests/laws/test_equal_on_any_devices.py needs them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from diffusion_jax.training.divisions import with_fixed_divisions


def test_divisions_by_broadcast_arrays_are_products():
  """Numbers and gradients stay the same; the loops and branches of a function have products too."""

  def function(x):
    weights = jax.nn.softmax(x)
    means, _ = jax.lax.scan(lambda c, row: (c + row / jnp.sum(row), None), x[0], x)
    by_sums = x / jnp.broadcast_to(jnp.sum(x, axis=1, keepdims=True), x.shape)
    rest = x / (2.0 + jnp.cos(x))
    return sum(map(jnp.sum, (jnp.sin(weights), means, jnp.sin(by_sums), rest)))

  gradient = jax.value_and_grad(function)
  fixed = with_fixed_divisions(gradient)
  x = np.random.default_rng(0).uniform(0.5, 2.0, (3, 5)).astype(np.float32)
  for a, b in zip(jax.jit(fixed)(x), jax.jit(gradient)(x), strict=True):
    assert_allclose(a, b, rtol=1e-5)
  pattern = re.compile(r'\S+:f32\[(\S*)\] = div \S+ \S+')
  before, after = (pattern.findall(str(jax.make_jaxpr(f)(x))) for f in (gradient, fixed))
  # Two are left, of x / (2 + cos x) and its gradient. The loop divides rows, [5].
  assert (before.count('3,5'), before.count('5')) == (6, 2), before
  assert (after.count('3,5'), after.count('5')) == (2, 0), after
