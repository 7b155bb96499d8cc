"""Particles: weighted samples of a law that no model has, exact for many.

Sequential Monte Carlo over the reverse process: K particles of each image move
by the model, have weights, and are resampled. For p(x_0) exp(r(x_0)) the
targets at noisy levels are p(x_t) psi_t(x_t), with a twist psi_t that estimates
E[exp(r(x_0)) | x_t]. Any positive psi_t gives the right weights; a constant
factor of it cancels. For prod_i q_i(x_0)^beta_i they are prod_i q_i(x_t)^beta_i.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import (
  as_float,
  check_at_least,
  check_positive,
  kind_of,
)
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.denoiser import Prediction, predict
from diffusion_jax.core.keys import draw_index, draw_normal, draw_uniform, split_key
from diffusion_jax.core.levels import check_one_level
from diffusion_jax.core.measurements import LogLikelihood
from diffusion_jax.core.parametrization import eps_from_x0
from diffusion_jax.core.process import (
  Variance,
  alpha_ratio,
  one_minus_snr_ratio,
  p_reverse,
  reverse_variance,
)
from diffusion_jax.core.products import finished, softmax
from diffusion_jax.meshes import on_auto_axes, placed_as
from diffusion_jax.posteriors.twists import (
  Twist,
  tempered_twist,
)
from diffusion_jax.ranges import Finite, Probability, Several
from diffusion_jax.sampling.sampler import Sampler

Array = jax.Array


class Particles(NamedTuple):
  """The state of `steered`, for B populations of K particles.

  log_weights: [B, K]; log_evidence: [B]; lowest_ess: [B], the lowest effective
  number of particles of all steps; pending: [B, K], the part of the weights
  that waits for the next prediction. After the last step the mean weight is 1,
  and log_evidence is log E[exp(r(x_0))] in nats, -inf if all particles are
  impossible. Its exponential is unbiased for the chain of the sampler. In
  `feynman_kac` it estimates the log of the integral of prod_i q_i(x_0)^beta_i.
  """

  log_weights: Array
  log_evidence: Array
  lowest_ess: Array
  pending: Array


@checked
def steered(
  log_likelihood: LogLikelihood,
  twist: Twist | None = None,
  variance: Variance = 'fixed_small',
  use_gradient: bool = True,
  threshold: Probability = 0.5,
) -> Sampler:
  """Makes the sampler of weighted particles of p(x_0) exp(r(x_0)).

  With gradients it is TDS (Wu et al. 2023, Alg. 1), without them FK steering
  (Singhal et al. 2025, potential "difference"). x is [B, K, ...], with keys []
  or [B]. The denoiser gets B K examples, the particles of an image next to each
  other, so its conditions are repeated K times. `sample_with_state` returns
  the `Particles`; `pick` draws one particle of each population.

  Args:
    log_likelihood: r, x_0 [B, ...] -> [B] in nats, such as
      `Measurement.log_prob` or a reward. NaN and -inf are impossible images. An
      impossible estimate of a noisy image counts as 3 nats below the lowest
      possible one of its population, since its x_0 may still be possible.
    twist: log psi_t; None: `tempered_twist`, for rewards. For measurements take
      `pseudoinverse_twist`.
    variance: Of p(x_s | x_t), as in `reverse_variance`; it must be above 0.
    use_gradient: Whether the gradient of the twist moves the mean.
    threshold: Populations are resampled when their effective number of
      particles is below threshold K; ValueError outside [0, 1].
  """
  twist = tempered_twist(log_likelihood) if twist is None else twist

  def step(key, x, state, denoise, *, level_s, level_t):
    estimate = _estimate_with_gradient if use_gradient else _estimate
    estimates = estimate(twist, x, denoise, level_t)
    x, state, estimates = _resampled(key, x, state, estimates, threshold)
    log_psi, (x0, var_frac), gradient = estimates
    p = p_reverse(x0, x, level_s, level_t, variance, var_frac)
    noisy = level_s.sigma > 0.0
    std = jnp.where(noisy, jnp.sqrt(p.variance), 0.0)
    noise = draw_normal(key, x)
    move = std * gradient
    x = p.mean + std * (move + noise)
    # log p(x_s | x_t) - log q(x_s | x_t) of the particle's own noise.
    ratio = -jnp.sum(move * (0.5 * move + noise), axis=tuple(range(2, x.ndim)))
    moved = state._replace(pending=ratio - log_psi)
    last = functools.partial(_last, log_likelihood, x)
    return x, jax.lax.cond(noisy, lambda moved: moved, last, moved)

  return Sampler(_first, step)


@checked
def feynman_kac(powers: Sequence[Finite], threshold: Probability = 0.5) -> Sampler:
  """Makes the sampler of weighted particles of prod_i q_i(x_0)^beta_i.

  Powers (w, 1 - w) give the law that classifier-free guidance names, (beta,) is
  tempering (Skreta et al. 2025). x is [B, K, ...], K >= 2; `sample_with_state`
  returns the `Particles`. Begin with N(0, sigma^2 / b), b = sum beta. The
  denoiser is a function (x_t, level) -> a Prediction of each q_i, such as
  `paired`. By Bayes' rule at b = 1 a step has the weight

    prod_i p_i(x_s | x_t)^beta_i / p(x_s | x_t),

  with the `reverse_variance` 'fixed_large' V of all p_i and the mean x_0 of
  their powers: exp(-sum_i beta_i |mu_i - mu|^2 / (2 V)). Differences of x_0
  are constant where sigma > alpha and then fall as sigma^2 / alpha^2, so V and
  the weight are finite for steps of any size. Steps are exact for normal q_i of
  variance 1, others by more steps; too few steps have a low `lowest_ess`. The
  step to clean data adds neither noise nor weight.

  Args:
    powers: beta_i; ValueError unless their sum is above 0.
    threshold: As in `steered`.
  """
  total = sum(powers)
  total = 1.0 if math.isclose(total, 1.0) else total
  check_positive(sum_of_powers=total)

  def step(key, x, state, denoise, *, level_s, level_t):
    # float64 levels do not change the type of the particles.
    dtype = state.log_weights.dtype
    check_one_level(level_s, 'feynman_kac')
    level_s, level_t = jax.tree.map(lambda a: jnp.asarray(a, dtype), (level_s, level_t))
    noisy = level_s.sigma > 0.0
    weighted = _power_mean(powers, total, denoise, x, level_s, level_t)
    weighted = jnp.where(noisy, weighted[0], 0.0), *weighted[1:]
    x, state, (_, x0) = _resampled(key, x, state, weighted, threshold)
    kept, share = _precision(total, level_s, level_t)
    p = p_reverse(x0, x, level_s, level_t, 'fixed_large')
    x = (total * p.mean + (1.0 - total) * kept * x) / share
    x += jnp.where(noisy, jnp.sqrt(p.variance / share), 0.0) * draw_normal(key, x)

    def last(state):
      # The weights are of N(0, 1 + sigma^2 / alpha^2)^beta, normalized.
      variance = 1.0 + (level_t.sigma / level_t.alpha) ** 2
      rest = (1.0 - total) * jnp.log(2.0 * jnp.pi * variance) - math.log(total)
      evidence = state.log_evidence + 0.5 * math.prod(x.shape[2:]) * rest
      return _normalized(state._replace(log_evidence=evidence), state.log_weights)

    return x, jax.lax.cond(noisy, lambda state: state, last, state)

  return Sampler(_first, step)


def _precision(total, level_s, level_t):
  # Where beta add up to b, p^b q(x_t | x_s)^(1 - b) is normal in x_s, with
  # n = b + (1 - b) rho times the precision of p. Returns the factor of x_t in
  # its mean and n, for rho = (1 + sigma_s^2 / alpha_s^2) / (the same of t).
  ratio = alpha_ratio(level_s, level_t)
  kept = ratio * (level_s.alpha**2 + level_s.sigma**2) / (level_t.alpha**2 + level_t.sigma**2)
  return kept, total + (1.0 - total) * kept * ratio


def _power_mean(powers, total, denoise, x, level_s, level_t):
  # What a step adds to log w, [B, K], and the mean of the x_0 by their powers.
  predictions = denoise(x.reshape(-1, *x.shape[2:]), level_t)
  if isinstance(predictions, Prediction):
    predictions = (predictions,)
  if not isinstance(predictions, tuple) or len(predictions) != len(powers):
    raise TypeError(
      f'feynman_kac needs a function that returns {len(powers)} Predictions, '
      f'one for each power, not {kind_of(predictions)}'
    )
  axes, size = tuple(range(2, x.ndim)), math.prod(x.shape[2:])
  factors = [
    (power, as_float(p.x0).reshape(x.shape)) for power, p in zip(powers, predictions, strict=True)
  ]
  mean = sum(power * x0 for power, x0 in factors) / total
  spread = sum(power * jnp.sum((x0 - mean) ** 2, axis=axes) for power, x0 in factors)
  rate = one_minus_snr_ratio(level_s, level_t)
  variance = reverse_variance('fixed_large', level_s, level_t)
  log_weights = -0.5 * spread * (level_s.alpha * rate) ** 2 / variance
  if total != 1.0:
    _, share = _precision(total, level_s, level_t)
    square = jnp.sum(eps_from_x0(mean, x, level_t) ** 2, axis=axes)
    log_weights -= 0.5 * total * (1.0 - total) * rate / share * square
    log_weights -= 0.5 * size * jnp.log(share)
  return log_weights, mean


class Population(NamedTuple):
  """The state of `one_of`: x of all particles, [B, K, ...], and their weights."""

  is_first: Array
  x: Array
  particles: Particles

  @property
  def lowest_ess(self) -> Array:
    """Returns the lowest effective number of particles of all steps, [B]."""
    return self.particles.lowest_ess


@checked
def one_of(sampler: Sampler, num_particles: Several) -> Sampler:
  """Makes a sampler of single images, x [B, ...], from a sampler of particles.

  Each image becomes a population that begins with x and with more noise of the
  first level. The result is one particle, drawn by its weight, and `lowest_ess`
  of the state says how many particles had weight. The denoiser is mapped over
  particles, so its conditions are [B, ...]. Raises ValueError for num_particles < 2.
  """

  def init(x):
    particles = jnp.repeat(x[:, None], num_particles, axis=1)
    return Population(jnp.array(True), particles, sampler.init(particles))

  def step(key, x, state, denoise, *, level_s, level_t):
    check_one_level(level_t, 'one_of', axes=0)
    is_first, particles, inner = state
    start_key, key, pick_key = split_key(key, 3)

    def first():
      std = jnp.hypot(level_t.alpha, level_t.sigma).astype(particles.dtype)
      return (std * draw_normal(start_key, particles)).at[:, 0].set(x)

    def of_all(flat, level):
      each = jax.vmap(lambda x: denoise(x, level), in_axes=1, out_axes=1)
      apart = each(flat.reshape(particles.shape))
      return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), apart)

    particles = jax.lax.cond(is_first, first, lambda: particles)
    particles, inner = sampler.step(key, particles, inner, of_all, level_s=level_s, level_t=level_t)
    x = pick(pick_key, particles, inner.log_weights)
    return x, Population(jnp.array(False), particles, inner)

  return Sampler(init, step)


def _first(x):
  # The state before the first step.
  if x.ndim < 3:
    raise ValueError(f'x has the shape {list(x.shape)}: the sampler needs particles, [B, K, ...]')
  check_at_least(2, particles_of_an_image=x.shape[1])
  zero = placed_as(x, jnp.zeros(x.shape[:2], x.dtype))
  return Particles(zero, zero[:, 0], zero[:, 0] + x.shape[1], zero)


def _estimate(twist, x, denoise, level):
  # (log psi [B, K], Prediction, gradient 0) of particles.
  flat = predict(denoise, x.reshape(-1, *x.shape[2:]), level)
  prediction = jax.tree.map(lambda a: a.reshape(*x.shape[:2], *a.shape[1:]), flat)
  log_psi = _finite(_of_each(lambda x0: twist(x0, level))(prediction.x0))
  gradient = jnp.zeros((*x.shape[:2], *[1] * (x.ndim - 2)), x.dtype)
  return log_psi, prediction, gradient


def _estimate_with_gradient(twist, x, denoise, level_t):
  # The same with the gradient of log psi.
  def total(x):
    log_psi, prediction, _ = _estimate(twist, x, denoise, level_t)
    return jnp.sum(log_psi), (log_psi, prediction)

  (_, estimates), gradient = jax.value_and_grad(total, has_aux=True)(x)
  # At alpha = 0, x_t is independent of x_0.
  good = jnp.isfinite(gradient) & (level_t.alpha > 0.0)
  return *estimates, jnp.where(good, gradient, 0.0)


def _resampled(key, x, state, estimates, threshold):
  # (x, state, estimates) after the estimates have weighted the particles.
  log_weights = state.log_weights + state.pending + estimates[0]
  ess = effective_number(log_weights)
  lowest_ess = jnp.minimum(state.lowest_ess, ess)
  again = ess < threshold * x.shape[1]
  index = _systematic(key, log_weights)
  index = jnp.where(again[:, None], index, jnp.arange(x.shape[1])[None])
  x, estimates = jax.tree.map(lambda a: _chosen(a, index), (x, estimates))
  evidence = jnp.where(again, _log_mean(log_weights), 0.0)
  state = state._replace(
    log_weights=jnp.where(again[:, None], 0.0, log_weights),
    log_evidence=state.log_evidence + evidence,
    lowest_ess=lowest_ess,
  )
  return x, state, estimates


def _last(log_likelihood, x, moved):
  # The state of images x without noise, weighted by their own likelihood.
  log_weights = moved.log_weights + moved.pending
  log_weights += _possible(_of_each(log_likelihood)(x))
  return _normalized(moved, log_weights)


def _normalized(moved, log_weights):
  # The last state, whose mean weight is in the evidence.
  mean = _log_mean(log_weights)
  return Particles(
    log_weights - jnp.where(jnp.isfinite(mean), mean, 0.0)[:, None],
    moved.log_evidence + mean,
    jnp.minimum(moved.lowest_ess, effective_number(log_weights)),
    jnp.zeros_like(moved.pending),
  )


@checked
def pick(key: Key, x: Array, log_weights: Array) -> Array:
  """Draws one particle of each population by its weight, [B, ...].

  x: [B, K, ...]; log_weights: [B, K]; key: [] or [B].
  """
  if x.shape[:2] != log_weights.shape:
    shapes = f'x {list(x.shape)} and log_weights {list(log_weights.shape)}'
    raise ValueError(f'{shapes} must be [B, K, ...] and [B, K]')
  return _chosen(x, draw_index(key, log_weights))


@on_auto_axes
def _chosen(x, index):
  # Particles [B, ...] or [B, K, ...] of x [B, K, ...].
  return jax.vmap(lambda row, i: row[i])(x, index)


def effective_number(log_weights: Array) -> Array:
  """Computes (sum w)^2 / sum w^2 of weights [B, K], [B]; 0 if all w are 0."""
  normalized = softmax(_alive(log_weights))
  some = jnp.any(log_weights > -jnp.inf, axis=1)
  return jnp.where(some, 1.0 / jnp.sum(normalized**2, axis=1), 0.0)


def _of_each(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
  # [B, K, ...] -> [B, K], of a function [B, ...] -> [B].
  return jax.vmap(function, in_axes=1, out_axes=1)


def _possible(log_weights):
  return jnp.where(jnp.isnan(log_weights), -jnp.inf, log_weights)


def _finite(log_psi):
  # Any positive twist gives the right weights, also one of the population's.
  good = jnp.isfinite(log_psi)
  lowest = jnp.min(log_psi, axis=1, keepdims=True, initial=jnp.inf, where=good)
  lowest = jax.lax.stop_gradient(jnp.where(lowest < jnp.inf, lowest, 0.0))
  return jnp.where(good, log_psi, lowest - 3.0)


def _alive(log_weights):
  # Equal weights where all are 0, whose softmax would be NaN.
  some = jnp.any(log_weights > -jnp.inf, axis=1, keepdims=True)
  return jnp.where(some, log_weights, 0.0)


def _log_mean(log_weights):
  count = log_weights.shape[1]
  return jax.nn.logsumexp(finished(log_weights), axis=1) - jnp.log(count)


def _systematic(key, log_weights):
  # Systematic resampling: K even positions with one random offset, [B, K].
  key = split_key(key, 2)[1]  # the key itself draws the noise of the step
  total = jnp.cumsum(softmax(_alive(log_weights)), axis=1)
  offset = draw_uniform(key, log_weights[:, :1])
  return _places(total, offset)


@on_auto_axes
def _places(total, offset):
  # The index of each position in the cumulated weights, [B, K].
  count = total.shape[1]
  positions = (jnp.arange(count)[None] + offset) / count * total[:, -1:]
  # Rounding may not choose a particle of weight 0 at the end.
  search = functools.partial(jnp.searchsorted, side='right')
  index = jax.vmap(search)(total, positions)
  highest = jnp.argmax(total >= total[:, -1:], axis=1)
  return jnp.minimum(index, highest[:, None])
