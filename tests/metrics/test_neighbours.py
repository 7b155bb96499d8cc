"""Nearest neighbours are the same in blocks as in one matrix of distances."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.data.sources import ArraySource
from diffusion_jax.metrics import neighbours

LINE = np.array([[0.0], [1.0], [3.0], [7.0]])


def test_radii_of_points_on_a_line():
  assert_allclose(neighbours.radii(LINE, 1), [1.0, 1.0, 2.0, 4.0])
  assert_allclose(neighbours.radii(LINE, 3), [7.0, 6.0, 4.0, 7.0])
  # A copy is a neighbour, and the point itself is not.
  copies = np.array([[2.0], [2.0], [5.0]])
  assert_array_equal(neighbours.radii(copies, 1), [0.0, 0.0, 3.0])
  with pytest.raises(ValueError, match='4 images have no neighbour number 4'):
    neighbours.radii(LINE, 4)


def test_nearest_rows_of_points_on_a_line():
  """Nearest rows are right far from the origin, where squares of a float64 lose the gaps."""
  far = 2.0**27 + LINE.repeat(3, axis=1)
  assert_array_equal(neighbours.nearest(far + 0.25, far)[1], [0, 1, 2, 3])
  distance, index = neighbours.nearest(np.array([[2.9], [100.0]]), LINE)
  assert_allclose(distance, [0.1, 93.0])
  assert_array_equal(index, [2, 3])


def test_neighbours_are_the_nearest_of_all_parts():
  """NumPy computes all distances in float64; a copy has distance 0."""
  generator = np.random.default_rng(0)
  levels = generator.integers(0, 17, (50, 3, 3, 1), np.uint8)
  source = ArraySource(levels, levels=17)
  samples = generator.uniform(-1.0, 1.0, (6, 3, 3, 1))
  samples[0] = levels[33] / 8 - 1
  found, distance = neighbours.nearest_examples(source.facts.x, samples, source, size=7)
  b = levels.astype(float) / 8 - 1
  pairs = ((samples[:, None] - b[None]) ** 2).mean(axis=(2, 3, 4)) ** 0.5
  index = pairs.argmin(axis=1)
  assert index[0] == 33
  assert_allclose(distance, pairs.min(axis=1), atol=1e-6)
  assert_array_equal(found, np.rint(levels[index] * (255 / 16)))


def test_blocks_are_joined_in_order(monkeypatch):
  """At 0.001 MB a block has 125 distances, 31 rows of 4."""
  monkeypatch.setattr(neighbours, '_MEGABYTES', 0.001)
  x = np.random.default_rng(0).standard_normal((80, 1))
  sizes = []

  def sums(block):
    sizes.append(len(block))
    return block.sum(axis=1)

  assert_allclose(neighbours.each_block(x, LINE, sums), np.abs(x - LINE.T).sum(axis=1))
  assert len(sizes) > 2


def test_equal_but_for_rounding_is_on_the_sphere():
  distances = np.array([1.0 - 1e-12, 1.0, 1.0 + 1e-12, 1.0 - 1e-6, 1.0 + 1e-6])
  assert neighbours.inside(distances, np.ones(5)).tolist() == 3 * [False] + [True, False]
  assert neighbours.inside_or_on(distances, np.ones(5)).tolist() == 4 * [True] + [False]
