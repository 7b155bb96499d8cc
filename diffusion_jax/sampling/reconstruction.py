"""Guidance by a linear observation of the image: denoiser -> denoiser.

Given y = A x_0 the best estimate moves from x_0_hat = E[x_0 | x_t] by

  Cov A^T (A Cov A^T)^-1 (y - A x_0_hat),   Cov = Cov[x_0 | x_t],

if x_0 given x_t is Gaussian; it is exact for Gaussian data. The covariance is
sigma^2 / alpha times the Jacobian of x_0_hat (Tweedie's second-order formula),
so a product with it is one gradient through the network, and a few steps of
conjugate gradients invert it (Rozet et al. 2024).

With one step the correction is a multiple of the gradient of |y - A x_0_hat|^2
with respect to x_t, as in reconstruction guidance (Ho et al. 2022, video
diffusion), DPS (Chung et al. 2023) and PiGDM (Song et al. 2023). These choose
the multiple by hand, by |y - A x_0_hat| or by an assumed variance. This module
chooses the multiple that reaches y along the gradient; sigma^2 / alpha cancels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.core.broadcasting import expand_to, sum_data_axes
from diffusion_jax.core.concrete import check_at_least
from diffusion_jax.core.denoiser import Denoiser, predict
from diffusion_jax.sampling.inpainting import check_mask

Array = jax.Array


def reconstruction_guided(
  denoise: Denoiser,
  known: Array,
  mask: Array,
  scale: float = 1.0,
  num_iterations: int = 1,
) -> Denoiser:
  """Estimates E[x_0 | x_t, known pixels]; see `observation_guided`.

  known: [B, ...] like x; mask: True where known, broadcasts to `known`, or
  ValueError.
  """
  check_mask(known, mask)

  def observe(x0):
    return jnp.where(mask, x0, 0.0)

  observed = observe(known)
  return observation_guided(denoise, observe, observed, scale, num_iterations)


def observation_guided(
  denoise: Denoiser,
  observe: Callable[[Array], Array],
  observed: Array,
  scale: float = 1.0,
  num_iterations: int = 1,
) -> Denoiser:
  """Estimates E[x_0 | x_t, y] for y = observe(x_0), as if x_0 were Gaussian.

  Clip the result instead of `denoise`: a clipped x_0 has no gradient.

  Args:
    observe: x_0 [B, ...] -> y [B, ...], linear and for each image separately.
    observed: y.
    scale: Factor of the correction; 1 is Bayes' rule.
    num_iterations: Steps of conjugate gradients, each a gradient through the
      network, at least 1. For Gaussian data one per number in y is exact.
  """
  check_at_least(1, num_iterations=num_iterations)

  def guided(x, level):
    def observe_estimate(x):
      prediction = predict(denoise, x, level)
      return observe(prediction.x0), prediction

    estimate, vjp, prediction = jax.vjp(observe_estimate, x, has_aux=True)
    residual = direction = observed - estimate
    correction, square = jnp.zeros_like(x), _dot(residual, residual)
    for _ in range(num_iterations):
      # The product of Cov A^T with the direction, up to a factor.
      (product,) = vjp(direction)
      image = observe(product)
      size = _ratio(square, _dot(direction, image))
      correction += expand_to(size, product) * product
      residual -= expand_to(size, image) * image
      last_square, square = square, _dot(residual, residual)
      momentum = expand_to(_ratio(square, last_square), residual)
      direction = residual + momentum * direction
    return prediction._replace(x0=prediction.x0 + scale * correction)

  return guided


def _dot(a, b):
  # Returns the inner product for each example, [B].
  return sum_data_axes(a * b)


def _ratio(a, b):
  # The ratio is 0 if the residual is 0, or if b is not positive, which the
  # Jacobian of a network allows.
  good = (a > 0.0) & (b > 0.0)
  return jnp.where(good, a / jnp.where(good, b, 1.0), 0.0)
