"""The equations of Ho, Jain & Abbeel 2020, literally, in float64."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from tests.jitted import jitted
from tests.papers.paper import column, ddpm, f32, levels, pictures
from tests.transcribed import transcribes

LENGTHS = (1, 3, 1000)
BETAS = {'linear': dj.linear_betas, 'cosine': dj.cosine_betas}


def every_step(name, T):
  """Repeats the steps of short sequences: one program is for all lengths."""
  p = ddpm(BETAS[name](T))
  p.steps = np.resize(p.steps, max(T, 1000))
  return p


each_schedule = pytest.mark.parametrize(
  'p',
  [every_step(name, T) for name in BETAS for T in LENGTHS],
  ids=[f'{name}-{T}' for name in BETAS for T in LENGTHS],
)


@transcribes('DDPM (Ho et al. 2020)', '2: one step forward', '`forward_step`')
@each_schedule
def test_eq_2_one_step_forward(p):
  """q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)."""
  x_previous, eps, _ = pictures(p)
  beta = column(p.beta[p.steps], eps)
  expected = np.sqrt(1.0 - beta) * x_previous + np.sqrt(beta) * eps
  found = jitted(dj.forward_step)(*f32(x_previous, eps), *levels(p))
  assert_allclose(found, expected, atol=2e-5)


@transcribes('DDPM (Ho et al. 2020)', '4: marginal', '`q_sample`')
@each_schedule
def test_eq_4_marginal(p):
  """q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)."""
  x0, eps, xt = pictures(p)
  found = jitted(dj.q_sample)(*f32(x0, eps), levels(p)[1])
  assert_allclose(found, xt, atol=1e-6)


def eq_7(p, x0, xt):
  t = p.steps
  alpha_bar, previous = p.alpha_bar[t], p.alpha_bar[t - 1]
  of_x0 = np.sqrt(previous) * p.beta[t] / (1 - alpha_bar)
  of_xt = np.sqrt(p.alpha[t]) * (1 - previous) / (1 - alpha_bar)
  mean = column(of_x0, x0) * x0 + column(of_xt, xt) * xt
  variance = (1 - previous) / (1 - alpha_bar) * p.beta[t]
  return mean, variance


@jax.jit
def traced_posterior(schedule, steps, x0, xt):
  """Computes q(x_{t-1} | x_t, x_0) with the schedule's table as an argument, which is float32."""
  t = steps / schedule.num_steps
  return dj.q_posterior(x0, xt, schedule(t - 1 / schedule.num_steps), schedule(t))


@transcribes('DDPM (Ho et al. 2020)', '6, 7: posterior', '`q_posterior`')
@pytest.mark.parametrize('name', BETAS)
@pytest.mark.parametrize('T', (*LENGTHS, 4000))
def test_eq_6_and_7_posterior_at_every_step(name, T):
  """mu-tilde_t and beta-tilde_t of q(x_{t-1} | x_t, x_0)."""
  p = every_step(name, T)
  x0, _, xt = pictures(p)
  mean, variance = eq_7(p, x0, xt)
  x0, xt = f32(x0, xt)
  results = [jitted(dj.q_posterior)(x0, xt, *levels(p))]
  if T <= 1000:
    results.append(traced_posterior(p.schedule, p.steps, x0, xt))
  for found in jax.device_get(results):
    assert_allclose(found.mean, mean, atol=2e-6)
    assert found.variance[0, 0] == variance[0] == 0.0
    rtol = 1e-4 if T <= 1000 else 6e-4
    assert_allclose(found.variance[:, 0], variance, rtol=rtol)


def sigma_squared(p, variance):
  """Returns the two choices of section 3.2: beta_t and beta-tilde_t."""
  t = p.steps
  ratio = (1 - p.alpha_bar[t - 1]) / (1 - p.alpha_bar[t])
  return p.beta[t] * (1.0 if variance == 'fixed_large' else ratio)


@transcribes(
  'DDPM (Ho et al. 2020)',
  'section 3.2: the two variances',
  "`reverse_variance('fixed_small' | 'fixed_large')`",
)
@each_schedule
@pytest.mark.parametrize('variance', ['fixed_small', 'fixed_large'])
def test_section_3_2_variances(p, variance):
  found = jitted(dj.reverse_variance)(variance, *levels(p))
  assert_allclose(found, sigma_squared(p, variance), rtol=1e-4)


@transcribes('DDPM (Ho et al. 2020)', '8: mean matching', '`kl(q_posterior(…), p_reverse(…))`')
@pytest.mark.parametrize('T', [3, 1000])
def test_eq_8_mean_matching(T):
  """L_{t-1} = |mu-tilde - mu_theta|^2 / (2 sigma_t^2), t > 1."""
  p = every_step('linear', T)
  kept = np.resize(np.arange(1, T), 999)
  x0, _, xt = pictures(p)
  x0_hat, _, _ = pictures(p, seed=1)
  difference = eq_7(p, x0, xt)[0] - eq_7(p, x0_hat, xt)[0]
  variance = column(sigma_squared(p, 'fixed_small'), xt)[kept]
  expected = np.sum(difference[kept] ** 2 / (2 * variance), axis=1)
  s, t = (level.take(kept) for level in levels(p))
  x0, x0_hat, xt = f32(x0[kept], x0_hat[kept], xt[kept])
  q, model = (jitted(dj.q_posterior)(x0, xt, s, t), jitted(dj.p_reverse)(x0_hat, xt, s, t))
  found = np.sum(jitted(dj.kl)(q, model), axis=1)
  # The two means nearly cancel if the loss is 1e-6 nats.
  assert_allclose(found, expected, rtol=3e-4, atol=1e-8)


