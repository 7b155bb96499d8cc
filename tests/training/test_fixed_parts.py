"""Gradients in fixed parts; tests/laws/test_equal_on_any_devices.py has their bits."""

import jax
import optax
from numpy.testing import assert_allclose

from tests.laws.test_equal_on_any_devices import trained


def numbers(state, metrics):
  means = [metric.total / metric.count for metric in metrics.values()]
  return [*jax.tree.leaves(state.params), *means]


def test_the_gradient_is_that_of_the_batch():
  descent = optax.scale(-1.0)  # Adam's step hides the size of a gradient.
  fixed, plain = trained('mlp', 1, 8, descent), trained('mlp', 1, None, descent)
  for a, b in zip(numbers(*fixed), numbers(*plain), strict=True):
    assert_allclose(a, b, rtol=1e-4, atol=1e-4)
