"""Scores of forecasts: CRPS by its definition, and the law of a Gaussian given some numbers."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from diffusion_jax.demos import simulators
from diffusion_jax.metrics import forecasts
from diffusion_jax.metrics.estimates import Missing
from tests.transcribed import transcribes

RHO = 0.8


def values(scores):
  return {score.name: score.estimate.value for score in scores}


@transcribes(
  'Gneiting & Raftery 2007; Ferro 2014', 'Eq. 21; of an ensemble', '`metrics.forecasts.fair_crps`'
)
def test_crps_is_the_difference_of_two_means_over_pairs_of_draws():
  rng = np.random.default_rng(0)
  draws, truth = rng.normal(size=(3, 7, 2)), rng.normal(size=(3, 2))
  expected = np.zeros((3, 2))
  for i in range(3):
    for j in range(2):
      x, y = draws[i, :, j], truth[i, j]
      spread = sum(abs(a - b) for k, a in enumerate(x) for m, b in enumerate(x) if k != m) / (7 * 6)
      expected[i, j] = sum(abs(a - y) for a in x) / 7 - 0.5 * spread
  assert_allclose(forecasts.fair_crps(draws, truth), expected, rtol=1e-12)


@pytest.mark.parametrize('number', [2, 50])
def test_crps_of_any_number_of_gaussian_draws_has_the_closed_form(number):
  """E CRPS of N(m, s^2) for a truth N(m', s'^2), Gneiting & Raftery 2007, Eq. 21, in closed form.

  The fair estimate has no bias, so that 2 draws have the same mean as 50.
  """
  rng = np.random.default_rng(1)
  draws = rng.normal(1.0, 2.0, (40_000, number, 1))
  truth = rng.normal(0.0, 1.0, (40_000, 1))
  apart = math.hypot(2.0, 1.0)  # x - y is N(1, apart^2), x - x' is N(0, 8)
  far = apart * 2.0 * stats.norm.pdf(1.0 / apart) + 2.0 * stats.norm.cdf(1.0 / apart) - 1.0
  expected = far - 0.5 * math.sqrt(8.0) * math.sqrt(2.0 / math.pi)
  found = forecasts.fair_crps(draws, truth)
  assert abs(found.mean() - expected) < 4.0 * found.std() / math.sqrt(found.size)


def test_a_forecast_that_knows_nothing_scores_as_other_truths_do():
  rng = np.random.default_rng(2)
  truth = rng.normal(3.0, 2.0, (4000, 2))
  draws = rng.normal(3.0, 2.0, (4000, 20, 2))
  scores = forecasts.crps().compute({'draws': draws}, {'truth': truth})
  blind, others = (score.estimate for score in scores)
  expected = 2.0 / math.sqrt(math.pi)
  assert abs(blind.value - expected) < 4.0 * blind.error
  assert abs(others.value - expected) < 4.0 * others.error


def test_levels_are_numbers():
  """Levels are bytes, whose differences would wrap around."""
  rng = np.random.default_rng(4)
  draws, truth = (rng.integers(0, 256, shape, np.uint8) for shape in ((12, 5, 3), (12, 3)))
  found, expected = (
    values(forecasts.crps().compute({'draws': x}, {'truth': y}))
    for x, y in ((draws, truth), (draws.astype(np.float64), truth.astype(np.float64)))
  )
  assert found == expected


def test_an_ar1_forgets_its_past():
  """Given 3 of 5 numbers the others have the mean rho^h x_3, and the variance 1 - rho^2h."""
  mean, cov = simulators.gaussian_process_moments(
    sides=(5,), length=-1.0 / math.log(RHO), mean=(2.0,), std=(3.0,), kernel='exponential'
  )
  given = np.array([[0.0, 9.0, 5.0], [1.0, 1.0, -4.0]])
  is_given = np.arange(5) < 3
  means, covs = forecasts.conditional(mean, cov, is_given, given)
  steps = np.arange(1, 3)
  assert_allclose(means, 2.0 + (given[:, 2:] - 2.0) * RHO**steps, rtol=1e-10)
  least = np.minimum(steps[:, None], steps)
  lag = np.abs(steps[:, None] - steps)
  assert_allclose(covs, 9.0 * RHO**lag * (1.0 - RHO ** (2 * least)), rtol=1e-10)


def test_the_moments_of_a_process_are_those_of_its_draws():
  fields = {
    'sides': (3, 2),
    'length': 2.0,
    'mean': (1.0, -2.0),
    'std': (0.5, 3.0),
    'correlation': 0.4,
  }
  x = simulators.gaussian_process(np.random.default_rng(0), 100_000, **fields)['x']
  mean, cov = simulators.gaussian_process_moments(**fields)
  x = x.reshape(len(x), -1)
  std = np.sqrt(np.diag(cov))
  assert_allclose(x.mean(axis=0), mean, atol=0.06)
  assert np.abs((np.cov(x.T) - cov) / std / std[:, None]).max() < 0.02


def exact(pairs, number, seed=3):
  """Returns draws of the AR(1)'s law given 3 of 6 numbers, and the reference of these pairs."""
  mean, cov = simulators.gaussian_process_moments(sides=(6,), length=4.0, kernel='exponential')
  rng = np.random.default_rng(seed)
  given = rng.multivariate_normal(mean[:3], cov[:3, :3], pairs)
  means, law = forecasts.conditional(mean, cov, np.arange(6) < 3, given)
  noise = rng.multivariate_normal(np.zeros(3), law, (pairs, number))
  return means[:, None] + noise, {'law_mean': means, 'law_cov': law}


