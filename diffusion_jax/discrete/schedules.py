"""Schedules of discrete states: alpha is the probability of an untouched state.

An element of x_t is x_0 with probability alpha and noise with probability sigma
= 1 - alpha. `RectifiedFlowSchedule()`, alpha = 1 - t, is the linear schedule.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.core.arguments import as_float, as_time, pytree_dataclass
from diffusion_jax.core.checked import checked
from diffusion_jax.core.levels import NoiseLevel, Schedule
from diffusion_jax.ranges import Positive

Array = jax.Array


@checked
@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class PolynomialMasking:
  """alpha = 1 - t^power, sigma = t^power (MD4, Shi et al. 2024)."""

  power: Positive = 1.0

  def __call__(self, t: ArrayLike) -> NoiseLevel:
    t = as_time(t)
    sigma = t**self.power
    return NoiseLevel(t, 1.0 - sigma, sigma)

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """Returns the level with alpha / sigma = exp(logsnr / 2), [] or [B]."""
    alpha, sigma = _shares(logsnr)
    return NoiseLevel(sigma ** (1.0 / self.power), alpha, sigma)


@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class CosineMasking:
  """alpha = 1 - cos(pi (1 - t) / 2) (MD4, Shi et al. 2024).

  With r = 1 - t, sigma = cos(pi r / 2) is MaskGIT's ratio of masked elements.
  """

  def __call__(self, t: ArrayLike) -> NoiseLevel:
    t = as_time(t)
    # 1 - cos(2 a) = 2 sin(a)^2 keeps the digits of alpha near t = 1.
    alpha = 2.0 * jnp.square(jnp.sin(0.25 * jnp.pi * (1.0 - t)))
    return NoiseLevel(t, alpha, jnp.sin(0.5 * jnp.pi * t))

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """Returns the level with alpha / sigma = exp(logsnr / 2), [] or [B]."""
    alpha, sigma = _shares(logsnr)
    t = 1.0 - 4.0 / jnp.pi * jnp.arcsin(jnp.sqrt(0.5 * alpha))
    return NoiseLevel(t, alpha, sigma)


@checked
@pytree_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AlphaBarSchedule:
  """alpha = alpha_bar, sigma = 1 - alpha_bar of a variance-preserving schedule.

  With `DiscreteSchedule.from_betas(betas)` it is the schedule of D3PM, whose
  alpha is the product of the 1 - beta (Austin et al. 2021).
  """

  schedule: Schedule

  @property
  def num_steps(self) -> int:
    """Returns T; AttributeError unless the schedule has steps."""
    return self.schedule.num_steps  # pyright: ignore[reportAttributeAccessIssue]

  def __call__(self, t: ArrayLike) -> NoiseLevel:
    return _squared(self.schedule(t))

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """Returns the level with alpha / sigma = exp(logsnr / 2), [] or [B]."""
    return _squared(self.schedule.from_logsnr(0.5 * as_float(logsnr)))


def _shares(logsnr):
  half = 0.5 * as_float(logsnr)
  return jax.nn.sigmoid(half), jax.nn.sigmoid(-half)


def _squared(level):
  return NoiseLevel(level.t, jnp.square(level.alpha), jnp.square(level.sigma))
