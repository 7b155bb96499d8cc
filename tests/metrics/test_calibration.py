"""Calibration on sbibm's gaussian_linear, theta and x - theta ~ N(0, 0.1 I)."""

import functools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from diffusion_jax.metrics import calibration, pairs, table
from tests.transcribed import transcribes

D, VARIANCE = 10, 0.1
DEFECTS = 'exact', 'narrow', 'shifted', 'prior'


def arrays(defect, seed=0, pairs=1000, n=99, d=D):
  rng = np.random.default_rng(seed)
  truth = rng.normal(size=(pairs, d)) * VARIANCE**0.5
  x = truth + rng.normal(size=(pairs, d)) * VARIANCE**0.5
  mean, std = x / 2.0, (VARIANCE / 2.0) ** 0.5
  if defect == 'narrow':
    std *= 0.9
  elif defect == 'shifted':
    mean = mean + 0.3 * std
  elif defect == 'prior':
    mean, std = 0.0 * mean, VARIANCE**0.5
  draws = mean[:, None] + std * rng.normal(size=(pairs, n, d))

  def log_q(theta, mean):
    square = np.sum((theta - mean) ** 2, axis=-1) / std**2
    return -0.5 * square - d * np.log(std * np.sqrt(2.0 * np.pi))

  samples = {'draws': draws, 'log_q': log_q(draws, mean[:, None])}
  return samples, {'truth': truth, 'context': x, 'log_q': log_q(truth, mean)}


arrays_with = functools.cache(arrays)
CONTRACTIONS = {'exact': 0.5, 'shifted': 0.5, 'narrow': 1 - 0.405, 'prior': 0.0}


@transcribes(
  'posterior contraction (Schad et al. 2021)',
  '1 − ratio of variances',
  '`metrics.calibration.contractions`',
)
@pytest.mark.parametrize('defect', DEFECTS)
def test_contraction_and_densities_have_closed_forms(defect):
  """The prior's variance is 0.1, the posterior's 0.05 and 0.9^2 of it."""
  [contraction] = table.OF_PAIRS['contraction']().compute(*arrays_with(defect))
  *_, posterior, prior = table.OF_PAIRS['density_coverage']().compute(*arrays_with(defect))
  exact = CONTRACTIONS[defect]
  value, error = contraction.estimate
  assert abs(value - exact) < 4.5 * error < 0.1
  assert_allclose(posterior.estimate.value, arrays_with(defect)[1]['log_q'].mean())
  # The fitted covariance of 1,000 draws is D (D + 3) / 4,000 too good.
  entropy = 0.5 * D * np.log(2.0 * np.pi * np.e * VARIANCE)
  error = (D / 2 / 1000) ** 0.5
  assert abs(prior.estimate.value + entropy - 0.0325) < 4.5 * error


def test_the_error_of_contraction_is_its_deviation_over_sets():
  found = []
  for seed in range(100):
    samples, reference = arrays('exact', seed, pairs=50, n=9, d=2)
    [score, *_] = pairs.contraction().compute(samples, reference)
    found.append(score.estimate)
  values, errors = np.array(found).T
  assert_allclose(errors.mean(), values.std(), rtol=0.3)


def test_a_uniform_prior_has_the_width_of_its_box():
  """Order statistic i of n is i / (n + 1) on average: the density is 1."""
  at = (np.arange(12.0) + 1.0) / 13.0
  assert calibration.prior_log_density(at[:, None]) == pytest.approx(0.0, abs=1e-12)


def test_the_contraction_of_a_gaussian_prior_is_said(rng):
  """The mean over 20,000 numbers of 12 pairs and 40 draws of the prior."""
  truth, draws = rng.standard_normal((12, 20_000)), rng.standard_normal((12, 40, 20_000))
  [score] = pairs.contraction().compute({'draws': draws}, {'truth': truth})
  said = float(score.note.split()[0])
  assert score.estimate.value == pytest.approx(said, abs=0.02)


