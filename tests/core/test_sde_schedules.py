"""The schedules of score_sde and the SDE of any schedule, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj

B0, B1 = 0.1, 20.0
# Song et al. 2021 for data in [0, 1]: x -> 2x - 1 doubles them
SMIN, SMAX = 2 * 0.01, 2 * 50.0
T = np.concatenate([[1e-6, 1e-5, 1e-4], np.linspace(1e-3, 1.0, 200)])
SUB_VP, VE = dj.SubVPSchedule(), dj.GeometricVESchedule()
BOTH = pytest.mark.parametrize(
  'schedule', [SUB_VP, VE], ids=lambda s: type(s).__name__
)


def log_mean(t):
  """lmc of recipes 5: the log of the marginal's mean coefficient."""
  return -(t**2) * (B1 - B0) / 4 - t * B0 / 2


def marginal(schedule, t):
  """(mean coefficient, std) of recipes 5."""
  if schedule is VE:
    return np.ones_like(t), SMIN * (SMAX / SMIN) ** t
  return np.exp(log_mean(t)), -np.expm1(2 * log_mean(t))


@BOTH
def test_marginals_in_float32_close_to_both_ends(schedule):
  level = schedule(jnp.asarray(T, jnp.float32))
  # t itself is rounded: take the truth at the float32 number
  alpha, sigma = marginal(schedule, np.asarray(level.t, np.float64))
  np.testing.assert_allclose(level.alpha, alpha, rtol=1e-6)
  np.testing.assert_allclose(level.sigma, sigma, rtol=2e-6)


