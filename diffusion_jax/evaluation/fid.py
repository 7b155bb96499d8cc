"""The Frechet distance between two sets of images, in any feature space.

It is FID (Heusel et al. 2017) if the features are those of Inception. The
caller chooses the features and should report them with every figure. The
distance is biased: it decreases with the number of images, so that only sets of
the same size can be compared.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg


class Statistics(NamedTuple):
  """Holds mean [D] and covariance [D, D], over N - 1, float64."""

  mean: np.ndarray
  covariance: np.ndarray


def statistics(features: np.ndarray) -> Statistics:
  """Returns the statistics of features [N, D]; ValueError for N < 2."""
  features = np.asarray(features, np.float64)
  if features.ndim != 2 or len(features) < 2:
    raise ValueError(f'features are [N, D], N > 1, not {list(features.shape)}')
  covariance = np.cov(features, rowvar=False)
  return Statistics(features.mean(axis=0), np.atleast_2d(covariance))


def frechet_distance(p: Statistics, q: Statistics) -> float:
  """Returns |mean_p - mean_q|^2 + tr(C_p + C_q - 2 (C_p C_q)^(1/2)).

  The squared Wasserstein-2 distance of two Gaussians (Dowson & Landau 1982).
  Covariances may be singular: the trace of the root is taken of the symmetric
  C_p^(1/2) C_q C_p^(1/2), which has the same eigenvalues.
  """
  if p.mean.shape != q.mean.shape:
    raise ValueError(
      f'{len(p.mean)} features cannot be compared with {len(q.mean)}'
    )
  root = _root(p.covariance)
  product = scipy.linalg.eigvalsh(root @ q.covariance @ root)
  trace = np.sqrt(np.maximum(product, 0.0)).sum()
  shift = np.sum((p.mean - q.mean) ** 2)
  return float(
    shift + np.trace(p.covariance) + np.trace(q.covariance) - 2.0 * trace
  )


def _root(matrix):
  values, vectors = scipy.linalg.eigh(matrix)
  return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