def test_contraction_leaves_out_what_never_changes(rng):
  """A box has the density 1 / volume; a constant has no density."""
  truth = rng.uniform(-3.0, 3.0, (2000, 2))
  assert_allclose(calibration.prior_log_density(truth), -2 * np.log(6.0), atol=0.01)
  truth = np.insert(truth, 1, 0.1, axis=1)
  draws = truth[:, None] + rng.normal(size=(2000, 9, 3)) * [1.0, 0.0, 0.5]
  each = calibration.contractions(draws, truth).mean(axis=0)
  assert_allclose(each, [2 / 3, np.nan, 11 / 12], atol=0.05)
  [score] = pairs.contraction().compute({'draws': draws}, {'truth': truth})
  assert 'of parameter 0 of 3' in score.note
  assert_allclose(score.estimate.value, np.nanmean(each))


def bernoulli(rng, x):
  """theta of 0 and 1 with probability 1/2, x ~ N(theta, 1): draws given x."""
  return rng.random(x.shape) < 1.0 / (1.0 + np.exp(0.5 - x))


def grey(rng, x):
  """17 levels of theta ~ N(0, 1), many of them black or white; x as above."""
  theta = x / 2.0 + 0.5**0.5 * rng.normal(size=x.shape)
  return np.rint(8.0 * np.clip(theta, -1.0, 1.0)) / 8.0 - 0.1


@pytest.mark.parametrize('draw', [bernoulli, grey])
def test_draws_that_equal_the_truth_are_calibrated(draw):
  """The truth and its draws are independent draws given x, in two types."""
  rng, m, n = np.random.default_rng(1), 3000, 30
  theta = rng.integers(0, 2, (m, 1)) if draw is bernoulli else rng.normal(size=(m, 1))
  x = theta + rng.normal(size=(m, 1))
  truth = draw(rng, x).astype(np.float64)
  draws = draw(rng, np.repeat(x[:, None], n, axis=1)).astype(np.float32)
  centres = calibration.regression_references(x, truth)
  log_q = [-(np.float32(a[..., 0]) ** 2) for a in (draws, truth)]
  for levels in (
    calibration.rank_levels(draws, truth)[:, 0],
    calibration.interval_levels(draws, truth)[:, 0],
    calibration.tarp_levels(draws, truth, centres),
    calibration.density_levels(*log_q),
    calibration.density_levels(np.zeros((m, n)), np.zeros(m)),  # flat
  ):
    assert stats.kstest(levels, 'uniform').pvalue > 1e-4
    assert abs(calibration.coverage(levels, 0.9).fraction - 0.9) < 4.5 * (0.09 / m) ** 0.5


def test_equal_numbers_share_their_levels():
  """3 draws below and 5 equal give a level uniform on [3, 9] / 11."""
  draws = np.tile(np.repeat([-1.0, 0.0, 1.0], [3, 5, 2]), (4000, 1))
  found = calibration.rank_levels(draws, np.zeros(4000))
  assert stats.kstest(11 * found, 'uniform', (3, 6)).pvalue > 1e-4


@pytest.mark.parametrize('constant', [0.1, 1e9 / 7.0])
def test_a_parameter_that_is_the_same_in_all_pairs_changes_no_ball(rng, constant):
  x = rng.normal(size=(300, 1))
  truth, draws = rng.normal(size=(300, 1)), rng.normal(size=(300, 9, 1))
  plain = calibration.tarp_levels(np.float32(draws), truth, x)

  def more(a):
    return np.append(a, np.full_like(a, constant), axis=-1)

  found = calibration.tarp_levels(more(np.float32(draws)), more(truth), more(x))
  assert_array_equal(found, plain)


def test_errors_of_coverage_are_of_all_pairs(rng):
  """A fraction p of M pairs has the error sqrt(p (1 - p) / M)."""
  draws, truth = rng.normal(size=(200, 19, 1)), 1.5 * rng.normal(size=(200, 1))
  samples = {'draws': draws, 'log_q': -(draws[..., 0] ** 2)}
  reference = {'truth': truth, 'log_q': -(truth[:, 0] ** 2)}
  for metric, count in (('interval', 199), ('density', 200)):
    score, p, *_ = table.OF_PAIRS[f'{metric}_coverage']().compute(samples, reference)
    share, error = score.estimate
    assert_allclose(error, (share * (1.0 - share) / count) ** 0.5)
    assert 0.5 < share < 0.9 and p.note.startswith('200 pairs')


