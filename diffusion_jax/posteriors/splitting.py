"""Posterior sampling by turns: the measurement, then the model.

Both samplers draw x_0 from p(y | x_0) N(x_0; mean, variance I), an
`InnerDraw`: exactly for a linear measurement (`gaussian_draw`), and by a Markov
chain for any likelihood (`langevin_draw`).
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from diffusion_jax.core.arguments import (
  as_float,
  check_numbers,
  computed_now,
  expand_to,
  sum_data_axes,
)
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.denoiser import Denoiser, predict
from diffusion_jax.core.keys import draw_normal, draw_uniform, split_key
from diffusion_jax.core.levels import NoiseLevel, Schedule, check_one_level
from diffusion_jax.core.measurements import (
  LogLikelihood,
  Measurement,
)
from diffusion_jax.posteriors.conjugate_gradients import least_squares
from diffusion_jax.posteriors.twists import assumed_variance
from diffusion_jax.ranges import Positive, Size
from diffusion_jax.sampling.ancestral import ddim, ddim_solve
from diffusion_jax.sampling.grids import last_noisy_level, level_grid
from diffusion_jax.sampling.sampler import Sampler, sample

Array = jax.Array


class InnerDraw(Protocol):
  """A draw of x_0 from p(y | x_0) N(x_0; mean, variance I)."""

  def __call__(self, key: Key, mean: Array, variance: Array, /) -> Array:
    """Returns x_0 [B, ...]; key: [] or [B], mean: [B, ...], variance: []."""
    ...


@checked
def gaussian_draw(measurement: Measurement, num_iterations: Size = 100) -> InnerDraw:
  """Draws x_0 for a linear measurement, exactly if the iterations suffice.

  A draw without y is corrected by the measurement of its own noisy y.
  num_iterations: the most of conjugate gradients; one per number in y is exact,
  and fewer leave too much spread where A is weak. Raises TypeError if the
  measurement is not linear.
  """

  def draw(key, mean, variance):
    mean = as_float(mean)
    key, noise_key = split_key(key, 2)
    x0 = mean + jnp.sqrt(variance) * draw_normal(key, mean)
    transpose = measurement.transpose(x0)
    residual = measurement.residual(x0)
    noise_variance = measurement.variance(residual)
    noise = jnp.sqrt(noise_variance) * draw_normal(noise_key, residual)
    return x0 + least_squares(
      measurement.forward,
      transpose,
      residual - noise,
      noise_variance,
      1.0 / jnp.maximum(variance, 1e-12),
      num_iterations,
    )

  return draw


@checked
def langevin_draw(
  log_likelihood: LogLikelihood, step_size: Positive, num_steps: Size = 100
) -> InnerDraw:
  """Draws x_0 by Langevin steps from the mean, with Metropolis' acceptance.

  The acceptance makes the law exact for many steps of any size (Roberts &
  Tweedie 1996); steps to NaN are refused. DAPS itself accepts all steps.

  Args:
    log_likelihood: x_0 [B, ...] -> log p(y | x_0) [B], up to a constant.
    step_size: x' = x + step_size grad + sqrt(2 step_size) z; about the variance
      of y's noise, or smaller. ValueError unless positive.
  """

  def draw(key, mean, variance):
    mean = as_float(mean)

    def log_prob(x):
      square = sum_data_axes((x - mean) ** 2)
      value = log_likelihood(x) - 0.5 * square / variance
      return jnp.sum(value), value

    valued = jax.value_and_grad(log_prob, has_aux=True)

    def body(carry, key):
      x, value, gradient = carry
      key, accept_key = split_key(key, 2)
      noise = jnp.sqrt(2.0 * step_size) * draw_normal(key, x)
      move = step_size * gradient + noise
      (_, new_value), new_gradient = valued(x + move)
      # The noise of the way back is -back.
      back = move + step_size * new_gradient
      log_ratio = new_value - value
      log_ratio += sum_data_axes(noise**2 - back**2) / (4.0 * step_size)
      accepted = jnp.log(draw_uniform(accept_key, value)) < log_ratio
      new = x + move, new_value, new_gradient
      return jax.tree.map(
        lambda new, old: jnp.where(expand_to(accepted, new), new, old), new, carry
      ), None

    (_, value), gradient = valued(mean)
    carry = mean, value, gradient
    (x, _, _), _ = jax.lax.scan(body, carry, split_key(key, num_steps))
    return x

  return draw


@checked
def decoupled(
  draw: InnerDraw,
  variance: Callable[[NoiseLevel], Array] | None = None,
  estimate: Callable[[Denoiser, Array, NoiseLevel], Array] | None = None,
) -> Sampler:
  """Makes the sampler of DAPS (Zhang et al. 2025, Alg. 1).

  At each level it takes p(x_0 | x_t) for N(estimate, variance I), draws x_0
  given y, and noises it to the next level: neighbouring states share only x_0.

  Args:
    draw: See `InnerDraw`.
    variance: Of a level; None: sigma^2 / (alpha^2 + sigma^2). The paper has
      sigma^2 / alpha^2, `lambda level: 1 / level.snr`, which with the paper's
      estimate gives samples too much spread.
    estimate: (denoise, x_t, level) -> x_0; None: E[x_0 | x_t]. The paper solves
      the ODE by 5 steps, `ode_estimate(schedule, 5)`.
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    key, noise_key = split_key(key, 2)
    if estimate is None:
      mean = predict(denoise, x, level_t).x0
    else:
      mean = estimate(denoise, x, level_t)
    spread = assumed_variance(level_t, x) if variance is None else variance(level_t)
    x0 = draw(key, mean, jnp.reshape(spread, ()))
    s = level_s.expand_to(x)
    return s.alpha * x0 + s.sigma * draw_normal(noise_key, x), state

  return Sampler(lambda x: (), step)