def test_exact_draws_have_what_the_notes_say():
  draws, reference = exact(400, 50)
  scores = forecasts.predictive().compute({'draws': draws}, reference)
  at = {score.name: score for score in scores}
  note = float(at['predictive_mean'].note.split()[1])
  assert note == pytest.approx(50**-0.5, rel=1e-2)
  assert_allclose(at['predictive_mean'].estimate.value, note, rtol=0.1)
  for name in 'predictive_variance', 'predictive_variance_farthest':
    assert abs(at[name].estimate.value - 1.0) < 4.0 * at[name].estimate.error
  by_chance = float(at['predictive_covariance'].note.split()[0])
  assert at['predictive_covariance'].estimate.value < 3.0 * by_chance


def test_wrong_draws_have_their_errors():
  """1.1 deviations wide, 0.5 deviations off, and independent."""
  draws, reference = exact(400, 50)
  std = np.sqrt(np.diag(reference['law_cov']))
  middle = reference['law_mean'][:, None]
  wide = forecasts.predictive().compute({'draws': middle + 1.1 * (draws - middle)}, reference)
  assert_allclose(values(wide)['predictive_variance'], 1.21, rtol=0.02)
  off = draws + np.array([0.0, 0.0, 0.5]) * std
  expected = math.sqrt(0.25 / 3.0 + 1.0 / 50.0)
  found = values(forecasts.predictive().compute({'draws': off}, reference))
  assert_allclose(found['predictive_mean'], expected, rtol=0.05)
  one = np.array([1.0, 1.0, 2.0])
  far = forecasts.predictive().compute({'draws': middle + one * (draws - middle)}, reference)
  assert_allclose(values(far)['predictive_variance_farthest'], 4.0, rtol=0.05)
  assert far[2].note == 'of number 2 of 3'
  law = reference['law_cov']
  alone = np.random.default_rng(0).normal(size=draws.shape) * std + middle
  expected = np.linalg.norm(law - np.diag(np.diag(law))) / np.linalg.norm(law)
  found = values(forecasts.predictive().compute({'draws': alone}, reference))
  assert_allclose(found['predictive_covariance'], expected, rtol=0.05)


@pytest.mark.parametrize('name', ['crps', 'predictive'])
def test_one_draw_has_no_spread(name):
  draws, reference = exact(10, 1)
  truth = {'truth': draws[:, 0]}
  with pytest.raises(Missing, match='needs 2 draws for each of the held-out pairs'):
    getattr(forecasts, name)().compute({'draws': draws}, reference | truth)
