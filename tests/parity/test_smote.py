"""SMOTE of a table against imbalanced-learn, which papers on tables compare with."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.metrics import simple_rows

SIZES = np.array([0, 0, 4])


def test_rows_are_those_of_smotenc_for_the_same_draws():
  """Their class 1 has all rows; ties of categories are broken by other draws, and left out."""
  sampling = pytest.importorskip('imblearn.over_sampling')
  rng = np.random.default_rng(0)
  x = np.column_stack([rng.normal(size=(200, 2)), rng.integers(0, 4, 200)])
  x[:, :2] = (x[:, :2] - x[:, :2].mean(axis=0)) / x[:, :2].std(axis=0)
  other = x[:1].repeat(500, axis=0)  # 300 rows are drawn so that both classes have 500
  labels = np.repeat([1, 0], [200, 500])
  theirs, _ = sampling.SMOTENC([2], random_state=7).fit_resample(np.concatenate([x, other]), labels)
  state = np.random.RandomState(7)
  base, which = divmod(state.randint(0, 1000, 300), 5)
  near = simple_rows.neighbours(x, SIZES)[base]
  ours = simple_rows.interpolated(
    x, SIZES, near, (base, which, state.uniform(size=300)), np.zeros((300, 5))
  )
  assert_allclose(ours[:, :2], theirs[700:, :2], atol=1e-9)
  votes = np.sort([np.bincount(row, minlength=4) for row in x[near, 2].astype(int)], axis=1)
  clear = votes[:, -1] > votes[:, -2]
  assert clear.sum() > 150
  assert_allclose(ours[clear, 2], theirs[700:][clear, 2])
