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

from diffusion_jax.core.arguments import as_float, sum_data_axes
from diffusion_jax.core.checked import checked
from diffusion_jax.core.denoiser import Denoiser, predict
from diffusion_jax.core.levels import NoiseLevel
from diffusion_jax.core.measurements import Measurement
from diffusion_jax.posteriors.conjugate_gradients import (
  Product,
  least_squares,
  solve,
)
from diffusion_jax.posteriors.twists import (
  pseudoinverse_twist,
  twist_guided,
)
from diffusion_jax.ranges import Finite, NonNegative, Size
from diffusion_jax.sampling.inpainting import check_mask

Array = jax.Array


@checked
def reconstruction_guided(
  denoise: Denoiser, known: Array, mask: Array, scale: Finite = 1.0, num_iterations: Size = 8
) -> Denoiser:
  """Estimates E[x_0 | x_t, known pixels]; see `observation_guided`.

  known: [B, ...] like x; mask: True where known, broadcasts to `known`, or
  ValueError.
  """
  check_mask(known, mask)

  def observe(x0):
    return jnp.where(mask, x0, 0.0)

  return observation_guided(denoise, observe, observe(known), scale, num_iterations)


@checked
def observation_guided(
  denoise: Denoiser,
  observe: Callable[[Array], Array],
  observed: Array,
  scale: Finite = 1.0,
  num_iterations: Size = 8,
  std: Array | NonNegative = 0.0,
) -> Denoiser:
  """Estimates E[x_0 | x_t, y] for y = observe(x_0) + std n, n ~ N(0, I).

  x_0 given x_t is taken for Gaussian (moment matching, Rozet et al. 2024; Boys
  et al. 2023). Clip the result instead of `denoise`: a clipped x_0 has no
  gradient.

  Args:
    observe: x_0 [B, ...] -> y [B, ...], linear and for each image separately.
    observed: y.
    scale: Factor of the correction; 1 is Bayes' rule.
    num_iterations: The most steps of conjugate gradients, at least 1, each a
      product with the network's Jacobian and one with its transpose. For
      Gaussian data one per number in y is exact. An image ends earlier where y
      is met, or where the two products differ by as much as the curvature: the
      Jacobian of a network is not symmetric, as a covariance is.
    std: In the units of y, [], [B] or like y.
  """

  def guided(x, level):
    prediction, covariance = _with_covariance(denoise, x, level)
    back = jax.linear_transpose(observe, prediction.x0)
    residual = observed - observe(prediction.x0)
    variance = Measurement(observed, observe, std).variance(residual)
    noise = variance * _over_variance(level, residual, 1)

    def apply(direction):
      product, error = covariance(*back(direction))
      square = sum_data_axes(error**2) * sum_data_axes(direction**2)
      return Product(observe(product) + noise * direction, product, jnp.sqrt(square))

    correction = solve(apply, residual, num_iterations, variance)
    return prediction._replace(x0=prediction.x0 + scale * correction)

  return guided


def _with_covariance(denoise, x, level):
  # Returns the prediction, and the function v -> Cov[x_0 | x_t] v, divided by
  # sigma^2 / alpha, and its error: half the difference of J v and J^T v, which
  # are equal for E[x_0 | x_t].
  def estimate(x):
    prediction = predict(denoise, x, level)
    return prediction.x0, prediction

  _, jacobian, prediction = jax.linearize(estimate, x, has_aux=True)
  transposed = jax.linear_transpose(jacobian, x)

  def covariance(v):
    (left,), right = transposed(v), jacobian(v)
    return 0.5 * (left + right), 0.5 * (left - right)

  return prediction, covariance


@checked
def pseudoinverse_guided(
  denoise: Denoiser, measurement: Measurement, num_iterations: Size = 100
) -> Denoiser:
  """Estimates E[x_0 | x_t, y] as if Cov[x_0 | x_t] were r^2 I (PiGDM).

  r^2 = sigma^2 / (alpha^2 + sigma^2), which data of unit variance have (Song et
  al. 2023). The result is x_0 + (sigma^2 / alpha) grad log p(y | x_t), with one
  gradient through the network. num_iterations: of conjugate gradients for (r^2
  A A^T + std^2 I)^-1. Raises TypeError if the measurement is not linear.
  """
  return twist_guided(denoise, pseudoinverse_twist(measurement, num_iterations))


@checked
def proximal(
  denoise: Denoiser, measurement: Measurement, weight: NonNegative = 1.0, num_iterations: Size = 100
) -> Denoiser:
  """Moves x_0 to argmin_x |y - A x|^2 / std^2 + weight |x - x_0|^2 / rho^2.

  rho = sigma / alpha (DiffPIR, Zhu et al. 2023). It needs no gradient
  through the network. num_iterations: the most of conjugate gradients; one per
  number in y is exact. Raises TypeError if the measurement is not linear.
  """

  def moved(x, level):
    prediction = predict(denoise, x, level)
    transpose = measurement.transpose(x)
    residual = measurement.residual(prediction.x0)
    correction = least_squares(
      measurement.forward,
      transpose,
      residual,
      measurement.variance(residual),
      weight * _over_variance(level, x, 2),
      num_iterations,
    )
    return prediction._replace(x0=prediction.x0 + correction)

  return moved


@checked
def unexplained(
  measurement: Measurement, x0: Array, precision: NonNegative = 0.0, num_iterations: Size = 100
) -> Array:
  """Computes y - A A^+ y, the part of y that no image explains, [B, ...].

  It says nothing of x_0, and guidance cannot reduce it; where it is well above
  std, the operator or y is probably wrong. It is y - A v, where v is
  argmin |y - A v|^2 / std^2 + precision |v|^2: precision=1 gives the part that no
  image of unit variance explains. x0: any array in the shape of the images.
  num_iterations: as in `proximal`. Raises TypeError if the measurement is not linear.
  """
  x0 = jnp.zeros_like(as_float(x0))
  transpose = measurement.transpose(x0)
  residual = measurement.residual(x0)
  variance = measurement.variance(residual)
  v = least_squares(measurement.forward, transpose, residual, variance, precision, num_iterations)
  return measurement.residual(v)


def _over_variance(level, like, power):
  # Returns alpha^power / sigma^2, large but finite at clean levels.
  level = NoiseLevel.expand_to(level, like)
  return level.alpha**power / jnp.maximum(level.sigma**2, 1e-12)
