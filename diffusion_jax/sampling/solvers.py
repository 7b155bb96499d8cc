"""Fast solvers of the probability-flow ODE, and two for the SDE.

`velocity_heun` is Heun's method in t. In the other solvers, with lambda =
log(alpha / sigma), a step from level t to the cleaner level s is

  x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^-h) D,   h = lambda_s - lambda_t,

where D is the mean of x_0_hat along the solution, weighted with e^lambda (Lu et
al. 2022). This is DDIM (`ddim_step`) with D instead of x_0: the solvers differ
in their estimates of D. Steps from alpha_t = 0 and to sigma_s = 0, where h is
infinite, are DDIM's.
"""

import functools
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.arguments import expand_to
from diffusion_jax.core.checked import checked
from diffusion_jax.core.denoiser import predict
from diffusion_jax.core.keys import draw_normal, repeat_key, split_key
from diffusion_jax.core.levels import Grid, NoiseLevel, Schedule, select_level
from diffusion_jax.core.parametrization import eps_from_x0
from diffusion_jax.core.process import sigma_ratio, velocity
from diffusion_jax.declared import declares
from diffusion_jax.ranges import NonNegative, Order, Probability, Rule, Size
from diffusion_jax.sampling.ancestral import ddim_step
from diffusion_jax.sampling.brownian import path_noise
from diffusion_jax.sampling.sampler import Sampler

Array = jax.Array


@declares(
  what='EDM Alg. 1; on cosine with `grid.spacing=logsnr`',
  order=2,
  calls='2 * N - 1',
  averages_ends=True,
)
def heun() -> Sampler:
  """Makes Heun's method, of second order (Karras et al. 2022, Alg. 1).

  In y = x / alpha the ODE is dy = eps d(sigma / alpha). DDIM is its Euler step;
  Heun's method averages eps at both ends. Each step calls the network twice,
  but the last one (to sigma_s = 0) and steps from alpha_t = 0 are Euler steps
  with one call: 2N - 1 calls in total. The mean of both ends is far off in long steps,
  as the first of 10 on a cosine schedule at uniform times (`heun_deviation`): take
  levels that are uniform in log-SNR, or `velocity_heun`.
  """

  return _by_another_eps(0.5, lambda level_s, level_t: level_s)


def heun_deviation(levels: Grid) -> float:
  """Returns the deviation of what `heun` draws on a grid for standard normal data.

  1 is exact. levels: [N+1], or with a level for each element, of which it is the largest.
  With r = sigma / alpha = tan(angle) the ODE is dy = y r / (1 + r^2) dr, so that y is
  proportional to sqrt(1 + r^2). A step of Euler, from alpha = 0 or to sigma = 0, multiplies
  the deviation by the cosine of the difference of the angles.
  """
  alpha, sigma = (np.asarray(x, np.float64) for x in (levels.alpha, levels.sigma))
  factors = np.cos(np.diff(np.arctan2(sigma, alpha), axis=0))
  averaged = (alpha[:-1] > 0.0) & (sigma[1:] > 0.0)
  t, s = sigma[:-1][averaged] / alpha[:-1][averaged], sigma[1:][averaged] / alpha[1:][averaged]
  start = t / (1.0 + t**2)
  end = (1.0 - (t - s) * start) * s / (1.0 + s**2)
  moved = 1.0 - 0.5 * (t - s) * (start + end)
  factors[averaged] = moved * np.sqrt((1.0 + t**2) / (1.0 + s**2))
  return float(np.max(np.prod(factors, axis=0)))


