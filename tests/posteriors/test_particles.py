"""Weighted particles, against the exact posterior and evidence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal, norm

import diffusion_jax as dj
from diffusion_jax.app.kinds import choices
from diffusion_jax.core.process import sde_coefficients
from diffusion_jax.posteriors import particles
from diffusion_jax.testing import oracles
from tests.jitted import jitted, level_at, level_grid
from tests.posteriors.test_reconstruction import (
  COV,
  MATRIX,
  MIXTURE,
  OF_MIXTURE,
  ONE_NUMBER,
  SCHEDULE,
  WHITE,
  Y,
  measured,
)
from tests.refusals import one_line
from tests.rows import normal, slow
from tests.sampling import chains
from tests.sampling.moments import assert_own_keys, jit_long
from tests.transcribed import transcribes

STD = 0.5
# Correlated data of unit average variance.
SCALED = COV * 4.0 / np.trace(COV)
PRIOR = oracles.gaussian(np.array([0.3, -0.2, 0.1, 0.0]), SCALED)


def run(key, denoise, sampler, num_steps, shape, jit=jit_long):
  """Draws populations, [B, K, D], and their `Particles`."""

  @jit
  def draw(key):
    levels = level_grid(SCHEDULE, num_steps)
    prior_key, key = jax.random.split(key)
    x = dj.prior_sample(prior_key, shape, levels.take(0))
    return dj.sample_with_state(key, denoise, sampler, levels, x)

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


@jit_long
def populations(keys, x):
  """Draws populations with a twist, a key for each, [B, 8, 4]."""
  m = measured(STD)
  sampler = dj.steered(m.log_prob, dj.pseudoinverse_twist(m, num_iterations=2), threshold=0.6)
  return dj.sample_with_state(keys, PRIOR.denoise, sampler, level_grid(SCHEDULE, 20), x)


def ratios_of(state, std, error):
  """Returns exp(log_evidence) over log N(y; mean, cov) of the chain, whose mean is 1."""
  m, v = moments_of_the_chain(20, np.asarray(PRIOR.mean), SCALED)
  exact = multivariate_normal.logpdf(Y, MATRIX @ m, MATRIX @ v @ MATRIX.T + std**2 * np.eye(2))
  ratios = np.exp(np.asarray(state.log_evidence, np.float64) - exact)
  standard_error = ratios.std() / np.sqrt(len(ratios))
  assert standard_error < error
  assert abs(ratios.mean() - 1.0) < 4.0 * standard_error
  # Populations were resampled, or the test would not see its weights.
  assert (np.asarray(state.lowest_ess) < 0.6 * 8).mean() > 0.05
  return ratios


@pytest.mark.slow
@pytest.mark.parametrize(
  'twist, use_gradient, std, error', [(dj.spread_twist, False, 1.0, 0.01), (None, True, 0.6, 0.02)]
)
def test_the_evidence_is_unbiased_without_twist_or_gradient(twist, use_gradient, std, error, key):
  m = measured(std)
  twist = twist and twist(m)
  sampler = dj.steered(m.log_prob, twist, use_gradient=use_gradient, threshold=0.6)
  ratios_of(run(key, PRIOR.denoise, sampler, 20, (4000, 8, 4))[1], std, error)


@transcribes(
  'TDS (Wu et al. 2023); FK steering (Singhal et al. 2025)',
  'Alg. 1: weighted particles, and the evidence',
  '`steered`, `pseudoinverse_twist`',
)
def test_the_evidence_is_unbiased_for_the_chain(key):
  """A particle of each population, weighted by the evidence, has the chain's posterior."""
  x, state = populations(jax.random.split(key, 4000), normal(4000, 8, 4))
  ratios = ratios_of(state, STD, 0.01)
  picked = np.asarray(jitted(dj.pick)(key, x, state.log_weights), np.float64)
  m, v = moments_of_the_chain(20, np.asarray(PRIOR.mean), SCALED)
  gain = v @ MATRIX.T @ np.linalg.inv(MATRIX @ v @ MATRIX.T + STD**2 * np.eye(2))
  mean = np.average(picked, axis=0, weights=ratios)
  assert_allclose(mean, m + gain @ (Y - MATRIX @ m), atol=0.06)
  assert_allclose(np.cov(picked.T, aweights=ratios), v - gain @ MATRIX @ v, atol=0.06)


