"""Weighted particles, against the exact posterior and evidence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from tests.jitted import jitted, level_grid
from tests.sampling import chains
from tests.sampling.moments import assert_own_keys
from tests.sampling.test_reconstruction import (
  COV,
  DATA,
  MATRIX,
  MIXTURE,
  OF_MIXTURE,
  ONE_NUMBER,
  SCHEDULE,
  WHITE,
  Y,
  measured,
)

STD = 0.5
# Correlated data of unit average variance.
SCALED = COV * 4.0 / np.trace(COV)
PRIOR = oracles.gaussian(np.array([0.3, -0.2, 0.1, 0.0]), SCALED)


def run(key, denoise, sampler, num_steps, shape, **options):
  """Draws populations, [B, K, D], and their `Particles`."""

  @jax.jit
  def draw(key):
    levels = level_grid(SCHEDULE, num_steps)
    prior_key, key = jax.random.split(key)
    x = dj.prior_sample(prior_key, shape, levels.take(0))
    return dj.sample_with_state(key, denoise, sampler, levels, x, **options)

  return draw(key)


def moments_of_the_chain(num_steps, mean, cov):
  """Returns mean and covariance of ancestral samples of a Gaussian, float64."""
  levels = level_grid(SCHEDULE, num_steps)
  alphas, sigmas = (np.asarray(a, np.float64) for a in levels[1:])
  eye = np.eye(len(mean))
  m, v = np.zeros(len(mean)), eye * (alphas[0] ** 2 + sigmas[0] ** 2)
  for t in range(num_steps):
    a, s = alphas[t], sigmas[t]
    gain = a * cov @ np.linalg.inv(a**2 * cov + s**2 * eye)
    of_x0, kept, noise = chains.ancestral(alphas, sigmas, t, t + 1)
    slope = of_x0 * gain + kept * eye
    offset = of_x0 * (mean - gain @ mean * a)
    m, v = slope @ m + offset, slope @ v @ slope.T + noise * eye
  return m, v


def log_evidence_of_the_chain(num_steps, std):
  """Computes log N(y; mean, cov) of the ancestral chain for PRIOR."""
  m, v = moments_of_the_chain(num_steps, np.asarray(PRIOR.mean), SCALED)
  cov_y = MATRIX @ v @ MATRIX.T + std**2 * np.eye(2)
  return multivariate_normal.logpdf(Y, MATRIX @ m, cov_y)


@pytest.mark.parametrize(
  'twist, use_gradient, std, error',
  [
    ('pseudoinverse', True, 0.5, 0.01),
    ('spread', True, 0.5, 0.01),
    ('pseudoinverse', False, 1.0, 0.01),
    (None, True, 0.6, 0.02),
  ],
)
def test_the_evidence_is_unbiased_for_the_chain(twist, use_gradient, std, error, key):
  m = measured(std)
  twists = {
    'pseudoinverse': dj.pseudoinverse_twist(m, num_iterations=2),
    'spread': dj.spread_twist(m),
    None: None,
  }
  sampler = dj.steered(m.log_prob, twists[twist], use_gradient=use_gradient, threshold=0.6)
  _, state = run(key, PRIOR.denoise, sampler, 20, (4000, 8, 4))
  logs = np.asarray(state.log_evidence, np.float64)
  ratios = np.exp(logs - log_evidence_of_the_chain(20, std))
  standard_error = ratios.std() / np.sqrt(len(ratios))
  assert standard_error < error
  assert abs(ratios.mean() - 1.0) < 4.0 * standard_error
  # Populations were resampled, or the test would not see its weights.
  assert (np.asarray(state.lowest_ess) < 0.6 * 8).mean() > 0.05


@pytest.mark.parametrize('twist', ['pseudoinverse', 'spread'])
def test_a_particle_of_each_population_is_from_the_posterior(twist, key):
  twists = {
    'spread': dj.spread_twist(ONE_NUMBER),
    'pseudoinverse': dj.pseudoinverse_twist(ONE_NUMBER, 1),
  }
  sampler = dj.steered(ONE_NUMBER.log_prob, twists[twist])
  x, state = run(key, MIXTURE.denoise, sampler, 30, (2000, 16, 2))
  x = np.asarray(jitted(dj.pick)(key, x, state.log_weights), np.float64)
  exact = MIXTURE.posterior(*OF_MIXTURE)
  np.testing.assert_allclose(x.mean(axis=0), exact.mean, atol=0.06)
  np.testing.assert_allclose(np.cov(x.T), exact.cov, atol=0.06)
  log_prob = jitted(exact.class_log_prob)(x.astype(np.float32), CLEAN)
  posterior = np.exp(log_prob)
  np.testing.assert_allclose(posterior.mean(axis=0), exact.weights, atol=0.05)


CLEAN = dj.clean_level()


def test_a_population_depends_on_its_key_only(key):
  m = measured(STD)
  sampler = dj.steered(m.log_prob, dj.pseudoinverse_twist(m, 2))
  levels = level_grid(SCHEDULE, 10)
  keys = jax.random.split(key, 8)
  draw = jax.jit(lambda keys, x: dj.sample_with_state(keys, DATA.denoise, sampler, levels, x))
  x = jax.random.normal(key, (8, 4, 4))
  assert_own_keys(draw, keys, x, rtol=2e-5, atol=2e-5)


def test_impossible_images_are_never_picked(key):
  """Their reward is NaN or -inf, and its gradients are NaN too."""

  def reward(x0):
    side = x0[:, 0]
    return jnp.where(side > 0.5, jnp.sqrt(-side), jnp.where(side < -1, -jnp.inf, 0))

  sampler = dj.steered(reward)
  x, state = run(key, WHITE.denoise, sampler, 20, (50, 8, 4))
  picked = np.asarray(jitted(dj.pick)(key, x, state.log_weights))
  assert np.isfinite(state.log_evidence).all()
  assert ((picked[:, 0] <= 0.5) & (picked[:, 0] >= -1)).all()


@jax.jit
def above(key, threshold):
  """Draws populations of white data above a threshold."""

  def reward(x0):
    return jnp.where(x0[:, 0] > threshold, 0.0, -jnp.inf)

  return run(key, WHITE.denoise, dj.steered(reward), 20, (4000, 8, 4))


@pytest.mark.parametrize('threshold', [0.6, 1.5])
def test_the_evidence_of_a_threshold_is_its_probability(threshold, key):
  """The reward is -inf below it; white data have the law N(0, v)."""
  _, variance = moments_of_the_chain(20, np.zeros(1), np.eye(1))
  exact = norm.sf(threshold / np.sqrt(variance[0, 0]))
  x, state = above(key, threshold)
  found = np.exp(np.asarray(state.log_evidence, np.float64))
  error = found.std() / np.sqrt(len(found))
  assert error < 0.05 * exact
  assert abs(found.mean() - exact) < 4.0 * error
  alive = found > 0.0
  assert alive.mean() > 1.0 - 1.2 * (1.0 - exact) ** 8  # no fewer than by chance
  picked = np.asarray(jitted(dj.pick)(key, x, state.log_weights))[alive, 0]
  assert (picked > threshold).all()


def test_if_all_particles_are_impossible_the_evidence_says_so(key):
  never = lambda x0: jnp.full(len(x0), -jnp.inf)
  x, state = run(key, WHITE.denoise, dj.steered(never), 10, (3, 4, 4))
  assert np.isfinite(x).all()
  np.testing.assert_array_equal(state.log_evidence, [-np.inf] * 3)
  np.testing.assert_array_equal(state.lowest_ess, np.zeros(3))
  assert np.isfinite(jitted(dj.pick)(key, x, state.log_weights)).all()


def test_a_signal_free_level_has_no_gradient(key):
  """x_t is independent of y there, for any network."""
  m = measured(STD)

  def denoise(x, level):
    return dj.Prediction(jnp.tanh(x))

  x = jax.random.normal(key, (2, 3, 4))

  @functools.partial(jax.jit, static_argnums=1)
  def step(x, use_gradient):
    levels = level_grid(dj.RectifiedFlowSchedule(), 4)
    ends = {'level_t': levels.take(0), 'level_s': levels.take(1)}
    twist = lambda x0, level: m.log_prob(x0)
    sampler = dj.steered(m.log_prob, twist, 'fixed_small', use_gradient, 0.0)
    return sampler.step(key, x, sampler.init(x), denoise, **ends)[0]

  found, expected = step(x, True), step(x, False)
  np.testing.assert_array_equal(found, expected)


def test_pick_draws_by_weight(key):
  x = np.broadcast_to(np.arange(3.0, dtype=np.float32)[:, None], (6000, 3, 1))
  log_weights = np.float32([np.log(0.2), -np.inf, np.log(0.8)])
  log_weights = np.broadcast_to(log_weights, (6000, 3))
  picked = np.asarray(jitted(dj.pick)(key, x, log_weights))
  shares = [np.mean(picked == i) for i in range(3)]
  np.testing.assert_allclose(shares, [0.2, 0.0, 0.8], atol=0.02)


@pytest.mark.parametrize('where', ['first', 'last'])
def test_lowest_ess_is_that_of_the_worst_step(where, key):
  """The weights are uneven at one step only, and are never resampled."""
  levels = level_grid(SCHEDULE, 2)

  def uneven(x0):
    return jnp.where(x0[:, 0] > 0.0, jnp.log(9.0), 0.0)

  def twist(x0, level):
    first = level.t == levels.t[0]
    return jnp.where(first & (where == 'first'), uneven(x0), 0.0)

  def reward(x0):
    return uneven(x0) if where == 'last' else jnp.zeros(len(x0))

  start = jax.random.normal(key, (4, 8, 2))
  sampler = dj.steered(reward, twist, use_gradient=False, threshold=0.0)
  denoise = lambda x, level: dj.Prediction(x)
  x, state = jax.jit(lambda x: dj.sample_with_state(key, denoise, sampler, levels, x))(start)
  of = np.asarray(start if where == 'first' else x)[..., 0]
  weights = np.where(of > 0.0, 9.0, 1.0)
  expected = weights.sum(axis=1) ** 2 / (weights**2).sum(axis=1)
  assert (expected < 8.0).any()
  np.testing.assert_allclose(state.lowest_ess, expected, rtol=1e-5)
