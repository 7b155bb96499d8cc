"""Equations of diffusion on discrete states (Austin et al. 2021, D3PM).

States are integers [B, ...], distributions and logits [B, ..., K]. A denoiser
is a function (x_t, level) -> logits of p(x_0 | x_t), element by element.
"""

from typing import Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import Params
from diffusion_jax.core.arguments import (
  as_float,
  check_numbers,
  check_same_shape,
  expand_to,
  sum_data_axes,
)
from diffusion_jax.core.checked import Key, checked, needed
from diffusion_jax.core.denoiser import Network, NetworkFn
from diffusion_jax.core.keys import draw_uniform, fold_each, key_per_example, split_key
from diffusion_jax.core.levels import Grid, NoiseLevel, Schedule, clean_level, select_level
from diffusion_jax.discrete.transitions import StateProcess, States
from diffusion_jax.ranges import Several

Array = jax.Array

# The logit of an impossible state. It is finite because guidance subtracts
# logits.
NEVER = -1e9


@needed('a denoiser of states, such as make_state_denoiser(...)')
class StateDenoiser(Protocol):
  """An estimate of clean states, such as `make_state_denoiser` returns."""

  def __call__(self, xt: Array, level: NoiseLevel, /) -> Array:
    """Returns logits of p(x_0 | x_t), [B, ..., K]; xt: [B, ...]."""
    ...


@checked
def states_of(x: Array, num_values: Several) -> Array:
  """Converts values x [...] evenly spaced on [-1, 1] to states 0..num_values-1."""
  return jnp.rint((x + 1.0) * (num_values - 1) / 2.0).astype(int)


@checked
def values_of(states: States, num_values: Several) -> Array:
  """Returns the values in [-1, 1] of states [...]: 0 if masked, NaN for -1."""
  values = states * (2.0 / (num_values - 1)) - 1.0
  values = jnp.where(states < num_values, values, 0.0)
  return jnp.where(states < 0, jnp.nan, values)


@checked
def draw_states(key: Key, probs: Array) -> Array:
  """Draws a state from each distribution [B, ..., K]; returns [B, ...].

  It descends a binary tree of sums, with a uniform number at each node: float32
  Gumbel noise is bounded, which sharpens distributions over many states (Zheng
  et al. 2024), and a cumulative sum loses states below 6e-8. A state with
  probability 0 is never drawn. key: [] or [B]; probs need not be normalised.
  Where they are NaN or all 0 the result is -1, which is not a state and stays.
  """
  sums, pairs = as_float(probs), []
  while sums.shape[-1] > 1:
    odd = [(0, 0)] * (sums.ndim - 1) + [(0, sums.shape[-1] % 2)]
    pairs.append(jnp.pad(sums, odd).reshape(*sums.shape[:-1], -1, 2))
    sums = jnp.sum(pairs[-1], axis=-1)
  total = sums[..., 0]
  shape = jnp.zeros((*total.shape, len(pairs)), total.dtype)
  coarse, fine = (draw_uniform(k, shape) for k in split_key(key, 2))
  uniform = coarse + fine * 2.0**-23  # the resolution near 0 is 2^-46
  drawn = jnp.zeros(total.shape, int)
  for i, pair in enumerate(reversed(pairs)):
    index = drawn[..., None, None]
    at = jnp.take_along_axis(pair, index, axis=-2, mode='promise_in_bounds')[..., 0, :]
    # The smaller part is compared, whose digits are exact.
    is_small = uniform[..., i] * jnp.sum(at, -1) < jnp.min(at, -1)
    drawn = 2 * drawn + (is_small == (at[..., 1] < at[..., 0]))
  return jnp.where((total > 0.0) & jnp.isfinite(total), drawn, -1)


@checked
def q_states(x0: States, process: StateProcess, level: NoiseLevel) -> Array:
  """Computes q(x_t | x_0) = x_0 Q_{t|0}, [B, ..., K] (D3PM Eq. 3)."""
  return process.multiply(_one_hot(x0, process), clean_level(), level)


@checked
def q_sample_states(key: Key, x0: States, process: StateProcess, level: NoiseLevel) -> Array:
  """Draws x_t given x_0, [B, ...]; key: [] or [B]."""
  return draw_states(key, q_states(x0, process, level))


