"""The forward process is Markov, and its posterior is Bayes' rule, also where float32 ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.core import process
from tests.jitted import jitted
from tests.schedules import anything

SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
at_step = jax.jit(SCHEDULE.at_step)
ZERO_SNR = dj.DiscreteSchedule.from_alphas([0.9, 0.5, 0.0])


def random_levels(rng, n):
  """Returns n levels without a schedule, in order of falling SNR."""
  logsnr = np.sort(rng.uniform(-6, 6, n))[::-1]
  scale = rng.uniform(0.5, 2.0, n)
  alpha = scale * np.sqrt(1 / (1 + np.exp(-logsnr)))
  sigma = scale * np.sqrt(1 / (1 + np.exp(logsnr)))
  return [
    dj.NoiseLevel(*(jnp.asarray(v, jnp.float32) for v in (0.0, a, s)))
    for a, s in zip(alpha, sigma, strict=True)
  ]


def step_moments(s, t):
  """Returns (factor, variance) of q(x_t | x_s) from forward_step."""
  one, zero = jnp.ones((1, 1)), jnp.zeros((1, 1))
  factor = jitted(dj.forward_step)(one, zero, s, t)[0, 0]
  return float(factor), float(jitted(dj.forward_step)(zero, one, s, t)[0, 0]) ** 2


@anything
@given(st.integers(0, 2**32 - 1))
def test_chapman_kolmogorov(seed):
  """Two forward steps are one: factors multiply, variances add up."""
  r, s, t = random_levels(np.random.default_rng(seed), 3)
  a, v = step_moments(r, s)
  b, w = step_moments(s, t)
  c, u = step_moments(r, t)
  assert_allclose(a * b, c, rtol=1e-5)
  assert_allclose(b**2 * v + w, u, rtol=2e-4, atol=1e-6)


@anything
@given(st.integers(0, 2**32 - 1))
def test_posterior_is_bayes_rule(seed):
  """Precisions add: 1/v = a^2 / w + 1 / sigma_s^2, x_t = a x_s + noise w."""
  s, t = random_levels(np.random.default_rng(seed), 2)
  a, w = step_moments(s, t)
  sigma2 = float(s.sigma) ** 2
  variance = 1 / (a**2 / w + 1 / sigma2)
  x0, xt = jnp.array([[0.3]]), jnp.array([[-0.7]])
  mean = variance * (a * -0.7 / w + float(s.alpha) * 0.3 / sigma2)
  found = jitted(dj.q_posterior)(x0, xt, s, t)
  assert_allclose(found.variance[0, 0], variance, rtol=1e-3)
  assert_allclose(found.mean[0, 0], mean, rtol=1e-3, atol=1e-4)


def test_levels_that_are_equal_but_for_rounding_have_no_noise_between():
  """Level s may even be the noisier one, by some roundings of alpha."""
  t = dj.NoiseLevel(*(jnp.float32(v) for v in (0.5, 0.8, 0.6)))
  x, alpha = jnp.ones((1, 2)), np.float32(0.8)
  for _ in range(9):
    s = t._replace(alpha=jnp.asarray(alpha))
    q = jitted(dj.q_posterior)(0.5 * x, x, s, t)
    assert_array_equal(q.variance, 0.0)
    assert_allclose(q.mean, x, rtol=1e-6)
    x_t = jitted(dj.forward_step)(x, 9.0 * x, s, t)
    assert_allclose(x_t, x, rtol=2e-6)
    alpha = np.nextafter(alpha, np.float32(0.0))


def test_no_signal_left_is_finite_everywhere(rng):
  """At alpha_t = 0 the posterior is the marginal at s."""
  x0, xt = rng.standard_normal((2, 3, 4), np.float32)
  s, t = map(jax.jit(ZERO_SNR.at_step), (2, 3))
  q = jitted(dj.q_posterior)(x0, xt, s, t)
  assert_allclose(q.mean, s.alpha * x0, rtol=1e-6)
  assert_allclose(q.variance, [[s.sigma**2]], rtol=1e-6)
  forward = jitted(dj.forward_step)(x0, xt, s, t)
  assert_allclose(forward, xt, rtol=1e-6)
  assert_allclose(jitted(dj.q_sample)(x0, xt, t), xt)
  for kind in ('fixed_small', 'fixed_large'):
    assert np.isfinite(jitted(dj.reverse_variance)(kind, s, t))


def test_a_list_that_outruns_float32_ends_in_white_noise(key):
  """500 alphas down to 0.001 have alpha_bar_T = 1e-216."""
  schedule = dj.DiscreteSchedule.from_alphas(np.linspace(0.999, 0.001, 500))
  levels = jax.jit(schedule.at_step)(np.arange(501))
  for field in levels:
    assert np.isfinite(field).all()
  assert levels.alpha[-1] == 0.0 and levels.alpha[-2] == 0.0
  levels = jax.tree.map(np.asarray, levels)
  s, t = levels.take(slice(-1)), levels.take(slice(1, None))

  @jax.jit
  def run(key):
    x0, eps = jax.random.normal(key, (2, 500, 200))
    forward = dj.forward_step(dj.q_sample(x0, eps, s), x0[::-1], s, t)
    return forward, dj.q_posterior(x0, forward, s, t)

  forward, q = run(key)
  std = np.std(np.asarray(forward), axis=1)
  assert_allclose(std, 1.0, atol=5 / 400**0.5)
  assert np.isfinite(q.mean).all() and np.isfinite(q.variance).all()
  assert_allclose(q.variance[-1], 1.0)


def test_fixed_large_is_exact_for_white_data():
  """The joint Gaussian of x_s and x_t gives Var[x_s | x_t]."""
  for seed in range(5):
    s, t = random_levels(np.random.default_rng(seed), 2)
    a, _ = step_moments(s, t)
    var_s = float(s.alpha**2 + s.sigma**2)
    var_t = float(t.alpha**2 + t.sigma**2)
    expected = var_s - (a * var_s) ** 2 / var_t
    found = jitted(dj.reverse_variance)('fixed_large', s, t)
    assert_allclose(found, expected, rtol=1e-3)


SCHEDULES = {
  'vp': dj.LinearVPSchedule(),
  'karras': dj.KarrasSchedule(),
  'flow': dj.RectifiedFlowSchedule(3.0),
}


@pytest.mark.parametrize('name', SCHEDULES)
def test_the_velocity_is_the_slope_of_the_path(name, key):
  """The velocity is a difference of q_sample, and the SDE's f x - g^2 score / 2."""
  schedule = SCHEDULES[name]

  @jax.jit
  def velocities(key):
    x0, eps = jax.random.normal(key, (2, 2, 3), jnp.float64)
    t = jnp.array([0.3, 0.8])
    level, h = schedule(t), 1e-5
    xt = dj.q_sample(x0, eps, level)
    found = process.velocity(schedule, x0, xt, level)
    ahead, behind = (dj.q_sample(x0, eps, schedule(t + d)) for d in (h, -h))
    f, g2 = (a[:, None] for a in dj.sde_coefficients(schedule, t))
    score = dj.score_from_x0(x0, xt, level)
    return found, (ahead - behind) / (2 * h), f * xt - 0.5 * g2 * score

  with jax.enable_x64(True):
    found, slope, of_sde = velocities(key)
  assert_allclose(found, slope, rtol=1e-6)
  assert_allclose(found, of_sde, rtol=1e-9)
