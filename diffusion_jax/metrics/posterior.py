"""How far samples of p(x_0 | y) are from the exact posterior, a `Mixture`.

The truth is `Mixture.posterior` of `testing/oracles.py`; everything is computed
in float64. Compare with the errors of `exact.sample` at the same n: they are
the least that n samples allow.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from diffusion_jax.core.levels import clean_level
from diffusion_jax.metrics.calibration import density_levels
from diffusion_jax.metrics.estimates import check_finite
from diffusion_jax.metrics.vectors import directions
from diffusion_jax.testing.oracles import Mixture, moments

_DIRECTIONS = 100


class PosteriorErrors(NamedTuple):
  """The errors of samples against an exact posterior, all 0 at best.

  mean: |mean - m| / sqrt(tr C). cov: |cov - C| / |C| in the Frobenius norm.
  modes: half the sum of the errors of the modes' weights. sliced_w2: the
  Wasserstein-2 distance along random directions, in standard deviations (root
  mean square). residual: the root mean square of (y - A x_0) / std; it is not 0
  at best, but at most about 1.
  """

  mean: float
  cov: float
  modes: float
  sliced_w2: float
  residual: float


def posterior_errors(
  x: ArrayLike, exact: Mixture, matrix: ArrayLike, y: ArrayLike, std: float
) -> PosteriorErrors:
  """Measures samples x [n, D] of p(x_0 | y), y [M] = matrix x_0 + std n.

  exact: `prior.posterior(matrix, y, std)`. Raises ValueError for samples that
  are not finite.
  """
  x, matrix, y = (np.asarray(a, np.float64) for a in (x, matrix, y))
  check_finite('samples', x)
  mean, cov = (np.asarray(a, np.float64) for a in (exact.mean, exact.cov))
  found = np.atleast_2d(np.cov(x.T))
  residual = (x @ matrix.T - y) / std
  return PosteriorErrors(
    float(np.linalg.norm(x.mean(axis=0) - mean) / np.sqrt(np.trace(cov))),
    float(np.linalg.norm(found - cov) / np.linalg.norm(cov)),
    mode_error(x, exact),
    sliced_w2(x, exact),
    float(np.sqrt(np.mean(residual**2))),
  )


def mode_error(x: ArrayLike, exact: Mixture) -> float:
  """Computes half of sum_k |mean p(k | x) - w_k| of samples x [n, D]."""
  x = jnp.asarray(x, jnp.float32)
  posterior = jax.nn.softmax(exact.class_log_prob(x, clean_level()), axis=1)
  error = np.asarray(posterior, np.float64).mean(axis=0) - exact.weights
  return float(0.5 * np.abs(error).sum())


def sliced_w2(x: ArrayLike, exact: Mixture, seed: int = 0) -> float:
  """Computes the sliced Wasserstein-2 distance of samples from a mixture.

  Along 100 random directions, against the quantiles of the exact mixture; in
  units of sqrt(tr C / D).
  """
  x = np.asarray(x, np.float64)
  n, d = x.shape
  levels = (np.arange(n) + 0.5) / n
  squares = [
    np.mean((np.sort(x @ u) - quantiles(exact, u, levels)) ** 2)
    for u in directions(_DIRECTIONS, d, seed)
  ]
  scale = np.trace(np.asarray(exact.cov, np.float64)) / d
  return float(np.sqrt(np.mean(squares) / scale))


def quantiles(exact: Mixture, direction: ArrayLike, levels: ArrayLike) -> np.ndarray:
  """Computes quantiles of direction^T x_0 of a mixture, by its distribution.

  direction: [D]; levels: in (0, 1), ascending, [n]. The distribution function is
  interpolated linearly between 20,000 values.
  """
  from scipy import stats  # not at every start of the program

  weights, means, covs = moments(exact)
  direction = np.asarray(direction, np.float64)
  means, stds = means @ direction, np.sqrt(covs @ direction @ direction)
  low = np.min(means - 8.0 * stds)
  at = np.linspace(low, np.max(means + 8.0 * stds), 20_000)
  cdf = stats.norm.cdf(at[:, None], means, stds) @ weights
  return np.interp(np.asarray(levels), cdf, at)


def levels(
  prior: Mixture, matrix: ArrayLike, std: float, truth: ArrayLike, y: ArrayLike, x: ArrayLike
) -> np.ndarray:
  """Computes `density_levels` of truths by the exact p(x | y), [J].

  truth [J, D] are draws of the prior, y [J, M] their measurements, x [J, n, D]
  the samples for each y. The levels are uniform if the samples are p(x_0 |
  y)'s; `calibration.coverage` and `uniformity` summarize them.
  """
  arrays = truth, y, x, matrix
  truth, y, x, matrix = (np.asarray(a, np.float64) for a in arrays)

  def log_joint(x):
    flat = jnp.asarray(x.reshape(-1, x.shape[-1]), jnp.float32)
    log_prior = np.asarray(prior.log_prob(flat, clean_level()), np.float64)
    square = np.sum((x @ matrix.T - y[:, None]) ** 2, axis=-1)
    return log_prior.reshape(x.shape[:2]) - 0.5 * square / std**2

  return density_levels(log_joint(x), log_joint(truth[:, None])[:, 0])


class EvidenceErrors(NamedTuple):
  """The errors of estimates of p(y): their mean and its error, over p(y).

  log_std: the standard deviation of their logarithms.
  """

  ratio: float
  standard_error: float
  log_std: float


def evidence_errors(log_estimates: ArrayLike, exact: float) -> EvidenceErrors:
  """Compares estimates of log p(y) [n] with the exact one, in nats."""
  logs = np.asarray(log_estimates, np.float64) - exact
  ratios = np.exp(logs)
  error = ratios.std(ddof=1) / np.sqrt(len(ratios))
  return EvidenceErrors(float(ratios.mean()), float(error), float(logs.std()))
