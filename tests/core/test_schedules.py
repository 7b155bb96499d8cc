"""Every schedule loses signal, stays accurate in float32, and is inverted by `from_logsnr`."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from tests.jitted import level_at, level_grid
from tests.schedules import DDPM, ENDING, EVERY, EXAMPLES, VP, anything, learned
from tests.transcribed import transcribes

LEARNED = learned(-10.0, 6.0, 9.0)


T = np.linspace(0.0, 1.0, 101, dtype=np.float32)


def everything(schedule, t=T, beyond=(-90.0, 90.0)):
  """Returns the levels at t [101], of their log-SNRs and of `beyond` [2], and slopes in t."""
  return compiled(schedule, t, np.float32(beyond))


@jax.jit
def compiled(schedule, t, beyond):
  level, slopes = jax.jvp(schedule, (t,), (jnp.ones_like(t),))
  inside = (t > 0.0) & (t < 1.0)  # A schedule may have no slope at t = 0 and t = 1.
  slopes = [jnp.where(inside, slope, 0.0) for slope in slopes[1:]]
  found = schedule.from_logsnr(jnp.concatenate([level.logsnr, beyond]))
  parts = (jax.tree.map(lambda x, i=i: x[i], found) for i in (slice(-2), slice(-2, None)))
  return level, *parts, slopes


@pytest.mark.parametrize('name', EXAMPLES)
def test_schedules_of_the_table_keep_the_contract(name):
  keeps_the_contract(EXAMPLES[name])


@anything
@given(EVERY)
def test_every_schedule_keeps_the_contract(schedule):
  keeps_the_contract(schedule)


def keeps_the_contract(schedule):
  """A schedule is finite, noisier with t, and has an inverse and gradients."""
  level, found, _, slopes = everything(schedule)
  assert np.isfinite(level.alpha).all() and np.isfinite(level.sigma).all()
  with np.errstate(divide='ignore'):  # The ends may be infinite.
    logsnr = 2.0 * (np.log(level.alpha) - np.log(level.sigma))
  assert (np.diff(logsnr) < 0.0).all()
  jax.tree.map(assert_array_equal, copy.copy(schedule), schedule)

  inside, found = jax.tree.map(lambda x: x[1:-1], jax.device_get((level, found)))
  assert_allclose(found.t, inside.t, atol=2e-4)
  assert_allclose(found.alpha, inside.alpha, rtol=1e-5)
  assert_allclose(found.sigma, inside.sigma, rtol=1e-5)
  assert np.isfinite(slopes).all()


@anything
@given(VP)
def test_schedules_are_variance_preserving_and_lose_signal(schedule):
  level = jax.tree.map(np.asarray, everything(schedule)[0])
  assert_allclose(level.alpha**2 + level.sigma**2, 1.0, atol=2e-6)
  rounding = 3e-7
  assert (np.diff(level.alpha) <= rounding).all()
  assert (np.diff(level.sigma) >= -rounding).all()


@anything
@given(ENDING)
def test_from_logsnr_clips_to_the_range(schedule):
  level, _, found, _ = jax.device_get(everything(schedule))
  if level.alpha[-1] == 0.0:
    found = jax.device_get(everything(schedule, beyond=(-np.inf, np.inf))[2])
  assert_allclose(found.t, [1.0, 0.0], atol=1e-6)
  assert_allclose(found.alpha[0], level.alpha[-1], rtol=1e-5, atol=1e-30)
  assert_allclose(found.sigma[1], level.sigma[0], atol=1e-6)


@transcribes(
  'VDM (Kingma et al. 2021)',
  'section 3.2: α² = sigmoid(−γ), σ² = sigmoid(γ)',
  '`LearnedSchedule`',
)
def test_a_learned_schedule_is_accurate_at_both_ends():
  """The variances sigmoid(gamma) and sigmoid(-gamma) have a small relative error."""
  gamma = np.linspace(-60.0, 60.0, 241)
  schedule = dj.LearnedSchedule((), lambda _, t: 120.0 * t - 60.0)
  level = level_at(schedule, gamma / 120.0 + 0.5)
  # float32 resolves gamma itself to 4e-6 here.
  assert_allclose(level.alpha, (1.0 + np.exp(gamma)) ** -0.5, rtol=1e-5)
  assert_allclose(level.sigma, (1.0 + np.exp(-gamma)) ** -0.5, rtol=1e-5)
  assert_allclose(level.logsnr, -gamma, atol=2e-5)


def test_gradients_reach_the_parameters_of_a_learned_schedule():
  """d logsnr / d params = -d gamma / d params, at every noise level."""
  t = jnp.array([0.0, 0.3, 1.0])
  rows = jax.jit(jax.jacrev(lambda schedule: schedule(t).logsnr))(LEARNED).params
  assert_allclose(rows['low'], [-1.0] * 3, rtol=1e-5)
  assert_allclose(rows['slope'], -np.asarray(t), rtol=1e-5)
  assert_allclose(rows['span'], -(np.asarray(t) ** 3), rtol=1e-5)


def test_from_logsnr_of_a_learned_schedule_for_infinity():
  found = jax.jit(LEARNED.from_logsnr)(np.array([np.inf, 10.0 - 9.0 * 0.5 - 0.75, -np.inf]))
  assert_allclose(found.t, [0.0, 0.5, 1.0], atol=1e-6)
  assert_allclose(found.logsnr, [10.0, 4.75, -5.0], rtol=1e-6)


# The functions t -> (alpha, sigma) of the papers, in float64.


def variance_preserving(t, beta_min, beta_max):
  log_alpha = -(t**2) * (beta_max - beta_min) / 4 - t * beta_min / 2
  return np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))


def sub_vp(t, beta_min, beta_max):
  alpha, sigma = variance_preserving(t, beta_min, beta_max)
  return alpha, sigma**2


def geometric_ve(t, sigma_min, sigma_max):
  return np.ones_like(t), sigma_min * (sigma_max / sigma_min) ** t


def flow(t, shift):
  sigma = shift * t / (1 + (shift - 1) * t)
  return (1 - t) / (1 + (shift - 1) * t), sigma


def karras(t, sigma_min, sigma_max, rho):
  first, last = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
  return np.ones_like(t), (first + t * (last - first)) ** rho


def sigmoid(t, start, end, tau):
  sig = lambda x: 1 / (1 + np.exp(-x / tau))
  x = t * (end - start) + start
  height = sig(end) - sig(start)
  alpha_bar = (sig(end) - sig(x)) / height
  return np.sqrt(alpha_bar), np.sqrt((sig(x) - sig(start)) / height)


def cosine(t, logsnr_min, logsnr_max, shift=1.0):
  first, last = np.arctan(np.exp([-logsnr_max / 2, -logsnr_min / 2]))
  ratio = shift * np.tan(first + t * (last - first))
  return 1 / np.sqrt(1 + ratio**2), 1 / np.sqrt(1 + ratio**-2)


@transcribes(
  'Score-SDE (Song et al. 2021)',
  '29, 33: marginals of VP, sub-VP and VE',
  '`LinearVPSchedule`, `SubVPSchedule`, `GeometricVESchedule`',
)
@transcribes(
  'Rectified flow (Liu et al. 2022; Lipman et al. 2022)',
  'the straight path',
  '`RectifiedFlowSchedule`',
)
@transcribes('Esser et al. 2024', 'shift for resolution', '`RectifiedFlowSchedule`')
@transcribes('Jabri et al. 2022; Chen 2023', 'sigmoid schedule', '`SigmoidSchedule`')
@pytest.mark.parametrize(
  'schedule, marginal, options',
  [
    (dj.CosineSchedule, cosine, (-8.0, 10.0)),
    (dj.LinearVPSchedule, variance_preserving, (0.1, 20.0)),
    (dj.SubVPSchedule, sub_vp, (0.1, 20.0)),
    (dj.GeometricVESchedule, geometric_ve, (0.02, 100.0)),
    (dj.RectifiedFlowSchedule, flow, (1.0,)),
    (dj.RectifiedFlowSchedule, flow, (3.0,)),
    (dj.RectifiedFlowSchedule, flow, (0.2,)),
    (dj.KarrasSchedule, karras, (0.002, 80.0, 7.0)),
    (dj.KarrasSchedule, karras, (0.1, 5.0, 3.0)),
    (dj.SigmoidSchedule, sigmoid, (-3.0, 3.0, 1.0)),
    (dj.SigmoidSchedule, sigmoid, (0.0, 3.0, 0.7)),
    (dj.SigmoidSchedule, sigmoid, (-3.0, 3.0, 0.5)),
  ],
)
def test_marginals_in_float32_close_to_both_ends(schedule, marginal, options):
  t = [1e-6, 1e-4, *np.linspace(1e-3, 0.999, 97), 1 - 1e-4, 1 - 1e-6]
  t = np.asarray(t, np.float32)
  level, found, *_ = everything(schedule(*options), t)
  alpha, sigma = marginal(np.float64(t), *options)
  assert_allclose(level.alpha, alpha, rtol=2e-6)
  assert_allclose(level.sigma, sigma, rtol=2e-6)
  assert_allclose(found.t, level.t, rtol=1e-4, atol=1e-6)
  assert_allclose(found.alpha, level.alpha, rtol=3e-6)
  assert_allclose(found.sigma, level.sigma, rtol=3e-6)


@transcribes(
  'Chen 2023; simple diffusion (Hoogeboom et al. 2023)',
  'input scaling; shifted log-SNR',
  '`ShiftedSchedule`',
)
@pytest.mark.parametrize('shift', [0.25, 4.0, 1 / 0.3])
def test_a_shift_of_a_cosine(shift):
  """A shift multiplies the tangent of the angle.

  256 / 64 is simple diffusion's of 256 x 256 pixels (Hoogeboom et al. 2023), which adds 2 log(64 /
  256) to log SNR; 1 / b is the input scaling by b (Chen 2023), whose SNR is b^2 times as large.
  """
  schedule = dj.ShiftedSchedule(dj.CosineSchedule(), shift)
  level = everything(schedule)[0]
  alpha, sigma = cosine(np.asarray(level.t, np.float64), -20, 20, shift)
  assert_allclose(level.alpha, alpha, rtol=2e-5)
  assert_allclose(level.sigma, sigma, rtol=2e-5)
  plain = everything(dj.CosineSchedule())[0]
  assert_allclose(level.logsnr[10:91], np.log(plain.snr[10:91] / shift**2), atol=2e-5)


def test_a_shift_keeps_the_steps():
  assert dj.ShiftedSchedule(DDPM, 2.0).num_steps == 1000
  assert not hasattr(dj.ShiftedSchedule(dj.CosineSchedule(), 2.0), 'num_steps')


@transcribes(
  'EDM (Karras et al. 2022)',
  '5: noise levels',
  "`KarrasSchedule`, `level_grid(…, spacing='karras')`",
)
@pytest.mark.parametrize('n', [2, 18, 256])
def test_a_uniform_grid_of_karras_is_edms_grid(n):
  """The grid has the t_i of Karras et al. 2022, Eq. 5, then 0."""
  i = np.arange(n)
  first, last = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
  expected = (first + i / (n - 1) * (last - first)) ** 7
  levels = level_grid(dj.KarrasSchedule(), n)
  # float32 resolves t to 6e-8; the relative error of sigma is up to 25 times.
  rtol = 1e-6 if n < 100 else 3e-6
  sigma = np.asarray(levels.sigma)
  assert_allclose(sigma[:-1], expected, rtol=rtol)
  assert sigma[-1] == 0.0 and (np.asarray(levels.alpha) == 1.0).all()


@pytest.mark.parametrize(
  'schedule, transform',
  [
    (dj.KarrasSchedule(0.002, 80.0), lambda sigma: sigma ** (1 / 7)),
    (dj.GeometricVESchedule(0.002, 80.0), np.log),
  ],
)
def test_schedules_without_an_end_continue_beyond_it(schedule, transform):
  """The clean end is clipped; f(sigma) stays linear in t beyond the other."""
  found = everything(schedule, beyond=(np.inf, -2.0 * np.log(100.0)))[2]
  assert_allclose(found.sigma, [0.002, 100.0], rtol=1e-6)
  first, last, beyond = transform(np.array([0.002, 80.0, 100.0]))
  expected = (beyond - first) / (last - first)
  assert_allclose(found.t, [0.0, expected], rtol=1e-6)