@declares(what='Heun in t, from α = 0 too (JiT)', order=2, calls='2 * N - 1')
@checked
def velocity_heun(schedule: Schedule, min_sigma: NonNegative = 0.0) -> Sampler:
  """Makes Heun's method for dx/dt = v(x, t) in the schedule's own time.

  This is the sampler of JiT (Li & He 2025). On `RectifiedFlowSchedule` steps
  from pure noise are of second order too, unlike in `heun`. Each step calls the
  network twice, but the last one, to sigma_s = 0, only once: it returns
  x_0_hat, Euler's step on a straight path. 2N - 1 calls in total.

  Args:
    schedule: The schedule of the levels.
    min_sigma: x_0_hat is replaced by x_t + sigma / max(sigma, min_sigma)
      (x_0_hat - x_t). JiT's code has 0.05: v is then (x_t - x_0_hat) / max(t,
      0.05) on the straight path, and the last step keeps a part of the noise.
  """

  def estimate(denoise, x, level):
    x0 = predict(denoise, x, level).x0
    sigma = level.expand_to(x).sigma
    low = jnp.maximum(sigma, min_sigma)
    return x0 + (1.0 - sigma / jnp.where(low > 0.0, low, 1.0)) * (x - x0)

  def step(key, x, state, denoise, *, level_s, level_t):
    x0 = estimate(denoise, x, level_t)
    v = velocity(schedule, x0, x, level_t)
    dt = expand_to(level_t.t, x) - expand_to(level_s.t, x)
    noisy = level_s.sigma > 0.0

    def correct(x_s, end):
      x0 = estimate(denoise, x_s, end)
      x_s = x - 0.5 * dt * (v + velocity(schedule, x0, x_s, end))
      # Level s may be cleaner than the schedule: see `with_ancestral_noise`.
      return ddim_step(x0, x_s, level_s, end)

    euler = jnp.where(expand_to(noisy, x), x - dt * v, level_s.expand_to(x).alpha * x0)
    end = select_level(noisy, schedule(level_s.t), level_t)
    return _correct_where(noisy, correct, euler, end), state

  return Sampler(lambda x: (), step)


@declares(what='DPM-Solver++ Alg. 2: DDIM, 2M, 3M', order={1: 1, 2: 2, 3: 3}, calls='N')
@checked
def dpm_solver_pp(order: Order = 2) -> Sampler:
  """Makes multistep DPM-Solver++ (Lu et al. 2022, Alg. 2).

  Each step calls the network once and uses the last `order` estimates of x_0;
  the first steps have lower orders, the step to clean data order 1. 3M
  integrates the parabola through three estimates exactly; released code halves
  its last term, so it is of second order. order: 1 (DDIM), 2 (2M) or 3 (3M);
  ValueError for others.
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    history = (predict(denoise, x, level_t).x0, _broadcast_level(level_t, x)), *state
    return _multistep(x, level_s.expand_to(x), history), history[: order - 1]

  return Sampler(lambda x: _empty_history(x, order - 1), step)


@declares(what='DPM-Solver++ Alg. 1', order=2, calls='2 * N - 1')
@checked
def dpm_solver_pp_2s(schedule: Schedule) -> Sampler:
  """Makes singlestep DPM-Solver++(2S) (Lu et al. 2022, Alg. 1 with r = 1/2).

  D is x_0_hat in the middle of the step, where lambda is the mean of its ends.
  The method is of second order without a memory, with 2N - 1 calls. schedule
  gives the level in the middle.
  """
  return dpm_solver_pp_2s_sde(schedule, 0.0)


@declares(what='DPM-Solver Alg. 1: midpoint in log σ', order=2, calls='2 * N - 1')
@checked
def dpm_solver_2(schedule: Schedule) -> Sampler:
  """Makes DPM-Solver-2 (Lu et al. 2022a, Alg. 1 with r = 1/2).

  It is `dpm_solver_pp_2s` with eps of the middle in place of x_0_hat: the
  midpoint method of dy = eps d(sigma / alpha), y = x / alpha, in log sigma.
  """

  return _by_another_eps(1.0, functools.partial(_middle_level, schedule))


def _by_another_eps(weight, level_of):
  # DDIM with a part of eps from the end of DDIM's step to level_of(s, t).
  def step(key, x, state, denoise, *, level_s, level_t):
    s, t = level_s.expand_to(x), level_t.expand_to(x)
    x0 = predict(denoise, x, level_t).x0
    eps = eps_from_x0(x0, x, level_t)

    def correct(x_s, end):
      x_end = ddim_step(x0, x, end, t)
      change = eps_from_x0(predict(denoise, x_end, end).x0, x_end, end) - eps
      ratio = s.alpha / jnp.where(t.alpha > 0.0, t.alpha, 1.0)
      return x_s + weight * (s.sigma - ratio * t.sigma) * change

    euler = ddim_step(x0, x, s, t)
    return _correct_where_finite(
      correct, euler, level_s, level_t, level_of(level_s, level_t)
    ), state

  return Sampler(lambda x: (), step)


@declares(what='k-diffusion: 2S of the SDE', calls='2 * N - 1', draws_noise=True, one_level=True)
@checked
def dpm_solver_pp_2s_sde(schedule: Schedule, eta: Probability = 1.0) -> Sampler:
  """Makes singlestep DPM-Solver++ of the SDE, `sample_dpmpp_sde`.

  Two steps of `ddim(eta)` from level t: to the middle of the step, and to level
  s with x_0_hat of the middle. Their noise is `path_noise`: it depends on the
  key and the levels, not on the grid. 2N - 1 calls. schedule gives the level in
  the middle; eta: ValueError outside [0, 1].
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    x0 = predict(denoise, x, level_t).x0
    middle = _middle_level(schedule, level_s, level_t)

    def noise_of(level):
      return path_noise(key, x, level, level_t) if eta else 0.0

    def move(x0, level, noise):
      return ddim_step(x0, x, level, level_t, eta, noise)

    noise = noise_of(level_s)  # both moves to level s take this noise

    def correct(_, middle):
      x_middle = move(x0, middle, noise_of(middle))
      return move(predict(denoise, x_middle, middle).x0, level_s, noise)

    first = move(x0, level_s, noise)
    return _correct_where_finite(correct, first, level_s, level_t, middle), state

  return Sampler(lambda x: (), step, repeat_key)


