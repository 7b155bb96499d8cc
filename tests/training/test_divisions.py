"""Divisions that are compiled in one way; tests/laws/test_equal_on_any_devices.py needs them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

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


def test_whole_numbers_are_divided_as_they_are():
  """Any sign, by a number, by a broadcast one and by others; in loops and branches too."""

  def function(x, y):
    by_broadcast = jax.lax.div(x, jnp.broadcast_to(jnp.int32(3), x.shape))
    mapped = jax.lax.map(lambda a: a // 3, x)
    branch = jax.lax.cond(x[0] > 0, lambda a: a // 2, lambda a: a % 2, x)
    rows = jnp.arange(40.0)[jnp.abs(x) // 3]
    return by_broadcast, x // 3, x % -3, x // y, mapped, branch, rows, divmod(x, y)

  x, y = np.arange(-8, 8, dtype=np.int32), np.resize(np.int32([-3, 2, 5]), 16)
  found = jax.jit(with_fixed_divisions(function))(x, y)
  truncated = np.trunc(x / 3).astype(np.int32)
  expected = (truncated, x // 3, x % -3, x // y, x // 3, x % 2, np.abs(x) // 3.0, np.divmod(x, y))
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    assert a.dtype == (b.dtype if b.dtype == np.int32 else np.float32)
    assert_array_equal(a, b)


def test_names_of_scopes_are_kept():
  """Traces of a step with fixed parts name its parts."""

  @jax.checkpoint
  def inner(x):
    with jax.named_scope('inner'):
      return jnp.sin(x) / 3

  def function(x):
    with jax.named_scope('outer'):
      return jax.lax.map(inner, x) / jnp.sum(x)

  texts = [
    jax.jit(f).lower(np.ones(3, np.float32)).as_text(debug_info=True)
    for f in (function, with_fixed_divisions(function))
  ]
  assert all('outer/while' in text and 'inner/sin' in text for text in texts)
