"""Metrics say in one line why they cannot be computed."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.metrics import (
  calibration,
  features,
  fid,
  manifolds,
  memorisation,
  mmd,
  table,
  vectors,
)
from diffusion_jax.metrics.accuracy import inception_score, of_samples
from diffusion_jax.metrics.estimates import check_pair
from diffusion_jax.metrics.metric import Missing
from tests import refusals
from tests.metrics.test_posterior import errors

X, Y = np.zeros((5, 3)), np.zeros((5, 4))
BAD = np.array([[0.0], [np.nan], [1.0], [2.0]])
STATISTICS = fid.statistics(X)


def energy(samples, reference):
  """Takes numbers; None stands for a set without numbers."""
  sets = ({} if x is None else {'values': x} for x in (samples, reference))
  return vectors.take_values('energy', *sets)


def pairs(metric, *draws):
  reference = {'truth': np.zeros((draws[0], 1))}
  return table.OF_PAIRS[metric]().compute({'draws': np.zeros((*draws, 1))}, reference)


WRONG = [
  (lambda: check_pair(X, Y), '3 features cannot be compared with'),
  (lambda: check_pair(X, X[:0]), 'reference: ... not [0, 3]'),
  (lambda: check_pair(X[:, 0], X), 'samples: ... not [5]'),
  (lambda: mmd.kernel_distance(BAD, BAD), 'features of samples: 1 of 4 rows, such as row 1, have'),
  (lambda: mmd.cmmd(BAD[:1], BAD), 'features of reference: 1 of 4'),
  (lambda: manifolds.precision_recall(BAD[2:], BAD), '1 of 4 rows'),
  (lambda: fid.frechet_distance(STATISTICS, fid.statistics(Y)), '3 features cannot be compared'),
  (lambda: fid.statistics(BAD), '1 of 4 rows, such as row 1'),
  (lambda: fid.statistics(X[:1]), 'needs 2 images, not 1'),
  (lambda: fid.statistics(X[:, 0]), 'are [N, D], not [5]'),
  (lambda: fid.given({'mu': BAD[:, 0], 'sigma': np.eye(4)}), 'mu: 1 of 1 rows'),
  (lambda: inception_score(BAD, 1), 'logits: 1 of 4 rows'),
  (lambda: memorisation.memorisation(X, X, X + np.inf), 'features of samples: 5 of 5'),
  (lambda: calibration.density_levels(BAD, BAD[:, 0]), 'log q: 1 of 4 rows'),
  (lambda: calibration.regression_references(BAD, BAD), 'context: 1 of 4 rows'),
  (lambda: inception_score(X[:3, :2]), '10 splits of logits [3, 2]'),
  (lambda: mmd.kernel_distance(X[:1], X), '2 images or more in each set'),
  (lambda: mmd.cmmd(X, np.ones((2, 3))), 'of length 0 has no direction'),
  (lambda: energy(X, Y), 'values [3] of the samples cannot'),
  (lambda: energy(BAD, BAD[[0, 2]]), 'values: 1 of 4 rows, such as row 1, have'),
  (lambda: errors(jnp.zeros((10, 2)).at[3].set(jnp.nan)), 'samples: 1 of 10 rows, such as row 3'),
  (lambda: calibration.rank_levels(np.zeros((3, 4, 2)), X[:3, :1]), 'must be [M, n, ...] and [M,'),
  (lambda: calibration.rank_levels(np.full((3, 4), np.nan), np.zeros(3)), 'draws: 3 of 3 rows'),
  (lambda: pairs('regression', 12, 5), 'all draws of a pair are equal: they have no density'),
  (lambda: table.OF_PAIRS['regression'](num_bins=1), 'num_bins'),
  (lambda: of_samples().compute(dict(predicted=X[:, 0], labels=X[0]), {}), '3 labels for 5'),
  (lambda: features.make('x'), "'x' is not one of inception, dinov2"),
  (lambda: features.make('inception'), 'need classify_image'),
]
MISSING = [
  (lambda: energy(None, Y), 'energy needs the samples as numbers'),
  (lambda: energy(X[:1], X), '2 examples of both sets: there are 1'),
  (lambda: pairs('sbc', 4, 9), 'sbc needs 10 held-out pairs: there are 4'),
  (lambda: pairs('regression', 12, 1), 'regression needs 2 draws for each of the held-out pairs'),
  (lambda: pairs('contraction', 10, 1), 'contraction needs 2 draws for each'),
]


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
  monkeypatch.delenv('DIFFUSION_JAX_WEIGHTS', raising=False)


test_what_cannot_be_computed_is_refused = refusals.each({ValueError: WRONG, Missing: MISSING})