@declares(what='DPM-Solver++, 2M and 3M of the SDE', calls='N', draws_noise=True)
@checked
def dpm_solver_pp_sde(eta: NonNegative = 1.0, order: Order = 2, brownian: bool = False) -> Sampler:
  """Makes multistep SDE-DPM-Solver++, 2M or 3M (Lu et al. 2022).

  D is as in `dpm_solver_pp(order)`, but with the weight e^((1 + eta) lambda).
  The noise of x_t decays by e^(-eta h), and new noise replaces it.

  Args:
    eta: 0 for the ODE, 1 for the reverse SDE; ValueError for < 0.
    order: 1, 2 or 3; ValueError for others.
    brownian: The noise is `path_noise`: more steps follow the same path.
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    s, t = level_s.expand_to(x), level_t.expand_to(x)
    history = (predict(denoise, x, level_t).x0, _broadcast_level(level_t, x)), *state
    # For eta = 0 the product with an infinite h would be NaN.
    exponent = jnp.zeros_like(s.sigma)
    if eta:
      exponent = 2.0 * eta * jnp.maximum(_lambda_difference(s, t), 0.0)
    std = s.sigma * jnp.sqrt(-jnp.expm1(-exponent))
    moved = _multistep(x, s, history, jnp.exp(-exponent), 1.0 + eta)
    draw = path_noise(key, x, level_s, level_t) if brownian else draw_normal(key, x)
    return moved + std * draw, history[: order - 1]

  keys = repeat_key if brownian else split_key
  return Sampler(lambda x: _empty_history(x, order - 1), step, keys)


@declares(what='k-diffusion: Adams–Bashforth in σ / α', order={1: 1, 2: 2, 3: 3, 4: 4}, calls='N')
@checked
def lms(order: Annotated[int, Rule('1, 2, 3 or 4', lambda order: 1 <= order <= 4)] = 4) -> Sampler:
  """Makes the linear multistep method of Katherine Crowson's k-diffusion.

  It integrates dy = eps d(sigma / alpha), y = x / alpha, with the polynomial
  through the last `order` estimates of eps: Adams-Bashforth on uneven grids.
  The first steps have lower orders. Each step calls the network once. The step
  to clean data, where sigma / alpha is finite, is of full order too. order: 1
  (DDIM) to 4; ValueError for others.
  """

  def ratio(level):
    return level.sigma / jnp.where(level.alpha > 0.0, level.alpha, 1.0)

  def step(key, x, state, denoise, *, level_s, level_t):
    s, t = level_s.expand_to(x), level_t.expand_to(x)
    x0 = predict(denoise, x, level_t).x0
    eps = eps_from_x0(x0, x, level_t)
    history = (eps, _broadcast_level(level_t, x)), *state
    signal = [level.alpha > 0.0 for _, level in history]
    nodes = [
      jnp.where(known & signal[0], ratio(level) - ratio(t), jnp.inf)
      for known, (_, level) in zip(signal[1:], history[1:], strict=True)
    ]
    h = ratio(s) - ratio(t)
    nodes = [jnp.zeros_like(h), *nodes]
    mean = _weighted_mean(h, nodes, [e for e, _ in history], _plain_moments)
    change = s.alpha * h * (mean - eps)
    return ddim_step(x0, x, s, t) + change, history[: order - 1]

  return Sampler(lambda x: _empty_history(x, order - 1), step)


@declares(
  what='UniPC-p; lower orders at the last of `num_steps`',
  order={1: 2, 2: 3, 3: 4},
  calls='N',
  keeps_x=True,
)
@checked
def unipc(order: Order = 2, num_steps: Size | None = None) -> Sampler:
  """Makes UniPC-p with B_2(h) and data prediction (Zhao et al. 2023).

  The predictor is `dpm_solver_pp(order)`. Each step calls the network once and
  uses x_0_hat twice: to repeat the last step with one more estimate, and for
  the next step. Wrappers that change x between steps have no effect: the
  repeated step undoes the change.

  Args:
    order: p, 1, 2 or 3; ValueError for others.
    num_steps: The number of steps of the grid, whose last steps have lower
      orders (diffusers' lower_order_final). None: only the step to clean data.
  """

  def lowered(history, left):
    # Keeps as many estimates as there are steps left; the others get alpha = 0.
    return tuple(
      (x0, level._replace(alpha=jnp.where(i < left, level.alpha, 0.0)))
      for i, (x0, level) in enumerate(history)
    )

  def step(key, x, state, denoise, *, level_s, level_t):
    last_x, history, left = state
    new = predict(denoise, x, level_t).x0, _broadcast_level(level_t, x)
    last, *older = lowered(history, left + 1)
    corrected = _multistep(last_x, new[1], (last, new, *older))
    x = jnp.where(last[1].alpha > 0.0, corrected, x)
    history = (new, *history)[:order]
    return _multistep(x, level_s.expand_to(x), lowered(history, left)), (x, history, left - 1)

  left = 2**30 if num_steps is None else num_steps
  return Sampler(lambda x: (x, _empty_history(x, order), jnp.int32(left)), step)


def _middle_level(schedule, level_s, level_t):
  h = _lambda_difference(level_s, level_t)
  finite = jnp.isfinite(h)
  logsnr = jnp.where(finite, level_t.logsnr, 0.0) + jnp.where(finite, h, 0.0)
  return schedule.from_logsnr(logsnr)


def _multistep(x, s, history, old_share: Array | float = 1.0, weight: float = 1.0):
  # Takes x from the level of history[0] to level s. history: pairs (x0, level),
  # without weight at alpha = 0. x0 has the weight e^(weight lambda).
  x0, level_t = history[0]
  nodes = [jnp.zeros_like(level_t.t)]
  nodes += [weight * _lambda_difference(level, level_t) for _, level in history[1:]]
  values = [x0 for x0, _ in history]
  h = weight * _lambda_difference(s, level_t)
  x0_mean = _weighted_mean(h, nodes, values, _exponential_moments)
  scale = jnp.sqrt(old_share) * sigma_ratio(s, level_t)
  return s.alpha * x0_mean + scale * (x - level_t.alpha * x0_mean)


def _exponential_moments(h, n):
  # The means of 1, u, ..., u^n over 0 < u < h with the weight e^u.
  total = -jnp.expm1(-h)
  moments: list[Array | float] = [1.0]
  for k in range(1, n + 1):
    moments.append(h**k / total - k * moments[-1])
  return moments


def _plain_moments(h, n):
  return [h**k / (k + 1) for k in range(n + 1)]


def _weighted_mean(h, nodes, values, moments_of):
  """Averages a polynomial over 0 < u < h, with the weight of its moments.

  values: at the nodes u; nodes: 0, then others. Those from the first one that is
  infinite or equal to another are unknown. One node gives the constant, two give
  value + h / 2 * slope, as in the papers of DPM-Solver++ and UniPC, and more give
  the exact mean of the polynomial. If h is inf or 0 the mean is values[0].
  """
  finite = jnp.isfinite(h) & (h != 0.0)
  h = jnp.where(finite, h, 1.0)
  known = [jnp.isfinite(nodes[0])]
  for k, node in enumerate(nodes[1:], 1):
    new = functools.reduce(jnp.logical_and, (node != other for other in nodes[:k]))
    known.append(known[-1] & jnp.isfinite(node) & new)
  nodes = [jnp.where(*pair, 0.0) for pair in zip(known, nodes, strict=True)]
  moments = moments_of(h, len(nodes) - 1)
  # The coefficients of the polynomial (u - node_0) (u - node_1) ...
  basis: list[Array | float] = [1.0]
  mean = half = values[0]
  table = values
  for k in range(1, len(nodes)):
    low, high = [0.0, *basis], [*basis, 0.0]
    basis = [a - nodes[k - 1] * b for a, b in zip(low, high, strict=True)]
    ends = zip(table, table[1:], nodes, nodes[k:], known[k:], strict=False)
    table = [_divided_difference(*pair) for pair in ends]
    if k == 1:
      half = values[0] + 0.5 * h * table[0]
    mean += table[0] * sum(c * m for c, m in zip(basis, moments, strict=False))
  enough = known[2] if len(known) > 2 else False
  return jnp.where(finite, jnp.where(enough, mean, half), values[0])


def _divided_difference(value_a, value_b, node_a, node_b, known):
  # The difference is 0 if b is unknown.
  width = jnp.where(known, node_a - node_b, 1.0)
  return jnp.where(known, (value_a - value_b) / width, 0.0)


def _lambda_difference(level, level_t):
  # Returns lambda - lambda_t, inf if one of the two is infinite. Such levels
  # are replaced before the logarithms, whose gradients would be NaN.
  finite = (level.sigma > 0.0) & (level.alpha > 0.0)
  finite &= (level_t.sigma > 0.0) & (level_t.alpha > 0.0)
  level, level_t = (
    select_level(finite, a, jax.tree.map(jnp.ones_like, a)) for a in (level, level_t)
  )
  difference = jnp.log(level.alpha) - jnp.log(level_t.alpha)
  difference += jnp.log(level_t.sigma) - jnp.log(level.sigma)
  return jnp.where(finite, difference, jnp.inf)


def _correct_where_finite(correct, x, level_s, level_t, level):
  # Returns correct(x, level), or x itself if alpha_t = 0 or sigma_s = 0.
  # `_correct_where` needs a level that is finite for all examples.
  finite = (level_s.sigma > 0.0) & (level_t.alpha > 0.0)
  level = select_level(finite, level, level_t)
  return _correct_where(finite, correct, x, level)


def _correct_where(condition, correct, x, level):
  if not condition.ndim:
    return jax.lax.cond(condition, correct, lambda x, level: x, x, level)
  return jnp.where(expand_to(condition, x), correct(x, level), x)


def _broadcast_level(level, x):
  # A loop's state has a fixed shape: one level per example, [B, 1, ...], or element.
  axes = max(1, jnp.ndim(level.alpha))
  shape = (*x.shape[:axes], *[1] * (x.ndim - axes))
  return jax.tree.map(lambda a: jnp.broadcast_to(a, shape).astype(x.dtype), level.expand_to(x))


def _empty_history(x, n):
  # The n estimates have no weight, since their level has no signal.
  no_signal = NoiseLevel(jnp.zeros(()), jnp.zeros(()), jnp.ones(()))
  return ((jnp.zeros_like(x), _broadcast_level(no_signal, x)),) * n
