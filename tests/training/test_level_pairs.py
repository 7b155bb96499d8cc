"""Pairs of levels of iCT and ECT against formulas and distributions."""

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.training import level_pairs

EDM = dj.KarrasSchedule()


def test_n_of_k_by_hand():
  """s0 = 10 and s1 = 1280 give 8 doublings of K' = K / 8 steps each."""
  steps = [0, 99, 100, 250, 699, 700, 799, 800, 10_000]
  expected = [11, 11, 21, 41, 641, 1281, 1281, 1281, 1281]
  found = [int(level_pairs.improved_num_levels(k, 800)) for k in steps]
  assert found == expected
  assert int(level_pairs.improved_num_levels(5, 10, 2, 8)) == 5


def test_r_of_t_by_hand():
  """ECT has n = 1 + 8 sigmoid(-t), r = t max(0, 1 - n / q^(stage + 1))."""
  t = jnp.array([0.0, 1.0, np.log(7.0), 3.0, 80.0])
  n = [5.0, 3.1515313, 2.0, 1.3794070, 1.0]
  np.testing.assert_allclose(
    level_pairs.easy_ratio(t, 0), [0, 0, 0, 3 * (1 - n[3] / 2), 40], atol=1e-5
  )
  expected = [0, 1 - n[1] / 4, 0.5 * np.log(7), 3 * (1 - n[3] / 4), 60]
  np.testing.assert_allclose(level_pairs.easy_ratio(t, 1), expected, atol=1e-5)
  np.testing.assert_allclose(
    level_pairs.easy_ratio(t, 0, q=256.0),
    t * (1 - np.array(n) / 256),
    atol=1e-4,
  )


def test_improved_pairs_are_neighbours_with_the_mass_of_their_interval(key):
  """Shares on EDM's grid of 11 levels are within five standard errors."""
  n = 20_000
  pairs = level_pairs.improved_pairs(800, num_scales_end=40)
  level_t, level_r, weight = jax.jit(pairs, static_argnums=(1, 2))(
    key, n, EDM, 0
  )
  i = np.arange(11) / 10
  grid = (0.002 ** (1 / 7) + i * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
  index = np.abs(
    np.log(grid)[None] - np.log(np.asarray(level_t.sigma)[:, None])
  ).argmin(1)
  np.testing.assert_allclose(level_t.sigma, grid[index], rtol=1e-4)
  np.testing.assert_allclose(level_r.sigma, grid[index - 1], rtol=1e-4)
  np.testing.assert_allclose(
    weight, 1 / (grid[index] - grid[index - 1]), rtol=1e-3
  )
  normal = jax.scipy.stats.norm.cdf((np.log(grid) + 1.1) / 2.0)
  mass = np.diff(normal) / (normal[-1] - normal[0])
  shares = np.bincount(index, minlength=11)[1:] / n
  assert (np.abs(shares - mass) < 5 * np.sqrt(mass / n)).all()


def test_a_law_beyond_the_grid_leaves_its_noisiest_pair(key):
  """All mass is below sigma_min: in float32 each uniform draw is at the end."""
  pairs = level_pairs.improved_pairs(
    800, num_scales_end=40, mean=-30.0, std=1.0
  )
  level_t, level_r, weight = jax.jit(pairs, static_argnums=(1, 2))(
    key, 4, EDM, 0
  )
  noisiest = EDM(jnp.array([0.9, 1.0])).sigma
  np.testing.assert_allclose(level_r.sigma, noisiest[0], rtol=1e-4)
  np.testing.assert_allclose(level_t.sigma, noisiest[1], rtol=1e-4)
  np.testing.assert_allclose(weight, 1 / (noisiest[1] - noisiest[0]), rtol=1e-3)


def test_easy_pairs_by_hand(key):
  """There are two stages; the weight is the time's, divided by t - r."""
  t, weight = np.float32([0.5, 3.0, 20.0]), np.float32([1.0, 2.0, 5.0])

  def times(key, batch_size, schedule):
    return schedule.from_logsnr(-2.0 * jnp.log(t)), jnp.asarray(weight)

  pairs = level_pairs.easy_pairs(10, times, num_stages=2, k=2.0, b=0.5)
  for step, stage in ((9, 0), (10, 1), (500, 1)):
    n = 1 + 2 / (1 + np.exp(0.5 * t))
    r = t * np.maximum(0, 1 - n / 2 ** (stage + 1))
    level_t, level_r, found = pairs(key, 3, EDM, step)
    np.testing.assert_allclose(level_t.sigma, t, rtol=1e-5)
    np.testing.assert_allclose(level_r.sigma, r, rtol=1e-5)
    np.testing.assert_allclose(found, weight / (t - r), rtol=1e-5)


def test_every_pair_of_a_grid_is_as_likely(key):
  """Shares are within five standard errors; r is the cleaner neighbour."""
  n = 3000
  level_t, level_r, weight = level_pairs.grid_pairs(4)(key, n, EDM, 0)
  index = np.rint(3 * np.asarray(level_t.t))
  np.testing.assert_allclose(level_r.t, (index - 1) / 3, atol=1e-6)
  shares = np.bincount(index.astype(int), minlength=4) / n
  assert shares[0] == 0.0 and (weight == 1.0).all()
  assert (np.abs(shares[1:] - 1 / 3) < 5 * np.sqrt(2 / 9 / n)).all()
