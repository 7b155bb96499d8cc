"""Independent columns, SMOTE and a mixture, as their laws are known."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

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


def test_smote_moves_a_row_towards_one_of_its_nearest():
  """As it is defined: the neighbours, a part of the way, and the category of most of them."""
  rows = np.array([[0.0, 0], [1.0, 1], [3.0, 1], [10.0, 0], [11.0, 2], [13.0, 2], [40.0, 1]])
  near = simple_rows.neighbours(rows, np.array([0, 0]))
  apart = np.abs(rows[:, :1] - rows[:, 0]) ** 2 / rows[:, 0].var()
  apart += np.abs(rows[:, 1:] - rows[:, 1]) ** 2 / rows[:, 1].var() + np.diag([np.inf] * 7)
  assert_array_equal(near, np.argsort(apart, axis=1)[:, :5])
  # One category that differs is as far as one deviation.
  numbers = np.array([[0.0, 0], [1.01, 0], [0.0, 1], [0.99, 1]]) * [0.5, 1]
  numbers[:, 0] *= 1.0 / numbers[:, 0].std()
  assert simple_rows.neighbours(numbers, np.array([0, 2]))[0, 0] == 2
  draws = np.array([0, 3]), np.array([1, 0]), np.array([0.25, 0.5])
  near = np.array([[1, 2, 3, 4, 5], [4, 5, 2, 1, 6]])
  ties = np.zeros((2, 5))
  ties[0, 3] = 0.5  # Two of the first have 1, two 2.
  drawn = simple_rows.interpolated(rows, np.array([0, 3]), near, draws, ties)
  assert_allclose(drawn, [[0.75, 2], [10.5, 1]])


def test_smote_draws_the_numbers_that_rows_have(rng):
  x = np.stack([rng.integers(0, 3, 200) * 5.0, rng.normal(size=200)], axis=1)
  drawn = simple_rows.smote(x, np.zeros(2, int), 500)
  assert {*drawn[:, 0]} <= {0.0, 5.0, 10.0} and not {*drawn[:, 1]} <= {*x[:, 1]}
  assert_array_equal(simple_rows.smote(x[:1], np.zeros(2, int), 3), x[[0, 0, 0]])


def test_every_cell_is_drawn_where_some_are_missing(rng):
  real = table(rng, 400)
  drawn = simple_rows.drawn(real, SIZES, 100)
  assert not any(np.isnan(x).any() for x in drawn.values())
  for i in np.flatnonzero(SIZES):
    assert set(np.unique(drawn['mixture'][:, i])) <= set(range(SIZES[i]))
  empty = real.copy()
  empty[:, 0] = np.nan
  assert np.isnan(simple_rows.mixture(empty, SIZES, 10)[:, 0]).all()
