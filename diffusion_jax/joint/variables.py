"""What a variable of a joint is: its noise, what a network sees and says, its loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import PyTree
from diffusion_jax.core.arguments import as_float, expand_to, sum_data_axes
from diffusion_jax.core.checked import Key, checked, needed
from diffusion_jax.core.denoiser import NoiseInput, Prediction, time_input
from diffusion_jax.core.keys import draw_normal
from diffusion_jax.core.levels import NoiseLevel, Schedule
from diffusion_jax.core.losses import Weight, denoising_loss, v_weight
from diffusion_jax.core.parametrization import Kind, edm_norm, to_x0
from diffusion_jax.core.process import q_sample
from diffusion_jax.discrete.equations import (
  nan_unless_data,
  posterior_logits,
  q_sample_states,
  state_nll,
)
from diffusion_jax.discrete.level_paths import of_noisy
from diffusion_jax.discrete.masked import masked_weight
from diffusion_jax.discrete.samplers import prior_sample_states
from diffusion_jax.discrete.transitions import ReplacementProcess
from diffusion_jax.discrete.uniform import jump_nats, uniform_weight
from diffusion_jax.meshes import placed_as
from diffusion_jax.ranges import Positive, Size
from diffusion_jax.sampling.sampler import prior_sample

Array = jax.Array


@needed('a variable of a joint, such as joint.gaussian(schedule)')
class Variable(NamedTuple):
  """One variable of a joint: functions of its arrays [B, ...] and their levels.

  schedule: t -> its level. prior(key, shape, level) -> x at the noisiest level.
  noised(key, x0, level) -> (x_t, what the loss needs of its noise). seen(x_t, level) -> what
  the network gets. estimate(output, x_t, level) -> what the variable's samplers take from a
  denoiser. loss(output, x0, x_t, noise, level) -> [B], summed over elements. noise_input(level)
  -> the network's number for a level, also of clean data. level_axes: how many leading axes
  of x have levels of their own: 1, the examples, or 2, their elements; the loss then gets
  each element as a row.
  """

  schedule: Schedule
  prior: Callable[[Array, tuple[int, ...], NoiseLevel], Array]
  noised: Callable[[Array, Array, NoiseLevel], tuple[Array, PyTree]]
  estimate: Callable[[Array, Array, NoiseLevel], Any]
  loss: Callable[[Array, Array, Array, PyTree, NoiseLevel], Array]
  seen: Callable[[Array, NoiseLevel], Array] = lambda xt, level: xt
  noise_input: NoiseInput = time_input(1.0)
  level_axes: Size = 1


@checked
def gaussian(
  schedule: Schedule,
  parametrization: Kind = 'v',
  weight: Weight = v_weight,
  sigma_data: Positive = 0.5,
  level_axes: Size = 1,
) -> Variable:
  """Makes a variable of real numbers with Gaussian noise, whose loss is `denoising_loss`.

  With `vdm_weight(schedule)` the loss is the diffusion part of the bound, in nats.
  """

  def seen(xt, level):
    return xt / edm_norm(level.expand_to(xt), sigma_data) if parametrization == 'edm' else xt

  def noised(key, x0, level):
    x0 = as_float(x0)
    eps = draw_normal(key, x0)
    return q_sample(x0, eps, level), eps

  def estimate(output, xt, level):
    return Prediction(to_x0(parametrization, output.astype(xt.dtype), xt, level, sigma_data))

  def loss(output, x0, xt, eps, level):
    output = output.astype(xt.dtype)
    return denoising_loss(parametrization, output, x0, eps, level, weight, sigma_data=sigma_data)

  return Variable(schedule, prior_sample, noised, estimate, loss, seen=seen, level_axes=level_axes)


@checked
def states(process: ReplacementProcess, schedule: Schedule, level_axes: Size = 1) -> Variable:
  """Makes a variable of states, whose loss is its part of the bound in continuous time, in nats.

  With a masked state it is `masked_weight` times the nll of masked elements, else
  `uniform_weight` times `jump_nats`. The network sees states [B, ...] and returns logits
  [B, ..., K] of p(x_0 | all variables but this element's own x_t), as
  `make_state_denoiser`'s does; K is 1 more than the values of data with a masked state.
  """
  mask = process.mask
  weight = uniform_weight(schedule) if mask is None else masked_weight(schedule)

  def prior(key, shape, level):
    return prior_sample_states(key, shape, process)

  def noised(key, x0, level):
    return q_sample_states(key, x0, process, level), ()

  def estimate(output, xt, level):
    return posterior_logits(output.astype(jnp.float32), xt, process, level)

  def loss(output, x0, xt, noise, level):
    logits = estimate(output, xt, level)
    if mask is None:
      nats = sum_data_axes(jump_nats(logits, x0, xt, process, level))
    else:
      nats = state_nll(logits, x0, xt == mask)
    return nan_unless_data(of_noisy(weight, schedule, level) * nats, x0, process)

  return Variable(schedule, prior, noised, estimate, loss, level_axes=level_axes)


def known_elements(x: Array, level_axes: int) -> Array:
  """Returns what is known of x, bool of the shape of its levels, [B] or [B, T].

  A number that is NaN and a state below 0 are not known, nor is an element with one of them.
  """
  known = x >= 0 if jnp.issubdtype(x.dtype, jnp.integer) else ~jnp.isnan(x)
  return known.reshape(*x.shape[:level_axes], -1).all(axis=-1)


def draw_noised(
  variable: Variable, key: Key, x0: Array, level: NoiseLevel, known: Array
) -> tuple[Array, PyTree]:
  """Returns (x_t, noise) of a variable; x_t is from the prior where x_0 is not known."""
  noise_key, prior_key = jax.random.split(key)
  xt, noise = variable.noised(noise_key, x0, level)
  start = placed_as(x0, variable.prior(prior_key, x0.shape, variable.schedule(1.0)))
  return jnp.where(expand_to(known, xt), xt, start), noise
