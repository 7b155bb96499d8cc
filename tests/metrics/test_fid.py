"""The Frechet distance against closed forms and scipy's matrix root."""

import numpy as np
import pytest
import scipy.linalg

from diffusion_jax.metrics.fid import (
  Moments,
  Statistics,
  add,
  frechet_distance,
  frechet_distance_and_error,
  statistics,
)
from diffusion_jax.metrics.judges import digits_judge


def random_statistics(rng, dim, rank=None):
  a = rng.standard_normal((dim, rank or dim))
  return Statistics(rng.standard_normal(dim), a @ a.T)


def test_commuting_covariances_have_a_closed_form():
  """Diagonal: |m|^2 + sum (s_p - s_q)^2."""
  p = Statistics(np.array([1.0, 2.0]), np.diag([4.0, 9.0]))
  q = Statistics(np.array([0.0, 2.0]), np.diag([1.0, 25.0]))
  np.testing.assert_allclose(frechet_distance(p, q), 1 + 1 + 4, rtol=1e-12)


def test_it_is_the_formula_with_a_matrix_root(rng):
  p, q = random_statistics(rng, 6), random_statistics(rng, 6)
  root = np.real(scipy.linalg.sqrtm(p.covariance @ q.covariance))
  expected = np.sum((p.mean - q.mean) ** 2) + np.trace(p.covariance + q.covariance - 2 * root)
  np.testing.assert_allclose(frechet_distance(p, q), expected, rtol=1e-9)
  np.testing.assert_allclose(frechet_distance(q, p), expected, rtol=1e-9)


def test_singular_covariances_do_no_harm(rng):
  p = random_statistics(rng, 8, rank=3)
  np.testing.assert_allclose(frechet_distance(p, p), 0.0, atol=1e-6)
  moved = Statistics(p.mean + 2.0, p.covariance)
  np.testing.assert_allclose(frechet_distance(p, moved), 8 * 4.0, rtol=1e-6)


def test_statistics_are_those_of_numpy(rng):
  features = rng.standard_normal((50, 4)).astype(np.float32)
  found = statistics(features)
  np.testing.assert_allclose(found.mean, features.mean(axis=0), atol=1e-6)
  np.testing.assert_allclose(found.covariance, np.cov(features.T), rtol=1e-5)
  with pytest.raises(ValueError, match='needs 2 images, not 1'):
    statistics(features[:1])
  with pytest.raises(ValueError, match=r'are \[N, D\], not \[50\]'):
    statistics(features[:, 0])
  with pytest.raises(ValueError, match='4 features cannot be compared with 2'):
    frechet_distance(found, statistics(features[:, :2]))


def test_parts_have_the_statistics_of_the_whole(rng):
  """The mean may be large relative to the deviation."""
  features = 1e3 + rng.standard_normal((50, 4))
  whole = statistics(features)
  moments = Moments()
  for start, end in ((0, 1), (1, 20), (20, 50)):
    moments = add(moments, features[start:end])
  parts = statistics(moments)
  np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-14)
  np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=1e-9)
  np.testing.assert_allclose(whole.covariance, np.cov(features.T), rtol=1e-9)


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
  p, q = statistics(x), statistics(y)
  np.testing.assert_allclose(frechet_distance(p, q), expected, rtol=1e-12)
  np.testing.assert_allclose(frechet_distance(p, p), 0.0, atol=1e-11)


def test_the_bootstrap_error_is_the_deviation_over_sets(rng):
  """In one dimension, far away, the squared distance of the means dominates."""
  reference = Statistics(np.array([0.0]), np.eye(1))
  x = rng.standard_normal((400, 1)) + 10.0
  found = frechet_distance_and_error(x, reference, 200)
  assert found.value == frechet_distance(statistics(x), reference)
  np.testing.assert_allclose(found.error, 2 * 10 / 400**0.5, rtol=0.25)


def test_digits_are_nearer_to_digits_than_noise(rng):
  features = digits_judge.make_features()
  train, test = (digits_judge.real(split) for split in ('train', 'test'))
  noise = rng.integers(0, 256, test.shape).astype(np.uint8)
  reference = statistics(features(train))
  near, far = (frechet_distance(statistics(features(x)), reference) for x in (test, noise))
  assert 0.0 < near < 0.05 * far
  np.testing.assert_array_equal(features(test), digits_judge.make_features()(test))