def test_a_population_depends_on_its_key_only(key):
  keys = jax.random.split(key, 4000)
  assert_own_keys(populations, keys, normal(4000, 8, 4), rtol=2e-5, atol=2e-5)


@transcribes(
  'TDS (Wu et al. 2023); FK steering (Singhal et al. 2025)',
  'Alg. 1: weighted particles, and the evidence',
)
@pytest.mark.slow
def test_a_particle_of_each_population_is_from_the_posterior(key):
  sampler = dj.steered(ONE_NUMBER.log_prob, dj.pseudoinverse_twist(ONE_NUMBER, 1))
  x, state = run(key, MIXTURE.denoise, sampler, 30, (2000, 16, 2))
  x = np.asarray(jitted(dj.pick)(key, x, state.log_weights), np.float64)
  exact = MIXTURE.posterior(*OF_MIXTURE)
  assert_allclose(x.mean(axis=0), exact.mean, atol=0.06)
  assert_allclose(np.cov(x.T), exact.cov, atol=0.06)
  log_prob = jitted(exact.class_log_prob)(x.astype(np.float32), dj.clean_level())
  posterior = np.exp(log_prob)
  assert_allclose(posterior.mean(axis=0), exact.weights, atol=0.05)


@jit_long
def between(key, low, high):
  """Draws populations of white data; the reward is -inf below low, NaN above high.

  Its gradients are NaN too.
  """

  def reward(x0):
    side = x0[:, 0]
    return jnp.where(side > high, jnp.sqrt(-side), jnp.where(side > low, 0.0, -jnp.inf))

  return run(key, WHITE.denoise, dj.steered(reward), 20, (4000, 8, 4), jit=lambda draw: draw)


def test_impossible_images_are_never_picked(key):
  x, state = between(key, -1.0, 0.5)
  picked = np.asarray(jitted(dj.pick)(key, x, state.log_weights))
  assert np.isfinite(state.log_evidence).all()
  assert ((picked[:, 0] <= 0.5) & (picked[:, 0] >= -1)).all()


@pytest.mark.parametrize('threshold', [0.6, 1.5])
def test_the_evidence_of_a_threshold_is_its_probability(threshold, key):
  """The reward is -inf below it; white data have the law N(0, v)."""
  _, variance = moments_of_the_chain(20, np.zeros(1), np.eye(1))
  exact = norm.sf(threshold / np.sqrt(variance[0, 0]))
  x, state = between(key, threshold, np.inf)
  found = np.exp(np.asarray(state.log_evidence, np.float64))
  error = found.std() / np.sqrt(len(found))
  assert error < 0.05 * exact
  assert abs(found.mean() - exact) < 4.0 * error
  alive = found > 0.0
  assert alive.mean() > 1.0 - 1.2 * (1.0 - exact) ** 8  # no fewer than by chance
  picked = np.asarray(jitted(dj.pick)(key, x, state.log_weights))[alive, 0]
  assert (picked > threshold).all()


def test_if_all_particles_are_impossible_the_evidence_says_so(key):
  x, state = between(key, np.inf, np.inf)
  assert np.isfinite(x).all()
  assert_array_equal(state.log_evidence, [-np.inf] * len(x))
  assert_array_equal(state.lowest_ess, np.zeros(len(x)))
  assert np.isfinite(jitted(dj.pick)(key, x, state.log_weights)).all()


