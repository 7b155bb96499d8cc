"""How well draws of p(y | x) predict numbers, as CARD measures it.

The metrics of Han et al. 2022, as their code computes them, for M held-out
pairs: n draws of y for each x, [M, n, ...], and the truth [M, ...], in the units
of the data.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from diffusion_jax.core.arguments import check_at_least
from diffusion_jax.declared import declares
from diffusion_jax.metrics import lattices
from diffusion_jax.metrics.calibration import rank_levels, take_pairs
from diffusion_jax.metrics.estimates import Estimate, Missing, mean
from diffusion_jax.metrics.metric import SampleMetric, Score, same_precision
from diffusion_jax.ranges import Probability, Size


def kernel_nll(draws: ArrayLike, truth: ArrayLike) -> np.ndarray:
  """Returns -log of the mean of Gaussian kernels at the draws, nats, [M, ...].

  Gal & Ghahramani 2016, Eq. 8. A kernel has the variance of the draws of its
  pair, so that the density is wider than the distribution of the draws: of a
  Gaussian with the deviation s it is the Gaussian with 2**0.5 s. Raises
  ValueError if the draws of a pair are equal.
  """
  draws, truth = same_precision(draws, truth)
  variance = draws.var(axis=1, ddof=1)
  if not variance.all():
    raise ValueError('all draws of a pair are equal: they have no density')
  square = (draws - truth[:, None]) ** 2 / variance[:, None]
  log_kernels = np.logaddexp.reduce(-0.5 * square, axis=1) - math.log(draws.shape[1])
  return 0.5 * np.log(2.0 * np.pi * variance) - log_kernels


def quantile_levels(num_draws: int, shares: ArrayLike) -> np.ndarray:
  """Returns P(truth <= quantile of n exact draws) of shares in [0, 1], [...].

  (1 + (n - 1) share) / (n + 1): NumPy's quantile is 1 + (n - 1) share ranks up,
  and each of the n + 1 ranks of the truth is as probable.
  """
  return (1.0 + (num_draws - 1) * np.asarray(shares)) / (num_draws + 1)


def bins_of_truth(
  draws: ArrayLike, truth: ArrayLike, shares: ArrayLike, seed: int = 0
) -> np.ndarray:
  """Returns between which quantiles of the draws the truth is, int [M, ...].

  0 is below all quantiles of the shares, ascending in (0, 1). By `rank_levels`,
  so that equal numbers are in random order.
  """
  levels = rank_levels(draws, truth, seed)
  return np.searchsorted(quantile_levels(np.shape(draws)[1], shares), levels)


def in_interval(
  draws: ArrayLike, truth: ArrayLike, mass: float = 0.95, seed: int = 0
) -> np.ndarray:
  """Returns whether the truth is in the central interval of the draws, [M, ...].

  Its mean is PICP, the prediction interval coverage probability, for n exact
  draws mass (n - 1) / (n + 1). See `bins_of_truth`.
  """
  return bins_of_truth(draws, truth, [0.5 - 0.5 * mass, 0.5 + 0.5 * mass], seed) == 1


def bin_errors(draws: ArrayLike, truth: ArrayLike, num_bins: int = 10, seed: int = 0) -> np.ndarray:
  """Returns |share of the truths in a bin - 1 / num_bins|, [num_bins, ...].

  The edges are quantiles of the draws of each pair; the first and the last bin
  have no end. The mean is QICE, the quantile interval coverage error. See
  `bins_of_truth`.
  """
  place = bins_of_truth(draws, truth, np.arange(1, num_bins) / num_bins, seed)
  shares = [np.mean(place == i, axis=0) for i in range(num_bins)]
  return np.abs(np.array(shares) - 1.0 / num_bins)


def exact_qice(num_pairs: int, num_draws: int, num_bins: int = 10) -> float:
  """Returns the expectation of QICE for exact draws of these numbers."""
  from scipy import stats  # not at every start of the program

  levels = quantile_levels(num_draws, np.arange(1, num_bins) / num_bins)
  k, p = np.arange(num_pairs + 1), np.diff(levels, prepend=0.0, append=1.0)
  errors = np.abs(k / num_pairs - 1.0 / num_bins) @ stats.binom.pmf(k[:, None], num_pairs, p)
  return float(errors.mean())


@declares(what='no test: [errors of predictions](#a-number-given-features)', least_draws=2)
@lattices.named
def regression(mass: Probability = 0.95, num_bins: Size = 10, seed: int = 0) -> SampleMetric:
  """Errors of predictions: RMSE of the mean of the draws, NLL, PICP and QICE.

  Of several numbers the mean over numbers, of squares for RMSE. See
  `kernel_nll`, `in_interval`, `bin_errors`. mass: of the interval; num_bins: of
  QICE; seed: of the order of equal numbers.
  """
  check_at_least(2, num_bins=num_bins)

  def compute(samples, reference):
    draws, truth = take_pairs('regression', samples, reference)
    if draws.shape[1] < 2:
      raise Missing('regression needs 2 draws for each of the held-out pairs')
    count, number = draws.shape[:2]
    flat = truth.reshape(count, -1)
    draws = draws.reshape(count, number, -1)
    nll = mean(kernel_nll(draws, flat).mean(axis=1))
    square = mean(np.mean((draws.mean(axis=1) - flat) ** 2, axis=1))
    rmse = math.sqrt(square.value)
    error = square.error / (2.0 * rmse) if rmse else 0.0
    inside = mean(in_interval(draws, flat, mass, seed).mean(axis=1))
    qice = Estimate(float(bin_errors(draws, flat, num_bins, seed).mean()))
    exact = mass * (number - 1) / (number + 1), exact_qice(count, number, num_bins)
    standards = [f'{x:.4g} of exact draws, {number:,} for each pair' for x in exact]
    return [
      Score('rmse', Estimate(rmse, error), f'of the mean, {count:,} pairs'),
      Score('nll', nll, 'nats, of Gaussian kernels'),
      Score('picp', inside, standards[0]),
      Score('qice', qice, standards[1]),
    ]

  names = {'rmse': False, 'nll': False, 'picp': True, 'qice': False}
  return SampleMetric(names, ('draws', 'truth'), compute)