@checked
def q_posterior_states(
  x0: States, xt: States, process: StateProcess, level_s: NoiseLevel, level_t: NoiseLevel
) -> Array:
  """Computes q(x_s | x_t, x_0), [B, ..., K] (D3PM Eq. 3, for any s < t).

  It is proportional to (x_t Q_{t|s}^T) * (x_0 Q_{s|0}), and all 0 if x_t is
  impossible given x_0. x0, xt: [B, ...]; levels: [] or [B].
  """
  check_same_shape(x0=x0, xt=xt)
  from_t = process.multiply(_one_hot(xt, process), level_s, level_t, True)
  return _normalized(from_t * q_states(x0, process, level_s))


@checked
def p_reverse_states(
  logits: Array, xt: States, process: StateProcess, level_s: NoiseLevel, level_t: NoiseLevel
) -> Array:
  """Computes p(x_s | x_t) = sum_x0 q(x_s | x_t, x_0) p(x_0 | x_t), [B, ..., K].

  logits of p(x_0 | x_t): [B, ..., K]; xt: [B, ...]; levels: [] or [B]. The
  masked state and states x_0 that cannot lead to x_t get probability 0 for any
  logits. If s is clean the result is p(x_0 | x_t).
  """
  log_q = _log_q(logits, xt, process, level_t)
  log_p = _log_p0(logits, log_q)
  ratio = jnp.where(log_q > NEVER, jnp.exp(log_p - log_q), 0.0)
  from_t = process.multiply(_one_hot(xt, process), level_s, level_t, True)
  return _normalized(from_t * process.multiply(ratio, clean_level(), level_s))


@checked
def posterior_logits(logits: Array, xt: States, process: StateProcess, level: NoiseLevel) -> Array:
  """Computes log p(x_0 | x_t) by Bayes' rule, [B, ..., K].

  It adds log q(x_t | x_0) to logits of p(x_0 | the other elements of x_t) and
  normalises. `p_reverse_states` is then the reverse process of D3PM (Eq. 4).
  With masking, x_0 is never the masked state and unmasked elements keep their
  values at every level (SUBS of MDLM, Sahoo et al. 2024).
  """
  return jax.nn.log_softmax(logits + _log_q(logits, xt, process, level))


@checked
def make_state_denoiser(
  network: Network,
  params: Params,
  cond: dict | None = None,
  *,
  process: StateProcess,
  key: Key | None = None,
) -> StateDenoiser:
  """Makes the denoiser of a network: `posterior_logits` of its output.

  Args:
    network: Of (params, x_t [B, ...], noise [B], cond) -> [B, ..., K] with a
      logit for each state of the process, n + 1 for `masking_process(n)`. It
      has no parametrization.
    params, cond: See `Network.output`. Where cond['valid'] [B, T] is False x_0 is state 0.
    process: The process that it reverses.
    key: The key of dropout, which is off without one.
  """
  valid = None if cond is None else cond.get('valid')

  def denoise(xt, level):
    logits = network.evaluate(params, xt, network.noise_of(level, xt), cond, key)
    logits = posterior_logits(logits.astype(jnp.float32), xt, process, level)
    if valid is None:
      return logits
    padding = jnp.where(jnp.arange(logits.shape[-1]) == 0, 0.0, NEVER)
    return jnp.where(expand_to(valid, logits), logits, padding.astype(logits.dtype))

  return denoise


@checked
def logistic_logits(mean: Array, log_scale: Array, num_values: Several) -> Array:
  """Computes logits of a truncated discretised logistic (D3PM, A.8).

  They are the log masses, up to a constant, of the bins around num_values
  values evenly spaced on [-1, 1]; mass beyond the outer bins does not count.
  mean, log_scale: [...]; returns [..., num_values].
  """
  check_same_shape(mean=mean, log_scale=log_scale)
  half = 1.0 / (num_values - 1)
  values = jnp.linspace(-1.0, 1.0, num_values, dtype=mean.dtype)
  z = values.reshape((1,) * mean.ndim + (-1,)) - mean[..., None]
  scale = jnp.exp(log_scale)[..., None]
  # cdf(b) - cdf(a) = cdf(b) (1 - cdf(a)) (1 - exp(a - b)), and b - a is the
  # same for all bins.
  upper = jax.nn.log_sigmoid((z + half) / scale)
  return upper + jax.nn.log_sigmoid((half - z) / scale)


