"""Paths of levels in continuous time, along which bounds are integrals.

A path is a grid from noise to clean data, [M+1] or, of elements, [M+1, 1, T] (`staggered`).
Between two of its levels the time changes at a constant rate, so that the steps that a level
takes do not matter, only which elements move together.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import as_float
from diffusion_jax.core.keys import draw_uniform, fold_each, key_per_example, split_key
from diffusion_jax.core.levels import NoiseLevel, Schedule
from diffusion_jax.core.process import noisy_time

Array = jax.Array


class PathPoint(NamedTuple):
  """A place on a path: the level there, [B] or [B, T], and -dt per length of the path."""

  level: NoiseLevel
  speed: Array


def place_on(schedule: Schedule, levels: NoiseLevel, step: Array, rest: Array) -> PathPoint:
  """Returns the places at steps [B] in 0..M-1 of a path of length 1, of which a part is left.

  rest: that part, (0, 1], [B].
  """
  times = as_float(levels.t)
  start, end = (_rows(times[rows], step) for rows in (slice(None, -1), slice(1, None)))
  rest = rest.reshape(-1, *[1] * (start.ndim - 1))
  return PathPoint(schedule(end + rest * (start - end)), (len(times) - 1) * (start - end))


def _rows(times, step):
  # Returns times [M, ...] at steps [B], [B, ...].
  if times.ndim < 2 or times.shape[1] == 1:
    return times.reshape(len(times), *times.shape[2:])[step]
  return jax.vmap(lambda column, i: column[i], in_axes=(1, 0))(times, step)


def spread(u: Array, v: Array, i: Array, size: int, num_steps: int) -> tuple[Array, Array]:
  """Returns step and rest of place i of `size`, for `place_on`: together they cover a path evenly.

  u, v: uniform on [0, 1), one pair for all i. Each place is uniform on the path.
  """
  step = jnp.floor(num_steps * jnp.mod(u + i / size, 1.0)).astype(int)
  return jnp.minimum(step, num_steps - 1), 1.0 - jnp.mod(v + i * num_steps / size, 1.0)


def mean_on_path(
  key: Array,
  schedule: Schedule,
  levels: NoiseLevel | None,
  batch_size: int,
  num_places: int,
  term: Callable[[Array, PathPoint], Array],
  power: int = 1,
) -> Array:
  """Computes the mean over the places of a path of term(keys [B], place) -> [B].

  levels: None, all elements together from t = 1 to 0. power: the rest of a step is
  u^power, u uniform: with 2 a term whose second moment is of order 1 / t has a variance.
  """
  levels = together() if levels is None else levels
  num_steps = levels.t.shape[0] - 1
  time_keys, keys = split_key(key_per_example(key, batch_size), 2)
  v, u = draw_uniform(time_keys, jnp.zeros((batch_size, 2))).T

  def at(i):
    step, rest = spread(u, v, i, num_places, num_steps)
    place = place_on(schedule, levels, step, rest**power)
    density = (power * rest ** (power - 1)).reshape(-1, *[1] * (place.speed.ndim - 1))
    place = place._replace(speed=density * place.speed)
    return term(fold_each(keys, i), place)

  return jnp.mean(jax.lax.map(at, jnp.arange(num_places)), axis=0)


def together() -> NoiseLevel:
  """Returns the path of one step in time, of all elements."""
  t = jnp.array([1.0, 0.0])
  return NoiseLevel(t, 1.0 - t, t)


def of_noisy(weight: Callable[[NoiseLevel], Array], schedule: Schedule, level: NoiseLevel) -> Array:
  """Returns weight(level), 0 where the level is clean, as of what is given: it may be infinite."""
  noisy = level.sigma > 0.0
  return jnp.where(noisy, weight(schedule(noisy_time(level))), 0.0)
