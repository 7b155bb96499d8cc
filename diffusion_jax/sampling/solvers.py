"""Fast solvers of the probability-flow ODE, and one of its SDE.

With lambda = log(alpha / sigma) a step from level t to the cleaner level s is

  x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^-h) D,   h = lambda_s - lambda_t,

where D is the mean over the step, weighted with e^lambda, of x_0_hat along the
solution (Lu et al. 2022). That is DDIM (`ddim_step`) with D in place of x_0:
the solvers differ in how they estimate D. Steps from alpha_t = 0 and to
sigma_s = 0, where h is infinite, are DDIM itself.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.core.broadcasting import expand_to
from diffusion_jax.core.concrete import check_numbers
from diffusion_jax.core.denoiser import predict
from diffusion_jax.core.keys import draw_normal
from diffusion_jax.core.levels import NoiseLevel
from diffusion_jax.core.parametrization import eps_from_x0
from diffusion_jax.sampling.ancestral import ddim_step
from diffusion_jax.sampling.sampler import Sampler

Array = jax.Array


def heun() -> Sampler:
  """Heun's method, second order (Karras et al. 2022, Alg. 1).

  In y = x / alpha the ODE is dy = eps d(sigma / alpha), of which DDIM is the
  Euler step; this averages eps at both ends. Two calls a step, one on the last
  (to sigma_s = 0): 2N - 1. One, and Euler, also where alpha_t = 0.
  """

  def step(key, x, state, denoise, level_t, level_s):
    s, t = level_s.expand_to(x), level_t.expand_to(x)
    x0 = predict(denoise, x, level_t).x0
    eps = eps_from_x0(x0, x, level_t)

    def correct(x, level_s):
      ratio = s.alpha / jnp.where(t.alpha > 0.0, t.alpha, 1.0)
      change = eps_from_x0(predict(denoise, x, level_s).x0, x, level_s) - eps
      return x + 0.5 * (s.sigma - ratio * t.sigma) * change

    x = ddim_step(x0, x, s, t)
    return _unless_at_an_end(correct, x, level_t, level_s, level_s), state

  return Sampler(lambda x: (), step)


def dpm_solver_pp(order: int = 2) -> Sampler:
  """Multistep DPM-Solver++ (Lu et al. 2022, Alg. 2): 1 is DDIM, 2 2M, 3 3M.

  One call a step; it remembers order - 1 estimates of x_0. Lower orders on the
  first steps, order 1 on the step to clean data. 3M integrates the parabola
  through three estimates exactly; released code halves its last term, which
  makes it second order. Raises ValueError for other orders.
  """
  _check_order(order)

  def step(key, x, state, denoise, level_t, level_s):
    history = ((predict(denoise, x, level_t).x0, _wide(level_t, x)), *state)
    x = _multistep(x, level_s.expand_to(x), history)
    return x, history[: order - 1]

  return Sampler(lambda x: _nothing(x, order - 1), step)


def dpm_solver_pp_2s(schedule: Callable) -> Sampler:
  """Singlestep DPM-Solver++(2S) (Lu et al. 2022, Alg. 1 with r = 1/2).

  D is x_0_hat in the middle of the step, where lambda is the mean of its ends;
  `schedule` gives the level there. Second order without a memory; 2N - 1 calls.
  """

  def step(key, x, state, denoise, level_t, level_s):
    s, t = level_s.expand_to(x), level_t.expand_to(x)
    x0 = predict(denoise, x, level_t).x0
    h = _ahead(level_s, level_t)
    inside = jnp.isfinite(h)
    logsnr = jnp.where(inside, level_t.logsnr, 0.0) + jnp.where(inside, h, 0.0)
    middle = schedule.from_logsnr(logsnr)

    def correct(x_s, middle):
      m = middle.expand_to(x)
      return ddim_step(
        predict(denoise, ddim_step(x0, x, m, t), middle).x0, x, s, t
      )

    euler = ddim_step(x0, x, s, t)
    return _unless_at_an_end(correct, euler, level_t, level_s, middle), state

  return Sampler(lambda x: (), step)


def dpm_solver_pp_sde(eta: float = 1.0) -> Sampler:
  """Multistep SDE-DPM-Solver++(2M) (Lu et al. 2022).

  D as in 2M; the noise of x_t decays by e^(-eta h), new noise takes its place:
  eta = 0 is `dpm_solver_pp(2)`, eta = 1 the reverse SDE. Raises ValueError for
  eta < 0.
  """
  check_numbers(lambda eta: eta >= 0.0, 'it cannot be negative', eta=eta)

  def step(key, x, state, denoise, level_t, level_s):
    s, t = level_s.expand_to(x), level_t.expand_to(x)
    history = ((predict(denoise, x, level_t).x0, _wide(level_t, x)), *state)
    # 0 times an infinite h has no value
    exponent = 2.0 * eta * _ahead(s, t) if eta else jnp.zeros_like(s.sigma)
    std = s.sigma * jnp.sqrt(-jnp.expm1(-exponent))
    x = _multistep(x, s, history, jnp.exp(-exponent))
    return x + std * draw_normal(key, x), history[:1]

  return Sampler(lambda x: _nothing(x, 1), step)


def unipc(order: int = 2) -> Sampler:
  """UniPC-p, B_2(h), data prediction (Zhao et al. 2023); p = `order`.

  The predictor is `dpm_solver_pp(order)`. x_0_hat at the point reached is then
  used twice: to repeat the step that led there with one more estimate, and for
  the next step. One call a step. Do not wrap it in what changes x between
  steps: the repeated step undoes that. Raises ValueError for other orders.
  """
  _check_order(order)

  def step(key, x, state, denoise, level_t, level_s):
    x_before, history = state
    new = predict(denoise, x, level_t).x0, _wide(level_t, x)
    before, *older = history
    again = _multistep(x_before, new[1], (before, new, *older))
    x = jnp.where(before[1].alpha > 0.0, again, x)
    history = (new, *history)[:order]
    return _multistep(x, level_s.expand_to(x), history), (x, history)

  return Sampler(lambda x: (x, _nothing(x, order)), step)


def _multistep(x, s, history, old=1.0):
  # x at the level of history[0] -> level s. history: pairs (x0, level), the
  # start of the step first; an estimate at alpha = 0 counts for nothing.
  x0, t = history[0]
  nodes = [jnp.zeros_like(t.t), *(_ahead(level, t) for _, level in history[1:])]
  values = [x0 for x0, _ in history]
  return ddim_step(_mean(_ahead(s, t), nodes, values), x, s, t, old)


def _mean(h, nodes, values):
  """Mean over 0 < u < h, weighted with e^u, of x_0 known at some nodes u.

  nodes: 0 and others, inf where not known (and so are all that follow). One
  node gives the constant; two give x_0 + h / 2 * slope, as both papers have it;
  more give the polynomial's exact mean. x_0 also where h is inf.
  """
  inside = jnp.isfinite(h)
  h = jnp.where(inside, h, 1.0)
  known = [jnp.isfinite(node) for node in nodes]
  nodes = [
    jnp.where(k, node, 0.0) for k, node in zip(known, nodes, strict=True)
  ]
  total = -jnp.expm1(-h)
  moments = [1.0]  # means of 1, u, u^2, ...
  basis = [1.0]  # coefficients of (u - node_0) (u - node_1) ...
  mean = half = values[0]
  table = values
  for k in range(1, len(nodes)):
    moments.append(h**k / total - k * moments[-1])
    low, high = [0.0, *basis], [*basis, 0.0]
    basis = [a - nodes[k - 1] * b for a, b in zip(low, high, strict=True)]
    table = [
      _slope(table[i], table[i + 1], nodes[i], nodes[i + k], known[i + k])
      for i in range(len(table) - 1)
    ]
    if k == 1:
      half = values[0] + 0.5 * h * table[0]
    mean += table[0] * sum(c * m for c, m in zip(basis, moments, strict=True))
  enough = known[2] if len(known) > 2 else False
  return jnp.where(inside, jnp.where(enough, mean, half), values[0])


def _slope(value_a, value_b, node_a, node_b, known):
  # a divided difference, 0 where b is not known
  width = jnp.where(known, node_a - node_b, 1.0)
  return jnp.where(known, (value_a - value_b) / width, 0.0)


def _ahead(level, t):
  # lambda - lambda_t, inf where one of them is; replaced before it is computed
  inside = (level.sigma > 0.0) & (level.alpha > 0.0) & (t.alpha > 0.0)
  level, t = (
    _where(inside, a, jax.tree.map(jnp.ones_like, a)) for a in (level, t)
  )
  gain = jnp.log(level.alpha) - jnp.log(t.alpha)
  gain += jnp.log(t.sigma) - jnp.log(level.sigma)
  return jnp.where(inside, gain, jnp.inf)


def _unless_at_an_end(correct, x, level_t, level_s, at):
  # correct(x, at), which calls the network; x where alpha_t = 0 or sigma_s = 0
  inside = (level_s.sigma > 0.0) & (level_t.alpha > 0.0)
  at = _where(
    inside, at, level_t
  )  # finite, should it be evaluated all the same
  if not inside.ndim:
    return jax.lax.cond(inside, correct, lambda x, at: x, x, at)
  mask = expand_to(inside, x)
  return jnp.where(mask, correct(x, at), x)


def _where(condition, level, other):
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), level, other)


def _wide(level, x):
  # one level per example, broadcast against x: the same shape in every state
  shape = (x.shape[0], *[1] * (x.ndim - 1))
  return jax.tree.map(
    lambda a: jnp.broadcast_to(a, shape).astype(x.dtype), level.expand_to(x)
  )


def _nothing(x, n):
  # n estimates without weight: at a level that has no signal
  nowhere = NoiseLevel(jnp.zeros(()), jnp.zeros(()), jnp.ones(()))
  return ((jnp.zeros_like(x), _wide(nowhere, x)),) * n


def _check_order(order):
  if order not in (1, 2, 3):
    raise ValueError(f'order is {order}: it can be 1, 2 or 3')
