"""The SDE of any schedule, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from tests.transcribed import transcribes

B0, B1 = 0.1, 20.0
# Song et al. 2021 for data in [0, 1]: x -> 2x - 1 doubles them
SMIN, SMAX = 2 * 0.01, 2 * 50.0
T = np.concatenate([[1e-6, 1e-5, 1e-4], np.linspace(1e-3, 1.0, 200)])


def log_mean(t):
  """Returns lmc of recipes 5, the log of the mean coefficient."""
  return -(t**2) * (B1 - B0) / 4 - t * B0 / 2


def beta(t):
  return B0 + t * (B1 - B0)


def sigmoid_rate(t):
  """Returns -d log(alpha_bar) / dt of Jabri et al.'s curve from -3 to 3."""
  sig = lambda x: 1 / (1 + np.exp(-x))
  x = 6 * t - 3
  return 6 * sig(x) * sig(-x) / (sig(3) - sig(x))


def karras_variance_slope(t):
  """Returns d sigma^2 / dt for sigma = base^7."""
  first, last = 0.002 ** (1 / 7), 80.0 ** (1 / 7)
  return 14 * (first + t * (last - first)) ** 13 * (last - first)


def shifted_rate(t, shift=3.0):
  """Returns beta times the ratio of sigma^2 after and before the shift."""
  alpha, sigma = np.exp(log_mean(t)), np.sqrt(-np.expm1(2 * log_mean(t)))
  return beta(t) * shift**2 / (alpha**2 + (shift * sigma) ** 2)


of_vp = lambda t: -beta(t) / 2
FLOW = dj.RectifiedFlowSchedule
SDES = {  # f of the drift f x, and g^2; see recipes 5.
  'vp': (dj.LinearVPSchedule(), of_vp, beta),
  'sub_vp': (
    dj.SubVPSchedule(),
    of_vp,
    lambda t: beta(t) * -np.expm1(-2 * B0 * t - (B1 - B0) * t**2),
  ),
  've': (
    dj.GeometricVESchedule(),
    lambda t: 0 * t,
    lambda t: (SMIN * (SMAX / SMIN) ** t) ** 2 * 2 * np.log(SMAX / SMIN),
  ),
  'karras': (dj.KarrasSchedule(), lambda t: 0 * t, karras_variance_slope),
  'flow': (FLOW(), lambda t: -1 / (1 - t), lambda t: 2 * t / (1 - t)),
  'shifted_flow': (
    FLOW(3.0),
    lambda t: -1 / (1 - t) - 2 / (1 + 2 * t),
    lambda t: 18 * t / ((1 + 2 * t) ** 2 * (1 - t)),
  ),
  'sigmoid': (dj.SigmoidSchedule(), lambda t: -sigmoid_rate(t) / 2, sigmoid_rate),
  'shifted_vp': (
    dj.ShiftedSchedule(dj.LinearVPSchedule(), 3.0),
    lambda t: -shifted_rate(t) / 2,
    shifted_rate,
  ),
}


def times_inside(schedule):
  return T if schedule(1.0).alpha > 0.0 else T[:-1]


@transcribes(
  'Score-SDE (Song et al. 2021)',
  '9, 11, 12: drift and diffusion of VP, sub-VP, VE',
  '`sde_coefficients`',
)
@pytest.mark.parametrize('name', SDES)
def test_sde_coefficients_of_score_sde(name):
  schedule, drift, diffusion = SDES[name]
  t = times_inside(schedule)
  with jax.enable_x64(True):
    f, g2 = jax.jit(lambda t: dj.sde_coefficients(schedule, t))(t)
    assert f.dtype == jnp.float64
  assert_allclose(f, drift(t), rtol=1e-9)
  assert_allclose(g2, diffusion(t), rtol=1e-9)
  t = jnp.asarray(t[1:], jnp.float32)
  f, g2 = jax.jit(dj.sde_coefficients)(schedule, t)
  assert f.shape == g2.shape == t.shape
  t = np.asarray(t, np.float64)
  assert_allclose(f, drift(t), rtol=1e-5)
  assert_allclose(g2, diffusion(t), rtol=1e-5)


@pytest.mark.parametrize('T', [5, 1000, 4000])
def test_sde_at_step_i_is_that_of_beta_i(T):
  """A step of the reverse SDE from i to i - 1 by beta_i undoes alpha_i."""
  betas = dj.cosine_betas(T)[:-1]
  schedule = dj.DiscreteSchedule.from_betas(betas)
  steps = np.arange(1, T)
  f, g2 = jax.jit(lambda t: dj.sde_coefficients(schedule, t))(steps / (T - 1))
  # Between steps -log(alpha_bar) is linear.
  rate = -(T - 1) * np.log1p(-betas)
  # g^2 loses as many digits as sigma^2: 1e-5 at the first of 4000 steps.
  assert_allclose(f, -rate / 2, rtol=1e-5)
  assert_allclose(g2, rate, rtol=1e-4)
