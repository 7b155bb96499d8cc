"""Independent columns and a mixture, as their laws are known."""

import numpy as np
from numpy.testing import assert_allclose

from diffusion_jax.metrics import simple_rows
from tests.metrics.test_rows import SIZES, table


def test_em_finds_the_mixture_that_rows_are_of(rng):
  """Two components of a number and three categories, far apart."""
  of = rng.random(3000) < 0.3
  x = np.stack([rng.normal(np.where(of, 2.0, -1.0), 0.5), np.where(of, 2, 0)], axis=1)
  weights, parts = simple_rows.fit(x, np.array([0, 3]), 2, rng)
  order = np.argsort(weights)
  assert_allclose(weights[order], [0.3, 0.7], atol=0.03)
  assert_allclose(parts[0][:, order], [[2.0, -1.0], [0.5, 0.5]], atol=0.06)
  assert_allclose(parts[1][order], [[0, 0, 1], [1, 0, 0]], atol=0.01)


def test_independent_columns_keep_shapes_and_lose_pairs(rng):
  x = np.repeat(np.arange(100.0), 2)[:, None] * [1.0, 1.0]
  drawn = simple_rows.independent(x, 5000)
  assert_allclose(drawn.mean(axis=0), 49.5, atol=2.0)
  assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.06


def test_every_cell_is_drawn_where_some_are_missing(rng):
  real = table(rng, 400)
  drawn = simple_rows.drawn(real, SIZES, 100)
  assert not any(np.isnan(x).any() for x in drawn.values())
  for i in np.flatnonzero(SIZES):
    assert set(np.unique(drawn['mixture'][:, i])) <= set(range(SIZES[i]))
  empty = real.copy()
  empty[:, 0] = np.nan
  assert np.isnan(simple_rows.mixture(empty, SIZES, 10)[:, 0]).all()
