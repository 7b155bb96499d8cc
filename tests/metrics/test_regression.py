"""RMSE, NLL, PICP and QICE: closed forms for Gaussians, and literally."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from diffusion_jax.metrics import regression
from tests.transcribed import transcribes

PAIRS, DRAWS = 1000, 1000
MEANS = np.random.default_rng(0).normal(50.0, 20.0, PAIRS)
STD = 0.01  # of the truth of each pair


def gaussian(count):
  """Returns quantiles of a normal distribution, [count]."""
  return stats.norm.ppf((np.arange(count) + 0.5) / count)


@transcribes(
  'CARD (Han et al. 2022)',
  'PICP; QICE',
  '`metrics.regression.in_interval`, `.bin_errors`',
)
@pytest.mark.parametrize('width', [0.5, 1.0, 2.0])
@pytest.mark.parametrize('shift', [0.0, 1.0])
def test_scores_of_gaussian_draws_are_closed_forms(width, shift):
  """The draws have `width` deviations of the truth, and are `shift` too high."""
  truth = MEANS + STD * gaussian(PAIRS)
  draws = MEANS[:, None] + STD * (shift + width * gaussian(DRAWS))
  scores = regression.regression().compute({'draws': draws[..., None]}, {'truth': truth[:, None]})
  rmse, nll, picp, qice = (score.estimate.value for score in scores)
  assert_allclose(rmse, STD * np.hypot(1.0, shift), rtol=3e-3)
  kernels = 2.0 * (width * STD) ** 2  # the variance of draws and kernels
  exact = 0.5 * np.log(2.0 * np.pi * kernels) + 0.5 * STD**2 * (1.0 + shift**2) / kernels
  assert_allclose(nll, exact, atol=0.02)
  edges = shift + width * stats.norm.ppf([0.025, 0.975])
  assert_allclose(picp, np.diff(stats.norm.cdf(edges))[0], atol=3e-3)
  bins = stats.norm.cdf(shift + width * stats.norm.ppf(np.arange(11) / 10))
  assert_allclose(qice, np.mean(np.abs(np.diff(bins) - 0.1)), atol=2e-3)


def literally(draws, truth, num_bins, mass):
  """Returns NLL, PICP and QICE as the papers write them, for one number."""
  nll, inside, counts = 0.0, 0, np.zeros(num_bins)
  for y, each in zip(truth, draws, strict=True):
    tau = 1.0 / np.var(each, ddof=1)
    nll -= np.log(np.mean(stats.norm.pdf(y, each, tau**-0.5))) / len(truth)
    ends = 50.0 - 50.0 * mass, 50.0 + 50.0 * mass
    low, high = np.percentile(each, ends)
    inside += low <= y <= high
    edges = np.percentile(each, 100.0 * np.arange(num_bins + 1) / num_bins)
    place = next((m for m in range(num_bins) if edges[m] < y <= edges[m + 1]), None)
    counts[place if place is not None else (num_bins - 1) * (y > edges[-1])] += 1
  return nll, inside / len(truth), np.mean(np.abs(counts / len(truth) - 1.0 / num_bins))


@transcribes(
  'MC dropout (Gal & Ghahramani 2016)',
  '8: log-likelihood by kernels at the draws',
  '`metrics.regression.kernel_nll`',
)
def test_scores_are_the_papers_literally():
  """Scores of several numbers are means. All edges are draws: none is within ranks."""
  rng = np.random.default_rng(1)
  draws, truth = rng.gamma(2.0, size=(40, 21, 3)), rng.gamma(2.0, size=(40, 3))
  metric = regression.regression(mass=0.8, num_bins=5)
  scores = metric.compute({'draws': draws}, {'truth': truth})
  assert [score.name for score in scores] == [*metric.scores]
  each = [literally(draws[..., i], truth[:, i], 5, 0.8) for i in range(3)]
  squares = (draws.mean(axis=1) - truth) ** 2
  expected = [np.sqrt(squares.mean()), *np.mean(each, axis=0)]
  assert_allclose([score.estimate.value for score in scores], expected, rtol=1e-12)


LAWS = {
  'normal': lambda rng, *size: rng.normal(size=size).astype(np.float32),
  'exponential': lambda rng, *size: rng.exponential(size=size),
  'poisson': lambda rng, *size: rng.poisson(2.0, size),
  'coin': lambda rng, *size: rng.integers(0, 2, size) * 0.1,
}


@pytest.mark.parametrize('n', [12, 49])
@pytest.mark.parametrize('law', LAWS)
def test_exact_draws_have_the_standards_that_are_printed(law, n):
  """PICP by its closed form, for any law; the mean QICE of small sets by their own."""
  rng, metric = np.random.default_rng(n), regression.regression()
  draws, truth = LAWS[law](rng, 20_000, n), LAWS[law](rng, 20_000)
  inside = regression.in_interval(draws, truth)
  right = 0.95 * (n - 1) / (n + 1)
  assert abs(inside.mean() - right) < 4.5 * (right * (1.0 - right) / 20_000) ** 0.5
  _, _, picp, qice = metric.compute({'draws': draws[:100]}, {'truth': truth[:100]})
  assert picp.note == f'{right:.4g} of exact draws, {n} for each pair'
  standard = float(qice.note.partition(' ')[0])
  found = [regression.bin_errors(draws[i::200], truth[i::200], seed=i).mean() for i in range(200)]
  assert abs(np.mean(found) - standard) < 4.5 * np.std(found) / 200**0.5


@pytest.mark.parametrize('pairs, n, bins', [(1, 3, 2), (30, 9, 10), (2000, 10, 4)])
def test_the_expected_qice_is_that_of_random_ranks(pairs, n, bins):
  """A rank is uniform on 0..n, and a bin ends (n - 1) / bins draws later."""
  rng = np.random.default_rng(0)
  rank = rng.integers(0, n + 1, (3000, pairs)) + rng.uniform(size=(3000, pairs))
  edges = 1.0 + (n - 1) * np.arange(1, bins) / bins
  place = (rank[..., None] > edges).sum(axis=-1)
  shares = np.stack([(place == i).mean(axis=1) for i in range(bins)])
  found = np.abs(shares - 1.0 / bins).mean(axis=0)
  error = 4.5 * found.std() / 3000**0.5
  assert abs(found.mean() - regression.exact_qice(pairs, n, bins)) <= error < 0.02


def test_errors_are_those_of_repeated_sets():
  """The error of RMSE follows from the error of its square."""
  rng, found = np.random.default_rng(2), []
  for _ in range(200):
    truth = rng.normal(size=(60, 1))
    scores = regression.regression().compute(
      {'draws': rng.normal(size=(60, 50, 1))}, {'truth': truth}
    )
    found.append([score.estimate for score in scores[:3]])
  values, errors = np.moveaxis(np.array(found), -1, 0)
  assert_allclose(errors.mean(axis=0), values.std(axis=0), rtol=0.25)
