"""Objectives that distil the samples or the steps of a teacher.

The students are networks of one time, as in `denoising`; `consistency` distils
into flow maps.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import Params, PyTree
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.denoiser import Denoiser
from diffusion_jax.core.levels import NoiseLevel, Schedule
from diffusion_jax.core.losses import (
  TimeSampler,
  Weight,
  flow_weight,
  step_times,
  truncated_snr_weight,
  uniform_times,
  with_start,
)
from diffusion_jax.core.parametrization import eps_from_x0
from diffusion_jax.declared import declares
from diffusion_jax.few_steps.losses import (
  sg,
  two_step_target,
)
from diffusion_jax.ranges import Probability, Size
from diffusion_jax.sampling.grids import level_grid
from diffusion_jax.sampling.sampler import sample
from diffusion_jax.sampling.solvers import unipc
from diffusion_jax.training.objectives import Network, Objective, denoising, draw_inputs, mean_loss

Array = jax.Array
# (frozen, cond) -> denoiser; frozen: the parameters in `Context.frozen`
Teacher = Callable[[Params, dict], Denoiser]
# (frozen, cond, x1 [B, ...]) -> x_0 [B, ...]
ImageTeacher = Callable[[Params, dict, Array], Array]


class Solver(Protocol):
  """Describes a deterministic `Sampler` without memory, such as `dj.ddim()`."""

  @property
  def init(self) -> Callable[[Array], PyTree]:
    """Returns the function x -> state."""
    ...

  @property
  def step(self) -> Callable[..., tuple[Array, PyTree]]:
    """Returns the function of one transition from level t to level s."""
    ...


def solver_step(
  solver: Solver,
  key: Key,
  denoise: Denoiser,
  xt: Array,
  level_t: NoiseLevel,
  level_s: NoiseLevel,
) -> Array:
  """Takes one step of a solver from x_t [B, ...] to x_s [B, ...]."""
  xs, _ = solver.step(key, xt, solver.init(xt), denoise, level_s=level_s, level_t=level_t)
  return xs


@declares(
  what="max(SNR, 1) |x̂_0 − x̃|², x̃ such that one DDIM step is two of the teacher's",
  needs='a teacher, in stages',
)
@checked
def progressive_distillation(
  network: Network,
  schedule: Schedule,
  *,
  num_steps: Size,
  teacher: Teacher,
  solver: Solver,
  weight: Weight = truncated_snr_weight,
) -> Objective:
  """Makes progressive distillation (Salimans & Ho 2022, Alg. 2).

  The student has N = num_steps steps, from t = 1 / N .. 1. It learns the
  `two_step_target` of two steps of the teacher with the solver `dj.ddim()`. The
  loss is weight(level) |x_0 - target|^2 per dimension, in the space of the
  student's parametrization. The next stage uses this student as teacher, with
  half as many steps. params: {'network': ...}. Metrics: loss, also per quarter
  of t.
  """
  network.check_options('progressive_distillation')

  def draw(key, batch, context):
    return draw_inputs(key, batch, schedule, network, step_times(num_steps))

  def loss(params, context, inputs, keys):
    level_t, cond = inputs.level, inputs.cond
    xt = inputs.xt
    denoise = teacher(context.frozen, cond)
    step = jnp.rint(level_t.t * num_steps)
    middle = schedule((step - 0.5) / num_steps)
    level_s = schedule((step - 1.0) / num_steps)
    xs = solver_step(solver, keys[1], denoise, xt, level_t, middle)
    xs = solver_step(solver, keys[1], denoise, xs, middle, level_s)
    x0 = two_step_target(xs, xt, level_s, level_t)
    output = network.output(params['network'], xt, level_t, cond, keys[0])
    eps = eps_from_x0(x0, xt, level_t)
    losses = network.denoising_loss(output, x0, eps, level_t, weight) / (x0.size // len(x0))
    return mean_loss(losses, level_t.t, inputs.time_weight)

  return Objective(draw, loss)


def on_pairs(
  network: Network,
  schedule: Schedule,
  *,
  times: TimeSampler = uniform_times,
  weight: Weight = flow_weight,
  teacher: ImageTeacher | None = None,
) -> Objective:
  """Makes `denoising` on pairs of noise and its sample (Liu et al. 2022).

  The pairs are batch['noise'] and batch['x'], [B, ...] each. With a teacher
  (frozen, cond, x1) -> x_0, such as `sampling_teacher`, the loss computes the
  images from x1 = sigma(1) eps instead. The paths of such pairs do not cross,
  so that few Euler steps suffice. With only t = 1 it is a regression of samples
  on their noise. The paper uses the parametrization 'flow'. Raises ValueError
  without a teacher for a batch without 'noise'.
  """
  network.check_options('on_pairs')
  plain = denoising(network, schedule, times=times, weight=weight)

  def draw(key, batch, context):
    inputs, keys = plain.draw(key, batch, context)
    if teacher is not None:
      return inputs, keys
    if 'noise' not in batch:
      raise ValueError(
        "on_pairs needs a teacher, or batch['noise'] from which batch['x'] was sampled"
      )
    return inputs._replace(eps=batch['noise']), keys

  def loss(params, context, inputs, keys):
    if teacher is not None:
      x1 = schedule(1.0).sigma * inputs.eps
      inputs = inputs._replace(x0=sg(teacher(context.frozen, inputs.cond, x1)))
    return plain.loss(params, context, inputs, keys)

  return dataclasses.replace(plain, draw=draw, loss=loss)


def sampling_teacher(teacher: Teacher, sample: Callable[[Denoiser, Array], Array]) -> ImageTeacher:
  """Makes a teacher of `on_pairs` that samples its images with a denoiser.

  sample: (denoise, x1) -> x_0, for example 16 steps of UniPC, which draws no
  noise: lambda denoise, x1: dj.sample(key, denoise, dj.unipc(),
  dj.level_grid(schedule, 16), x1).
  """
  return lambda frozen, cond, x1: sample(teacher(frozen, cond), x1)


@declares(
  what='|v̂ − (ε − Φ(ε))|² on pairs of noise and its sample; `p_t1=1`: regression on pairs',
  needs='a teacher',
  coupled_teacher=True,
)
def reflow(
  network: Network,
  schedule: Schedule,
  *,
  times: TimeSampler,
  teacher: Teacher,
  weight: Weight = flow_weight,
  p_t1: Probability = 0.0,
  teacher_steps: Size = 16,
) -> Objective:
  """Makes rectified flow's loss on the teacher's samples (Liu et al. 2022).

  The pairs are noise and the sample that teacher_steps of UniPC make of it.
  p_t1: the probability of t = 1.
  """
  levels = level_grid(schedule, teacher_steps)
  key = jax.random.key(0)  # UniPC draws nothing

  def solve(denoise, x1):
    return sample(key, denoise, unipc(), levels, x1)

  times = with_start(times, p_t1)
  pairs = sampling_teacher(teacher, solve)
  return on_pairs(network, schedule, times=times, weight=weight, teacher=pairs)
