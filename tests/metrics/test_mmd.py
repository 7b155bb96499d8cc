"""MMDs against double sums and closed forms."""

import numpy as np
from numpy.testing import assert_allclose
from scipy import stats

from diffusion_jax.metrics import mmd
from tests.transcribed import transcribes


def double_sums(x, y, kernel):
  """Returns means over pairs of different rows of x, of y, and of x with y."""
  n, m = len(x), len(y)
  xx = [kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j]
  yy = [kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j]
  return np.mean(xx), np.mean(yy), np.mean([kernel(a, b) for a in x for b in y])


@transcribes(
  'KID (Bińkowski et al. 2018); Gretton et al. 2012, Eq. 3',
  'unbiased MMD²',
  '`metrics.mmd.kernel_distance`',
)
def test_the_unbiased_mmd_is_its_double_sums(rng, monkeypatch):
  x, y = rng.standard_normal((7, 3)), rng.standard_normal((5, 3)) + 1.0
  xx, yy, xy = double_sums(x, y, lambda a, b: (a @ b / 3 + 1) ** 3)
  expected = xx + yy - 2 * xy
  assert_allclose(mmd.unbiased_mmd(x, y, mmd.cubic), expected)
  monkeypatch.setattr(mmd, 'ENTRIES', 14)  # two or three rows at a time
  assert_allclose(mmd.unbiased_mmd(x, y, mmd.cubic), expected)


def test_the_kernel_distance_is_mean_and_deviation_over_subsets(rng):
  """The subsets of both sets are drawn as in torch-fidelity."""
  x, y = rng.standard_normal((9, 4)), rng.standard_normal((7, 4)) + 1.0
  found = mmd.kernel_distance(x, y, num_subsets=5, subset_size=4, seed=3)
  draws, state = [], np.random.RandomState(3)
  for _ in range(5):
    a = x[state.choice(9, 4, replace=False)]
    b = y[state.choice(7, 4, replace=False)]
    xx, yy, xy = double_sums(a, b, lambda p, q: (p @ q / 4 + 1) ** 3)
    draws.append(xx + yy - 2 * xy)
  assert_allclose(found, (np.mean(draws), np.std(draws)))


@transcribes('CMMD (Jayasumana et al. 2024)', 'biased MMD² of unit vectors', '`metrics.mmd.cmmd`')
def test_cmmd_is_the_biased_mmd_of_directions(rng):
  x, y = rng.standard_normal((6, 4)), rng.standard_normal((5, 4)) + 1.0
  a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
  kernel = lambda p, q: np.exp(-np.sum((p - q) ** 2) / (2 * 10.0**2))
  xx, yy, xy = double_sums(a, b, kernel)
  # with the pairs of an image with itself, whose kernel is 1
  expected = (xx * 5 + 1) / 6 + (yy * 4 + 1) / 5 - 2 * xy
  assert_allclose(mmd.cmmd(x, y).value, 1e3 * expected, rtol=1e-9)
  assert_allclose(mmd.cmmd(5 * x, y).value, 1e3 * expected)
  assert_allclose(mmd.cmmd(x, x).value, 0.0, atol=1e-10)


def test_the_error_of_cmmd_is_its_deviation_over_sets(rng):
  def draw(n, m):
    return rng.standard_normal((n, 3)), rng.standard_normal((m, 3)) + 0.7

  for sizes in ((20, 120), (120, 20)):
    values, errors = np.array([mmd.cmmd(*draw(*sizes)) for _ in range(200)]).T
    assert_allclose(errors.mean(), values.std(), rtol=0.25)


def test_one_image_has_no_known_error():
  found = mmd.cmmd(np.eye(2)[:1], np.eye(2))
  assert np.isfinite(found.value) and np.isnan(found.error)


def test_the_energy_distance_is_its_double_sums(rng):
  x, y = rng.standard_normal((7, 3)), rng.standard_normal((5, 3)) + 1.0
  xx, yy, xy = double_sums(x, y, lambda a, b: np.linalg.norm(a - b))
  assert_allclose(mmd.energy_distance(x, y).value, 2 * xy - xx - yy)


@transcribes(
  'energy distance (Szekely & Rizzo 2013)',
  '2 E|x − y| − E|x − x′| − E|y − y′|',
  '`metrics.mmd.energy_distance`',
)
def test_the_energy_distance_is_scipys_in_one_dimension(rng):
  """SciPy's has the distances of a point to itself, which are 0."""
  x, y = rng.standard_normal((40, 1)), rng.standard_normal((30, 1)) + 1.0
  within = sum(
    np.abs(a - a.T).mean() / (len(a) - 1)  # n / (n - 1) minus 1
    for a in (x, y)
  )
  expected = stats.energy_distance(x[:, 0], y[:, 0]) ** 2 - within
  assert_allclose(mmd.energy_distance(x, y).value, expected)
