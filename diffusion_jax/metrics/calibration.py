"""Calibration of conditional models, by draws for held-out pairs (x, theta).

Each test turns a pair into a level in (0, 1), such as the share of the draws of
q(theta | x) below the true theta. For exact draws the levels are independent
and uniform for any posterior; `uniformity` tests this, and `coverage` is their
distribution. A level is the number of draws below the truth plus a random share
of those that equal it and of one more, over n + 1, so that it is uniform for
any n and for numbers that are discrete.

Draws of the prior pass `pairs.sbc` and the tests of intervals and densities. `tarp`
notices them, but hardly anything if its references ignore x. `contractions` say
how much narrower than the prior the draws are, calibrated or not.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from diffusion_jax.data.spec import mean_and_std
from diffusion_jax.metrics.estimates import Missing, check_finite
from diffusion_jax.metrics.metric import Arrays, same_precision, take
from diffusion_jax.metrics.vectors import standard_of

_BINS = 10
LEAST_PAIRS = 10  # the fewest pairs that a metric needs


def rank_levels(draws: ArrayLike, truth: ArrayLike, seed: int = 0) -> np.ndarray:
  """Returns the level of the truth among its draws, [M, ...].

  Simulation-based calibration (Talts et al. 2018, Alg. 1) of draws [M, n, ...]
  and truth [M, ...]: each parameter by itself, or any function of theta and x.
  """
  draws, truth = same_precision(draws, truth)
  if draws.ndim < 2 or draws.shape[:1] + draws.shape[2:] != truth.shape:
    raise ValueError(
      f'draws {list(draws.shape)} and truth {list(truth.shape)} must be [M, n, ...] and [M, ...]'
    )
  check_finite('draws', draws)
  check_finite('truth', truth)
  less = np.sum(draws < truth[:, None], axis=1)
  equal = np.sum(draws == truth[:, None], axis=1)
  share = np.random.default_rng(seed).uniform(size=less.shape)
  return (less + share * (equal + 1)) / (draws.shape[1] + 1)


def interval_levels(draws: ArrayLike, truth: ArrayLike, seed: int = 0) -> np.ndarray:
  """Returns the mass of the central interval that ends at the truth, [M, ...].

  Of each parameter, between equal quantiles of the draws. Equal numbers count
  as in `rank_levels`.
  """
  return np.abs(2.0 * rank_levels(draws, truth, seed) - 1.0)


def density_levels(log_q: ArrayLike, log_q_truth: ArrayLike, seed: int = 0) -> np.ndarray:
  """Returns the mass of the highest-density region that ends at the truth, [M].

  Hermans et al. 2022, Eq. 4. log_q [M, n] are log densities of the draws and
  log_q_truth [M] of the truth, by the model or by any function of theta and x.
  """
  check_finite('log q', np.asarray(log_q))
  check_finite('log q of the truth', np.asarray(log_q_truth))
  return 1.0 - rank_levels(log_q, log_q_truth, seed)


def tarp_levels(
  draws: ArrayLike, truth: ArrayLike, references: ArrayLike, seed: int = 0
) -> np.ndarray:
  """Returns the mass of the ball about the reference up to the truth, [M].

  TARP (Lemos et al. 2023, Alg. 2). Draws [M, n, ...], truth and references
  [M, ...]; a reference may depend on x, but not on the truth of its pair.
  Distances are in standard deviations of the truth over the pairs.
  """
  draws, truth = same_precision(draws, truth)
  scale = standard_of(truth.reshape(len(truth), -1)).std
  # One sum for both, so that equal numbers have equal distances.
  both = np.concatenate([truth[:, None], draws], axis=1)
  apart = both - np.asarray(references, np.float64)[:, None]
  flat = apart.reshape(*apart.shape[:2], -1) / scale
  distance = np.sum(flat**2, axis=-1)
  return rank_levels(distance[:, 1:], distance[:, 0], seed)


def regression_references(
  context: ArrayLike, truth: ArrayLike, num_folds: int = 10, seed: int = 0
) -> np.ndarray:
  """Predicts the truth [M, ...] from its context [M, ...], for `tarp_levels`.

  By ridge regression on the pairs of other folds, so that a reference depends
  on x and not on the truth of its pair.
  """
  from sklearn.linear_model import Ridge
  from sklearn.model_selection import KFold, cross_val_predict
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler

  x, y = (np.asarray(a, np.float64) for a in (context, truth))
  check_finite('context', x)
  folds = KFold(min(num_folds, len(x)), shuffle=True, random_state=seed)
  model = make_pipeline(StandardScaler(), Ridge())
  found = cross_val_predict(model, x.reshape(len(x), -1), y.reshape(len(y), -1), cv=folds)
  return np.asarray(found).reshape(y.shape)


class Uniformity(NamedTuple):
  """The p-values of levels that should be uniform on (0, 1).

  ks: of the Kolmogorov-Smirnov test. chi2: of counts in ten equal bins.
  """

  ks: np.ndarray
  chi2: np.ndarray


def uniformity(levels: np.ndarray) -> Uniformity:
  """Tests each column of levels [M] or [M, ...]; p-values [] or [...]."""
  from scipy import stats

  def counts(column):
    return np.histogram(column, _BINS, (0.0, 1.0))[0]

  return Uniformity(
    ks=stats.kstest(levels, 'uniform').pvalue,
    chi2=stats.chisquare(np.apply_along_axis(counts, 0, levels)).pvalue,
  )


def bonferroni(p_values: ArrayLike) -> float:
  """Returns the p-value that none of several tests fails."""
  return float(min(1.0, np.min(p_values) * np.size(p_values)))


class Coverage(NamedTuple):
  """The shares of truths within regions of given mass, [K, ...] each.

  standard_error: of the fraction. low and high: the band that exact draws leave
  with probability 1 - `confidence`, at each mass by itself.
  """

  mass: np.ndarray
  fraction: np.ndarray
  standard_error: np.ndarray
  low: np.ndarray
  high: np.ndarray


def coverage(levels: np.ndarray, mass: ArrayLike = 0.9, confidence: float = 0.95) -> Coverage:
  """Computes the expected coverage of regions of mass [K] by levels [M, ...].

  levels: of intervals, densities or balls. The fraction should be the mass
  (Miller et al. 2021); less is over-confident. The band is binomial.
  """
  from scipy import stats

  mass = np.asarray(mass, np.float64)
  count = len(levels)
  edges = mass.reshape(*mass.shape, *[1] * levels.ndim)
  fraction = np.mean(levels <= edges, axis=mass.ndim)
  error = np.sqrt(fraction * (1.0 - fraction) / count)
  low, high = stats.binom.interval(confidence, count, mass)
  return Coverage(mass, fraction, error, low / count, high / count)


def contractions(draws: ArrayLike, truth: ArrayLike) -> np.ndarray:
  """Returns 1 - (variance of the draws) / (variance of the prior), [M, D].

  Of draws [M, n, ...] and truth [M, ...], draws of the prior (Schad et al.
  2021): the mean over pairs is 0 for the prior, 1 for a point, and NaN for a
  number that never changes. The deviation over pairs is of both variances.
  """
  draws, truth = same_precision(draws, truth)
  centre, std = mean_and_std(flat(truth))
  std = np.where(std > 0.0, std, np.nan)
  ratios = draws.reshape(*draws.shape[:2], -1).var(axis=1, ddof=1) / std**2
  square = ((flat(truth) - centre) / std) ** 2  # 1 on average
  return 1.0 - ratios + ratios.mean(axis=0) * (square - 1.0)


def prior_log_density(truth: ArrayLike) -> float:
  """Returns the mean log density, nats, of truth [M, ...] under its prior.

  The prior is a Gaussian or a uniform box, whichever fits the truth better. It
  is infinite for a number that never changes.
  """
  rows = flat(np.asarray(truth, np.float64))
  count, size = rows.shape
  with np.errstate(divide='ignore'):
    fits = [-np.log(np.ptp(rows, axis=0) * (count + 1) / (count - 1)).sum()]
  if count > size:
    cov = 2.0 * np.pi * np.e * np.atleast_2d(np.cov(rows.T))
    fits.append(-0.5 * np.linalg.slogdet(cov)[1])
  return float(max(fits))


def take_pairs(metric: str, samples: Arrays, reference: Arrays) -> tuple[np.ndarray, np.ndarray]:
  """Returns the draws and the truth; raises `Missing` for fewer than 10 pairs."""
  draws = np.asarray(take(metric, samples, 'draws'))
  truth = np.asarray(take(metric, reference, 'truth', 'reference'))
  if len(truth) < LEAST_PAIRS:
    raise Missing(f'{metric} needs {LEAST_PAIRS} held-out pairs: there are {len(truth)}')
  return draws, truth


def flat(levels: np.ndarray) -> np.ndarray:
  """Returns levels [M, D] of [M, ...]."""
  return levels.reshape(len(levels), -1)