@checked
def logistic_network(network_fn: NetworkFn, num_values: Several) -> NetworkFn:
  """Makes a network that returns `logistic_logits` (D3PM, A.8).

  network_fn returns m and r, [B, ..., 2]. The logistic has the mean
  tanh(m + x_t), with x_t scaled to [-1, 1], and the log scale r - 2. The
  process must not have a masked state.
  """

  def apply(params, x, noise, cond, *, key=None):
    output = network_fn(params, x, noise, cond, key=key).astype(jnp.float32)
    values = x.astype(jnp.float32) * (2.0 / (num_values - 1)) - 1.0
    mean = jnp.tanh(output[..., 0] + values)
    return logistic_logits(mean, output[..., 1] - 2.0, num_values)

  return apply


@checked
def state_kl(q: Array, p: Array) -> Array:
  """Computes KL(q || p) of [B, ..., K] in nats, summed to [B].

  Probabilities below the least normal number, 1e-38 in float32, are raised to
  it.
  """
  if q.shape[-1] != p.shape[-1]:
    raise ValueError(f'q {list(q.shape)} and p {list(p.shape)} must be of as many states K')
  return sum_data_axes(q * (_log(q) - _log(p)))


@checked
def state_nll(logits: Array, x0: States, where: Array | bool = True) -> Array:
  """Computes -log p(x_0 | x_t) in nats, [B], summed over elements with `where`.

  logits: [B, ..., K]; x0: [B, ...]; where: bools [B, ...]. NaN if an x_0 with
  `where` is outside 0..K-1.
  """
  return sum_data_axes(jnp.where(where, element_nll(logits, x0), 0.0))


def element_nll(logits: Array, x0: Array) -> Array:
  """Computes -log p(x_0 | x_t) of each element in nats, [B, ...]; see `state_nll`."""
  if logits.shape[:-1] != x0.shape:
    shapes = f'logits {list(logits.shape)} and x0 {list(x0.shape)}'
    raise ValueError(f'{shapes} must be [B, ..., K] and [B, ...]')
  return -_at(x0, jax.nn.log_softmax(logits))


@checked
def prior_kl_states(
  x0: States, process: StateProcess, level_T: NoiseLevel, where: Array | bool = True
) -> Array:
  """Computes L_T = KL(q(x_T | x_0) || prior) in nats, [B] (D3PM Eq. 1).

  It is infinite if x_T may be a state that the prior excludes: masking needs
  alpha = 0 at the last level. An x_0 that is masked or outside 0..K-1 raises
  ValueError; under `jit` the result is NaN, as in all bounds. where: bools like
  a level, of the elements that count.
  """
  q = q_states(x0, process, level_T)
  q = jnp.where(expand_to(where, x0)[..., None], q, 0.0)
  prior = process.prior.reshape((1,) * x0.ndim + (-1,))
  outside = sum_data_axes((q > 0.0) & (prior == 0.0)) > 0
  return nan_unless_data(jnp.where(outside, jnp.inf, state_kl(q, prior)), x0, process)


@checked
def transition_kl_states(
  logits: Array,
  x0: States,
  xt: States,
  process: StateProcess,
  level_s: NoiseLevel,
  level_t: NoiseLevel,
) -> Array:
  """Computes L_{t-1} = KL(q(x_s | x_t, x_0) || p(x_s | x_t)) in nats, [B].

  If s is clean it is L_0 = -log p(x_0 | x_t) (D3PM Eq. 1). For the arguments
  see `q_posterior_states`, `p_reverse_states` and `prior_kl_states`. p below
  1e-38 counts exactly in L_0 and with masking, else KL is an upper bound.
  """
  q = q_posterior_states(x0, xt, process, level_s, level_t)
  p = p_reverse_states(logits, xt, process, level_s, level_t)
  # q p(x_0 | x_t) is a part of p(x_s | x_t), in L_0 and with masking all of it.
  log_p0 = _log_p0(logits, _log_q(logits, xt, process, level_t))
  part = _log(q) + _at(x0, log_p0)[..., None]
  is_lost = (p < jnp.finfo(p.dtype).tiny) & (q > 0.0)
  log_p = jnp.where(is_lost, part, _log(p))
  kl = sum_data_axes(q * (_log(q) - log_p))
  return nan_unless_data(kl, x0, process)


