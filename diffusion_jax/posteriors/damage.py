"""A damaged measurement in the user's units, in the units of a model."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.arguments import computed_now
from diffusion_jax.core.measurements import (
  Measurement,
  is_linear,
)
from diffusion_jax.core.operators import Operator
from diffusion_jax.posteriors.reconstruction import unexplained

GREY = 127.5  # grey levels of 255 in one unit of x in [-1, 1]


class Damage(NamedTuple):
  """A measurement of x as a model has it: weights (y - offset) = forward(x) + std n.

  All channels then have one noise. weights: 1 on average, of their logarithms, so
  that densities of y do not change. seen: which numbers of y depend on x_0: a
  mask's white pixels. The others are 0 for any x_0. All of an operator that is
  not linear. width: the least noise, in units of x.
  """

  forward: Operator
  offset: np.ndarray | float
  std: float
  weights: np.ndarray
  is_linear: bool
  seen: np.ndarray
  width: float


def damage_of(operator: Operator, noise: float | Sequence[float], values: Any) -> Damage:
  """Returns what an operator and noise in y's units are for x as a model has it.

  values: an `ArraySpec`. noise: standard deviation, one or one for each channel;
  of pictures in grey levels of 255. Raises ValueError for another number of them.
  """
  draws = 1 if values.levels else 16
  normal = np.random.default_rng(0).standard_normal((draws, *values.shape))
  normal, offset = normal.astype(np.float32), 0.0
  linear = is_linear(operator, normal[:1])

  def in_units(x: jax.Array) -> jax.Array:
    if values.levels:
      return operator(x)
    mean, unit = values.affine
    return operator(unit * x if linear else unit * x + mean)

  y = np.asarray(computed_now(in_units, normal))
  seen = y[:1] != 0.0 if linear else np.ones(1, bool)
  if linear and not values.levels:
    # y loses what the operator makes of the mean of the data: float32 would
    # round real numbers that are far from 0.
    with jax.enable_x64(True):
      x = np.broadcast_to(np.asarray(values.mean, np.float64), values.shape)[None]
      offset = np.asarray(computed_now(operator, x))[0]
  stds = _checked_noise(noise, y) / (GREY if values.levels else 1.0)
  std = float(np.exp(np.log(stds).mean()))
  weights = (std / stds).astype(np.float32)

  def forward(x: jax.Array) -> jax.Array:
    return in_units(x) if stds.size == 1 else jnp.asarray(weights) * in_units(x)

  width = std if values.levels else _width(stds, y)
  return Damage(
    forward, offset=offset, std=std, weights=weights, is_linear=linear, seen=seen, width=width
  )


def _checked_noise(noise, y):
  noise, channels = np.atleast_1d(noise), y.shape[-1] if y.ndim > 1 else 1
  if len(noise) not in (1, channels):
    raise ValueError(
      f'noise has {len(noise)} values: give one, or one for each of the {channels} channels of y'
    )
  return noise.reshape(*[1] * (y.ndim - 1), -1)


def _width(stds, y):
  # The least noise in units of x; y: of several x of variance 1.
  variance, axes = y.var(axis=0, keepdims=True), tuple(range(y.ndim - 1))
  count = np.maximum((variance > 0.0).sum(axis=axes), 1)
  gain = np.sqrt(variance.sum(axis=axes) / count)
  return float(np.min(stds / np.maximum(gain, 1e-12)))


@functools.partial(jax.jit, static_argnums=0)
def noise_needed(forward: Operator, y: jax.Array, x0: jax.Array, std: float) -> jax.Array:
  """Returns a lower bound of rms(y - A x) / std for pictures x in [-1, 1], [P].

  By Cauchy-Schwarz |r| |y - A x| >= r^T y - x^T A^T r >= r^T y - |A^T r|_1 for
  any r, here what a picture of unit variance does not explain.
  """
  measurement = Measurement(y, forward, std)
  r = unexplained(measurement, x0, precision=1.0)
  back = jnp.abs(measurement.transpose(x0)(r))
  r, y, back = (a.reshape(len(a), -1) for a in (r, y, back))
  bound = jnp.sum(r * y, axis=1) - jnp.sum(back, axis=1)
  size = jnp.linalg.norm(r, axis=1) * jnp.sqrt(y.shape[1]) * std
  return bound / jnp.maximum(size, 1e-12)
