"""Objectives of consistency functions: training, distillation, sCM.

f(x_t, t) is `few_steps.maps.consistency_output`. Noise is measured by sigma /
alpha, which is sigma on EDM's path and t / (1 - t) on the straight path, so any
schedule works. Both evaluations of a network have the same dropout.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import expand_to
from diffusion_jax.core.levels import NoiseLevel, Schedule
from diffusion_jax.core.losses import TimeSampler
from diffusion_jax.declared import declares
from diffusion_jax.few_steps.distillation import (
  Solver,
  Teacher,
  solver_step,
)
from diffusion_jax.few_steps.level_pairs import Pairs
from diffusion_jax.few_steps.losses import (
  Distance,
  consistency_error,
  normalized,
  pseudo_huber,
  squared_error,
  trigflow_tangent,
)
from diffusion_jax.few_steps.maps import (
  consistency_output,
  level_of_angle,
  trigflow_input,
)
from diffusion_jax.meshes import placed_as
from diffusion_jax.ranges import Count, NonNegative, Positive
from diffusion_jax.training.objectives import (
  Draws,
  LogVarianceOf,
  Network,
  Objective,
  draw_inputs,
  mean_loss,
  uncertain_loss,
)

Array = jax.Array


class PairInputs(NamedTuple):
  """Holds the draws of a batch: `Draws` at t, and the level r, [B]."""

  inputs: Draws
  level_r: NoiseLevel


@declares(
  what='iCT, ECT: d(f(x_t, t), sg f(x_r, r)) / (t − r), the same ε in x_t and x_r; '
  '`pairs=improved`, `easy`',
  needs='no teacher; ECT begins with a trained network',
  map_kind='consistency',
)
def consistency_training(
  network: Network,
  schedule: Schedule,
  *,
  pairs: Pairs,
  distance: Distance | None = None,
  sigma_data: Positive = 0.5,
  sigma_min: Positive = 0.002,
  ema_target: bool = False,
) -> Objective:
  """Makes consistency training, without a teacher (Song et al. 2023, Alg. 3).

  The loss is `consistency_error` of x_t and x_r with the same noise.
  `improved_pairs` and the default distance, `pseudo_huber()`, are iCT (Song &
  Dhariwal 2024); `easy_pairs` from a trained network, with `pseudo_huber(0.0)`,
  are ECT (Geng et al. 2024). The target uses the parameters, or with ema_target
  their average (Song et al. 2023). sigma_data: standard deviation of the data;
  sigma_min: the sigma / alpha at which f(x) = x. The network's parametrization
  and sigma_data have no effect. params: {'network': ...}. Metrics: loss, also
  per quarter of t.
  """
  network.check_options('consistency_training')

  def same_noise(context, keys, inputs, xt, level_r):
    return inputs._replace(level=level_r).xt

  network = dataclasses.replace(network, sigma_data=sigma_data)
  return _pair_objective(
    network,
    schedule,
    pairs,
    make_xr=same_noise,
    distance=distance or pseudo_huber(),
    sigma_min=sigma_min,
    ema_target=ema_target,
  )


@declares(
  what='the same, x_r by one solver step of the teacher', needs='a teacher', map_kind='consistency'
)
def consistency_distillation(
  network: Network,
  schedule: Schedule,
  *,
  teacher: Teacher,
  solver: Solver,
  pairs: Pairs,
  distance: Distance | None = None,
  sigma_data: Positive = 0.5,
  sigma_min: Positive = 0.002,
  ema_target: bool = False,
) -> Objective:
  """Makes consistency distillation (Song et al. 2023, Alg. 2).

  It is `consistency_training` with another x_r: one step of the solver, such as
  `dj.heun()`, from x_t with the teacher as denoiser. The default distance is
  `squared_error`.
  """
  network.check_options('consistency_distillation')

  def teacher_step(context, keys, inputs, xt, level_r):
    denoise = teacher(context.frozen, inputs.cond)
    return solver_step(solver, keys[1], denoise, xt, inputs.level, level_r)

  network = dataclasses.replace(network, sigma_data=sigma_data)
  return _pair_objective(
    network,
    schedule,
    pairs,
    make_xr=teacher_step,
    distance=distance or squared_error,
    sigma_min=sigma_min,
    ema_target=ema_target,
  )


def _pair_objective(network, schedule, pairs, *, make_xr, distance, sigma_min, ema_target):
  # make_xr: (context, keys, inputs, xt, level_r) -> x_r.
  def draw(key, batch, context):
    key, pair_key = jax.random.split(key)
    size = len(batch['x'])
    level_t, level_r, weight = pairs(pair_key, size, schedule, context.step)
    inputs, keys = draw_inputs(key, batch, schedule, network, lambda *_: (level_t, weight))
    return PairInputs(inputs, placed_as(inputs.x0, level_r)), keys

  def loss(params, context, inputs, keys):
    inputs, level_r = inputs
    xt = inputs.xt
    xr = make_xr(context, keys, inputs, xt, level_r)
    output_of = functools.partial(
      consistency_output, cond=inputs.cond, key=keys[0], sigma_min=sigma_min
    )
    f, target_f = (
      functools.partial(output_of, network, p['network'])
      for p in (params, context.ema_params if ema_target else params)
    )
    error = consistency_error(f, target_f, xt, xr, inputs.level, level_r, distance=distance)
    # The weight of a pair belongs to the loss: it does not stand for rare pairs.
    return mean_loss(inputs.time_weight * error, inputs.level.t)

  return Objective(draw, loss)


@declares(
  what='sCM, |F − sg(F + g / (|g| + 0.1))|², g = cos(a) df/da',
  needs='a teacher for sCD only',
  map_kind='trigflow',
  forward_mode=True,
)
def continuous_consistency(
  network: Network,
  schedule: Schedule,
  *,
  times: TimeSampler,
  teacher: Teacher | None = None,
  warmup_steps: Count = 10_000,
  offset: NonNegative = 0.1,
  uncertainty: LogVarianceOf | None = None,
  sigma_data: Positive = 0.5,
) -> Objective:
  """Makes sCM, consistency in continuous time (Lu & Song 2025, Alg. 1).

  The loss is |F - sg(F) - g|^2 with the tangent g of `trigflow_tangent`,
  `normalized` with `offset`; the second part of g grows over warmup_steps. This
  is training (sCT), or distillation (sCD) if a teacher gives the velocity. See
  `denoising` for uncertainty. Sample with `make_flow_map` of the kind
  'trigflow' and this sigma_data. The network's time input must be smooth:
  Fourier features of a large scale make it diverge, and so does bfloat16. The
  value of the loss does not measure progress. params: {'network': ...}.
  Metrics: loss, also per quarter of t; tangent (the mean norm of g).
  """
  network.check_options('continuous_consistency')
  network = dataclasses.replace(network, parametrization='edm', sigma_data=sigma_data)

  def draw(key, batch, context):
    return draw_inputs(key, batch, schedule, network, times)

  def loss(params, context, inputs, keys):
    level = inputs.level
    x, angle, velocity = _trigflow_path(inputs, sigma_data, teacher, context)

    def output_fn(scaled, angle):
      x, level = sigma_data * scaled, level_of_angle(angle, sigma_data)
      return network.output(params['network'], x, level, inputs.cond, keys[0])

    warmup = jnp.minimum(context.step / warmup_steps, 1.0) if warmup_steps else 1.0
    before, g = trigflow_tangent(output_fn, x, angle, velocity, warmup, sigma_data)
    target = before + normalized(g, offset)
    losses = squared_error(output_fn(x / sigma_data, angle), target)
    norms = jnp.sqrt(squared_error(g, jnp.zeros_like(g)))
    if uncertainty is not None:
      losses = uncertain_loss(losses, uncertainty(params, level))
    return mean_loss(losses, level.t, inputs.time_weight, tangent=norms)

  return Objective(draw, loss)


def _trigflow_path(inputs, sigma_data, teacher, context):
  # Returns x on TrigFlow's path, its angle [B] and dx/d angle.
  x0, eps, level = inputs.x0, inputs.eps, inputs.level
  angle = jnp.arctan2(level.sigma, sigma_data * level.alpha)
  cos, sin = (expand_to(f(angle), x0) for f in (jnp.cos, jnp.sin))
  x = trigflow_input(inputs.xt, level, sigma_data)
  if teacher is None:
    return x, angle, cos * sigma_data * eps - sin * x0
  estimate = teacher(context.frozen, inputs.cond)(inputs.xt, level).x0
  return x, angle, (cos * x - estimate) / sin
