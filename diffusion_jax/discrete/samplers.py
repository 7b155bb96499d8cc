"""Samplers of discrete states for `sample`, and their wrappers.

x is an array of integers [B, ...], and denoisers return logits [B, ..., K] of
p(x_0 | x_t) (`make_state_denoiser`). Where they are NaN x becomes -1 and stays.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from diffusion_jax.core.arguments import (
  check_same_shape,
  expand_to,
  sum_data_axes,
)
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.keys import draw_uniform, key_per_example, split_key
from diffusion_jax.core.levels import NoiseLevel, Schedule, check_one_level, clean_level
from diffusion_jax.declared import declares
from diffusion_jax.discrete.equations import (
  NEVER,
  StateDenoiser,
  draw_states,
  p_reverse_states,
)
from diffusion_jax.discrete.masked import mask_of
from diffusion_jax.discrete.transitions import StateProcess, States
from diffusion_jax.ranges import NonNegative, Probability, Shape, within
from diffusion_jax.sampling.inpainting import check_mask
from diffusion_jax.sampling.sampler import Sampler

Array = jax.Array


@checked
def prior_sample_states(key: Key, shape: Shape, process: StateProcess) -> Array:
  """Draws x_T from the prior, integers of `shape`, [B, ...]; key: [] or [B].

  A prior that is the masked state alone needs no random numbers.
  """
  if process.mask is not None and _is_certain(process.prior, process.mask):
    of_rows = draw_uniform(key, jnp.zeros(shape[:1]))  # only the devices of its rows are used
    masked = jnp.full(shape, process.mask, int)
    return jnp.where(expand_to(of_rows, masked) < 2.0, masked, masked)
  prior = jax.lax.optimization_barrier(process.prior)  # XLA would fold it
  return draw_states(key, jnp.broadcast_to(prior, (*shape, len(prior))))


def _is_certain(prior, state):
  return not isinstance(prior, Tracer) and np.asarray(prior)[state] == 1.0


@declares(
  what='draws all elements of x_s from p(x_s | x_t), independently', calls='N', draws_noise=True
)
@checked
def ancestral_states(process: StateProcess) -> Sampler:
  """Makes the sampler that draws x_s from `p_reverse_states` (D3PM, Eq. 4).

  It draws the elements of x_s independently, so a few large steps lose their
  correlations.
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    probs = p_reverse_states(denoise(x, level_t), x, process, level_s, level_t)
    return draw_states(key, probs), state

  return Sampler(lambda x: (), step)


@declares(
  what='draws the times of unmasking exactly, one element at a time; exact on any grid (Zheng '
  'et al. 2024)',
  calls='elements',
  draws_noise=True,
  one_level=True,
)
@checked
def first_hitting(process: StateProcess, schedule: Schedule) -> Sampler:
  """Makes the sampler that unmasks one element at a time (Zheng et al. 2024).

  It draws the times at which the reverse process unmasks elements exactly, and
  calls the denoiser at each of them, once per element. With the exact denoiser
  the samples have the distribution of the data for any grid, even for one step
  from t = 1 to clean data. ValueError for a process without a masked state.
  """
  mask = mask_of(process, 'first_hitting')

  def next_hit(keys, x, sigma, level_s):
    # Each of n masked elements stays masked down to its own sigma, uniform
    # below the current one. Returns the largest of them, or 0 if level s comes
    # first.
    count = sum_data_axes(x == mask)
    u = 1.0 - draw_uniform(keys, sigma)
    hit = sigma * u ** (1.0 / jnp.maximum(count, 1))
    return jnp.where((count > 0) & (hit > level_s.sigma), hit, 0.0)

  def step(key, x, state, denoise, *, level_s, level_t):
    check_one_level(level_s, 'first_hitting')

    def unmask_one(carry):
      keys, x, sigma = carry
      keys, place_keys, draw_keys, hit_keys = split_key(keys, 4)
      hits = sigma > 0.0
      sigma = jnp.where(hits, sigma, 0.5)
      level = schedule.from_logsnr(2.0 * (jnp.log1p(-sigma) - jnp.log(sigma)))
      probs = p_reverse_states(denoise(x, level), x, process, clean_level(), level)
      drawn = draw_states(draw_keys, probs)
      score = draw_uniform(place_keys, probs[..., 0])
      first = _ranks(jnp.where(x == mask, score, 1.0)) == 0
      x = jnp.where(first & expand_to(hits, x), drawn, x)
      sigma = jnp.where(hits, next_hit(hit_keys, x, sigma, level_s), 0.0)
      return keys, x, sigma

    keys, hit_keys = split_key(key_per_example(key, len(x)), 2)
    sigma = jnp.broadcast_to(level_t.sigma, x.shape[:1])
    carry = keys, x, next_hit(hit_keys, x, sigma, level_s)
    carry = jax.lax.while_loop(lambda carry: jnp.any(carry[2] > 0.0), unmask_one, carry)
    return carry[1], state

  return Sampler(lambda x: (), step)