def test_a_signal_free_level_has_no_gradient(key):
  """x_t is independent of y there, for any network."""
  m = measured(STD)

  def denoise(x, level):
    return dj.Prediction(jnp.tanh(x))

  levels = jax.device_get(level_grid(dj.RectifiedFlowSchedule(), 4))
  twist = lambda x0, level: m.log_prob(x0)

  def step(x, use_gradient):
    sampler = dj.steered(m.log_prob, twist, 'fixed_small', use_gradient, 0.0)
    return sampler.step(
      key, x, sampler.init(x), denoise, level_t=levels.take(0), level_s=levels.take(1)
    )[0]

  assert_array_equal(*jax.jit(lambda x: [step(x, True), step(x, False)])(normal(2, 3, 4)))


def test_pick_draws_by_weight(key):
  x = np.broadcast_to(np.arange(3.0, dtype=np.float32)[:, None], (6000, 3, 1))
  log_weights = np.float32([np.log(0.2), -np.inf, np.log(0.8)])
  log_weights = np.broadcast_to(log_weights, (6000, 3))
  picked = np.asarray(jitted(dj.pick)(key, x, log_weights))
  shares = [np.mean(picked == i) for i in range(3)]
  assert_allclose(shares, [0.2, 0.0, 0.8], atol=0.02)


def test_lowest_ess_is_that_of_the_worst_step(key):
  """The weights are uneven at one step only, and are never resampled."""
  levels = level_grid(SCHEDULE, 2)

  @jax.jit
  def draw(at_first, x):
    def uneven(x0):
      return jnp.where(x0[:, 0] > 0.0, jnp.log(9.0), 0.0)

    def twist(x0, level):
      return jnp.where(at_first & (level.t == levels.t[0]), uneven(x0), 0.0)

    def reward(x0):
      return jnp.where(at_first, 0.0, uneven(x0))

    sampler = dj.steered(reward, twist, use_gradient=False, threshold=0.0)
    denoise = lambda x, level: dj.Prediction(x)
    return dj.sample_with_state(key, denoise, sampler, levels, x)

  start = normal(4, 8, 2)
  for at_first in (True, False):
    x, state = draw(at_first, start)
    weights = np.where(np.asarray(start if at_first else x)[..., 0] > 0.0, 9.0, 1.0)
    expected = weights.sum(axis=1) ** 2 / (weights**2).sum(axis=1)
    assert (expected < 8.0).any()
    assert_allclose(state.lowest_ess, expected, rtol=1e-5)


GUIDED = (1.0, 0.25), (0.0, 1.0)  # means and variances of two Gaussians


def product_of_gaussians(powers, laws):
  """Returns mean, variance and log integral of prod N(m, v)^beta, float64."""
  b, m, v = np.array(powers), *np.transpose(laws)
  precision = np.sum(b / v)
  mean = np.sum(b * m / v) / precision
  logs = -0.5 * b * (np.log(2.0 * np.pi * v) + m**2 / v)
  rest = np.log(2.0 * np.pi / precision) + mean**2 * precision
  return mean, 1.0 / precision, logs.sum() + 0.5 * rest


def factors_of(laws):
  """Returns (x_t, level) -> a Prediction of each N(m, v)."""
  exact = [oracles.gaussian([m], [[v]]) for m, v in laws]
  return lambda x, level: tuple(law.denoise(x, level) for law in exact)


KEY = jax.random.key(0)
LINEAR = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
GRIDS = [
  (dj.CosineSchedule(), 'uniform'),  # the program's default, whose ends are far apart
  (dj.CosineSchedule(), 'logsnr'),
  (LINEAR, 'uniform'),
  (dj.KarrasSchedule(), 'karras'),
  (dj.GeometricVESchedule(), 'logsnr'),
  (dj.RectifiedFlowSchedule(), 'uniform'),  # from alpha = 0
]


def levels_of(grids, num_steps=25, rows=None):
  each = [level_grid(schedule, num_steps, spacing) for schedule, spacing in grids]
  levels = jax.tree.map(lambda *a: np.stack(a), *each)
  return levels if rows is None else jax.tree.map(lambda a: a[:, rows], levels)


