"""Consistency objectives against transcriptions and exact functions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.few_steps import consistency, level_pairs
from diffusion_jax.few_steps.losses import pseudo_huber
from diffusion_jax.testing import oracles
from diffusion_jax.training.objectives import Context, Network, make_condition
from tests.few_steps import few_step
from tests.few_steps.few_step import (
  C,
  Literal,
  column,
  evaluate,
)
from tests.transcribed import transcribes

EDM, STRAIGHT = dj.KarrasSchedule(), dj.RectifiedFlowSchedule()
S_D, S_MIN = 0.6, 0.002
LOSS = {'sigma_data': S_D, 'sigma_min': S_MIN}
NETWORK = Network(few_step.network, dj.edm_input, condition=make_condition())


def f(net, x, sigma, label):
  """Computes the consistency function of a literal network in EDM's space."""
  norm = np.sqrt(sigma**2 + S_D**2)
  skip = S_D**2 / ((sigma - S_MIN) ** 2 + S_D**2)
  out = (sigma - S_MIN) * S_D / norm
  output = net(x / column(norm), np.log(sigma) / 4, 0.0, label)
  return column(skip) * x + column(out) * output


def half(frozen, cond):
  return lambda xt, level: dj.Prediction(frozen * xt)


@transcribes('iCT (Song & Dhariwal 2024)', 'N(k), the law of the pairs, pseudo-Huber')
def test_consistency_training_literally(key):
  """iCT: pseudo-Huber per image with c = 0.00054 sqrt(D), same noise."""
  with jax.enable_x64(True):
    objective = consistency.consistency_training(
      NETWORK, EDM, pairs=level_pairs.improved_pairs(800), **LOSS
    )
    found, _, (inputs, r) = evaluate(objective, key, Context(300))
  t, label = inputs.level.sigma, inputs.cond['label']
  xt, xr = (inputs.x0 + column(a.sigma) * inputs.eps for a in (inputs.level, r))
  c = 0.00054 * np.sqrt(2.0)

  def literal(net, fixed):
    difference = f(net, xt, t, label) - f(fixed, xr, r.sigma, label)
    distance = np.sqrt(np.sum(difference**2, axis=1) + c**2) - c
    return np.mean(distance / (t - r.sigma))

  few_step.check_literally(found, literal, rtol=1e-7)


@transcribes('ECT (Geng et al. 2024)', 'r(t) in stages')
def test_ect_literally_where_r_is_clean(key):
  """In stage 0 x_0 itself is the target for small t, on the straight path."""

  def times(key, batch_size, schedule):
    level, _ = dj.log_normal_times(0.4, 1.2)(key, batch_size, schedule)
    return level, 1.0 + level.t

  with jax.enable_x64(True):
    objective = consistency.consistency_training(
      NETWORK,
      STRAIGHT,
      pairs=level_pairs.easy_pairs(100, times),
      distance=pseudo_huber(0.0),
      **LOSS,
    )
    found, _, (inputs, r) = evaluate(objective, key, Context(99))
  t = inputs.level.sigma / inputs.level.alpha
  label, weight = inputs.cond['label'], 1.0 + inputs.level.t
  exact_r = t * np.maximum(0, 1 - (1 + 8 / (1 + np.exp(t))) / 2)
  assert_allclose(r.sigma / r.alpha, exact_r, atol=1e-9)
  clean = exact_r == 0.0
  assert 0 < clean.sum() < 12
  # x / alpha lies on EDM's path
  xt, xr = (inputs.x0 + column(a) * inputs.eps for a in (t, exact_r))
  safe = np.where(clean, 1.0, exact_r)

  def literal(net, fixed):
    target = f(fixed, xr, safe, label)
    target = np.where(column(clean), inputs.x0, target)
    square = np.sum((f(net, xt, t, label) - target) ** 2, axis=1)
    return np.mean(weight * np.sqrt(square) / (t - exact_r))

  few_step.check_literally(found, literal, rtol=1e-7)


