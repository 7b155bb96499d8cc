"""The Frechet distance against closed forms and scipy's matrix root."""

import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

from diffusion_jax.metrics import fid
from tests.transcribed import transcribes


def random_statistics(rng):
  a = rng.standard_normal((6, 6))
  return fid.Statistics(rng.standard_normal(6), a @ a.T)


@transcribes(
  'FID (Heusel et al. 2017); Dowson & Landau 1982',
  'Fréchet distance of Gaussians',
  '`metrics.fid.frechet_distance`',
)
def test_it_is_the_formula_with_a_matrix_root(rng):
  p, q = random_statistics(rng), random_statistics(rng)
  root = np.real(scipy.linalg.sqrtm(p.covariance @ q.covariance))
  expected = np.sum((p.mean - q.mean) ** 2) + np.trace(p.covariance + q.covariance - 2 * root)
  assert_allclose(fid.frechet_distance(p, q), expected, rtol=1e-9)
  assert_allclose(fid.frechet_distance(q, p), expected, rtol=1e-9)


def test_parts_have_the_statistics_of_the_whole(rng):
  """The mean may be large relative to the deviation."""
  features = 1e3 + rng.standard_normal((50, 4))
  whole = fid.statistics(features)
  moments = fid.Moments()
  for start, end in ((0, 1), (1, 20), (20, 50)):
    moments = fid.add(moments, features[start:end])
  for found in (whole, fid.statistics(moments)):
    assert_allclose(found.mean, features.mean(axis=0), rtol=1e-14)
    assert_allclose(found.covariance, np.cov(features.T), rtol=1e-9)


def test_statistics_of_float32_are_a_covariance_and_others_are_not(rng):
  """Rounding leaves negative eigenvalues of 1e-7 of the largest, and asymmetries."""
  rows = rng.standard_normal((20, 60))
  covariance = np.cov(rows.T).astype(np.float32).astype(np.float64)
  rounded = covariance * (1.0 + 1e-6 * rng.standard_normal((60, 60)))
  assert np.linalg.eigvalsh(covariance)[0] < 0.0
  assert fid.given({'mu': rows[0], 'sigma': rounded}) is not None
  size = np.linalg.norm(covariance)
  for damage, message in ((np.eye(60, k=1), 'not symmetric'), (-np.eye(60), 'not a covariance')):
    with pytest.raises(ValueError, match=message):
      fid.given({'mu': rows[0], 'sigma': covariance + 1e-4 * size * damage})


def test_fewer_images_than_features_are_exact(rng):
  """The root has the nuclear norm of the centred features' product."""
  x, y = rng.standard_normal((20, 60)), rng.standard_normal((15, 60)) + 0.3
  a, b = ((v - v.mean(axis=0)) / np.sqrt(len(v) - 1) for v in (x, y))  # covariances are a'a and b'b
  expected = (
    np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    + np.sum(a**2)
    + np.sum(b**2)
    - 2 * np.linalg.norm(a @ b.T, 'nuc')
  )
  p, q = fid.statistics(x), fid.statistics(y)
  assert_allclose(fid.frechet_distance(p, q), expected, rtol=1e-12)
  assert_allclose(fid.frechet_distance(p, p), 0.0, atol=1e-11)
