"""log p(x) by the probability-flow ODE, and x from its latent.

In z = x / sqrt(alpha^2 + sigma^2) and the angle with tan(angle) = sigma / alpha
the ODE of every schedule (Song et al. 2021, Eq. 13) is the same,

  dz / d angle = (cos(angle) z - x_0_hat) / sin(angle),

whose right side is v of Salimans & Ho 2022. In this form nothing is stiff,
infinite at alpha = 0, or discontinuous at the steps of a DiscreteSchedule.
t_min and t_max only give the two ends. The ODE has the marginals of the process
and is invertible, so log p(x) is the log-density of the latent plus the
integral of the divergence.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import (
  as_float,
  check_interval,
  data_axes,
  expand_to,
  mean_data_axes,
  sum_data_axes,
)
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.denoiser import Denoiser, predict
from diffusion_jax.core.elbo import categorical_nll
from diffusion_jax.core.keys import draw_normal, draw_signs, draw_uniform, split_key
from diffusion_jax.core.levels import NoiseLevel, Schedule, check_one_level, select_level
from diffusion_jax.core.normal import STANDARD, bits_per_dim, log_prob as normal_log_prob
from diffusion_jax.core.process import q_sample
from diffusion_jax.core.products import finished
from diffusion_jax.declared import declares
from diffusion_jax.meshes import has_manual_axes, is_split, on_auto_axes, on_axes_of, placed_as
from diffusion_jax.ranges import NonNegative, Positive, Probability, Several, Shape, Size
from diffusion_jax.sampling.grids import last_noisy_level
from diffusion_jax.sampling.sampler import Sampler

Array = jax.Array

Probe = Literal['rademacher', 'gaussian']
_PROBES = {'rademacher': draw_signs, 'gaussian': draw_normal}


class Likelihood(NamedTuple):
  """The result of `log_likelihood`: log_prob [B] in nats, latent [B, ...]."""

  log_prob: Array
  latent: Array


@checked
def log_likelihood(
  key: Key | None,
  denoise: Denoiser,
  schedule: Schedule,
  x: Array,
  *,
  t_min: Probability = 1e-5,
  t_max: Probability = 1.0,
  rtol: NonNegative = 1e-5,
  atol: NonNegative = 1e-5,
  num_probes: Size = 1,
  probe: Probe = 'rademacher',
  exact_trace: bool = False,
  max_steps: Size = 4096,
) -> Likelihood:
  """Computes log p(x) under the ODE of a denoiser (Song et al., Eq. 39-40).

  The latent is x at t_max, with the density of `prior_sample`.

  Args:
    key: [] or [B]; None with exact_trace.
    x: [B, ...] at t_min, whose density is computed: sigma(0) of VE is 0.02, not
      0. In float32 sigma(t_min) should be >= 1e-4: sub-VP, with sigma(1e-5) =
      1e-6, is off by 3e-3 nats over 48 dimensions.
    rtol, atol: Per pixel and in nats per dimension, met by every example.
    num_probes, probe: Number and distribution of the probes in Hutchinson's
      estimate of the divergence, 'rademacher' or 'gaussian' (ValueError for
      others), constant along the path.
    exact_trace: Computes the divergence exactly, by a sum over all axes.
    max_steps: The results are NaN if this is not enough.
  """
  check_interval('x is at t_min, the latent at t_max', t_min=t_min, t_max=t_max)
  x = as_float(x)
  probes = _probes(key, x, num_probes, probe, exact_trace)
  axes = data_axes(x)
  size = x.size // len(x)

  def field(angle, state):
    velocity, pull_back = jax.vjp(lambda z: _velocity(denoise, schedule, angle, z), state[0])
    products = probes * jax.vmap(lambda p: pull_back(p)[0])(probes)
    divergence = jnp.sum(finished(products), axis=(0, *(a + 1 for a in axes)))
    # The log-density is integrated per dimension, so that tolerances mean the
    # same for images of any size.
    return velocity, divergence / size

  (first, last), angles = _ends(schedule, x, t_min, t_max)
  state = x / first, placed_as(x, jnp.zeros(len(x), x.dtype))
  z, log_det = _solve(field, state, angles, rtol, atol, max_steps)
  prior = sum_data_axes(normal_log_prob(STANDARD, z))
  return Likelihood(prior + size * (log_det - jnp.log(first)), last * z)


@checked
def probability_flow(
  denoise: Denoiser,
  schedule: Schedule,
  x: Array,
  t_from: Probability,
  t_to: Probability,
  *,
  rtol: NonNegative = 1e-5,
  atol: NonNegative = 1e-5,
  max_steps: Size = 4096,
) -> Array:
  """Solves the probability-flow ODE from t_from to t_to (Song et al., Eq. 13).

  From 1 to near 0 it samples; in the other direction it gives the latent of
  `log_likelihood`. x: [B, ...] at t_from; t_from, t_to: times with sigma > 0;
  for the others see `log_likelihood`. Returns x at t_to, [B, ...].
  """
  x = as_float(x)

  def field(angle, state):
    return (_velocity(denoise, schedule, angle, *state),)

  (first, last), angles = _ends(schedule, x, t_from, t_to)
  (z,) = _solve(field, (x / first,), angles, rtol, atol, max_steps)
  return last * z


@declares(what='Tsit5 of Diffrax, to a tolerance; `num_steps=1`', one_level=True)
@checked
def adaptive_ode(
  schedule: Schedule, rtol: Positive = 1e-3, atol: Positive = 1e-3, max_steps: Size = 4096
) -> Sampler:
  """Makes the sampler that solves the ODE between levels to a tolerance.

  It is `probability_flow` from level to level. The step to clean data solves it
  to `last_noisy_level` first, unless x_t is cleaner, and returns x_0_hat there, so
  `level_grid(schedule, 1)` suffices to draw samples. A batch shares its steps. rtol,
  atol: as in `log_likelihood`; max_steps: samples are NaN if a step of the grid
  needs more.
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    check_one_level(level_s, 'adaptive_ode')
    noisy, start, lowest = level_s.sigma > 0.0, level_t, last_noisy_level(schedule)
    is_cleaner = start.sigma * lowest.alpha < lowest.sigma * start.alpha
    end = select_level(noisy, level_s, select_level(is_cleaner, start, lowest))
    first, last = _angle(start).astype(x.dtype), _angle(end).astype(x.dtype)
    turn = last - first

    def field(u, state):
      (z,) = state
      v = _velocity(denoise, schedule, first + u * turn, z)
      return (expand_to(turn, x) * v,)

    def solve(x):
      state = (x / expand_to(_scale(start), x),)
      whole = jnp.zeros((), x.dtype), jnp.ones((), x.dtype)
      (z,) = _solve(field, state, whole, rtol, atol, max_steps)
      return expand_to(_scale(end), x) * z

    def clean(x):
      return level_s.expand_to(x).alpha * predict(denoise, x, end).x0

    x = solve(x)
    if noisy.ndim:
      return jnp.where(expand_to(noisy, x), x, clean(x)), state
    return jax.lax.cond(noisy, lambda x: x, clean, x), state

  return Sampler(lambda x: (), step)


