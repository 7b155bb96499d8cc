"""Simulators whose distributions are known exactly: (rng, n) -> dict."""

import math
from collections.abc import Sequence

import numpy as np

from diffusion_jax.ranges import Finite, Positive, Rate, Size

Rng = np.random.Generator


def two_moons(rng: Rng, n: int) -> dict[str, np.ndarray]:
  """Draws parameters x [n, 2] and their observations `context` [n, 2].

  The posterior p(x | context) has two crescents (Greenberg et al. 2019, Section
  5; Lueckmann et al. 2021, T.8); the prior is uniform on [-1, 1]^2.
  """
  x = rng.uniform(-1.0, 1.0, (n, 2))
  total, difference = x.sum(axis=1), x[:, 1] - x[:, 0]
  shift = np.stack([-np.abs(total), difference], axis=1) / math.sqrt(2.0)
  return {'x': x, 'context': _crescent(rng, n) + shift}


def _crescent(rng, n):
  angle = rng.uniform(-np.pi / 2.0, np.pi / 2.0, n)
  radius = rng.normal(0.1, 0.01, n)
  return np.stack(
    [radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=1
  )


def two_moons_posterior(
  rng: Rng, n: int, observation: Sequence[float]
) -> np.ndarray:
  """Draws from the exact p(x | observation) of `two_moons`, [n, 2].

  A point of the crescent gives |x_1 + x_2| and x_2 - x_1, a rotation of x up to
  a sign, so x has the crescent's density where it is within the prior's box.
  """
  found = np.empty((0, 2))
  while len(found) < n:
    shift = math.sqrt(2.0) * (np.asarray(observation) - _crescent(rng, n))
    sign = rng.choice([-1.0, 1.0], n)
    total, difference = sign * shift[:, 0], shift[:, 1]
    x = np.stack([total - difference, total + difference], axis=1) / 2.0
    inside = (shift[:, 0] <= 0.0) & (np.abs(x) <= 1.0).all(axis=1)
    found = np.concatenate([found, x[inside]])
  return found[:n]


def gaussian_process(
  rng: Rng,
  n: int,
  sides: tuple[Size, ...] = (64,),
  length: Positive = 12.0,
  mean: tuple[Finite, ...] = (0.0,),
  std: tuple[Positive, ...] = (1.0,),
  correlation: Rate = 0.0,
) -> dict[str, np.ndarray]:
  """Draws x [n, *sides, C] of a Gaussian process on a grid.

  The kernel is the product over the axes of `matern` with `length`, in grid
  points. mean and std are those of the C channels, and `correlation` that of
  two channels at a point.
  """
  x = rng.standard_normal((n, *sides, len(std)))
  channels = np.full((len(std), len(std)), correlation)
  np.fill_diagonal(channels, 1.0)
  factors = [matern(side, length) for side in sides]
  for axis, kernel in enumerate([*factors, channels], 1):
    root = np.linalg.cholesky(kernel)
    x = np.moveaxis(np.moveaxis(x, axis, -1) @ root.T, -1, axis)
  return {'x': x * std + mean}


def matern(side: int, length: float) -> np.ndarray:
  """Returns the kernel (1 + d) exp(-d), d = sqrt(3) |i - j| / length.

  Matern's with nu = 3/2 (Rasmussen & Williams 2006, Eq. 4.17), [side, side].
  """
  place = np.arange(side)
  d = math.sqrt(3.0) * np.abs(place[:, None] - place) / length
  return (1.0 + d) * np.exp(-d)
