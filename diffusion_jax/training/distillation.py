"""Objectives that learn from the samples or the steps of a teacher.

The students are networks of one time, as in `denoising`; what is distilled into
flow maps is in `consistency`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.core.denoiser import Denoiser, NetworkFn, NoiseInput
from diffusion_jax.core.flow_losses import sg, two_step_target
from diffusion_jax.core.levels import Schedule
from diffusion_jax.core.losses import (
  TimeSampler,
  Weight,
  denoising_loss,
  flow_weight,
  step_times,
  truncated_snr_weight,
  uniform_times,
)
from diffusion_jax.core.parametrization import eps_from_x0
from diffusion_jax.core.process import q_sample
from diffusion_jax.training.conditions import Condition, unconditional
from diffusion_jax.training.objectives import (
  Objective,
  denoising,
  draw_inputs,
  make_output_at,
  mean_loss,
)

Array = jax.Array


def progressive_distillation(
  network_fn: NetworkFn,
  schedule: Schedule,
  *,
  num_steps: int,
  teacher: Callable[[Any, dict], Denoiser],
  solver: Any,
  parametrization: str,
  noise_input: NoiseInput,
  weight: Weight = truncated_snr_weight,
  condition: Condition = unconditional,
  sigma_data: float = 0.5,
) -> Objective:
  """Returns progressive distillation (Salimans & Ho 2022, Alg. 2).

  The student, of N = num_steps steps from t = 1 / N .. 1, learns the
  `two_step_target` of two steps of the teacher: teacher(frozen, cond) ->
  Denoiser, of the parameters in `Context.frozen`; solver: `dj.ddim()`. The loss
  is weight(level) |x_0 - target|^2 in the space of `parametrization`, per
  dimension. The next stage has this student as its teacher and half as many
  steps. params: {'network': ...}. Metrics: loss, and loss per quarter of t.
  Raises ValueError for num_steps < 1.
  """
  if num_steps < 1:
    raise ValueError(f'num_steps is {num_steps}: a student needs at least 1')
  output_at = make_output_at(
    network_fn,
    parametrization=parametrization,
    noise_input=noise_input,
    sigma_data=sigma_data,
  )

  def draw(key, batch, context):
    times = step_times(num_steps)
    return draw_inputs(key, batch, schedule, times=times, condition=condition)

  def loss(params, context, inputs, keys):
    level_t = inputs.level
    xt = q_sample(inputs.x0, inputs.eps, level_t)
    denoise = teacher(context.frozen, inputs.cond)
    step = jnp.rint(level_t.t * num_steps)
    middle = schedule((step - 0.5) / num_steps)
    level_s = schedule((step - 1.0) / num_steps)
    xs = _solver_step(solver, keys[1], denoise, xt, level_t, middle)
    xs = _solver_step(solver, keys[1], denoise, xs, middle, level_s)
    x0 = two_step_target(xs, xt, level_s, level_t)
    output = output_at(params, xt, level_t, inputs.cond, keys)
    losses = denoising_loss(
      parametrization,
      output,
      x0,
      eps_from_x0(x0, xt, level_t),
      level_t,
      weight,
      sigma_data,
    )
    losses = inputs.time_weight * losses / x0[0].size
    return mean_loss(losses, level_t.t)

  return Objective(draw, loss)


def _solver_step(solver, key, denoise, x, level_t, level_s):
  state = solver.init(x)
  return solver.step(key, x, state, denoise, level_s=level_s, level_t=level_t)[
    0
  ]


def reflow(
  network_fn: NetworkFn,
  schedule: Schedule,
  *,
  parametrization: str = 'flow',
  noise_input: NoiseInput,
  times: TimeSampler = uniform_times,
  weight: Weight = flow_weight,
  teacher: Callable[[Any, dict, Array], Array] | None = None,
  condition: Condition = unconditional,
  sigma_data: float = 0.5,
) -> Objective:
  """Returns `denoising` on pairs of noise and its sample (Liu et al. 2022).

  The pairs are batch['noise'] and batch['image'], [B, ...] each. With a
  teacher(frozen, cond, x1) -> image, a flow map from t = 1 to clean data of the
  parameters in `Context.frozen`, the loss computes the images instead, from x1
  = sigma(1) eps of the noise eps that it draws. The paths of such pairs do not
  cross, so that few Euler steps suffice. times of t = 1 alone make it a
  regression of samples on their noise. Raises ValueError for a batch without
  'noise' where there is no teacher.
  """
  plain = denoising(
    network_fn,
    schedule,
    parametrization=parametrization,
    times=times,
    weight=weight,
    noise_input=noise_input,
    condition=condition,
    sigma_data=sigma_data,
  )

  def draw(key, batch, context):
    inputs, keys = plain.draw(key, batch, context)
    if teacher is not None:
      return inputs, keys
    if 'noise' not in batch:
      raise ValueError(
        "reflow needs batch['noise'], from which batch['image'] was sampled, "
        'or a teacher'
      )
    return inputs._replace(eps=batch['noise']), keys

  def loss(params, context, inputs, keys):
    if teacher is not None:
      x1 = schedule(1.0).sigma * inputs.eps
      x0 = sg(teacher(context.frozen, inputs.cond, x1))
      inputs = inputs._replace(x0=x0)
    return plain.loss(params, context, inputs, keys)

  return dataclasses.replace(plain, draw=draw, loss=loss)
