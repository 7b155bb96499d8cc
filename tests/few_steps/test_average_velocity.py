"""MeanFlow, self-distillation and shortcut models against transcriptions."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.few_steps import average_velocity as flow_maps
from diffusion_jax.training.objectives import Context, Network, make_condition
from tests.few_steps import few_step
from tests.few_steps.few_step import (
  Arc,
  Literal,
  column,
)
from tests.schedules import anything
from tests.transcribed import transcribes

STRAIGHT, SCALE = dj.RectifiedFlowSchedule(), 3.0
NETWORK = Network(
  few_step.network, dj.time_input(SCALE), time_scale=SCALE, condition=make_condition(dropout=0.3)
)


def drawn(objective, key, average=few_step.WEIGHTS):
  """Returns (loss, gradient), metrics and the draws, in float64."""
  context = Context(0, {'network': {'w': average}})
  found, metrics, draws = few_step.evaluate(objective, key, context)
  inputs, s, extra, share = draws
  t = inputs.level.t
  a, b = np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)
  xt = (a * inputs.x0.T + b * inputs.eps.T).T
  v = (np.pi / 2 * (a * inputs.eps.T - b * inputs.x0.T)).T
  return found, metrics, (inputs, t, s, xt, v, extra, share)


@transcribes(
  'MeanFlow (Geng et al. 2025)',
  '9 to 11: the loss; guidance trained in; adaptive weight',
  '`few_steps.losses.mean_flow_error`, `guided_velocity`, `adaptive_loss`',
)
def test_mean_flow_literally(key):
  """Guidance has omega and kappa, and the path is not straight."""
  omega, kappa, power, c = 0.9, 0.5, 1.0, 0.3
  with jax.enable_x64(True):
    objective = flow_maps.mean_flow(
      NETWORK,
      Arc(),
      two_times=flow_maps.independent_times(p_equal=0.3),
      guidance=flow_maps.fixed_guidance(omega, kappa),
      improved=False,
      adaptive_power=power,
      adaptive_eps=c,
    )
    found, metrics, (inputs, t, s, xt, v, *_) = drawn(objective, key)
  drop = inputs.cond['drop']
  label = np.where(drop, 0.0, inputs.cond['label'])

  def squares(net, fixed):
    own = fixed(xt, SCALE * t, 0.0, label)
    null = fixed(xt, SCALE * t, 0.0, 0.0)
    guided = omega * v + kappa * own + (1 - omega - kappa) * null
    target = np.where(column(drop), v, guided)
    time, elapsed = SCALE * t, SCALE * (t - s)
    du = fixed.slope(xt, time, elapsed, target, SCALE, SCALE)
    u = net(xt, time, elapsed, label)
    return np.sum((u - (target - column(t - s) * du)) ** 2, axis=1)

  def literal(net, fixed):
    # the paper sums over pixels: a factor of D^(p - 1)
    weight = (squares(fixed, fixed) + c) ** -power * 2.0 ** (power - 1.0)
    return np.mean(weight * squares(net, fixed))

  few_step.check_literally(found, literal)
  fixed = Literal(few_step.WEIGHTS)
  error = squares(fixed, fixed).mean() / 2
  assert_allclose(metrics['error'].total, error, rtol=1e-9)
  assert 0 < drop.sum() < 12 and 0 < (s == t).sum() < 12


@transcribes(
  'Improved MeanFlow (Geng et al. 2025b)',
  'the compound velocity; scales of guidance as inputs',
  '`few_steps.losses.improved_mean_flow_error`, `few_steps.average_velocity.mean_flow`',
)
def test_improved_mean_flow_literally(key):
  """Each example has its own guidance scale, an input of the network."""
  with jax.enable_x64(True):
    objective = flow_maps.mean_flow(
      NETWORK,
      Arc(),
      two_times=flow_maps.independent_times(p_equal=0.3),
      guidance=flow_maps.power_law_guidance(1.0, 8.0, 2.0),
    )
    found, metrics, (inputs, t, s, xt, v, scale, _) = drawn(objective, key)
  drop = inputs.cond['drop']
  label = np.where(drop, 0.0, inputs.cond['label'])

  def errors(net, fixed):
    own = fixed(xt, SCALE * t, 0.0, label, scale)
    null = fixed(xt, SCALE * t, 0.0, 0.0, 1.0)  # as released: unguided
    guided = v + column(1 - 1 / scale) * (own - null)
    target = np.where(column(drop), v, guided)
    time, elapsed = SCALE * t, SCALE * (t - s)
    du = fixed.slope(xt, time, elapsed, own, SCALE, SCALE)
    compound = net(xt, time, elapsed, label, scale) + column(t - s) * du
    at_t = net(xt, SCALE * t, 0.0, label, scale)
    return np.mean((compound - target) ** 2), np.mean((at_t - target) ** 2)

  few_step.check_literally(found, lambda *nets: sum(errors(*nets)))
  fixed = Literal(few_step.WEIGHTS)
  parts = metrics['error'].total, metrics['error_velocity'].total
  assert_allclose(parts, errors(fixed, fixed), rtol=1e-9)


@transcribes(
  'Self-distillation (Boffi et al. 2025)',
  'Lagrangian: ∂X/∂s = u(X, s, s)',
  '`few_steps.losses.lagrangian_error`, `few_steps.average_velocity.lagrangian`',
)
@transcribes(
  'Self-distillation (Boffi et al. 2025)',
  'progressive: one step is two',
  '`few_steps.losses.two_step_velocity`, `few_steps.average_velocity.progressive`',
)
@pytest.mark.parametrize(
  'name', ['lagrangian', 'progressive', pytest.param('midpoint', marks=pytest.mark.slow)]
)
def test_self_distillation_literally(name, key):
  """Guidance has omega and kappa; dX/ds is a derivative in s only."""
  omega, kappa = 0.9, 0.5
  midpoint = {'midpoint': True} if name == 'midpoint' else {}
  make = flow_maps.lagrangian if name == 'lagrangian' else flow_maps.progressive
  with jax.enable_x64(True):
    guidance = flow_maps.fixed_guidance(omega, kappa)
    objective = make(NETWORK, Arc(), guidance=guidance, **midpoint)
    found, metrics, (inputs, t, s, xt, v, _, share) = drawn(objective, key)
  drop = inputs.cond['drop']
  label = np.where(drop, 0.0, inputs.cond['label'])
  share = np.full(len(t), 0.5) if midpoint else share

  def errors(net, fixed):
    u = lambda net, x, t, s: net(x, SCALE * t, SCALE * (t - s), label)
    own, null = u(fixed, xt, t, t), fixed(xt, SCALE * t, 0.0, 0.0)
    guided = omega * v + kappa * own + (1 - omega - kappa) * null
    velocity = np.where(column(drop), v, guided)
    if name == 'lagrangian':
      slope = net.slope(xt, SCALE * t, SCALE * (t - s), 0.0 * xt, 0.0, -SCALE)
      end = xt - column(t - s) * u(fixed, xt, t, s)
      gap = u(net, xt, t, s) - column(t - s) * slope - u(fixed, end, s, s)
    else:
      middle = t - share * (t - s)
      first = xt - column(t - middle) * u(fixed, xt, t, middle)
      end = first - column(middle - s) * u(fixed, first, middle, s)
      gap = u(net, xt, t, s) - (xt - end) / column(t - s)
    return np.mean(gap**2), np.mean((u(net, xt, t, t) - velocity) ** 2)

  few_step.check_literally(found, lambda *nets: sum(errors(*nets)))
  fixed = Literal(few_step.WEIGHTS)
  parts = metrics['error'].total, metrics['error_velocity'].total
  assert_allclose(parts, errors(fixed, fixed), rtol=1e-9)
  assert (s < t).all() and len(set(share)) == (1 if midpoint else 12)


@transcribes(
  'Shortcut models (Frans et al. 2024)',
  '4, Alg. 1',
  '`few_steps.losses.two_step_velocity`, `few_steps.average_velocity.shortcut`',
)
@pytest.mark.parametrize('ema_target', [False, True])
def test_shortcut_literally(ema_target, key):
  """The target uses the parameters, or the averaged ones."""
  average = few_step.WEIGHTS + 0.1
  with jax.enable_x64(True):
    objective = flow_maps.shortcut(
      dataclasses.replace(NETWORK, condition=make_condition()),
      Arc(),
      num_steps=8,
      bootstrap=0.6,
      ema_target=ema_target,
    )
    found, _, (inputs, t, s, xt, v, steps, _) = drawn(objective, key, average)
  label, d = inputs.cond['label'], t - s

  def literal(net, fixed):
    fixed = Literal(average) if ema_target else fixed
    first = fixed(xt, SCALE * t, SCALE * d / 2, label)
    middle = xt - column(d / 2) * first
    second = fixed(middle, SCALE * (t - d / 2), SCALE * d / 2, label)
    target = np.where(column(steps), 0.5 * (first + second), v)
    return np.mean((net(xt, SCALE * t, SCALE * d, label) - target) ** 2)

  few_step.check_literally(found, literal)
  assert set(d[steps > 0]) == {1.0, 0.5, 0.25} and set(d[steps == 0]) == {1 / 8}
  assert_allclose(t / d, np.rint(t / d), atol=1e-12)
  assert (s >= 0.0).all()


N, SHARE = 4000, st.floats(0.0, 1.0)


def drawn_times(key, *laws, **masses):
  # Eagerly: all tests share the programs of N draws.
  return jax.device_get(flow_maps.independent_times(*laws, **masses)(key, N, STRAIGHT))


@anything
@given(st.integers(0, 2**31 - 1), SHARE, SHARE, SHARE)
def test_two_times_have_the_masses_that_were_set(seed, p_equal, p_t1, p_s0):
  t, s = drawn_times(jax.random.key(seed), p_equal=p_equal, p_t1=p_t1, p_s0=p_s0)
  assert (0.0 <= s).all() and (s <= t).all() and (t <= 1.0).all()
  share = np.mean([s == t, t == 1.0, s == 0.0], axis=1)
  # s = 0 is replaced where s = t
  expected = np.array([p_equal, p_t1, p_s0 * (1 - p_equal)])
  error = 5 * np.sqrt(expected * (1 - expected) / N) + 5 / N
  assert (np.abs(share - expected) < error).all()


def test_two_times_have_the_moments_of_their_laws(key):
  # the larger of two uniform draws has mean 2/3, the smaller 1/3
  t, s = drawn_times(key, p_equal=0.0)
  assert_allclose([t.mean(), s.mean()], [2 / 3, 1 / 3], atol=0.017)
  # with a second law s is the smaller of t and a draw of it: E min = 1/8
  low = functools.partial(dj.uniform_times, t_min=0.75)
  t, s = drawn_times(key, low, dj.uniform_times, p_equal=0.0)
  assert t.min() >= 0.75
  assert_allclose(t.mean(), 0.875, atol=0.005)  # t is not the larger, whose mean is 0.885
  # E min(t, u) = E[t - t^2 / 2] for u uniform
  exact = 0.875 - 0.5 * (1 - 0.75**3) / 3 / 0.25
  assert_allclose(s.mean(), exact, atol=0.02)


def test_two_times_of_antithetic_draws_are_independent(key):
  """The two times cover (0, 1] evenly, and have the gap of two uniform draws."""
  t, s = drawn_times(key, dj.antithetic_times, p_equal=0.0)
  both = np.sort(np.concatenate([t, s]))
  even = (np.arange(2 * N) + 0.5) / (2 * N)
  assert_allclose(both, even, atol=1e-3)
  # P(t - s < x) = 1 - (1 - x)^2, to Kolmogorov's bound
  share = 1.0 - (1.0 - np.sort(t - s)) ** 2
  assert np.abs(share - (np.arange(N) + 0.5) / N).max() < 1.95 / np.sqrt(N)


def test_the_share_of_a_step_is_uniform_and_independent_of_all_else(key):
  """Kolmogorov's bound, and correlations within 4.5 standard errors."""
  objective = flow_maps.mean_flow(NETWORK, STRAIGHT, guidance=flow_maps.power_law_guidance())
  batch = {'x': np.zeros((N, 1), np.float32), 'label': np.zeros(N, int)}
  draws, _ = objective.draw(key, batch, Context())
  share = np.asarray(draws.share)
  assert np.abs(np.sort(share) - (np.arange(N) + 0.5) / N).max() < 1.95 / np.sqrt(N)
  others = draws.inputs.level.t, draws.s, draws.scale, draws.inputs.eps[:, 0]
  assert np.abs(np.corrcoef([share, *others])[0, 1:]).max() < 4.5 / np.sqrt(N)


def test_guidance_scales_follow_the_power_law(key):
  """The scales have the distribution function of w^-b on [1, 8], b = 1, 2."""
  for power in (1.0, 2.0):
    draw = flow_maps.power_law_guidance(1.0, 8.0, power).draw
    assert draw is not None
    w = np.sort(draw(key, N))
    exact = np.log(w) / np.log(8.0) if power == 1.0 else (1 - 1 / w) / (1 - 1 / 8)
    assert np.abs(exact - (np.arange(N) + 0.5) / N).max() < 1.95 / np.sqrt(N)