@checked
def dequantize(key: Key, x0: Array, num_levels: Several = 256) -> Array:
  """Spreads each grey level evenly over its bin (Theis et al. 2016, section 3).

  key: [] or [B]; x0: [B, ...], K = num_levels >= 2 values evenly spaced on
  [-1, 1]. The bin of a value is 2 / (K - 1) wide and centred on the value.
  """
  width, x0 = 2.0 / (num_levels - 1), as_float(x0)
  return x0 + width * (draw_uniform(key, x0) - 0.5)


@checked
def gaussian_dequantize(
  key: Key, x0: Array, level: NoiseLevel, num_levels: Several = 256
) -> tuple[Array, Array]:
  """Draws z ~ q(z | x_0) at `level` and computes its log-weight in nats.

  E[log p(z) + log_weight] <= log P(x_0) with log_weight = log p(x_0 | z) -
  log q(z | x_0) and p(x_0 | z) of `categorical_nll` (Kingma et al. 2021,
  section 3.1). It is tight for densities with peaks on the grey levels.

  key: [] or [B]; x0: [B, ...], num_levels values evenly spaced on [-1, 1];
  level: [], sigma > 0. Returns z [B, ...] and log_weight [B].
  """
  eps = draw_normal(key, x0)
  z = q_sample(x0, eps, level)
  log_sigma = jnp.log(level.expand_to(x0).sigma)
  log_q = sum_data_axes(normal_log_prob(STANDARD, eps) - log_sigma)
  return z, -categorical_nll(x0, z, level, num_levels) - log_q