def run_product(denoise, powers, levels, shape, jit=jax.jit):
  """Draws populations of a product, [G, B, K, D], and their `Particles`."""
  start = normal(*shape)
  sampler = dj.feynman_kac(powers)

  @jit
  @jax.vmap
  def draw(levels):
    first = levels.take(0)
    x = jnp.hypot(first.alpha, first.sigma) * start / sum(powers) ** 0.5
    return dj.sample_with_state(KEY, denoise, sampler, levels, x)

  x, state = draw(levels)
  weights = np.asarray(jax.nn.softmax(state.log_weights, axis=-1), np.float64)
  return np.asarray(x, np.float64), weights, state


def moments_of_products(x, weights):
  """Returns the mean of each number and their variance, in each population."""
  means = (weights[..., None] * x).sum(axis=-2)
  squares = weights[..., None] * (x - means[..., None, :]) ** 2
  return means.mean(axis=-1), squares.sum(axis=-2).mean(axis=-1)


@transcribes(
  'Feynman–Kac correctors (Skreta et al. 2025)',
  'the weights of Π q_i^β_i: guidance, tempering, products',
)
@pytest.mark.parametrize(
  'powers, laws',
  # Both have their weights in a small step, below; `one_of` draws from the first product.
  [slow((3.0, -2.0), ((0.4, 0.2), (0.0, 0.5))), slow((0.5,), GUIDED[:1])],
)
def test_the_product_of_gaussians_has_its_law(powers, laws):
  """Few steps of a grid even in the log-SNR have errors, and weights say so."""
  mean, variance, log_integral = product_of_gaussians(powers, laws)
  x, weights, state = run_product(factors_of(laws), powers, levels_of(GRIDS), (6, 1500, 1))
  means, squares = moments_of_products(x, weights)
  found = means, squares / variance, np.asarray(state.log_evidence, np.float64)
  widths = np.array([0.1, 0.9, 0.3, 0.5, 0.4, 0.1])  # of the steps, relatively
  for numbers, exact, bias in zip(found, (mean, 1.0, log_integral), (0.1, 1.0, 0.35), strict=True):
    error = 5.0 * numbers.std(axis=1) / 6**0.5
    assert (error < 0.35 * (1.0 + (bias > 0.2))).all()
    assert (np.abs(numbers.mean(axis=1) - exact) < 0.02 + bias * widths + error).all()
  assert (np.asarray(state.lowest_ess) > 0.02 * 1500).all()


def test_products_of_unit_variance_are_exact_in_any_steps():
  """At unit variances p_i(x_s | x_t) has no error, and all particles weigh the same.

  The step to clean data has neither weight nor noise: a share of both is kept.
  """
  powers, laws = (3.0, -2.0), ((0.4, 1.0), (0.0, 1.0))
  mean, variance, log_integral = product_of_gaussians(powers, laws)
  both = factors_of(laws)
  in_three = lambda x, level: tuple(
    dj.Prediction(p.x0.reshape(x.shape)) for p in both(x.reshape(-1, 1), level)
  )
  levels = levels_of(GRIDS, rows=np.array([0, 6, 12, 18, 24, 25]))
  x, weights, state = run_product(in_three, powers, levels, (4, 500, 3))
  assert_allclose(state.lowest_ess, 500.0, rtol=1e-3)
  _, a, sigma = (np.asarray(field[:, -2], np.float64) for field in levels)
  share = a**2 / (a**2 + sigma**2)
  expected = np.broadcast_to(3.0 * log_integral * share[:, None], (6, 4))
  assert_allclose(state.log_evidence, expected, rtol=0.01)
  means, squares = moments_of_products(x, weights)
  assert_allclose(means.mean(axis=1), mean, atol=0.06)
  assert_allclose(squares.mean(axis=1) / share, variance, atol=0.08)