def eq_10(p, eps, xt):
  t = p.steps
  factor = column(p.beta[t] / np.sqrt(1 - p.alpha_bar[t]), xt)
  return (xt - factor * eps) / np.sqrt(column(p.alpha[t], xt))


@transcribes('DDPM (Ho et al. 2020)', '10: posterior mean from ε', '`q_posterior`')
@each_schedule
def test_eq_10_posterior_mean_of_eps(p):
  """mu-tilde_t = (x_t - beta_t / sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_t)."""
  x0, eps, xt = pictures(p)
  expected = eq_10(p, eps, xt)
  assert_allclose(eq_7(p, x0, xt)[0], expected, atol=1e-9)
  found = jitted(dj.q_posterior)(*f32(x0, xt), *levels(p)).mean
  assert_allclose(found, expected, atol=2e-6)


@transcribes('DDPM (Ho et al. 2020)', '1, 11: reverse transition', '`p_reverse`')
@each_schedule
def test_eq_1_and_11_reverse_transition(p):
  """p_theta(x_{t-1} | x_t) of a network that predicts eps."""
  _, _, xt = pictures(p)
  _, eps_hat, _ = pictures(p, seed=1)
  expected = eq_10(p, eps_hat, xt)
  s, t = levels(p)
  xt, eps_hat = f32(xt, eps_hat)
  x0_hat = jitted(dj.to_x0)('eps', eps_hat, xt, t)
  model = jitted(dj.p_reverse)(x0_hat, xt, s, t, 'fixed_large')
  # |x_0| reaches 1 / sqrt(alpha_bar_T) before it is scaled back.
  assert_allclose(model.mean, expected, atol=1e-5)
  variance = sigma_squared(p, 'fixed_large')
  assert_allclose(model.variance[:, 0], variance, rtol=1e-4)


@transcribes('DDPM (Ho et al. 2020)', '12: weighted loss', '`weighted_eps_loss`')
@pytest.mark.parametrize('T', [3, 1000])
@pytest.mark.parametrize('variance', ['fixed_small', 'fixed_large', 'first'])
def test_eq_12_weighted_loss(T, variance):
  """beta_t^2 / (2 sigma_t^2 alpha_t (1 - alpha_bar_t)) |eps - eps_theta|^2."""
  p = every_step('linear', T)
  _, eps, _ = pictures(p)
  _, eps_hat, _ = pictures(p, seed=1)
  first, kept, kind = None, np.resize(np.arange(1, T), 999), variance
  if variance == 'first':
    kept, kind = np.zeros(1, int), 'fixed_small'
    first = sigma_squared(p, kind)[1]
  t = p.steps[kept]
  sigma = sigma_squared(p, kind)[kept] if first is None else first
  weight = p.beta[t] ** 2 / (2 * sigma * p.alpha[t] * (1 - p.alpha_bar[t]))
  expected = weight * np.sum((eps - eps_hat)[kept] ** 2, axis=1)
  s, t = (level.take(kept) for level in levels(p))
  arrays = f32(eps[kept], eps_hat[kept])
  found = jitted(dj.weighted_eps_loss)(*arrays, s, t, kind, first)
  assert_allclose(found, expected, rtol=2e-4)


@transcribes('DDPM (Ho et al. 2020)', '14: L_simple', '`simple_loss`')
@each_schedule
def test_eq_14_simple_loss(p):
  """|eps - eps_theta|^2, per dimension as in the published code."""
  _, eps, _ = pictures(p, (4, 4, 2))
  _, eps_hat, _ = pictures(p, (4, 4, 2), seed=1)
  expected = np.mean((eps - eps_hat) ** 2, axis=(1, 2, 3))
  found = jitted(dj.simple_loss)(*f32(eps, eps_hat))
  assert_allclose(found, expected, rtol=1e-5)


@transcribes('DDPM (Ho et al. 2020)', '15: x̂_0 from ε', "`to_x0('eps', …)`")
@each_schedule
def test_eq_15_x0_from_eps(p):
  """x_0 ~ (x_t - sqrt(1 - alpha_bar_t) eps_theta) / sqrt(alpha_bar_t)."""
  _, _, xt = pictures(p)
  _, eps_hat, _ = pictures(p, seed=1)
  alpha_bar = column(p.alpha_bar[p.steps], xt)
  expected = (xt - np.sqrt(1 - alpha_bar) * eps_hat) / np.sqrt(alpha_bar)
  found = jitted(dj.to_x0)('eps', *f32(eps_hat, xt), levels(p)[1])
  # Rounding errors of x_t and eps grow with 1 / sqrt(alpha_bar_t).
  atol = 2e-6 / np.sqrt(alpha_bar)
  assert (np.abs(found - expected) <= atol).all()
