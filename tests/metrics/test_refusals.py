"""Metrics say in one line why they cannot be computed."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.metrics import calibration, features, fid, manifolds, memorisation, mmd, vectors
from diffusion_jax.metrics.accuracy import inception_score
from diffusion_jax.metrics.estimates import check_pair
from diffusion_jax.metrics.metric import Missing
from tests.metrics.test_posterior import errors

X, Y = np.zeros((5, 3)), np.zeros((5, 4))
BAD = np.array([[0.0], [np.nan], [1.0], [2.0]])


def energy(samples, reference):
  """Takes numbers; a set without numbers is None."""
  sets = ({} if x is None else {'values': x} for x in (samples, reference))
  return vectors.take_values('energy', *sets)


@pytest.mark.parametrize('call, error, message', [
  (lambda: check_pair(X, Y), ValueError, '3 features cannot be compared with'),
  (lambda: check_pair(X, X[:0]), ValueError, r'reference: .* not \[0, 3\]'),
  (lambda: check_pair(X[:, 0], X), ValueError, r'samples: .* not \[5\]'),
  (lambda: mmd.kernel_distance(BAD, BAD), ValueError,
   'features of samples: 1 of 4 rows, such as row 1, have numbers that are'),
  (lambda: mmd.cmmd(BAD[:1], BAD), ValueError, 'features of reference: 1 of 4'),
  (lambda: manifolds.precision_recall(BAD[2:], BAD), ValueError, '1 of 4 rows'),
  (lambda: fid.statistics(BAD), ValueError, '1 of 4 rows, such as row 1'),
  (lambda: fid.given({'mu': BAD[:, 0], 'sigma': np.eye(4)}), ValueError,
   'mu: 1 of 1 rows'),
  (lambda: inception_score(BAD, 1), ValueError, 'logits: 1 of 4 rows'),
  (lambda: memorisation.memorisation(X, X, X + np.inf), ValueError,
   'features of samples: 5 of 5'),
  (lambda: calibration.density_levels(BAD, BAD[:, 0]), ValueError,
   'log q: 1 of 4 rows'),
  (lambda: calibration.regression_references(BAD, BAD), ValueError,
   'context: 1 of 4 rows'),
  (lambda: inception_score(X[:3, :2]), ValueError,
   r'10 splits of logits \[3, 2\]'),
  (lambda: mmd.kernel_distance(X[:1], X), ValueError,
   '2 images or more in each set'),
  (lambda: mmd.cmmd(X, np.ones((2, 3))), ValueError,
   'of length 0 has no direction'),
  (lambda: energy(X, Y), ValueError, r'values \[3\] of the samples cannot'),
  (lambda: energy(None, Y), Missing, 'energy needs the samples as numbers'),
  (lambda: energy(X[:1], X), Missing, '2 examples of both sets: there are 1'),
  (lambda: energy(BAD, BAD[[0, 2]]), ValueError, '25% of the values'),
  (lambda: errors(jnp.zeros((10, 2)).at[3].set(jnp.nan)), ValueError,
   '10% of the samples are not finite'),
  (lambda: calibration.rank_levels(np.zeros((3, 4, 2)), np.zeros((3, 1))),
   ValueError, r'must be \[M, n, ...\] and \[M, ...\]'),
  (lambda: calibration.rank_levels(np.full((3, 4), np.nan), np.zeros(3)),
   ValueError, 'must be finite'),
  (lambda: calibration.sbc().compute(
    {'draws': np.zeros((4, 9, 1))}, {'truth': np.zeros((4, 1))}
  ), Missing, 'sbc needs 10 held-out pairs: there are 4'),
  (lambda: calibration.contraction().compute(
    {'draws': np.zeros((10, 1, 1))}, {'truth': np.zeros((10, 1))}
  ), Missing, 'contraction needs 2 draws for each'),
  (lambda: features.make('x'), ValueError,
   "'x' is not one of inception, dinov2"),
  (lambda: features.make('inception'), ValueError, 'need classify_image'),
])  # fmt: skip
def test_what_cannot_be_computed_is_refused(call, error, message, monkeypatch):
  monkeypatch.delenv('DIFFUSION_JAX_WEIGHTS', raising=False)
  with pytest.raises(error, match=message):
    call()