def test_the_evidence_of_a_power_is_that_at_the_last_noisy_level():
  """log of the integral of N(0, 1 + sigma^2 / alpha^2)^beta, in any steps, of white data."""
  levels = levels_of(GRIDS, rows=np.array([0, 3, 6, 25]))
  state = run_product(factors_of(((0.0, 1.0),)), (0.4,), levels, (2, 4000, 1))[2]
  _, a, sigma = (np.asarray(field[:, -2], np.float64) for field in levels)
  assert (sigma / a).max() > 1.0 and np.abs(a - 1.0).max() > 0.3
  exact = 0.5 * (0.6 * np.log(2.0 * np.pi * (1.0 + (sigma / a) ** 2)) - np.log(0.4))
  assert_allclose(state.log_evidence, np.repeat(exact[:, None], 2, axis=1), atol=0.1)


coefficients = jax.jit(lambda t: sde_coefficients(SCHEDULE, t))


@transcribes(
  'Feynman–Kac correctors (Skreta et al. 2025)',
  'the weights of Π q_i^β_i: guidance, tempering, products',
  '`feynman_kac`',
)
@pytest.mark.parametrize('powers', [(3.0, -2.0), slow((1.5, 0.7)), (0.2, 0.3), slow((0.8, -0.4))])
def test_the_weights_of_a_small_step_literally(powers):
  """Skreta et al. 2025: -g^2 / 2 (sum beta |s_i|^2 - |sum beta s_i|^2) dt."""
  t, s = 0.4, 0.399
  x = np.linspace(-2.0, 2.0, 9)[None, :, None]
  sampler = dj.feynman_kac(powers, threshold=0.0)
  both, middle = level_at(SCHEDULE, np.float32([t, s])), np.float32([0.3995])

  @jax.jit
  def step(x, levels):
    return sampler.step(
      KEY, x, sampler.init(x), factors_of(GUIDED), level_t=levels.take(0), level_s=levels.take(1)
    )[1]

  found = np.asarray(step(np.float32(x), both).log_weights, np.float64)[0]
  _, alpha, sigma = (float(a[0]) for a in level_at(SCHEDULE, middle))
  x = x[0, :, 0]
  scores = [-(x - alpha * m) / (alpha**2 * v + sigma**2) for m, v in GUIDED]
  total = powers[0] * scores[0] + powers[1] * scores[1]
  rest = powers[0] * scores[0] ** 2 + powers[1] * scores[1] ** 2 - total**2
  g2 = float(coefficients(middle)[1][0])
  expected = -0.5 * g2 * rest * (t - s)
  expected, found = (a - a.mean() for a in (expected, found))
  assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


CLASSES = oracles.mixture([0.3, 0.4, 0.3], [[-2.0], [0.0], [1.5]], [[[0.1]], [[0.5]], [[0.2]]])
ONE_CLASS = oracles.gaussian([0.0], [[0.5]])


@transcribes(
  'Feynman–Kac correctors (Skreta et al. 2025)',
  'the weights of Π q_i^β_i: guidance, tempering, products',
)
@pytest.mark.slow  # A product of Gaussians, above, has the same weights.
def test_corrected_guidance_of_mixtures_has_the_law_that_it_names(key):
  """A quadrature gives the law; guidance without correction draws from another one."""
  grid = np.linspace(-6.0, 6.0, 4001)[:, None]
  each = norm.pdf(grid, [-2.0, 0.0, 1.5], np.sqrt([0.1, 0.5, 0.2]))
  density = each[:, 1] ** 2.5 * (each @ [0.3, 0.4, 0.3]) ** -1.5
  exact = np.cumsum(density) / density.sum()
  pair = dj.paired(ONE_CLASS.denoise, CLASSES.denoise)
  levels = levels_of(GRIDS[:1], 200)
  x, weights, _ = run_product(pair, (2.5, -1.5), levels, (8, 2000, 1), jit_long)

  def distance(x, weights):
    order = np.argsort(x.reshape(-1))
    steps = np.cumsum(weights.reshape(-1)[order]) / weights.sum()
    return np.abs(steps - np.interp(x.reshape(-1)[order], grid[:, 0], exact)).max()

  levels = level_grid(SCHEDULE, 50, 'logsnr')
  guided = dj.classifier_free(pair, 2.5)
  draw = jax.jit(lambda x: dj.sample(key, guided, dj.ddim(1.0), levels, x))
  plain = draw(normal(8000, 1, seed=1))
  assert distance(x, weights) < 0.03
  assert distance(np.asarray(plain), np.ones(8000)) > 0.06