@checked
def ode_bits_per_dim(log_p: Array | float, data_shape: Shape, num_levels: Several = 256) -> Array:
  """Converts log p of `dequantize`d data to bits per dimension of grey levels.

  The mass of a bin is its mean density times its volume (2 / (K - 1))^D, which
  adds log2((K - 1) / 2) bits per dimension: 3 for 17 levels (the usual + 7 is
  for a spacing of 2 / 256). By Jensen's inequality the mean over
  dequantisations is an upper bound of -log2 P / D. log_p: nats, [B];
  data_shape: the shape of one example. Returns bits per dimension, [B].
  """
  offset = math.log2((num_levels - 1) / 2.0)
  return bits_per_dim(-log_p, data_shape) + offset


def _ends(schedule, x, *times):
  # Returns scales and angles, in the precision of the solver's state.
  levels = [schedule(jnp.asarray(t, x.dtype)) for t in times]
  return map(_scale, levels), map(_angle, levels)


def _scale(level):
  return jnp.hypot(level.alpha, level.sigma)


def _angle(level):
  return jnp.arctan2(level.sigma, level.alpha)


def _velocity(denoise, schedule, angle, z):
  a = jnp.maximum(jnp.cos(angle), 0.0)  # Rounded, it is < 0 at alpha = 0.
  b = jnp.sin(angle)
  level = schedule.from_logsnr(2.0 * (jnp.log(a) - jnp.log(b)))
  x0 = predict(denoise, expand_to(_scale(level), z) * z, level).x0
  return (expand_to(a, z) * z - x0) / expand_to(b, z)


def _probes(key, x, num_probes, probe, exact_trace):
  # The probes p are [P, B, ...]; the sum of p^T J p is, or estimates, the trace
  # of J.
  if exact_trace:
    basis = jnp.eye(x.size // len(x), dtype=x.dtype)
    basis = basis.reshape(-1, 1, *x.shape[1:])
    return jax.vmap(lambda row: placed_as(x, jnp.broadcast_to(row, x.shape)))(basis)
  probes = jax.vmap(lambda k: _PROBES[probe](k, x))(split_key(key, num_probes))
  return probes / math.sqrt(num_probes)


def _worst_example(errors):
  # The example with the largest error sets the step size of the batch: the
  # denoiser takes whole batches (its labels do), and a mean over the examples
  # would hide the error of one of them.
  squares = [mean_data_axes(jnp.square(e)) for e in errors]
  worst = jnp.max(jnp.stack(squares))
  # The gradient of a root is infinite at 0.
  return jnp.sqrt(jnp.maximum(worst, jnp.finfo(worst.dtype).tiny))


def _solve(field, state, ends, rtol, atol, max_steps):
  # The state is a tuple of arrays [B, ...].
  import diffrax

  if is_split(state[0]):
    raise ValueError(
      'the solver of an ODE was given an array that is split by jax.shard_map, whose check '
      'of types its loop does not pass: call jax.shard_map with check_vma=False'
    )
  field = on_axes_of(state[0], field)
  term = diffrax.ODETerm(lambda u, state, args: field(u, state))
  steps = diffrax.PIDController(rtol, atol, norm=_worst_example)
  adjoint = diffrax.RecursiveCheckpointAdjoint()
  if has_manual_axes(state[0]):
    # Its loop compares types, and takes constants for arrays of another mesh (equinox 0.13.8).
    adjoint = diffrax.DirectAdjoint()

  @on_auto_axes
  def solve(x, others, start, end):
    solution = diffrax.diffeqsolve(
      term,
      diffrax.Tsit5(),
      start,
      end,
      None,  # It chooses the first step.
      (x, *others),
      stepsize_controller=steps,
      adjoint=adjoint,
      max_steps=max_steps,
      throw=False,
    )
    failed = solution.result != diffrax.RESULTS.successful
    return jax.tree.map(lambda y: jnp.where(failed, jnp.nan, y[0]), solution.ys)

  return solve(state[0], state[1:], *ends)
