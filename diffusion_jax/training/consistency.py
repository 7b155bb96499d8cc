"""Objectives of consistency functions: training, distillation, sCM.

f(x_t, t) is that of `core.flow_map.consistency_output`. Noise is measured by
sigma / alpha, which is sigma on EDM's path and t / (1 - t) on the straight one,
so every schedule will do. Both evaluations of a network have the same dropout.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import erf

from diffusion_jax.core.broadcasting import expand_to
from diffusion_jax.core.denoiser import (
  Denoiser,
  NetworkFn,
  NoiseInput,
  network_output,
)
from diffusion_jax.core.flow_losses import (
  Distance,
  consistency_error,
  normalized,
  pseudo_huber,
  squared_error,
  trigflow_tangent,
)
from diffusion_jax.core.flow_map import (
  consistency_output,
  level_of_angle,
  trigflow_input,
)
from diffusion_jax.core.levels import NoiseLevel, Schedule, clean_level
from diffusion_jax.core.losses import TimeSampler
from diffusion_jax.core.process import q_sample
from diffusion_jax.training.conditions import Condition, unconditional
from diffusion_jax.training.objectives import (
  Inputs,
  Objective,
  Uncertainty,
  draw_inputs,
  mean_loss,
)

Array = jax.Array
Pairs = Callable[..., tuple[NoiseLevel, NoiseLevel, Array]]
Teacher = Callable[[Any, dict], Denoiser]


class PairInputs(NamedTuple):
  """Holds what is drawn for a batch: `Inputs` at t, the level r, keys [B]."""

  inputs: Inputs
  level_r: NoiseLevel


# Pairs of levels: (key, batch_size, schedule, step) -> (level_t, level_r,
# weight [B]), r cleaner than t.


def improved_num_levels(
  step: Array | int, total_steps: int, first: int = 10, last: int = 1280
) -> Array:
  """Returns N(k) = min(s0 2^floor(k / K'), s1) + 1 (Song & Dhariwal 2024).

  K' = floor(K / (log2 floor(s1 / s0) + 1)), so that every number of levels has
  an equal part of the K = total_steps.
  """
  part = total_steps // (math.log2(last // first) + 1)
  doublings = jnp.floor_divide(step, max(int(part), 1))
  return jnp.minimum(first * 2.0**doublings, last).astype(int) + 1


def improved_pairs(
  total_steps: int,
  *,
  first: int = 10,
  last: int = 1280,
  mean: float = -1.1,
  std: float = 2.0,
  sigma_min: float = 0.002,
  sigma_max: float = 80.0,
  rho: float = 7.0,
) -> Pairs:
  """Makes the pairs of improved consistency training (Song & Dhariwal 2024).

  Neighbours r < t on EDM's grid of `improved_num_levels` levels, chosen with
  the probability of the interval under log sigma ~ N(mean, std^2) (their
  section 3.5); weight 1 / (t - r).
  """

  def pairs(key, batch_size, schedule, step):
    count = improved_num_levels(step, total_steps, first, last)
    # All `last` intervals are computed, those beyond the grid are empty.
    index = jnp.arange(last + 1)
    share = jnp.minimum(index / (count - 1), 1.0)
    ends = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigma = (ends[0] + share * (ends[1] - ends[0])) ** rho
    below = erf((jnp.log(sigma) - mean) / (math.sqrt(2.0) * std))
    # Where the distribution function reaches a uniform draw.
    u = jax.random.uniform(key, (batch_size,))
    level = below[0] + u * (below[-1] - below[0])
    chosen = jnp.searchsorted(below, level, side='right') - 1
    chosen = jnp.clip(chosen, 0, count - 2)
    return _pair(schedule, sigma[chosen + 1], sigma[chosen])

  return pairs


def easy_ratio(
  sigma: Array,
  stage: Array | int,
  q: float = 2.0,
  k: float = 8.0,
  b: float = 1.0,
) -> Array:
  """Computes r(t) = t max(0, 1 - n(t) / q^(stage + 1)), [B] (Geng et al. 2024).

  n(t) = 1 + k sigmoid(-b t), with t = sigma. Stage 0 with q = 2 gives r = 0,
  plain denoising, for t <= log 7; every stage brings r closer to t.
  """
  n = 1.0 + k * jax.nn.sigmoid(-b * sigma)
  return sigma * jnp.maximum(1.0 - n / q ** (1.0 + stage), 0.0)


def easy_pairs(
  steps_per_stage: int,
  times: TimeSampler,
  *,
  num_stages: int = 8,
  q: float = 2.0,
  k: float = 8.0,
  b: float = 1.0,
) -> Pairs:
  """Makes the pairs of ECT (Geng et al. 2024): r of `easy_ratio`.

  The stage is step // steps_per_stage, at most num_stages - 1; weight 1 / (t -
  r), times that of the time sampler.
  """

  def pairs(key, batch_size, schedule, step):
    stage = jnp.minimum(step // steps_per_stage, num_stages - 1)
    level_t, weight = times(key, batch_size, schedule)
    sigma = level_t.sigma / level_t.alpha
    r = easy_ratio(sigma, stage, q, k, b)
    return level_t, _level(schedule, r), weight / (sigma - r)

  return pairs


def grid_pairs(num_levels: int = 18) -> Pairs:
  """Makes neighbours of the schedule's grid of N levels; weight 1.

  With `KarrasSchedule` the pairs of consistency distillation (Song et al. 2023,
  section 4). ValueError for fewer than 2 levels.
  """
  if num_levels < 2:
    raise ValueError(f'num_levels is {num_levels}: a pair needs 2')

  def pairs(key, batch_size, schedule, step):
    i = jax.random.randint(key, (batch_size,), 1, num_levels)
    level_t, level_r = (schedule(j / (num_levels - 1)) for j in (i, i - 1))
    return level_t, level_r, jnp.ones(batch_size)

  return pairs


def _pair(schedule, sigma_t, sigma_r):
  weight = 1.0 / (sigma_t - sigma_r)
  return _level(schedule, sigma_t), _level(schedule, sigma_r), weight


def _level(schedule, sigma):
  # The level of sigma / alpha, exactly clean for 0.
  noisy = sigma > 0.0
  level = schedule.from_logsnr(-2.0 * jnp.log(jnp.where(noisy, sigma, 1.0)))
  return jax.tree.map(lambda a, b: jnp.where(noisy, a, b), level, clean_level())


def consistency_training(
  network_fn: NetworkFn,
  schedule: Schedule,
  *,
  pairs: Pairs,
  distance: Distance | None = None,
  noise_input: NoiseInput,
  condition: Condition = unconditional,
  sigma_data: float = 0.5,
  sigma_min: float = 0.002,
  ema_target: bool = False,
) -> Objective:
  """Returns consistency training, without a teacher (Song et al. 2023, Alg. 3).

  `consistency_error` of x_t and x_r with the same noise. `improved_pairs` and
  the default distance, `pseudo_huber()`, are iCT (Song & Dhariwal 2024);
  `easy_pairs` from a trained network, with `pseudo_huber(0.0)`, are ECT (Geng
  et al. 2024). The target is of the parameters themselves, or of their average
  (Song et al. 2023). The network's input and output are those of the
  parametrization 'edm'. params: {'network': ...}. Metrics: loss, and loss per
  quarter of t.
  """

  def same_noise(context, keys, inputs, xt, level_r):
    return q_sample(inputs.x0, inputs.eps, level_r)

  return _consistency(
    same_noise,
    network_fn,
    schedule,
    pairs=pairs,
    distance=distance or pseudo_huber(),
    noise_input=noise_input,
    condition=condition,
    sigma_data=sigma_data,
    sigma_min=sigma_min,
    ema_target=ema_target,
  )


def consistency_distillation(
  network_fn: NetworkFn,
  schedule: Schedule,
  *,
  teacher: Teacher,
  solver: Any,
  pairs: Pairs,
  distance: Distance | None = None,
  noise_input: NoiseInput,
  condition: Condition = unconditional,
  sigma_data: float = 0.5,
  sigma_min: float = 0.002,
  ema_target: bool = False,
) -> Objective:
  """Returns consistency distillation (Song et al. 2023, Alg. 2).

  As `consistency_training`, but x_r is one step of `solver`, a deterministic
  `Sampler` without memory such as `dj.heun()`, from x_t. teacher(frozen, cond)
  -> Denoiser, of the parameters in `Context.frozen`.
  """

  def solver_step(context, keys, inputs, xt, level_r):
    denoise = teacher(context.frozen, inputs.cond)
    xr, _ = solver.step(
      keys[1],
      xt,
      solver.init(xt),
      denoise,
      level_s=level_r,
      level_t=inputs.level,
    )
    return xr

  return _consistency(
    solver_step,
    network_fn,
    schedule,
    pairs=pairs,
    distance=distance or squared_error,
    noise_input=noise_input,
    condition=condition,
    sigma_data=sigma_data,
    sigma_min=sigma_min,
    ema_target=ema_target,
  )


def _consistency(
  cleaner,
  network_fn,
  schedule,
  *,
  pairs,
  distance,
  condition,
  ema_target,
  **options,
):
  # cleaner(context, keys, inputs, xt, level_r) -> x_r
  def draw(key, batch, context):
    key, pair_key = jax.random.split(key)
    size = len(batch['image'])
    level_t, level_r, weight = pairs(pair_key, size, schedule, context.step)
    inputs, keys = draw_inputs(
      key,
      batch,
      schedule,
      times=lambda *_: (level_t, weight),
      condition=condition,
    )
    return PairInputs(inputs, level_r), keys

  def loss(params, context, inputs, keys):
    inputs, level_r = inputs
    xt = q_sample(inputs.x0, inputs.eps, inputs.level)
    xr = cleaner(context, keys, inputs, xt, level_r)

    def f_fn(params):
      return functools.partial(
        consistency_output,
        network_fn,
        params['network'],
        cond=inputs.cond,
        key=keys[0],
        **options,
      )

    target_params = context.ema_params if ema_target else params
    error = consistency_error(
      f_fn(params),
      f_fn(target_params),
      xt,
      xr,
      inputs.level,
      level_r,
      distance,
    )
    return mean_loss(inputs.time_weight * error, inputs.level.t)

  return Objective(draw, loss)


def continuous_consistency(
  network_fn: NetworkFn,
  schedule: Schedule,
  *,
  times: TimeSampler,
  teacher: Teacher | None = None,
  warmup_steps: int = 10_000,
  offset: float = 0.1,
  uncertainty: Uncertainty | None = None,
  noise_input: NoiseInput,
  condition: Condition = unconditional,
  sigma_data: float = 0.5,
) -> Objective:
  """Returns sCM, consistency in continuous time (Lu & Song 2025, Alg. 1).

  |F - sg(F) - g|^2 with the tangent g of `trigflow_tangent`, `normalized` with
  `offset`; its second part grows over `warmup_steps`. Training (sCT), or
  distillation (sCD) where `teacher` gives the velocity. With `uncertainty` the
  loss is l / exp(u) + u, as in `denoising`. The network is one of TrigFlow
  (`make_flow_map` of kind 'trigflow'); its input for the time must be smooth:
  Fourier features of a large scale make it diverge, as bfloat16 does. The value
  of the loss says nothing about progress. params: {'network': ...}. Metrics:
  loss, tangent (the norm of g before it is normalised), loss per quarter of t.
  """

  def draw(key, batch, context):
    return draw_inputs(key, batch, schedule, times=times, condition=condition)

  def loss(params, context, inputs, keys):
    x0, eps, level = inputs.x0, inputs.eps, inputs.level
    xt = q_sample(x0, eps, level)
    angle = jnp.arctan2(level.sigma, sigma_data * level.alpha)
    cos, sin = (expand_to(f(angle), x0) for f in (jnp.cos, jnp.sin))
    x = trigflow_input(xt, level, sigma_data)
    velocity = cos * sigma_data * eps - sin * x0
    if teacher is not None:
      estimate = teacher(context.frozen, inputs.cond)(xt, level).x0
      velocity = (cos * x - estimate) / sin

    def output_fn(scaled, angle):
      return network_output(
        network_fn,
        params['network'],
        sigma_data * scaled,
        level_of_angle(angle, sigma_data),
        parametrization='edm',
        noise_input=noise_input,
        cond=inputs.cond,
        sigma_data=sigma_data,
        key=keys[0],
      )

    warmup = jnp.minimum(context.step / max(warmup_steps, 1), 1.0)
    if warmup_steps == 0:
      warmup = 1.0
    before, g = trigflow_tangent(
      output_fn, x, angle, velocity, warmup, sigma_data
    )
    target = before + normalized(g, offset)
    losses = squared_error(output_fn(x / sigma_data, angle), target)
    norms = jnp.sqrt(squared_error(g, jnp.zeros_like(g)))
    if uncertainty is not None:
      u = uncertainty(params, level)
      losses = losses * jnp.exp(-u) + u
    return mean_loss(inputs.time_weight * losses, level.t, tangent=norms)

  return Objective(draw, loss)