@checked
def state_bound(
  key: Key,
  denoise: StateDenoiser,
  process: StateProcess,
  levels: Grid,
  x0: States,
) -> dict[str, Array]:
  """Computes the bound of D3PM Eq. 1 in nats, from one draw of x_t per step.

  It is the bound of `ancestral_states` on the grid, also of one that `staggered` makes:
  elements between equal levels have no term, and those that begin clean are given.
  Returns 'prior' [B], L_T; 'diffusion' [B, N], whose entry i is L_i, the cleanest step
  first; and 'total' [B]. key: [] or [B], where example i depends only on key i; x0:
  [B, ...]; levels: from noise to clean data, [N+1] or, of elements, [N+1, 1, T].
  """
  keys = key_per_example(key, len(x0))
  num_steps = levels.alpha.shape[0] - 1

  def term(step):
    level_s, level_t = levels.take(num_steps - step + 1), levels.take(num_steps - step)
    step_keys = fold_each(keys, step)
    xt = q_sample_states(step_keys, x0, process, level_t)
    return transition_kl_states(denoise(xt, level_t), x0, xt, process, level_s, level_t)

  diffusion = jax.lax.map(term, jnp.arange(1, num_steps + 1)).T
  first = levels.take(0)
  prior = prior_kl_states(x0, process, first, first.sigma > 0.0)
  total = prior + jnp.sum(diffusion, axis=1)
  return {'prior': prior, 'diffusion': diffusion, 'total': total}


def levels_of_step(
  schedule: Schedule, step: Array, num_steps: int
) -> tuple[NoiseLevel, NoiseLevel]:
  """Returns the levels s and t of a step in 1..T, [] or [B].

  Step 1 always ends at clean data, even if schedule(0) is noisy.
  """
  level_s = schedule((step - 1) / num_steps)
  level_s = select_level(step == 1, clean_level(), level_s)
  return level_s, schedule(step / num_steps)


def nan_unless_data(nats: Array, x0: Array, process: StateProcess) -> Array:
  """Returns nats [B]; ValueError, NaN under `jit`, if x_0 cannot be data."""
  size, mask = len(process.prior), process.mask

  def fits(x):
    return (x >= 0) & (x < size) & (x != (size if mask is None else mask))

  rule = f'states of data are 0..{size - 1}, except the mask, {mask}'
  check_numbers(fits, rule, x0=x0)
  return jnp.where(sum_data_axes(~fits(x0)) == 0, nats, jnp.nan)


def _one_hot(states, process):
  prior = process.prior
  return jax.nn.one_hot(states, len(prior), dtype=prior.dtype)


def _at(x0, log_p):
  # Returns log p(x_0), NaN outside 0..K-1; a negative index would wrap.
  index = jnp.where(x0 < 0, log_p.shape[-1], x0)[..., None]
  return jnp.take_along_axis(log_p, index, axis=-1, mode='fill')[..., 0]


def _log_p0(logits, log_q):
  # Returns log p(x_0 | x_t) without the x_0 that cannot lead to x_t.
  return jax.nn.log_softmax(jnp.where(log_q > NEVER, logits, NEVER))


def _log(p):
  return jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))


def _normalized(p):
  total = jnp.sum(p, axis=-1, keepdims=True)
  return p / jnp.where(total > 0.0, total, 1.0)


def _log_q(logits, xt, process, level):
  # Returns log q(x_t | x_0) for every x_0, NEVER where x_t is impossible.
  q = process.multiply(_one_hot(xt, process), clean_level(), level, True)
  if logits.shape != q.shape:
    raise ValueError(
      f'logits {list(logits.shape)} must be {list(q.shape)}, for all states of '
      'the process: masking_process(n) has n + 1, the last one is the mask'
    )
  possible = q > 0.0
  if process.mask is not None:
    is_mask = jnp.arange(len(process.prior)) == process.mask
    possible &= ~is_mask.reshape((1,) * xt.ndim + (-1,))
  return jnp.where(possible, jnp.log(jnp.where(possible, q, 1.0)), NEVER)
