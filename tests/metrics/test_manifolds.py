"""Precision, recall, density and coverage with known answers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.metrics.manifolds import density_coverage, precision_recall
from tests.transcribed import transcribes


@transcribes(
  'Kynkäänniemi et al. 2019',
  'Eq. 1–2: precision, recall',
  '`metrics.manifolds.precision_recall`',
)
@transcribes('Naeem et al. 2020', 'density, coverage', '`metrics.manifolds.density_coverage`')
def test_points_on_a_line_are_counted_by_hand():
  """Reference 0, 1, 3 with k = 1 has balls (-1, 1), (0, 2) and (1, 5)."""
  reference = np.array([[0.0], [1.0], [3.0]])
  samples = np.array([[0.5], [1.5], [4.0], [9.0]])
  found = density_coverage(samples, reference, k=1)
  # samples are in 2, 2, 1 and 0 balls; all balls have one
  assert found.density.value == 5 / 4
  assert found.coverage.value == 1.0
  both = precision_recall(samples, reference, k=1)
  assert both.precision.value == 3 / 4
  # balls of the samples: (-.5, 1.5), (.5, 2.5), (1.5, 6.5), (4, 14)
  assert both.recall.value == 1.0
  # 5 is on the last ball of the reference, which then has no sample inside
  on = density_coverage(np.array([[5.0]]), reference, k=1)
  assert on.density.value == on.coverage.value == 0.0
  far = density_coverage(samples + 20.0, reference, k=1)
  assert far.density.value == far.coverage.value == 0.0


def test_single_precision_features_count_as_double_ones(rng):
  x, y = (rng.standard_normal((80, 6)).astype(np.float32) for _ in range(2))
  wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)
  assert precision_recall(x, y) == precision_recall(wide_x, wide_y)
  assert density_coverage(x, y) == density_coverage(wide_x, wide_y)


@pytest.mark.parametrize('dim', [1, 64, 768])
@pytest.mark.parametrize('mean', [0.0, 1e4])
def test_copies_are_on_the_sphere(rng, dim, mean):
  """No ball of equal images contains a point, and all touch it."""
  image, others = rng.standard_normal((2, 30, dim)) * 20.0 + mean
  reference, samples = np.tile(image[0], (30, 1)), np.tile(image[0], (20, 1))
  for far in (others[:0], others + 1000.0):
    x = np.concatenate([samples, far + 300.0])
    y = np.concatenate([reference, far])
    found, both = density_coverage(x, y), precision_recall(x, y)
    shares = 20 / len(x), 30 / len(y)
    assert found.density.value == found.coverage.value == 0.0
    assert_allclose((both.precision.value, both.recall.value), shares)


def test_tight_clusters_touch_their_own_balls(rng):
  """Points 1e-3 apart, 1e3 from the mean: rounding is larger than a margin."""
  x = np.repeat(1e3 * np.eye(4), 10, axis=0) + 1e-3 * rng.standard_normal((40, 4))
  both, found = precision_recall(x, x.copy()), density_coverage(x, x.copy())
  assert both.precision.value == both.recall.value == 1.0
  assert_allclose(found.density.value, 1.0)
  assert found.coverage.value == 1.0