@transcribes(
  'Feynman–Kac correctors (Skreta et al. 2025)',
  'one particle of each population',
  '`one_of`',
)
def test_one_of_many_particles_is_from_the_product(key):
  """Conditions of particles are [B]: class 0 is shifted by 0 and class 1 by 3."""
  labels = np.arange(1000) % 2
  levels = level_grid(dj.CosineSchedule(), 50)
  sampler = choices.feynman_kac(3.0, particles=64)

  def shifted(x, level):
    shift = 3.0 * labels[:, None]
    factors = factors_of(GUIDED)(x - level.alpha * shift, level)
    return tuple(dj.Prediction(p.x0 + shift) for p in factors)

  @jit_long
  def draw(key, x):
    keys = jax.random.split(key, 1000)
    return dj.sample_with_state(keys, shifted, sampler, levels, x)

  x, state = draw(key, normal(1000, 1))
  assert state.x.shape == (1000, 64, 1) and state.lowest_ess.shape == (1000,)
  assert 1.0 < np.min(state.lowest_ess) < 64.0
  x = np.asarray(x)[:, 0] - 3.0 * labels
  mean, variance, _ = product_of_gaussians((3.0, -2.0), GUIDED)
  assert_allclose([x[::2].mean(), x[1::2].mean()], [mean] * 2, atol=0.07)
  assert_allclose(x.var(), variance, atol=0.025)


def test_one_of_begins_with_noise_of_its_level_and_picks_by_weight():
  """The sampler of this test moves nothing and gives the last particle all the weight."""
  level = dj.NoiseLevel(*np.array([1.0, 3.0, 4.0], np.float32))
  zero = np.zeros(2000, np.float32)
  last = np.tile(np.float32([-np.inf, -np.inf, 0.0]), (2000, 1))
  state = particles.Particles(last, zero, zero, zero)
  still = dj.Sampler(lambda x: state, lambda key, x, state, denoise, **ends: (x, state))
  x = normal(2000, 1)
  sampler = dj.one_of(still, 3)

  @jax.jit
  def two_steps(x):
    first = sampler.step(KEY, x, sampler.init(x), None, level_s=level, level_t=level)
    return first, sampler.step(KEY, *first, None, level_s=level, level_t=level)

  (picked, after), (again, _) = two_steps(x)
  assert_array_equal(after.x[:, 0], x)
  assert_array_equal(picked, after.x[:, 2])
  assert_array_equal(again, picked)
  assert_allclose(np.std(after.x[:, 1:], axis=0), 5.0, rtol=0.1)


def test_one_particle_corrects_nothing():
  product = dj.feynman_kac((3.0, -2.0))
  with one_line('num_particles must be an integer of at least 2, not 1'):
    dj.one_of(product, 1)
  for sampler in (product, dj.steered(lambda x0: x0[:, 0])):
    with one_line('particles_of_an_image is 1: it must be at least 2'):
      sampler.init(np.zeros((2, 1, 3), np.float32))


def test_a_product_needs_a_prediction_for_each_power():
  with pytest.raises(TypeError, match='returns 2 Predictions, one for each power, not'):
    run_product(factors_of(GUIDED[:1]), (3.0, -2.0), levels_of(GRIDS[:1]), (1, 2, 1))
  with pytest.raises(ValueError, match='sum_of_powers'):
    dj.feynman_kac((1.0, -1.0))
