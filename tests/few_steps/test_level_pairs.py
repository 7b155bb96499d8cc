"""Pairs of levels of iCT and ECT against formulas and distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from numpy.testing import assert_allclose
from scipy.stats import norm

import diffusion_jax as dj
from diffusion_jax.few_steps import level_pairs
from tests.schedules import anything, of_floats
from tests.transcribed import transcribes

EDM = dj.KarrasSchedule()


@transcribes(
  'iCT (Song & Dhariwal 2024)',
  'N(k), the law of the pairs, pseudo-Huber',
  '`few_steps.level_pairs.improved_pairs`, `few_steps.losses.pseudo_huber`',
)
def test_n_of_k_by_hand():
  """s0 = 10 and s1 = 1280 give 8 doublings of K' = K / 8 steps each."""
  steps = [0, 99, 100, 250, 699, 700, 799, 800, 10_000]
  expected = [11, 11, 21, 41, 641, 1281, 1281, 1281, 1281]
  levels = jax.jit(lambda k: level_pairs.improved_num_levels(k, 800))
  found = [int(levels(k)) for k in steps]
  assert found == expected
  assert int(level_pairs.improved_num_levels(5, 10, 2, 8)) == 5


@transcribes('iCT (Song & Dhariwal 2024)', 'N(k), the law of the pairs, pseudo-Huber')
def test_improved_pairs_are_neighbours_with_the_mass_of_their_interval(key):
  """Shares on EDM's grid of 11 levels are within five standard errors."""
  n = 20_000
  pairs = level_pairs.improved_pairs(800, num_scales_end=40)
  level_t, level_r, weight = jax.jit(lambda key: pairs(key, n, EDM, 0))(key)
  i = np.arange(11) / 10
  grid = (0.002 ** (1 / 7) + i * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
  index = np.searchsorted(grid, 1.01 * np.asarray(level_t.sigma)) - 1
  assert_allclose(level_t.sigma, grid[index], rtol=1e-4)
  assert_allclose(level_r.sigma, grid[index - 1], rtol=1e-4)
  gap = grid[index] - grid[index - 1]
  assert_allclose(weight, 1 / gap, rtol=1e-3)
  normal = norm.cdf((np.log(grid) + 1.1) / 2.0)
  mass = np.diff(normal) / (normal[-1] - normal[0])
  shares = np.bincount(index, minlength=11)[1:] / n
  assert (np.abs(shares - mass) < 5 * np.sqrt(mass / n)).all()


def rising(sigma_min, ratio, rho):
  return dj.KarrasSchedule(sigma_min, sigma_min * ratio, rho)


LAWS = st.tuples(st.floats(-30.0, 10.0), st.floats(0.1, 3.0))
STEPS = st.integers(0, 1000)
SEEDS = st.integers(0, 2**31 - 1)


@jax.jit
def drawn(seed, schedule, step, law):
  """Returns pairs of iCT, ECT and a grid, iCT's number of levels, ECT's r."""
  ends = {name: getattr(schedule, name) for name in ('sigma_min', 'sigma_max')}
  mean, std = law
  makers = (
    level_pairs.improved_pairs(
      800, num_scales_end=40, mean=mean, std=std, rho=schedule.rho, **ends
    ),
    level_pairs.easy_pairs(200, dj.uniform_times, num_stages=4),
    level_pairs.grid_pairs(18),
  )
  key = jax.random.key(seed)
  improved, easy, grid = (pairs(key, 256, schedule, step) for pairs in makers)
  num_levels = level_pairs.improved_num_levels(step, 800, 10, 40)
  ratio = level_pairs.easy_ratio(easy[0].sigma, jnp.minimum(step // 200, 3))
  return improved, easy, grid, num_levels, ratio


@anything
@example(0, EDM, 0, (-30.0, 1.0))  # In float32 all mass is at the clean end.
@given(SEEDS, of_floats(rising, (1e-3, 0.1), (10.0, 1e4), (2.0, 9.0)), STEPS, LAWS)
def test_pairs_are_cleaner_neighbours(seed, schedule, step, law):
  """r < t are neighbours on a grid, or r is ECT's; weights are 1 / (t - r)."""
  found = jax.device_get(drawn(seed, schedule, step, law))
  improved, easy, grid, num_levels, ratio = found
  for (t, r, _), count in ((improved, num_levels), (grid, 18)):
    index = np.rint((count - 1) * t.t)
    assert index.min() >= 1 and index.max() <= count - 1
    assert_allclose((count - 1) * t.t, index, atol=2e-3)
    assert_allclose((count - 1) * r.t, index - 1, atol=2e-3)
  lowest = np.where(ratio > 0.0, schedule.sigma_min, 0.0)
  for (t, r, weight), low, of_r in ((improved, 0.0, improved[1].sigma), (easy, lowest, ratio)):
    assert (r.sigma <= t.sigma).all() and (of_r < t.sigma).all()
    assert_allclose(r.sigma, np.maximum(of_r, low), rtol=1e-4)
    gap = np.float64(t.sigma) - of_r
    assert_allclose(weight * gap, 1.0, rtol=2e-3)
  assert (grid[2] == 1.0).all()


@transcribes(
  'ECT (Geng et al. 2024)',
  'r(t) in stages',
  '`few_steps.level_pairs.easy_ratio`, `easy_pairs`',
)
@pytest.mark.parametrize('k, b, q', [(2.0, 0.5, 2), (8.0, 1.0, 256)])
def test_easy_pairs_by_hand(k, b, q, key):
  """ECT has n = 1 + k sigmoid(-b t), r = t max(0, 1 - n / q^(stage + 1))."""
  t = np.float32([0.5, 1.0, np.log(7.0), 3.0, 20.0, 80.0])
  weight = np.float32([1.0, 2.0, 5.0, 1.0, 1.0, 3.0])

  def times(key, batch_size, schedule):
    return schedule.from_logsnr(-2.0 * jnp.log(t)), jnp.asarray(weight)

  pairs = level_pairs.easy_pairs(10, times, num_stages=2, k=k, b=b, q=q)
  run = jax.jit(lambda key, step: pairs(key, len(t), EDM, step))
  for step, stage in ((9, 0), (10, 1), (500, 1)):
    n = 1 + k / (1 + np.exp(b * t))
    r = t * np.maximum(0, 1 - n / q ** (stage + 1))
    level_t, level_r, found = run(key, step)
    assert_allclose(level_t.sigma, t, rtol=1e-5)
    assert_allclose(level_r.sigma, r, rtol=1e-5)
    assert_allclose(found, weight / (t - r), rtol=1e-5)


def test_every_pair_of_a_grid_is_as_likely(key):
  """Shares are within five standard errors."""
  n = 3000
  pairs = level_pairs.grid_pairs(4)
  level, _, _ = jax.jit(lambda key: pairs(key, n, EDM, 0))(key)
  index = np.rint(3 * np.asarray(level.t)).astype(int)
  shares = np.bincount(index, minlength=4) / n
  assert shares[0] == 0.0
  assert (np.abs(shares[1:] - 1 / 3) < 5 * np.sqrt(2 / 9 / n)).all()
