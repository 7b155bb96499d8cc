"""How well draws of the elements of x that are not given predict them.

Of M held-out examples n draws each, [M, n, ...], and the truth, [M, ...], in the units of the data.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from diffusion_jax.declared import declares
from diffusion_jax.metrics import plots
from diffusion_jax.metrics.calibration import flat, take_pairs
from diffusion_jax.metrics.estimates import Estimate, Missing, mean
from diffusion_jax.metrics.metric import Arrays, SampleMetric, Score, same_precision, take

LAW = 'law_mean', 'law_cov'  # the arrays of a reference with the exact law


def fair_crps(draws: ArrayLike, truth: ArrayLike) -> np.ndarray:
  """Computes the continuous ranked probability score of draws [M, n, ...], [M, ...].

  E |x - y| - E |x - x'| / 2 (Gneiting & Raftery 2007, Eq. 21), of pairs of different draws,
  so that it is unbiased for any n of 2 or more (Ferro 2014). Of draws N(m, s^2) and a truth of
  the same law it is s / sqrt(pi) in the mean.
  """
  draws, truth = same_precision(draws, truth)
  n = draws.shape[1]
  if n < 2:
    raise Missing('crps needs 2 draws for each of the held-out pairs')
  far = np.abs(draws - truth[:, None]).mean(axis=1)
  # For sorted draws the sum of |x_i - x_j| over i < j equals the sum of (2 i - n + 1) x_i.
  weights = (2.0 * np.arange(n) - n + 1.0).reshape(-1, *[1] * (truth.ndim - 1))
  return far - (np.sort(draws, axis=1) * weights).sum(axis=1) / (n * (n - 1))


def conditional(
  centre: np.ndarray, cov: np.ndarray, is_given: np.ndarray, given: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean [M, D - K] and covariance of a Gaussian's numbers given K others.

  centre: its mean, [D]; cov: [D, D]; is_given: bool [D]; given: their values, [M, K].
  """
  here, there = np.ix_(~is_given, ~is_given), np.ix_(is_given, ~is_given)
  slope = np.linalg.solve(cov[np.ix_(is_given, is_given)], cov[there])  # [K, D - K]
  return centre[~is_given] + (given - centre[is_given]) @ slope, cov[here] - cov[there].T @ slope


@declares(
  what=(
    'no test: the [error of forecasts](#forecasts), E |x − y| − E |x − x′| / 2 (Gneiting & '
    'Raftery 2007), beside that of the truths of other pairs'
  ),
  least_draws=2,
)
def crps() -> SampleMetric:
  """The continuous ranked probability score, in the units of the data.

  The mean over the numbers. `crps_unconditional` has the truths of the other pairs in place of
  the draws, a forecast that knows nothing of what is given.
  """

  def compute(samples: Arrays, reference: Arrays) -> list[Score]:
    draws, truth = same_precision(*take_pairs('crps', samples, reference))
    count, number = draws.shape[:2]
    far = np.stack([np.abs(truth - y).sum(axis=0) for y in truth]) / (count - 1)
    others = far - 0.5 * far.mean(axis=0)
    of_pairs = [flat(x).mean(axis=1) for x in (fair_crps(draws, truth), others)]
    notes = f'{count:,} pairs, {number:,} draws', f'of {count - 1:,} other truths'
    return [Score(n, mean(x), note) for n, x, note in zip(scores, of_pairs, notes, strict=True)]

  scores = {'crps': False, 'crps_unconditional': False}
  return SampleMetric(scores, ('draws', 'truth'), compute)


@declares(
  what=(
    'no test: mean and covariance of the draws beside the [closed form](#forecasts) of data '
    'whose law is known'
  ),
  needs='data with the moments of a Gaussian, as `gaussian_process`',
  least_draws=2,
)
def predictive() -> SampleMetric:
  """Errors of the draws' law, beside the exact law of a Gaussian given the same numbers.

  `predictive_mean`: the root mean square of (mean of the draws - exact mean) / exact
  deviation. `predictive_variance`: the ratio of the variances, and `_farthest` the ratio of
  the number where it is farthest from 1. `predictive_covariance`: |C - exact C| / |exact C|,
  in the Frobenius norm, of the draws of all pairs about their exact means.
  """

  def compute(samples: Arrays, reference: Arrays) -> list[Score]:
    errors, cov = _errors(samples, reference)
    (count, number), variance = errors.shape[:2], np.diag(cov)
    if number < 2:
      raise Missing('predictive needs 2 draws for each of the held-out pairs')
    square = mean((errors.mean(axis=1) ** 2 / variance).mean(axis=1))
    of_mean = math.sqrt(square.value)
    ratios = errors.var(axis=1, ddof=1) / variance  # [M, D]
    far = int(np.abs(ratios.mean(axis=0) - 1.0).argmax())
    about = errors.reshape(-1, len(cov))
    of_cov = np.linalg.norm(about.T @ about / len(about) - cov) / np.linalg.norm(cov)
    trace = np.trace(cov) / np.linalg.norm(cov)
    by_chance = math.sqrt((1.0 + trace**2) / len(about))
    return [
      Score(
        'predictive_mean',
        Estimate(of_mean, square.error / (2.0 * of_mean)),
        f'deviations; {1.0 / math.sqrt(number):.3g} of exact draws, {number:,} for each pair',
      ),
      Score('predictive_variance', mean(ratios.mean(axis=1)), f'1 at best, {count:,} pairs'),
      Score('predictive_variance_farthest', mean(ratios[:, far]), f'of number {far} of {len(cov)}'),
      Score('predictive_covariance', Estimate(float(of_cov)), f'{by_chance:.3g} of exact draws'),
    ]

  def report(samples: Arrays, reference: Arrays, out: Path) -> None:
    errors, cov = _errors(samples, reference)
    ratios = errors.var(axis=1, ddof=1) / np.diag(cov)
    plots.plot_ratios(out / 'variance.png', ratios)

  names = 'mean', 'variance', 'variance_farthest', 'covariance'
  scores = {f'predictive_{name}': False for name in names}
  return SampleMetric(scores, ('draws', *LAW), compute, report=report)


def _errors(samples, reference):
  # Returns draws less their exact means, [M, n, D], and the exact covariance, [D, D].
  means, cov = (take('predictive', reference, name, 'reference') for name in LAW)
  draws = np.asarray(take('predictive', samples, 'draws'), np.float64)
  return draws.reshape(*draws.shape[:2], -1) - means[:, None], cov