@declares(
  what='unmasks the most confident draws first (MaskGIT)',
  calls='N',
  draws_noise=True,
  one_level=True,
)
@checked
def confidence_ordered(process: StateProcess, temperature: NonNegative = 0.0) -> Sampler:
  """Makes the sampler of MaskGIT (Chang et al. 2022, section 3.2).

  It draws all masked elements and masks the least probable draws again, so that
  ceil(sigma_s N) of the N elements masked at the start remain masked. Gumbel
  noise times temperature * t_s is added to the log-probabilities; the paper has
  4.5 and `CosineMasking`, which starts at sigma = 1. ValueError for a process
  without a masked state and for a temperature below 0.
  """
  mask = mask_of(process, 'confidence_ordered')

  def step(key, x, state, denoise, *, level_s, level_t):
    check_one_level(level_s, 'confidence_ordered')
    key, noise_key = split_key(key, 2)
    probs = p_reverse_states(denoise(x, level_t), x, process, clean_level(), level_t)
    drawn = draw_states(key, probs)
    of_draw = jnp.take_along_axis(probs, drawn[..., None], axis=-1)[..., 0]
    exponential = -jnp.log(1.0 - draw_uniform(noise_key, of_draw))
    gumbel = -jnp.log(jnp.maximum(exponential, 1e-7))
    confidence = jnp.log(of_draw) + temperature * level_s.t * gumbel
    ranks = _ranks(jnp.where(x == mask, confidence, jnp.inf))
    # sigma_s N may be an integer up to float32 rounding.
    stays = ranks < expand_to(jnp.ceil(level_s.sigma * state - 1e-3), x)
    return jnp.where(stays & (x == mask), mask, drawn), state

  return Sampler(lambda x: sum_data_axes(x == mask), step)


@checked
def remasked(sampler: Sampler, process: StateProcess, eta: Probability) -> Sampler:
  """Makes a sampler that masks some elements again after each step.

  It steps to a level cleaner than s and returns to s by the forward process,
  which masks each element with probability eta sigma_s. With `ancestral_states`
  this is ReMDM (Wang et al. 2025). With eta = 1 every step goes to clean data
  and back. ValueError for a process without a masked state and for eta outside
  [0, 1].
  """
  mask_of(process, 'remasked')

  def step(key, x, state, denoise, *, level_s, level_t):
    key, mask_key = split_key(key, 2)
    kept = 1.0 - eta * level_s.sigma
    cleaner = NoiseLevel(level_s.t, level_s.alpha / kept, (1.0 - eta) * level_s.sigma / kept)
    x, state = sampler.step(key, x, state, denoise, level_s=cleaner, level_t=level_t)
    probs = jax.nn.one_hot(x, len(process.prior))
    probs = process.multiply(probs, cleaner, level_s)
    return draw_states(mask_key, probs), state

  return Sampler(sampler.init, step)


@checked
def keep_known(sampler: Sampler, known: States, mask: Array) -> Sampler:
  """Sets known elements to their values before and after each step.

  With a masked process this is exact: known elements are unmasked elements, and
  the others are sampled given them. With other processes it is not exact.
  known: [B, ...] like x; mask: True where known, broadcasts to `known`, or
  ValueError.
  """
  check_mask(known, mask)

  def fill(x):
    check_same_shape(x=x, known=known)
    return jnp.where(mask, known, x)

  def step(key, x, state, denoise, *, level_s, level_t):
    x, state = sampler.step(key, fill(x), state, denoise, level_s=level_s, level_t=level_t)
    return fill(x), state

  return Sampler(lambda x: sampler.init(fill(x)), step)


@checked
def guided_states(
  cond: StateDenoiser, uncond: StateDenoiser, scale: Array | float
) -> StateDenoiser:
  """Guides logits by uncond + scale (cond - uncond), like `classifier_free`.

  p(x_0 | x_t) of each element becomes proportional to p_cond^scale
  p_uncond^(1 - scale) (Ho & Salimans 2022; Chang et al. 2023, Muse). scale: []
  or [B]; 1 is the conditional model, 0 the unconditional one.
  """

  def denoise(xt, level):
    logits, other = cond(xt, level), uncond(xt, level)
    return other + expand_to(scale, logits) * (logits - other)

  return denoise


@checked
def top_p(denoise: StateDenoiser, p: Annotated[float, within('(0, 1]')]) -> StateDenoiser:
  """Keeps the most probable states whose probabilities add up to p or more.

  This is nucleus sampling for each element (Holtzman et al. 2020); it also
  keeps states as probable as the last one kept. ValueError unless 0 < p <= 1.
  """

  def truncated(xt, level):
    logits = denoise(xt, level)
    probs = jax.nn.softmax(logits)
    # Sums from the least probable state on keep the digits of rare states.
    ascending = jnp.sort(probs)
    kept = jnp.cumsum(ascending, axis=-1) > 1.0 - p
    least = jnp.where(kept.at[..., -1].set(True), ascending, jnp.inf)
    least = jnp.min(least, axis=-1, keepdims=True)
    return jnp.where(probs < least, NEVER, logits)  # NaN stays.

  return denoise if p == 1.0 else truncated


def _ranks(values):
  # Returns the rank of each element of [B, ...] within its example.
  order = jnp.argsort(values.reshape(len(values), -1), axis=1)
  return jnp.argsort(order, axis=1).reshape(values.shape)
