"""The samplers of DDPM and DDIM on data whose every moment is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from tests.sampling.moments import (
  DDPM,
  GAUSSIAN,
  SCHEDULES as PLAIN,
  check_moments,
  run,
)

SCHEDULES = PLAIN | {
  'continuous_cosine': dj.CosineSchedule(-12.0, 12.0),
  'five_steps': dj.DiscreteSchedule.from_alphas([0.5, 0.4, 0.2, 0.1, 0.05]),
}
SAMPLERS = {
  'ancestral_small': dj.ancestral('fixed_small'),
  'ancestral_large': dj.ancestral('fixed_large'),
  'ddim_0': dj.ddim(0.0),
  'ddim_half': dj.ddim(0.5),
  'ddim_1': dj.ddim(1.0),
}


@functools.partial(jax.jit, static_argnums=0)
def path(name, key, levels):
  x = dj.prior_sample(key, (256, 2), levels.take(0))
  return dj.sample(key, GAUSSIAN.denoise, SAMPLERS[name], levels, x, True)


@pytest.mark.parametrize(
  'name, num_steps',
  [
    # one long grid; the other paths have the same step between other levels
    pytest.param(
      name, n, marks=[] if n < 1000 or name == 'linear' else pytest.mark.slow
    )
    for name in SCHEDULES
    for n in (3, 50, 1000)
  ],
)
def test_ddim_1_is_ancestral_fixed_small(name, num_steps, key):
  """At every step of every grid, the last included."""
  levels = dj.level_grid(SCHEDULES[name], num_steps)
  a, b = path('ddim_1', key, levels), path('ancestral_small', key, levels)
  largest = np.abs(b).max(axis=(1, 2), keepdims=True)
  assert (np.abs(a - b) < 2e-6 * largest).all()


@functools.partial(jax.jit, static_argnums=0)
def inversion_errors(num_steps, schedule, x0):
  """Of x_0 after there and back, and of x_T against the ODE's own."""
  denoise, key = GAUSSIAN.denoise, jax.random.key(0)
  # the cleanest level before x_0 stays, for a closed form from there
  t = jnp.append(jnp.linspace(1.0, 0.02, num_steps), 0.0)
  levels = schedule(t)
  levels = levels._replace(
    alpha=levels.alpha.at[-1].set(1.0), sigma=levels.sigma.at[-1].set(0.0)
  )
  up = dj.ddim_invert(denoise, levels, x0)
  again = dj.sample(key, denoise, dj.ddim(), levels, up)
  first = dj.ddim_invert(denoise, levels.take(slice(-2, None)), x0)
  truth = GAUSSIAN.ode_map(first, levels.take(-2), levels.take(0))
  return jnp.abs(again - x0).max(), jnp.abs(up - truth).max()


@pytest.mark.parametrize('name', ['linear_vp', 'continuous_cosine'])
def test_inversion_is_of_first_order(name, key):
  """Back at x_0, and at the ODE's own x_T, with errors that halve."""
  x0 = jax.jit(GAUSSIAN.sample, static_argnums=1)(key, 64)
  errors = np.array(
    [inversion_errors(n, SCHEDULES[name], x0) for n in (200, 400, 800)]
  )
  found = np.log2(errors[:-1]) - np.log2(errors[1:])
  np.testing.assert_allclose(found, 1.0, atol=0.15)


def test_inversion_of_clean_data_takes_eps_at_the_level_reached():
  """One step: alpha x_0 + sigma eps(alpha x_0)."""
  x0 = jnp.array([[1.0, -2.0], [0.3, 0.4]])
  levels = dj.level_grid(dj.LinearVPSchedule(), 1, t_start=0.3)
  found = dj.ddim_invert(GAUSSIAN.denoise, levels, x0)
  alpha, sigma = np.float64(levels.alpha[0]), np.float64(levels.sigma[0])
  mean, cov = np.array([0.5, -0.3]), np.array([[1.0, 0.8], [0.8, 1.5]])
  x = alpha * np.float64(x0)
  marginal = alpha**2 * cov + sigma**2 * np.eye(2)
  eps = sigma * np.linalg.solve(marginal, (x - alpha * mean).T).T
  np.testing.assert_allclose(found, x + sigma * eps, atol=1e-5)


def test_learned_variance_lies_between_the_fixed_ones(key):
  def denoise(fraction):
    def predict(x, level):
      prediction = GAUSSIAN.denoise(x, level)
      return prediction._replace(var_frac=jnp.full_like(x, fraction))

    return predict

  levels = dj.level_grid(DDPM, 20)
  x = dj.prior_sample(key, (64, 2), levels.take(0))

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def samples(denoise, variance):
    return dj.sample(key, denoise, dj.ancestral(variance), levels, x)

  for fraction, variance in [(0.0, 'fixed_small'), (1.0, 'fixed_large')]:
    found = samples(denoise(fraction), 'learned')
    expected = samples(GAUSSIAN.denoise, variance)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_zero_terminal_snr_is_sampled_from_alpha_zero(key):
  betas = dj.zero_terminal_snr(dj.linear_betas(1000))
  schedule = dj.DiscreteSchedule.from_betas(betas)
  x = run(key, 'gaussian', 'ddim', schedule, 400, 16_384)
  check_moments(x, GAUSSIAN, bias=0.015)


def test_one_step_gives_the_denoised_prior(key):
  levels = dj.level_grid(DDPM, 1)

  @jax.jit
  def samples_and_truth(key):
    x = dj.prior_sample(key, (4, 2), levels.take(0))
    args = levels, x
    return [
      dj.sample(key, GAUSSIAN.denoise, sampler, *args)
      for sampler in SAMPLERS.values()
    ], GAUSSIAN.denoise(x, levels.take(0)).x0

  samples, expected = samples_and_truth(key)
  for found in samples:
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('eta', [-0.1, 1.5])
def test_eta_outside_its_range_is_refused(eta):
  with pytest.raises(ValueError, match=f'eta is {eta}'):
    dj.ddim(eta)