@transcribes(
  'SBC (Talts et al. 2018)',
  'Alg. 1: ranks of the truth',
  '`metrics.calibration.rank_levels`',
)
def test_ranks_are_counts_of_lower_draws(rng):
  draws, truth = rng.normal(size=(7, 4, 2)), rng.normal(size=(7, 2))
  found = calibration.rank_levels(draws, truth)
  counts = [
    [sum(draws[i, k, j] < truth[i, j] for k in range(4)) for j in range(2)] for i in range(7)
  ]
  assert_array_equal(np.floor(found * 5), counts)
  assert_allclose(calibration.interval_levels(draws, truth), np.abs(2.0 * found - 1.0))


@transcribes(
  'expected coverage (Hermans et al. 2022)',
  'regions of highest density',
  '`metrics.calibration.density_levels`, `.coverage`',
)
def test_levels_of_exact_draws_are_masses_of_regions():
  """N(0, 1) has the interval and the region of density that end at 1.5."""
  draws = np.random.default_rng(0).normal(size=(1, 200_000))
  truth = np.array([1.5])
  mass = 2.0 * stats.norm.cdf(1.5) - 1.0
  found = (
    calibration.interval_levels(draws, truth),
    calibration.density_levels(-(draws**2), -(truth**2)),
    calibration.tarp_levels(draws[..., None], truth[:, None], np.zeros((1, 1))),
  )
  for level in found:
    assert_allclose(level, mass, atol=0.005)


@transcribes('TARP (Lemos et al. 2023)', 'Alg. 2', '`metrics.calibration.tarp_levels`')
def test_tarp_counts_draws_in_the_ball(rng):
  """Distances are in units of the deviations of the truth."""
  draws, truth = rng.normal(size=(6, 5, 2)), rng.normal(size=(6, 2))
  centres = rng.normal(size=(6, 2))
  scale = np.array([1.0, 1e3])
  found = calibration.tarp_levels(draws * scale, truth * scale, centres * scale)
  std = truth.std(axis=0)
  for i in range(6):
    radius = np.linalg.norm((truth[i] - centres[i]) / std)
    inside = np.linalg.norm((draws[i] - centres[i]) / std, axis=1) < radius
    assert np.floor(6 * found[i]) == inside.sum()


def test_a_reference_does_not_know_the_truth_of_its_pair(rng):
  """Predictions follow x; a change of one truth leaves its own unchanged."""
  x = rng.normal(size=(100, 3))
  truth = x @ rng.normal(size=(3, 2)) + 0.1 * rng.normal(size=(100, 2))
  found = calibration.regression_references(x, truth)
  assert np.abs(found - truth).max() < 0.6
  truth[17] += 100.0
  again = calibration.regression_references(x, truth)
  assert_array_equal(again[17], found[17])
  assert np.any(again != found)


def test_coverage_is_a_share_with_a_binomial_band():
  levels = (np.arange(1000) + 0.5) / 1000
  found = calibration.coverage(levels, [0.1, 0.5, 0.9])
  assert_allclose(found.fraction, [0.1, 0.5, 0.9])
  assert_allclose(found.standard_error[1], 0.5 / 1000**0.5)
  # The normal approximation, 1.96 deviations.
  half = 1.96 * np.sqrt(found.mass * (1.0 - found.mass) / 1000)
  assert_allclose(found.high - found.mass, half, atol=6e-4)
  assert_allclose(found.mass - found.low, half, atol=6e-4)
  shares = calibration.coverage(np.stack([levels, levels**2], axis=1), [0.25, 0.81]).fraction
  assert_allclose(shares, [[0.25, 0.5], [0.81, 0.9]])


def test_uniformity_is_of_each_parameter(rng):
  good, bad = rng.uniform(size=500), rng.beta(0.5, 0.5, size=500)
  found = calibration.uniformity(np.stack([good, bad], axis=1))
  expected = [stats.kstest(a, 'uniform').pvalue for a in (good, bad)]
  assert_allclose(found.ks, expected)
  counts = [np.histogram(a, np.linspace(0, 1, 11))[0] for a in (good, bad)]
  expected = [stats.chisquare(c).pvalue for c in counts]
  assert_allclose(found.chi2, expected)
  assert calibration.bonferroni([0.01, 0.2]) == 0.02
  assert calibration.bonferroni([0.9, 0.8]) == 1.0
