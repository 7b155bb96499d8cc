"""Pairs of neighbouring levels at which consistency functions are compared.

`Pairs`: (key, batch_size, schedule, step) -> (level_t, level_r, weight [B]), r
cleaner than t. Noise is measured by sigma / alpha.
"""

import math
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from jax.scipy.special import erf

from diffusion_jax.core.arguments import check_interval
from diffusion_jax.core.checked import checked
from diffusion_jax.core.levels import NoiseLevel, Schedule, clean_level
from diffusion_jax.core.losses import TimeSampler
from diffusion_jax.ranges import Finite, Positive, Size, at_least

Array = jax.Array
Scales = Annotated[int, at_least(2)]
Pairs = Callable[[Array, int, Schedule, Array | int], tuple[NoiseLevel, NoiseLevel, Array]]


def improved_num_levels(
  step: Array | int, total_steps: int, num_scales_start: int = 10, num_scales_end: int = 1280
) -> Array:
  """Returns N(k) = min(s0 2^floor(k / K'), s1) + 1 (Song & Dhariwal 2024).

  s0 = num_scales_start and s1 = num_scales_end. K' = floor(K / (log2 floor(s1 /
  s0) + 1)), so that each number of levels has an equal part of K = total_steps.
  """
  first, last = num_scales_start, num_scales_end
  what = 'the number of levels increases'
  check_interval(what, num_scales_start=first, num_scales_end=last)
  part = total_steps // (math.log2(last // first) + 1)
  doublings = jnp.floor_divide(step, max(int(part), 1))
  return jnp.minimum(first * 2.0**doublings, last).astype(int) + 1


def improved_pairs(
  total_steps: int,
  *,
  num_scales_start: Size = 10,
  num_scales_end: Size = 1280,
  mean: Finite = -1.1,
  std: Positive = 2.0,
  sigma_min: float = 0.002,
  sigma_max: float = 80.0,
  rho: float = 7.0,
) -> Pairs:
  """Makes the pairs of improved consistency training (Song & Dhariwal 2024).

  r < t are neighbours on EDM's grid of `improved_num_levels` levels, drawn with
  the probability of their interval under log sigma ~ N(mean, std^2) (section
  3.5). The weight is 1 / (t - r).
  """

  def pairs(key, batch_size, schedule, step):
    count = improved_num_levels(step, total_steps, num_scales_start, num_scales_end)
    # All intervals are computed; those beyond the grid are empty.
    index = jnp.arange(num_scales_end + 1)
    share = jnp.minimum(index / (count - 1), 1.0)
    ends = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigma = (ends[0] + share * (ends[1] - ends[0])) ** rho
    below = erf((jnp.log(sigma) - mean) / (math.sqrt(2.0) * std))
    # The interval in which the distribution function reaches a uniform draw.
    u = jax.random.uniform(key, (batch_size,))
    level = below[0] + u * (below[-1] - below[0])
    i = jnp.searchsorted(below, level, side='right') - 1
    i = jnp.clip(i, 0, count - 2)
    t, r = sigma[i + 1], sigma[i]
    return _level(schedule, t), _level(schedule, r), 1.0 / (t - r)

  return pairs


def easy_ratio(
  sigma: Array, stage: Array | int, q: float = 2.0, k: float = 8.0, b: float = 1.0
) -> Array:
  """Computes r(t) = t max(0, 1 - n(t) / q^(stage + 1)), [B] (Geng et al. 2024).

  n(t) = 1 + k sigmoid(-b t), with t = sigma. Stage 0 with q = 2 gives r = 0,
  which is denoising, for t <= log 7; each stage brings r closer to t.
  """
  n = 1.0 + k * jax.nn.sigmoid(-b * sigma)
  return sigma * jnp.maximum(1.0 - n / q ** (1.0 + stage), 0.0)


def easy_pairs(
  steps_per_stage: Size,
  times: TimeSampler,
  *,
  num_stages: Size = 8,
  q: Positive = 2.0,
  k: float = 8.0,
  b: float = 1.0,
) -> Pairs:
  """Makes the pairs of ECT (Geng et al. 2024), with r of `easy_ratio`.

  The stage is step // steps_per_stage, at most num_stages - 1. The weight is
  the time sampler's, divided by t - r.
  """

  def pairs(key, batch_size, schedule, step):
    stage = jnp.minimum(step // steps_per_stage, num_stages - 1)
    level_t, weight = times(key, batch_size, schedule)
    sigma = level_t.sigma / level_t.alpha
    r = easy_ratio(sigma, stage, q, k, b)
    return level_t, _level(schedule, r), weight / (sigma - r)

  return pairs


@checked
def grid_pairs(num_scales: Scales = 18) -> Pairs:
  """Makes neighbours on the schedule's grid of num_scales >= 2 levels.

  With `KarrasSchedule` they are the pairs of consistency distillation (Song et
  al. 2023, section 4). The weight is 1.
  """

  def pairs(key, batch_size, schedule, step):
    i = jax.random.randint(key, (batch_size,), 1, num_scales)
    level_t, level_r = (schedule(j / (num_scales - 1)) for j in (i, i - 1))
    return level_t, level_r, jnp.ones(batch_size)

  return pairs


def _level(schedule, sigma):
  # The level of sigma / alpha, exactly clean for 0.
  noisy = sigma > 0.0
  level = schedule.from_logsnr(-2.0 * jnp.log(jnp.where(noisy, sigma, 1.0)))
  return jax.tree.map(lambda a, b: jnp.where(noisy, a, b), level, clean_level())