@checked
def ode_estimate(
  schedule: Schedule, num_steps: Size
) -> Callable[[Denoiser, Array, NoiseLevel], Array]:
  """Returns (denoise, x_t, level) -> the end of the ODE from x_t, by DDIM.

  Its levels are a 'karras' grid from the level.
  """

  def estimate(denoise, x, level):
    check_one_level(level, 'ode_estimate', axes=0)
    levels = level_grid(schedule, num_steps, 'karras', t_start=level.t)
    return ddim_solve(denoise, levels, x)

  return estimate


@checked
def split_gibbs(
  key: Key,
  denoise: Denoiser,
  schedule: Schedule,
  draw: InnerDraw,
  widths: Array,
  x: Array,
  sampler: Sampler | None = None,
  num_steps: Size = 20,
) -> Array:
  """Alternates between x_0 given y and x_0 given the model (PnP-DM, Wu et al.).

  Each width rho is a round: z ~ p(y | z) N(z; x, rho^2 I), and x ~ p(x)
  N(z; x, rho^2 I), a run of the sampler from sigma / alpha = rho (2024, Alg. 1;
  DPnP, Xu & Chi 2024). Exact for many rounds as the last widths go to 0; they
  should not be far above the std of y, whose noise they add to.

  Args:
    key: [] or [B].
    draw: See `InnerDraw`.
    widths: rho of each round, [R], at first large; ValueError below the
      schedule's levels.
    x: The first x_0, [B, ...], such as noise of unit variance.
    sampler: Of the SDE; None: `ddim(1.0)`.
    num_steps: Of the sampler in a round.
  """
  lowest = computed_now(lambda: last_noisy_level(schedule))
  if lowest is not None and not isinstance(widths, Tracer):
    check_numbers(
      lambda width, lowest: width >= 0.999 * lowest,
      "the schedule's lowest sigma / alpha is above it",
      width=np.min(widths),
      lowest=lowest.sigma / lowest.alpha,
    )
  inner = ddim(1.0) if sampler is None else sampler

  def body(x, inputs):
    key, width = inputs
    key, sampler_key = split_key(key, 2)
    z = draw(key, x, width**2)
    level = schedule.from_logsnr(-2.0 * jnp.log(width))
    levels = level_grid(schedule, num_steps, 'karras', t_start=level.t)
    x = levels.take(0).expand_to(x).alpha * z
    return sample(sampler_key, denoise, inner, levels, x), None

  x = as_float(x)
  widths = jnp.asarray(widths, x.dtype)
  return jax.lax.scan(body, x, (split_key(key, len(widths)), widths))[0]
