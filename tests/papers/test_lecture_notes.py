"""The forms in which lecture notes write the same equations.

6.7900 (MIT, machine learning) writes the chain with z_t and an explicit list of
alphas; the DDPM notes write the loss with a weight w_t; VDM-style notes write
it with the signal-to-noise ratio.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from tests.jitted import jitted
from tests.papers.paper import column, ddpm, f32, levels, pictures

LECTURE = np.array([0.99, 0.98, 0.97, 0.96, 0.95])


@pytest.fixture
def notes():
  return ddpm(1.0 - LECTURE)


def test_the_lecture_alphas_give_their_products():
  schedule = dj.DiscreteSchedule.from_alphas(LECTURE)
  products = [0.99, 0.9702, 0.941094, 0.90345024, 0.858277728]
  np.testing.assert_allclose(schedule.alpha_bars, products, rtol=1e-6)
  np.testing.assert_allclose(schedule.alphas, LECTURE, rtol=1e-6)
  np.testing.assert_allclose(schedule.betas, 1 - LECTURE, rtol=1e-5)


def test_z_t_is_a_sum_of_the_noises_of_all_steps(notes):
  """z_t = sqrt(alpha_t) z_{t-1} + sqrt(1 - alpha_t) eps_t, unrolled."""
  rng = np.random.default_rng(0)
  x, eps = rng.uniform(-1, 1, 7), rng.standard_normal((5, 7))
  expected = np.sqrt(np.prod(LECTURE)) * x
  for i in range(5):
    later = np.prod(LECTURE[i + 1 :])
    expected += np.sqrt(later * (1 - LECTURE[i])) * eps[i]
  (z,) = f32(x[None])
  at_step = notes.schedule.at_step
  for i in range(5):
    z = jitted(dj.forward_step)(
      z, *f32(eps[i : i + 1]), at_step(i), at_step(i + 1)
    )
  np.testing.assert_allclose(z[0], expected, atol=1e-6)


def test_posterior_mean_in_eps_form(notes):
  """E[z_{t-1} | z_t, eps]: (z_t - (1-a_t) / sqrt(1-abar_t) eps) / sqrt(a_t)."""
  x, eps, z = pictures(notes)
  alpha = column(LECTURE, z)
  alpha_bar = np.cumprod(alpha, axis=0)
  expected = (z - (1 - alpha) / np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha)
  found = jitted(dj.q_posterior)(*f32(x, z), *levels(notes)).mean
  np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize('variance', ['fixed_small', 'fixed_large'])
def test_w_t_in_its_two_usual_forms(notes, variance):
  """w_t = (1-a_t)^2 / (2 sigma_t^2 a_t (1-abar_t)), sigma_t^2 inserted."""
  alpha = LECTURE[1:]
  alpha_bar = np.cumprod(LECTURE)
  if variance == 'fixed_large':  # sigma_t^2 = 1 - alpha_t
    weight = (1 - alpha) / (2 * alpha * (1 - alpha_bar[1:]))
  else:  # sigma_t^2 = (1 - alpha_t) (1 - abar_{t-1}) / (1 - abar_t)
    weight = (1 - alpha) / (2 * alpha * (1 - alpha_bar[:-1]))
  _, eps, _ = pictures(notes)
  _, eps_hat, _ = pictures(notes, seed=1)
  expected = weight * np.sum((eps - eps_hat)[1:] ** 2, axis=1)
  s, t = (level.take(slice(1, None)) for level in levels(notes))
  found = jitted(dj.weighted_eps_loss)(
    *f32(eps[1:], eps_hat[1:]), s, t, variance
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_w_t_is_half_the_loss_of_snr(notes):
  """L_{t-1} = (SNR(t-1) - SNR(t)) / 2 |x - x_hat|^2 (Kingma et al. 2021)."""
  alpha_bar = np.cumprod(LECTURE)
  snr = alpha_bar / (1 - alpha_bar)
  x, eps, z = pictures(notes)
  _, eps_hat, _ = pictures(notes, seed=1)
  root = np.sqrt(column(alpha_bar, z))
  x_hat = (z - np.sqrt(1 - root**2) * eps_hat) / root
  expected = (snr[:-1] - snr[1:]) / 2 * np.sum((x - x_hat)[1:] ** 2, axis=1)
  s, t = (level.take(slice(1, None)) for level in levels(notes))
  found = jitted(dj.weighted_eps_loss)(*f32(eps[1:], eps_hat[1:]), s, t)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_closest_gaussian_has_the_moments_of_the_data():
  """Lecture 8: min over (m, s^2) of KL(q || N(m, s^2)) is at q's moments.

  KL by quadrature over a mixture's density, its slope by autodiff.
  """
  q = oracles.mixture(
    [0.3, 0.7], [[-1.0], [1.5]], np.array([0.2, 0.5])[:, None, None]
  )
  x = np.linspace(-8.0, 10.0, 4001, dtype=np.float32)
  log_q = np.asarray(jax.jit(q.log_prob)(x[:, None], dj.clean_level()))
  mass = np.exp(log_q) * np.float32(18 / 4000)
  np.testing.assert_allclose(mass.sum(), 1.0, atol=1e-5)

  @jax.jit
  def divergence(mean, log_variance):
    p = dj.Normal(mean, jnp.exp(log_variance))
    return jnp.sum(mass * (log_q - jitted(dj.log_prob)(p, x)))

  mean, cov = jax.jit(lambda: (q.mean, q.cov))()
  best = np.asarray(mean)[0], np.log(np.asarray(cov)[0, 0])
  slopes = jax.jit(jax.grad(divergence, argnums=(0, 1)))(*best)
  np.testing.assert_allclose(slopes, 0.0, atol=1e-5)
  least = divergence(*best)
  assert least > 0.01  # a mixture is no Gaussian
  for step in np.random.default_rng(0).normal(scale=0.3, size=(10, 2)):
    assert divergence(best[0] + step[0], best[1] + step[1]) > least
