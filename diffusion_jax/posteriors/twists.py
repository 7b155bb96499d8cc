"""Twists: estimates of log p(y | x_t) from x_0_hat = E[x_0 | x_t].

A twist guides a denoiser by its gradient (`twist_guided`), and gives particles
their weights (`steered`).
"""

from typing import Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import sum_data_axes
from diffusion_jax.core.checked import checked
from diffusion_jax.core.denoiser import Denoiser, predict
from diffusion_jax.core.levels import NoiseLevel
from diffusion_jax.core.measurements import (
  LogLikelihood,
  Measurement,
)
from diffusion_jax.posteriors.conjugate_gradients import (
  Product,
  solve,
)
from diffusion_jax.ranges import Size
from diffusion_jax.sampling.guidance import shift_of_x0

Array = jax.Array


class Twist(Protocol):
  """A function of x_0_hat that estimates log p(y | x_t), up to a constant."""

  def __call__(self, x0_hat: Array, level: NoiseLevel, /) -> Array:
    """Returns log psi_t in nats, [B]; x0_hat: [B, ...], level: [] or [B]."""
    ...


@checked
def twist_guided(denoise: Denoiser, twist: Twist) -> Denoiser:
  """Adds (sigma^2 / alpha) grad log psi_t to x_0: Bayes' rule for the twist.

  It takes one gradient through the network. A reward r is the twist `lambda x0,
  level: r(x0)`.
  """

  def guided(x, level):
    def log_psi(x):
      prediction = predict(denoise, x, level)
      return jnp.sum(twist(prediction.x0, level)), prediction

    gradient, prediction = jax.grad(log_psi, has_aux=True)(x)
    return prediction._replace(x0=prediction.x0 + shift_of_x0(gradient, level))

  return guided


@checked
def pseudoinverse_twist(measurement: Measurement, num_iterations: Size = 100) -> Twist:
  """Makes log N(y; A x_0_hat, r^2 A A^T + std^2 I) (PiGDM, Song et al. 2023).

  It takes Cov[x_0 | x_t] for r^2 I, r^2 = sigma^2 / (alpha^2 + sigma^2), which
  is exact for white Gaussian data. The normal distribution is without its
  constant. num_iterations: of conjugate gradients for the inverse. Raises
  TypeError if the measurement is not linear.
  """

  def twist(x0_hat, level):
    residual = measurement.residual(x0_hat)
    transpose = measurement.transpose(x0_hat)
    spread = assumed_variance(level, residual)
    variance = measurement.variance(residual)

    def apply(v):
      image = spread * measurement.forward(transpose(v)) + variance * v
      return Product(image, v)

    fixed = jax.lax.stop_gradient(residual)
    v = solve(apply, fixed, num_iterations, variance)
    # The value is -v^T residual / 2, and the gradient in x_0_hat is A^T v.
    return sum_data_axes(v * (0.5 * fixed - residual))

  return twist


@checked
def spread_twist(measurement: Measurement) -> Twist:
  """Makes log N(y; A(x_0_hat), (r^2 + std^2) I), without its constant.

  r^2 is as in `pseudoinverse_twist`. The twist suits functions A, linear or
  not, of images that change by as much as their arguments.
  """

  def twist(x0_hat, level):
    residual = measurement.residual(x0_hat)
    variance = assumed_variance(level, residual) + measurement.variance(residual)
    return -0.5 * sum_data_axes(residual**2 / variance)

  return twist


@checked
def tempered_twist(log_likelihood: LogLikelihood) -> Twist:
  """Makes alpha^2 / (alpha^2 + sigma^2) r(x_0_hat), for a reward r.

  At high noise x_0_hat says little of x_0, and r(x_0_hat) would weigh particles
  by chance.
  """

  def twist(x0_hat, level):
    value = log_likelihood(x0_hat)
    return (1.0 - assumed_variance(level, value)) * value

  return twist


def assumed_variance(level: NoiseLevel, like: Array) -> Array:
  """Computes r^2 = sigma^2 / (alpha^2 + sigma^2), which broadcasts to `like`.

  It is Var[x_0 | x_t] for data of unit variance.
  """
  at = NoiseLevel.expand_to(level, like)
  return at.sigma**2 / (at.alpha**2 + at.sigma**2)
