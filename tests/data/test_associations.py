"""Associations of columns, against what they are known to be."""

import numpy as np
from numpy.testing import assert_allclose
from scipy.stats.contingency import association as scipy_association

from diffusion_jax.data.associations import association, associations


def test_they_are_correlations_ratios_and_cramers_v(rng):
  x, kind = rng.normal(size=(500, 2)), rng.integers(0, 3, 500).astype(float)
  number = x[:, 0] + x[:, 1]
  assert_allclose(association(x[:, 0], number, (0, 0)), np.corrcoef(x[:, 0], number)[0, 1])
  y = kind + x[:, 0]
  within = sum(((y[kind == k] - y[kind == k].mean()) ** 2).sum() for k in range(3))
  ratio = 1 - within / ((y - y.mean()) ** 2).sum() * 499 / 497
  assert_allclose(association(kind, y, (3, 0)) ** 2, ratio)
  assert_allclose(association(y, kind, (0, 3)) ** 2, ratio)
  other = np.where(rng.random(500) < 0.7, kind, rng.integers(0, 2, 500))
  counts = np.array([[np.sum((kind == i) & (other == j)) for j in range(3)] for i in range(3)])
  v = scipy_association(counts, 'cramer') ** 2 * 2  # phi squared
  phi, free = v - 4 / 499, 3 - 4 / 499 - 1
  assert_allclose(association(kind, other, (3, 3)), np.sqrt(phi / free))


def test_it_is_0_alone_and_1_where_one_gives_the_other(rng):
  kind = rng.integers(0, 5, 2000).astype(float)
  assert_allclose(association(kind, (kind + 2) % 5, (5, 5)), 1.0)
  assert_allclose(association(kind, kind**2, (5, 0)), 1.0)
  assert association(kind, rng.permutation(kind), (5, 5)) < 0.05
  assert association(kind, rng.normal(size=2000), (5, 0)) < 0.08
  assert np.isnan(association(kind, np.zeros(2000), (5, 0)))
  assert np.isnan(association(np.zeros(2000), kind, (1, 5)))


def test_missing_cells_have_no_part(rng):
  x = rng.normal(size=(100, 2)) @ [[1.0, 0.5], [0.0, 1.0]]
  gaps = np.concatenate([x, [[np.nan, 9.0], [9.0, np.nan]]])
  assert_allclose(associations(gaps, np.zeros(2, int)), np.corrcoef(x.T))