@transcribes(
  'Consistency models (Song et al. 2023)',
  'Alg. 2, Eq. 7: distillation',
  '`few_steps.consistency.consistency_distillation`',
)
def test_consistency_distillation_literally(key):
  """The teacher is x_0 = x_t / 2 with a Heun step; the target is averaged."""
  average = few_step.WEIGHTS + 0.1
  with jax.enable_x64(True):
    objective = consistency.consistency_distillation(
      NETWORK,
      EDM,
      teacher=half,
      solver=dj.heun(),
      pairs=level_pairs.grid_pairs(18),
      sigma_data=S_D,
      sigma_min=S_MIN,
      ema_target=True,
    )
    context = Context(0, {'network': {'w': average}}, 0.5)
    found, _, (inputs, r) = evaluate(objective, key, context)
  t, label = inputs.level.sigma, inputs.cond['label']
  s, xt = column(r.sigma), inputs.x0 + column(t) * inputs.eps
  slope = (xt - 0.5 * xt) / column(t)
  euler = xt + (s - column(t)) * slope
  xr = xt + (s - column(t)) * 0.5 * (slope + (euler - 0.5 * euler) / s)
  target = f(Literal(average), xr, r.sigma, label)

  def literal(net, fixed):
    return np.mean((f(net, xt, t, label) - target) ** 2)

  few_step.check_literally(found, literal, rtol=1e-7)
  i = np.arange(18) / 17
  grid = (0.002 ** (1 / 7) + i * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
  index = np.abs(np.log(grid)[None] - np.log(column(t))).argmin(1)
  assert_allclose(r.sigma, grid[index - 1], rtol=1e-6)


@transcribes(
  'sCM (Lu & Song 2025)',
  'Alg. 1: tangent, its norm, warm-up',
  '`few_steps.losses.trigflow_tangent`, `few_steps.consistency.continuous_consistency`',
)
@pytest.mark.parametrize('step, distilled', [(50, True), (300, False)])
def test_continuous_consistency_literally(step, distilled, key):
  """sCM's Algorithm 1 is checked halfway through the warm-up and after it."""

  def times(key, batch_size, schedule):
    level, _ = dj.log_normal_times(-0.5, 1.0)(key, batch_size, schedule)
    return level, 1.0 + level.t

  def uncertainty(params, level):
    return 0.3 * level.t * params['network']['w'][3]

  scale, warmup = 0.5 * np.pi, min(step / 100, 1.0)
  with jax.enable_x64(True):
    objective = consistency.continuous_consistency(
      dataclasses.replace(NETWORK, noise_input=dj.time_input(scale)),
      STRAIGHT,
      times=times,
      teacher=half if distilled else None,
      warmup_steps=100,
      uncertainty=uncertainty,
      sigma_data=S_D,
    )
    context = Context(step, (), 0.5)
    found, metrics, inputs = evaluate(objective, key, context)
  x0, z = inputs.x0, S_D * inputs.eps
  level, label = inputs.level, inputs.cond['label']
  t = np.arctan(level.sigma / level.alpha / S_D)
  cos, sin = column(np.cos(t)), column(np.sin(t))
  xt = cos * x0 + sin * z
  slope = cos * z - sin * x0
  if distilled:
    # the teacher sees x on its own path
    seen = column(level.alpha) * x0 + column(level.sigma) * inputs.eps
    slope = (cos * xt - 0.5 * seen) / sin

  def tangent(net):
    along = cos * sin
    jvp = net.slope(xt / S_D, t, 0.0, along * slope / S_D, along[:, 0], np.zeros(12))
    g = -(cos**2) * (S_D * net(xt / S_D, t, 0.0, label) - slope)
    return g - warmup * (cos * sin * xt + S_D * jvp)

  def literal(net, fixed):
    g = tangent(fixed)
    g /= column(np.linalg.norm(g, axis=1) + 0.1)
    target = fixed(xt / S_D, t, 0.0, label) + g
    output = net(xt / S_D, t, 0.0, label)
    u = 0.3 * level.t * net.w[3]
    losses = np.mean((output - target) ** 2, axis=1) / np.exp(u) + u
    return np.mean((1.0 + level.t) * losses)

  few_step.check_literally(found, literal, rtol=1e-8)
  norm = np.linalg.norm(tangent(Literal(few_step.WEIGHTS)), axis=1)
  mean = np.average(norm, weights=1.0 + level.t) / np.sqrt(2)
  found = metrics['tangent'].total / metrics['tangent'].count
  assert_allclose(found, mean, rtol=1e-8)


# The exact consistency functions of N(0, C^2 I) have no gradient.

GAUSSIAN = oracles.gaussian(np.zeros(2), C**2 * np.eye(2))
EXACT_STEP = dj.Sampler(
  lambda x: (),
  lambda key, x, state, denoise, *, level_s, level_t: (
    GAUSSIAN.ode_map(x, level_t, level_s),
    state,
  ),
)


def close_pairs(key, batch_size, schedule, step):
  # The error of a pair, 1e-3 of its terms, is below the statistical error.
  level, _ = dj.log_normal_times(-0.5, 1.0)(key, batch_size, schedule)
  near = schedule.from_logsnr(level.logsnr - 2.0 * jnp.log(0.999))
  return level, near, 1.0 / (level.sigma - near.sigma)


EXACT = Network(few_step.exact_consistency, dj.edm_input), EDM


@transcribes(
  'Consistency models (Song et al. 2023)',
  'Alg. 3, Eq. 10: training',
  '`few_steps.losses.consistency_error`',
)
@pytest.mark.slow
@pytest.mark.parametrize('objective', [
  consistency.consistency_training(
    *EXACT, pairs=close_pairs, sigma_data=C, sigma_min=0.0,
    distance=lambda a, b: jnp.mean((a - b) ** 2, axis=1),
  ),
  consistency.consistency_distillation(
    *EXACT, pairs=level_pairs.grid_pairs(18), sigma_data=C, sigma_min=0.0,
    teacher=lambda frozen, cond: GAUSSIAN.denoise, solver=EXACT_STEP,
  ),
  consistency.continuous_consistency(
    Network(few_step.exact_trigflow, dj.time_input(0.5 * np.pi)), STRAIGHT,
    times=dj.log_normal_times(-0.5, 1.0), warmup_steps=0, sigma_data=C,
    offset=100.0,  # almost no normalisation, which is not linear
  ),
], ids=['training', 'distillation', 'continuous'])  # fmt: skip
def test_the_gradient_vanishes_at_the_exact_function(objective):
  few_step.check_exact(objective, Context(1000))
