"""The bound of uniform states in continuous time.

UDLM (Schiff et al. 2024), Duo (Sahoo et al. 2025).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import weighted_sum
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.levels import Grid, NoiseLevel, Schedule
from diffusion_jax.core.process import level_slopes
from diffusion_jax.discrete.equations import (
  StateDenoiser,
  prior_kl_states,
  q_sample_states,
)
from diffusion_jax.discrete.level_paths import mean_on_path, of_noisy
from diffusion_jax.discrete.transitions import ReplacementProcess, States
from diffusion_jax.ranges import Size

Array = jax.Array


@checked
def jump_nats(
  logits: Array, x0: States, xt: States, process: ReplacementProcess, level: NoiseLevel
) -> Array:
  """Computes what the bound of an element grows by per log alpha, in nats, [B, ...].

  An element jumps back from i = x_t to j at the rates pi_i r_j, where r_j = q(x_t = j | x_0) /
  q(x_t = i | x_0), and at those of its mean r'_j over p(x_0 | x_t) in the model. The result
  is sum_j pi_i (r'_j - r_j + r_j log(r_j / r'_j)), and -alpha' / alpha times it the
  integrand of the bound (Schiff et al. 2024, UDLM, whose x_theta are the network's own
  probabilities, without Bayes' rule). With a masked state it is alpha / (1 - alpha) times
  the nll of masked elements. logits of p(x_0 | x_t): [B, ..., K]; levels of any shape.
  """
  level = level.expand_to(logits)
  prior = process.prior.reshape((1,) * x0.ndim + (-1,))
  at_x0, at_xt = (jax.nn.one_hot(x, prior.shape[-1], dtype=bool) for x in (x0, xt))
  p = jax.nn.softmax(logits)
  others = jnp.sum(jnp.where(at_xt, 0.0, p), axis=-1, keepdims=True)  # has more digits than 1 - p_i
  stays = jnp.any(at_x0 & at_xt, axis=-1, keepdims=True)
  # q(x_t = i | x_0) is alpha + sigma pi_i if x_0 = i, else sigma pi_i: their ratio, and 1 - it.
  of_xt = level.sigma * jnp.sum(prior * at_xt, axis=-1, keepdims=True)
  total = level.alpha + of_xt
  ratio, lost = of_xt / total, level.alpha / total
  scale = level.alpha / jnp.where(level.sigma > 0.0, level.sigma, 1.0)
  rate = scale * at_x0 + prior * jnp.where(stays, ratio, 1.0)
  excess = scale * (p - at_x0) + prior * lost * (others - ~stays)
  known = jnp.where(rate > 0.0, rate, 1.0)
  terms = excess - rate * jnp.log1p(jnp.where(rate > 0.0, excess / known, 0.0))
  moves = ~at_xt & (of_xt > 0.0)
  return jnp.sum(jnp.where(moves, terms, 0.0), axis=-1)


@checked
def uniform_weight(schedule: Schedule) -> Callable[[NoiseLevel], Array]:
  """Makes the weight of `jump_nats`, level -> [] or [B]: -alpha' / alpha, 0 at alpha = 0."""

  def weight(level):
    has_signal = level.alpha > 0.0
    slope = level_slopes(schedule, level.t)[0]
    return jnp.where(has_signal, -slope / jnp.where(has_signal, level.alpha, 1.0), 0.0)

  return weight


@checked
def uniform_bound(
  key: Key,
  denoise: StateDenoiser,
  process: ReplacementProcess,
  schedule: Schedule,
  x0: States,
  *,
  num_times: Size = 1,
  levels: Grid | None = None,
) -> Array:
  """Computes the bound -log p(x_0) <= L_T + E[weight * jump_nats] in nats, [B].

  It is `state_bound` of infinitely many steps (Schiff et al. 2024, UDLM), with
  `uniform_weight`, and holds for noise of any prior. The times are squares of antithetic
  ones, as terms are large near clean data. For the arguments see `masked_bound`; the
  schedule must be clean at t = 0.
  """
  weight = uniform_weight(schedule)

  def term(keys, place):
    xt = q_sample_states(keys, x0, process, place.level)
    nats = jump_nats(denoise(xt, place.level), x0, xt, process, place.level)
    return weighted_sum(place.speed * of_noisy(weight, schedule, place.level), nats)

  nats = mean_on_path(key, schedule, levels, len(x0), num_times, term, power=2)
  first = schedule(1.0) if levels is None else levels.take(0)
  return nats + prior_kl_states(x0, process, first, first.sigma > 0.0)
