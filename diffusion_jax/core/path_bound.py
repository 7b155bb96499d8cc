"""The bound along a path of levels, each element with its own, in nats.

For noise that is independent of the data, VDM's diffusion loss in continuous
time is a line integral over the SNRs of the elements,

  1/2 sum_i of the integral of E|x_0,i - x0_hat_i|^2 d snr_i.

The exact denoiser has one value on all paths with the same ends, I(x_0; z) of
the last level less that of the first, since the errors are twice the slopes of
this information (Guo, Shamai & Verdu 2005). Any other denoiser has a value for
each path, and their differences say how far it contradicts itself.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from diffusion_jax.core.arguments import as_float, weighted_sum
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.denoiser import Denoiser, predict
from diffusion_jax.core.keys import draw_normal, draw_uniform, fold_each, key_per_example, split_key
from diffusion_jax.core.levels import (
  Grid,
  NoiseLevel,
  Schedule,
  check_axes,
  check_order,
  select_level,
)
from diffusion_jax.core.process import q_sample
from diffusion_jax.meshes import on_auto_axes
from diffusion_jax.ranges import Size

Array = jax.Array


@checked
def path_bound(
  key: Key,
  denoise: Denoiser,
  schedule: Schedule,
  levels: Grid,
  x0: Array,
  *,
  num_times: Size = 1,
) -> Array:
  """Computes the diffusion loss along a path of levels in nats, an unbiased draw, [B].

  Kingma et al. 2021, Eq. 15 and 17, element by element: 1/2 sum_i of the integral of
  |x_0,i - x0_hat_i|^2 d snr_i. With `prior_kl` at the first level and
  `categorical_nll` at the last noisy one it is a bound of -log p(x_0).

  Args:
    key: [] or [B], where example i depends only on key i.
    schedule: The schedule of the levels.
    levels: As for `sample`, noisiest first, or ValueError: [N+1], [N+1, B], [N+1, 1, T]
      or [N+1, B, T]. The path is straight in log(1 + SNR) from level to level, and has
      theirs exactly. An element ends at its last noisy level, where a decoder begins; one
      that is always clean is given, and one that stays at noise is integrated out.
    x0: [B, ...].
    num_times: The number of denoiser calls, at levels that one random number spreads
      evenly along the path.
  """
  check_axes(levels, x0)
  with jax.ensure_compile_time_eval():  # `jit` would trace the slices.
    check_order(levels.take(slice(1, None)), levels.take(slice(None, -1)))
  _check_moves(levels)
  x0, path = as_float(x0), _noisy(levels)
  time_keys, keys = split_key(key_per_example(key, len(x0)), 2)
  u = draw_uniform(time_keys, jnp.zeros(len(x0), x0.dtype))

  def term(i):
    level, weight = _at((i + 1.0 - u) / num_times, path, schedule)
    eps = draw_normal(fold_each(keys, i), x0)
    xt = q_sample(x0, eps, level)
    square = jnp.square(x0 - predict(denoise, xt, level).x0)
    return weighted_sum(weight, square - share_of_noise(eps, level.expand_to(x0)))

  return jnp.mean(jax.lax.map(term, jnp.arange(num_times)), axis=0)


def _noisy(levels):
  # Returns the path [N+1, B or 1, ...], on which what becomes clean stays at its last noise.
  levels = jax.tree.map(lambda a: as_float(a if jnp.ndim(a) > 1 else a[:, None]), levels)
  count = jnp.sum(levels.sigma > 0.0, axis=0)
  step = jnp.arange(len(levels.sigma)).reshape((-1,) + (1,) * count.ndim)
  index = jnp.clip(step, 0, jnp.maximum(count - 1, 0)[None])
  return jax.tree.map(lambda a: jnp.take_along_axis(a, index, axis=0), levels)


def _check_moves(levels):
  if isinstance(levels.sigma, Tracer):
    return
  alpha, sigma = (np.asarray(a) for a in (levels.alpha, levels.sigma))
  is_cleaner = alpha[1:] * sigma[:-1] > alpha[:-1] * sigma[1:]
  if not np.any(is_cleaner & (sigma[1:] > 0.0)):
    raise ValueError(
      'no element moves between two noisy levels: a path to clean data ends at the level '
      'before, so take 2 steps or more'
    )


def _rates(path):
  # Returns log(1 + SNR), 0 where clean, and what each step adds to it: 1/2 of it is the
  # information of independent numbers N(0, 1).
  clean = path.sigma == 0.0
  noisy = path._replace(sigma=jnp.where(clean, 1.0, path.sigma))
  rate = jnp.where(clean, 0.0, jnp.log1p(noisy.snr))
  change = jnp.diff(rate, axis=0)
  # The levels of a step may be equal up to rounding.
  return rate, jnp.where(change < -1e-4 * (1.0 + rate[1:]), jnp.nan, jnp.maximum(change, 0.0))


def _at(u, path, schedule):
  # Returns the level at u in (0, 1] of the path, and d SNR / du / 2, [B, ...] of elements.
  start, rate, change, slope = _place(u, path)
  stays = change == 0.0
  logsnr = jnp.log(jnp.expm1(jnp.where(stays, 1.0, rate)))
  level = select_level(stays, start, schedule.from_logsnr(logsnr))
  return level, 0.5 * jnp.exp(rate) * slope


def share_of_noise(eps: Array, level: NoiseLevel) -> Array:
  """Computes the squared errors of a denoiser of N(0, I) that are due to eps, less their mean.

  Its mean is 0, and at high SNR it is nearly all of the errors of any good denoiser. The level
  fits eps.
  """
  gain = level.alpha * level.sigma / (jnp.square(level.alpha) + jnp.square(level.sigma))
  return jnp.square(gain) * (jnp.square(eps) - 1.0)


@on_auto_axes
def _place(u, path):
  # The path is even in the sum of the rates of its elements. Returns, at u, the level that
  # the step begins with, the rate, its change in the step, and its slope.
  rate, change = _rates(path)
  gains = jnp.sum(change, axis=tuple(range(2, change.ndim)))
  ends = jnp.cumsum(gains, axis=0)

  def of_one(u, arrays):
    ends, gains, path, rate, change = arrays
    place = u * ends[-1]
    n = jnp.minimum(jnp.searchsorted(ends, place), len(ends) - 1)
    gain = jnp.where(gains[n] > 0.0, gains[n], 1.0)
    share = jnp.clip(1.0 - (ends[n] - place) / gain, 0.0, 1.0)
    start = jax.tree.map(lambda a: a[n], path)
    return start, rate[n] + share * change[n], change[n], change[n] * ends[-1] / gain

  arrays = ends, gains, path, rate, change
  if ends.shape[1] == 1:
    return jax.vmap(of_one, (0, None))(u, jax.tree.map(lambda a: a[:, 0], arrays))
  return jax.vmap(of_one, (0, 1))(u, arrays)
