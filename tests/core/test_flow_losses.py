"""The adaptive weight; tests/training/ has the losses of each paper."""

import jax
import numpy as np

from diffusion_jax.core import flow_losses


def test_the_adaptive_loss_has_the_gradient_of_a_power():
  """The power is (e + c)^(1 - p) / (1 - p), or log(e + c) for p = 1."""
  e, c = np.float32([0.0, 0.3, 5.0]), 0.2
  loss = lambda e, p: flow_losses.adaptive_loss(e, p, c).sum()
  powers = 0.0, 0.5, 0.75, 1.0
  gradients = jax.jit(lambda e: [jax.grad(loss)(e, p) for p in powers])(e)
  for gradient, power in zip(gradients, powers, strict=True):
    expected = (np.float64(e) + c) ** -power
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
