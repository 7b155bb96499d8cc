"""Gradients in fixed parts; tests/laws/test_equal_on_any_devices.py has their bits."""

import jax
from numpy.testing import assert_allclose

from tests.laws.test_equal_on_any_devices import trained


def test_the_gradient_is_that_of_the_batch():
  (fixed, _), (plain, _) = trained('mlp', 1), trained('mlp', 1, fixed_parts=None)
  for a, b in zip(*map(jax.tree.leaves, (fixed.params, plain.params)), strict=True):
    assert_allclose(a, b, atol=1e-3)
