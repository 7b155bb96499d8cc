"""Objectives of consistency functions: training, distillation, sCM.

f(x_t, t) is that of `core.flow_map.consistency_output`. Noise is measured by
sigma / alpha, which is sigma on EDM's path and t / (1 - t) on the straight one,
so every schedule will do. Both evaluations of a network have the same dropout.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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
from diffusion_jax.core.levels import NoiseLevel, Schedule
from diffusion_jax.core.losses import TimeSampler
from diffusion_jax.core.process import q_sample
from diffusion_jax.training.conditions import Condition, unconditional
from diffusion_jax.training.level_pairs import Pairs
from diffusion_jax.training.objectives import (
  Inputs,
  Objective,
  Uncertainty,
  draw_inputs,
  mean_loss,
)

Array = jax.Array
Teacher = Callable[[Any, dict], Denoiser]


class PairInputs(NamedTuple):
  """Holds what is drawn for a batch: `Inputs` at t, the level r, keys [B]."""

  inputs: Inputs
  level_r: NoiseLevel


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
