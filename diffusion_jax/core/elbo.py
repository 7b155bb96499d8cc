"""The variational bound, term by term, in nats summed over data axes.

-log p(x_0) <= L_T + sum_t L_{t-1} + L_0 (DDPM Eq. 3 and 5): the prior, the
transitions t = 2..T, and the decoder p(x_0 | x_1).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypedDict

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import as_float, check_same_shape, sum_data_axes
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.denoiser import Denoiser, predict
from diffusion_jax.core.keys import draw_normal, fold_each, key_per_example, split_key
from diffusion_jax.core.levels import NoiseLevel, Schedule, check_one_level, clean_level
from diffusion_jax.core.normal import Cdf, Normal, discretized_log_prob, kl
from diffusion_jax.core.process import Variance, p_reverse, q_posterior, q_sample, reverse_variance
from diffusion_jax.meshes import on_auto_axes, placed_as
from diffusion_jax.ranges import Several, Size

Array = jax.Array


class LastStep(NamedTuple):
  """The input of a decoder: p(x_0 | z) = N(mean, variance), and z [B, ...].

  It has the fields of a `Normal`; level, [], is the level of z.
  """

  mean: Array | float
  variance: Array | float
  z: Array
  level: NoiseLevel


@checked
def prior_kl(x0: Array, level_T: NoiseLevel) -> Array:
  """Computes L_T = KL(q(x_T | x_0) || p(x_T)) in nats, [B] (DDPM Eq. 5).

  The prior is N(0, (alpha^2 + sigma^2) I) as in `prior_sample`, N(0, I) for
  variance-preserving schedules. x0: [B, ...]; level_T: the last level, [] or
  [B].
  """
  level = NoiseLevel.expand_to(level_T, x0)
  variance = level.sigma**2
  prior = Normal(jnp.zeros_like(x0), level.alpha**2 + variance)
  return sum_data_axes(kl(Normal(level.alpha * x0, variance), prior))


@checked
def diffusion_kl(
  x0: Array, xt: Array, model: Normal, level_s: NoiseLevel, level_t: NoiseLevel
) -> Array:
  """Computes L_{t-1} = KL(q(x_s | x_t, x_0) || model), [B] (DDPM Eq. 5).

  x0, xt: [B, ...]; model: p(x_s | x_t), such as `p_reverse` returns; levels: []
  or [B], s not clean (see `reconstruction_nll`).
  """
  return _kl_of_step(q_posterior(x0, xt, level_s, level_t), model)


def _kl_of_step(q, model):
  # Between levels that are equal up to rounding both are the same point.
  same = (q.variance == 0.0) & (model.variance == 0.0)
  q, model = (
    Normal(jnp.where(same, 0.0, p.mean), jnp.where(same, 1.0, p.variance)) for p in (q, model)
  )
  return sum_data_axes(kl(q, model))


@checked
def reconstruction_nll(
  x0: Array, model: Normal | LastStep, num_levels: Several = 256, cdf: Cdf = 'exact'
) -> Array:
  """Computes L_0 = -log p(x_0 | x_1) of DDPM's decoder, [B] (Eq. 13).

  x0: [B, ...], `num_levels` values evenly spaced on [-1, 1]; model: p(x_0 |
  x_1) before it is discretised; cdf: as in `discretized_log_prob`.
  """
  p = Normal(model.mean, model.variance)
  return -sum_data_axes(discretized_log_prob(p, x0, num_levels, cdf))


def bound_term(
  x0: Array,
  xt: Array,
  model: Normal,
  level_s: NoiseLevel,
  level_t: NoiseLevel,
  decoder: Callable[[Array, Normal], Array] = reconstruction_nll,
) -> Array:
  """Computes L_0 where s is clean and L_{t-1} elsewhere, in nats, [B].

  T times its mean over steps t ~ U{1..T} is L_vlb without L_T (Nichol &
  Dhariwal 2021, Eq. 4-7). model: p(x_s | x_t), with a variance > 0 also where s
  is clean (`first` of `p_reverse`). Values and gradients are finite.
  """
  check_one_level(level_s, 'bound_term')
  clean = level_s.expand_to(x0).sigma == 0.0
  q = q_posterior(x0, xt, level_s, level_t)
  # Both forms are evaluated for all examples, at harmless values where the
  # other is selected: infinities that are not selected have NaN gradients.
  q = Normal(q.mean, jnp.where(clean, 1.0, q.variance))
  at_x0 = Normal(jnp.where(clean, model.mean, x0), jnp.where(clean, model.variance, 1.0))
  return jnp.where(level_s.sigma == 0.0, decoder(x0, at_x0), _kl_of_step(q, model))


@checked
def categorical_nll(x0: Array, z0: Array, level: NoiseLevel, num_levels: Several = 256) -> Array:
  """Computes -log p(x_0 | z_0) of VDM's decoder in nats, [B].

  For each element, p(v | z_0) is proportional to q(z_0 | v) = N(z_0; alpha v,
  sigma^2) over the values v (Kingma et al. 2021, section 3.1). x0: [B, ...],
  `num_levels` values evenly spaced on [-1, 1]; z0: [B, ...]; level: the level
  of z0, [] or [B].
  """
  check_same_shape(x0=x0, z0=z0)
  z = z0[..., None]
  level = NoiseLevel.expand_to(level, z)
  values = jnp.linspace(-1.0, 1.0, num_levels, dtype=level.alpha.dtype)
  values = values.reshape((1,) * x0.ndim + (num_levels,))
  logits = -0.5 * jnp.square((z - level.alpha * values) / level.sigma)
  index = jnp.rint((x0 + 1.0) * (num_levels - 1) / 2.0).astype(int)
  log_prob = jax.nn.log_softmax(logits, axis=-1)
  at_x0 = jnp.take_along_axis(log_prob, index[..., None], axis=-1)[..., 0]
  return -sum_data_axes(at_x0)


class BoundTerms(TypedDict):
  """The arrays that `variational_bound` returns."""

  prior: Array
  diffusion: Array
  reconstruction: Array
  total: Array
  squared_error: Array


class Decoder(Protocol):
  """The last term of the bound, p(x_0 | z)."""

  def __call__(self, x0: Array, last: LastStep, /) -> Array:
    """Returns -log p(x_0 | z) in nats, [B]; x0: [B, ...]."""
    ...


@checked
def variational_bound(
  key: Key,
  denoise: Denoiser,
  schedule: Schedule,
  x0: Array,
  *,
  num_steps: Size,
  variance: Variance = 'fixed_small',
  steps: Size | None = None,
  decoder: Decoder = reconstruction_nll,
) -> BoundTerms:
  """Computes the bound of DDPM Eq. 5 in nats, from one draw of noise per step.

  Args:
    key: [] or [B], where image i depends only on key i. x0: [B, ...].
    num_steps: T >= 1. T = 1 is a VAE and needs variance='fixed_large'.
    steps: How many of the steps 2..T to draw for each image, 1..T-1, more often
      where terms are larger. Their entries are divided by the expected number
      of draws, to stay unbiased; the other entries are 0.
    decoder: (x0, LastStep) -> nats [B], such as VDM's lambda x0, s:
      categorical_nll(x0, s.z, s.level).
  Returns:
    'prior' [B], L_T; 'diffusion' [B, T], whose entry i is L_i (L_0: VDM's
    transition to schedule(0), 0 if that is clean); 'reconstruction' [B];
    'total' [B]; 'squared_error' [B, T], |x_0 - x0_hat|^2 at t = (i + 1) / T.
  """
  _check_steps(num_steps, variance, steps)
  x0 = as_float(x0)
  choice_keys, keys = split_key(key_per_example(key, len(x0)), 2)

  def at_step(step):
    return schedule(jnp.asarray(step / num_steps, x0.dtype))

  # The decoder starts from the cleanest level with noise.
  starts_clean = at_step(0).sigma == 0.0
  first = jnp.where(starts_clean, 1, 0)
  terms_at = _make_terms_at(at_step, first, num_steps, variance, decoder, x0)
  drawn, expected = draw_steps(choice_keys, at_step(jnp.arange(1, num_steps + 1)), steps)
  rows = _rows(drawn, first, starts_clean)
  terms, errors = jax.lax.map(lambda row: terms_at(keys, denoise, *row), rows)
  prior = prior_kl(x0, at_step(num_steps))
  diffusion = _by_step(terms[0], terms[2:], drawn, expected)
  at_first = jnp.where(starts_clean, errors[1], errors[0])
  return {
    'prior': prior,
    'diffusion': diffusion.T,
    'reconstruction': terms[1],
    'total': prior + jnp.sum(diffusion, axis=0) + terms[1],
    'squared_error': _by_step(at_first, errors[2:], drawn, expected).T,
  }


def _check_steps(num_steps, variance, steps):
  if num_steps == 1 and variance != 'fixed_large':
    raise ValueError(
      f'num_steps is 1: {variance!r} needs the variance of step 2; use '
      "'fixed_large' or at least 2 steps"
    )
  if steps is not None and not 1 <= steps < num_steps:
    raise ValueError(
      f'steps is {steps}: it must be in 1..{num_steps - 1} for num_steps={num_steps}'
    )


def _rows(drawn, first, starts_clean):
  # A single loop computes all terms: it holds one batch in memory and compiles
  # the network once. Its rows (step [B], decodes, counts) are the transition to
  # schedule(0), the decoder, and the drawn steps.
  ends = jnp.stack([1, first])[:, None]
  ends = jnp.broadcast_to(ends, (2, drawn.shape[1]))
  steps = jnp.concatenate((ends, drawn))
  index = jnp.arange(len(steps))
  return steps, index == 1, (index > 0) | ~starts_clean


def _make_terms_at(at_step, first, num_steps, variance, decoder, x0):
  # The nats and squared errors, [B] each, are 0 unless the step counts.
  beta_tilde_2 = None
  if num_steps > 1:
    beta_tilde_2 = reverse_variance('fixed_small', at_step(first), at_step(first + 1))

  def transition(step, xt, prediction):
    level_s, level_t = at_step(step - 1), at_step(step)
    model = p_reverse(prediction.x0, xt, level_s, level_t, variance, prediction.var_frac)
    return diffusion_kl(x0, xt, model, level_s, level_t)

  def decode(step, z, prediction):
    level = at_step(first)
    x0_hat, var_frac = prediction
    p = p_reverse(
      x0_hat, z, clean_level(), level, variance=variance, var_frac=var_frac, first=beta_tilde_2
    )
    return decoder(x0, LastStep(p.mean, p.variance, z, level))

  def terms_at(keys, denoise, step, decodes, counts):
    def evaluate():
      # The noise depends on the step only, not on the other drawn steps.
      step_keys = fold_each(keys, step)
      xt = q_sample(x0, draw_normal(step_keys, x0), at_step(step))
      prediction = predict(denoise, xt, at_step(step))
      nats = jax.lax.cond(decodes, decode, transition, step, xt, prediction)
      return nats, sum_data_axes(jnp.square(x0 - prediction.x0))

    zeros = placed_as(x0, jnp.zeros(len(x0), x0.dtype))
    return jax.lax.cond(counts, evaluate, lambda: (zeros, zeros))

  return terms_at


def draw_steps(keys: Array, levels: NoiseLevel, steps: int | None) -> tuple[Array, Array]:
  """Draws `steps` of 2..T for each key, [N, B], or all.

  Returns also how often each of 2..T is drawn on average, [T - 1]. levels: of the steps 1..T.
  """
  every = jnp.arange(2, len(levels.t) + 1)
  if steps is None:
    return jnp.repeat(every[:, None], len(keys), axis=1), jnp.ones(len(every))
  # Terms of x_0 ~ N(0, I), (SNR_s - SNR_t) E|x_0 - E[x_0 | x_t]|^2 / 2 (VDM Eq.
  # 13). A tenth is uniform, as other images and models have other terms.
  snr = jax.lax.stop_gradient(jnp.square(levels.alpha / levels.sigma))
  terms = (snr[:-1] - snr[1:]) / (1.0 + snr[1:])
  ends = jnp.cumsum(0.9 * terms / jnp.sum(terms) + 0.1 / len(terms))
  # Systematic sampling: one random number places all points.
  points = jax.vmap(jax.random.uniform)(keys)[None] + jnp.arange(steps)[:, None]
  index = jnp.searchsorted(ends, points / steps * ends[-1], side='right')
  expected = steps * jnp.diff(ends, prepend=0.0) / ends[-1]
  return every[jnp.minimum(index, len(every) - 1)], expected


@on_auto_axes
def _by_step(step_1, others, drawn, expected):
  # Returns the table [T, B] with the values of step 1 and of the drawn steps,
  # which are divided by their expected number: their sum stays unbiased.
  others = (others / expected[drawn - 2]).astype(step_1.dtype)
  table = jnp.zeros_like(others, shape=(len(expected) + 1, len(step_1)))
  place = drawn - 1, jnp.arange(len(step_1))[None]
  return table.at[0].set(step_1).at[place].add(others)