@BOTH
def test_from_logsnr_is_the_inverse(schedule):
  level = schedule(jnp.asarray(T, jnp.float32))
  found = schedule.from_logsnr(level.logsnr)
  np.testing.assert_allclose(found.t, level.t, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(found.alpha, level.alpha, rtol=3e-6)
  np.testing.assert_allclose(found.sigma, level.sigma, rtol=3e-6)


def test_sub_vp_clips_to_its_range():
  below, above = SUB_VP.from_logsnr(-200.0), SUB_VP.from_logsnr(200.0)
  np.testing.assert_allclose(below.t, 1.0, rtol=1e-6)
  np.testing.assert_allclose(below.alpha, SUB_VP(1.0).alpha, rtol=1e-6)
  assert above.t == 0.0 and above.alpha == 1.0 and above.sigma == 0.0


def test_ve_clips_the_clean_end_and_goes_on_beyond_the_other():
  assert VE.from_logsnr(200.0).t == 0.0
  np.testing.assert_allclose(VE.from_logsnr(200.0).sigma, SMIN, rtol=1e-6)
  louder = VE.from_logsnr(-2.0 * np.log(1.2 * SMAX))
  np.testing.assert_allclose(louder.sigma, 1.2 * SMAX, rtol=1e-6)
  expected = 1 + np.log(1.2) / np.log(SMAX / SMIN)
  np.testing.assert_allclose(louder.t, expected, rtol=1e-6)


@BOTH
def test_arguments_of_jitted_functions(schedule):
  found = jax.jit(lambda schedule, t: schedule(t))(schedule, jnp.ones(3))
  np.testing.assert_allclose(found.sigma, schedule(jnp.ones(3)).sigma)


def test_ve_grid_ends_at_sigma_min_then_clean(key):
  levels = dj.level_grid(VE, 5)
  expected = SMIN * (SMAX / SMIN) ** np.linspace(1.0, 0.0, 5)
  np.testing.assert_allclose(levels.sigma[:-1], expected, rtol=1e-5)
  assert levels.sigma[-1] == 0.0
  x = dj.prior_sample(key, (50_000, 2), levels.take(0))
  np.testing.assert_allclose(np.std(x), np.sqrt(1 + SMAX**2), rtol=0.01)
  x = dj.prior_sample(key, (50_000, 2), levels.take(0), exact=True)
  np.testing.assert_allclose(np.std(x), SMAX, rtol=0.01)


def beta(t):
  return B0 + t * (B1 - B0)


def sigmoid_rate(t):
  """-d log(alpha_bar) / dt of Jabri et al.'s curve from -3 to 3."""
  sig = lambda x: 1 / (1 + np.exp(-x))
  x = 6 * t - 3
  return 6 * sig(x) * sig(-x) / (sig(3) - sig(x))


def karras_variance_slope(t):
  """d sigma^2 / dt, sigma = base^7."""
  first, last = 0.002 ** (1 / 7), 80.0 ** (1 / 7)
  return 14 * (first + t * (last - first)) ** 13 * (last - first)


def shifted_rate(t, shift=3.0):
  """beta times sigma^2 after and over sigma^2 before the shift."""
  alpha, sigma = np.exp(log_mean(t)), np.sqrt(-np.expm1(2 * log_mean(t)))
  return beta(t) * shift**2 / (alpha**2 + (shift * sigma) ** 2)


SDES = {  # recipes 5: f of the drift f x, and g^2
  'vp': (dj.LinearVPSchedule(), lambda t: -beta(t) / 2, beta),
  'sub_vp': (
    SUB_VP,
    lambda t: -beta(t) / 2,
    lambda t: beta(t) * -np.expm1(-2 * B0 * t - (B1 - B0) * t**2),
  ),
  've': (
    VE,
    lambda t: 0 * t,
    lambda t: (SMIN * (SMAX / SMIN) ** t) ** 2 * 2 * np.log(SMAX / SMIN),
  ),
  'karras': (dj.KarrasSchedule(), lambda t: 0 * t, karras_variance_slope),
  'flow': (
    dj.RectifiedFlowSchedule(),
    lambda t: -1 / (1 - t),
    lambda t: 2 * t / (1 - t),
  ),
  'shifted_flow': (
    dj.RectifiedFlowSchedule(3.0),
    lambda t: -1 / (1 - t) - 2 / (1 + 2 * t),
    lambda t: 18 * t / ((1 + 2 * t) ** 2 * (1 - t)),
  ),
  'sigmoid': (
    dj.SigmoidSchedule(),
    lambda t: -sigmoid_rate(t) / 2,
    sigmoid_rate,
  ),
  'shifted_vp': (
    dj.ShiftedSchedule(dj.LinearVPSchedule(), 3.0),
    lambda t: -shifted_rate(t) / 2,
    shifted_rate,
  ),
}


def times_inside(schedule):
  return T if schedule(1.0).alpha > 0.0 else T[:-1]


@pytest.mark.parametrize('name', SDES)
def test_sde_coefficients_of_score_sde(name):
  schedule, drift, diffusion = SDES[name]
  t = times_inside(schedule)
  with jax.enable_x64(True):
    f, g2 = jax.jit(lambda t: dj.sde_coefficients(schedule, t))(t)
    assert f.dtype == jnp.float64
  np.testing.assert_allclose(f, drift(t), rtol=1e-9)
  np.testing.assert_allclose(g2, diffusion(t), rtol=1e-9)


@pytest.mark.parametrize('name', SDES)
def test_sde_coefficients_in_float32(name):
  schedule, drift, diffusion = SDES[name]
  t = jnp.asarray(times_inside(schedule)[1:], jnp.float32)
  f, g2 = jax.jit(dj.sde_coefficients)(schedule, t)
  assert f.shape == g2.shape == t.shape
  t = np.asarray(t, np.float64)
  np.testing.assert_allclose(f, drift(t), rtol=1e-5)
  np.testing.assert_allclose(g2, diffusion(t), rtol=1e-5)


def test_sde_of_a_list_of_alphas_has_a_piecewise_constant_beta():
  """beta(t) = -T log alpha_i in step i, f = -beta / 2 and g^2 = beta."""
  alphas = np.array([0.99, 0.98, 0.97, 0.96, 0.95])
  schedule = dj.DiscreteSchedule.from_alphas(alphas)
  t = (np.arange(5) + 0.3) / 5
  with jax.enable_x64(True):
    f, g2 = jax.jit(lambda t: dj.sde_coefficients(schedule, t))(t)
  np.testing.assert_allclose(f, 0.5 * 5 * np.log(alphas), rtol=1e-10)
  np.testing.assert_allclose(g2, -5 * np.log(alphas), rtol=1e-10)
  one, _ = jax.eval_shape(lambda: dj.sde_coefficients(schedule, 0.5))
  assert one.shape == ()


@pytest.mark.parametrize('T', [5, 1000, 4000])
def test_sde_at_step_i_is_that_of_beta_i(T):
  """So a step of the reverse SDE from i to i - 1 undoes alpha_i."""
  betas = dj.cosine_betas(T)[:-1]
  schedule = dj.DiscreteSchedule.from_betas(betas)
  steps = np.arange(1, T)
  f, g2 = jax.jit(lambda t: dj.sde_coefficients(schedule, t))(steps / (T - 1))
  # schedule: -log(alpha_bar) is linear between steps
  rate = -(T - 1) * np.log1p(-betas)
  # where sigma^2 has lost digits, 1e-5 of T = 4000's first betas, g^2 has too
  np.testing.assert_allclose(f, -rate / 2, rtol=1e-5)
  np.testing.assert_allclose(g2, rate, rtol=1e-4)


def test_marginals_solve_the_moment_equations_of_the_sde():
  """d alpha = f alpha dt, d sigma^2 = (2 f sigma^2 + g^2) dt, any schedule."""
  t, h = np.linspace(0.1, 0.9, 9), 1e-4

  @jax.jit
  def coefficients_and_levels(schedule, t):
    levels = (schedule(t + d) for d in (0.0, -h, h))
    return dj.sde_coefficients(schedule, t), *levels

  with jax.enable_x64(True):
    for schedule in (dj.CosineSchedule(), SUB_VP, VE, dj.LinearVPSchedule()):
      (f, g2), now, before, after = jax.device_get(
        coefficients_and_levels(schedule, t)
      )
      slope = (after.alpha - before.alpha) / (2 * h)
      np.testing.assert_allclose(f * now.alpha, slope, rtol=1e-5, atol=1e-9)
      slope = (after.sigma**2 - before.sigma**2) / (2 * h)
      found = 2 * f * now.sigma**2 + g2
      np.testing.assert_allclose(found, slope, rtol=1e-5)
