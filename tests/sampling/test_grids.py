"""Grids of levels fall from noise to clean data, with the spacings that their papers state."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.sampling.grids import STEP_CHOICES, count_steps, last_noisy_level
from tests.jitted import level_at
from tests.schedules import DDPM, EVERY, anything
from tests.transcribed import transcribes

UNDERFLOW = dj.DiscreteSchedule.from_alphas(np.linspace(0.999, 0.001, 500))


def compiled(function):
  """Runs a function in one program, not in one for each operation."""
  return jax.device_get(jax.jit(function)())


def grid(*args, **options):
  return compiled(lambda: dj.level_grid(*args, **options))


# What is evenly spaced.
SPACED = {
  'uniform': lambda t, ratio: t,
  'quadratic': lambda t, ratio: t**0.5,
  'karras': lambda t, ratio: ratio ** (1 / 7),
  'logsnr': lambda t, ratio: np.log(ratio),
}
CASES = [*itertools.product(SPACED, [(9, True)]), ('karras', (1, True))]
CASES += itertools.product(('uniform', 'quadratic'), [(6, False)])  # which then have another end


@jax.jit
def grids(schedule, t_start):
  """Returns the grids of CASES, and levels of the schedule at their times."""
  found = [dj.level_grid(schedule, n, spacing, t_start, clean) for spacing, (n, clean) in CASES]
  exact = schedule(jnp.concatenate([levels.t for levels in found]))
  ends = schedule(t_start), schedule(0.0), last_noisy_level(schedule)
  return found, exact, ends


@settings(anything, max_examples=10)
@given(EVERY, st.just(1.0) | st.floats(0.3, 1.0))
def test_grids_fall_from_noise_to_clean(schedule, t_start):
  """Grids are on the schedule, evenly spaced, between its two ends."""
  found, exact, (first, last, noisy) = jax.device_get(grids(schedule, t_start))
  starts = np.cumsum([n + 1 for _, (n, _) in CASES])[:-1]
  exact = zip(*(np.split(field, starts) for field in exact), strict=True)
  close = functools.partial(assert_allclose, atol=2e-7)
  karras = found[CASES.index(('karras', (9, True)))]
  close([x[-2] for x in karras], noisy, rtol=1e-3)
  first_noisy = 1 / getattr(schedule, 'num_steps', 1000)
  for (spacing, (n, clean)), levels, value in zip(CASES, found, exact, strict=True):
    assert levels.t.shape == (n + 1,) and np.isfinite(np.stack(levels)).all()
    close([x[0] for x in levels], first, rtol=1e-5)
    close(np.stack(levels)[:, :n], np.stack(value)[:, :n], rtol=1e-3)
    if clean:
      assert [field[-1] for field in levels] == [0.0, 1.0, 0.0]
      levels = jax.tree.map(lambda field: field[:-1], levels)
    assert (np.diff(levels.t) < 0.0).all()
    if n == 1:
      continue
    end = first_noisy
    if spacing == 'uniform':
      end = t_start / n
    if last.sigma > 0.0 or (not clean and spacing in ('uniform', 'quadratic')):
      end = 0.0
    assert_allclose(levels.t[-1], end, rtol=1e-3, atol=1e-5)
    if first.alpha == 0.0 and spacing in ('karras', 'logsnr'):
      levels = jax.tree.map(lambda field: field[1:], levels)
    t, alpha, sigma = map(np.float64, levels)
    with np.errstate(divide='ignore'):  # alpha may be 0.
      place = SPACED[spacing](t, sigma / alpha)
    even = np.linspace(place[0], place[-1], len(place))
    assert_allclose(place, even, rtol=1e-4, atol=2e-5)


def test_steps_that_a_grid_visits_are_counted():
  counts = {
    (1000, 'uniform'): (1000, 0),
    (5000, 'uniform'): (1000, 4000),  # every fifth level
    (300, 'uniform'): (100, 200),  # 1000 i / 300 is a step if 3 divides i.
    (300, 'steps'): (300, 0),
  }
  grids = compiled(lambda: [dj.level_grid(DDPM, *case) for case in counts])
  for levels, expected in zip(grids, counts.values(), strict=True):
    assert count_steps(levels, 1000) == expected


def test_a_step_that_is_visited_twice_counts_once():
  t = np.float32([1.0, 0.5, 0.5, 0.49998, 0.0])
  levels = level_at(DDPM, t)
  assert count_steps(levels, 1000) == (2, 1)


def test_a_start_at_a_step_is_that_step():
  """1 / 49 * 49 is below 1."""
  schedule = dj.DiscreteSchedule.from_betas(dj.linear_betas(49))
  levels = grid(schedule, 1, 'trailing', t_start=1 / 49)
  assert_allclose(levels.t, [1 / 49, 0.0], rtol=1e-6)


def ratio(levels):
  return np.asarray(levels.sigma[:-1], np.float64) / levels.alpha[:-1]


@pytest.mark.parametrize('spacing', ['logsnr', 'karras'])
def test_from_pure_noise_the_first_step_is_one_of_an_even_grid(spacing):
  """The first step goes from t = 1 to t = 1 - 1 / N, where the log-SNR is finite."""
  levels = grid(dj.RectifiedFlowSchedule(), 8, spacing)
  assert levels.alpha[0] == 0.0
  assert_allclose(levels.t[1], 1.0 - 1.0 / 8.0, rtol=1e-6)
  assert_allclose(levels.t[-2], 1e-3, rtol=1e-4)


@transcribes('EDM (Karras et al. 2022)', '5: noise levels')
def test_karras_spacing_of_ddpm():
  """Karras et al. 2022, Eq. 5, between the ends of DDPM's sigma / alpha."""
  n = 18
  bars = np.cumprod(1 - dj.linear_betas(1000))
  first, last = ((1 - bars[[-1, 0]]) / bars[[-1, 0]]) ** (1 / 14)
  expected = (first + np.arange(n) / (n - 1) * (last - first)) ** 7
  levels = grid(DDPM, n, 'karras')
  assert_allclose(ratio(levels), expected, rtol=2e-5)
  # The levels are on the schedule.
  sigma = level_at(DDPM, levels.t).sigma
  assert_allclose(sigma[:-1], levels.sigma[:-1], rtol=2e-4)
  assert_allclose(levels.t[[0, -2]], [1.0, 1e-3], rtol=1e-5)


def test_grids_of_a_long_list_of_small_alphas_are_finite():
  """alpha underflows to 0 long before t = 1."""
  for levels in compiled(lambda: [dj.level_grid(UNDERFLOW, 10, s) for s in ('karras', 'logsnr')]):
    assert np.isfinite(np.stack(levels)).all()
    assert (np.diff(levels.t) < 0.0).all()


def test_where_the_noisy_levels_end():
  clean, noisy = compiled(
    lambda: (
      [dj.level_grid(DDPM, 5, s, t_start=0.8, t_end=0.1) for s in ('steps', 'karras')],
      [dj.level_grid(DDPM, 5, s, t_end=0.1, end_clean=False) for s in ('logsnr', 'quadratic')],
    )
  )
  for levels in clean:
    assert_allclose(levels.t[0], 0.8, rtol=1e-6)
    assert_allclose(levels.t[-2:], [0.1, 0.0], rtol=1e-4)
  for levels in noisy:
    assert levels.t.shape == (6,)
    assert_allclose(levels.t[-1], 0.1, rtol=1e-4)


# recipes 2.4, literally; index i of diffusers is step i + 1.
LIN = {
  'leading': lambda T, n: (np.arange(0, n) * (T // n)).round()[::-1],
  'linspace': lambda T, n: np.linspace(0, T - 1, n).round()[::-1],
  'trailing': lambda T, n: np.round(np.arange(T, 0, -T / n)) - 1,
}


@transcribes(
  'Lin et al. 2023',
  'Table 2: which steps to sample',
  '`level_grid` with leading, linspace, trailing',
)
@pytest.mark.parametrize('spacing', LIN)
def test_step_choices_of_lin_et_al(spacing):
  sizes = 2, 3, 7, 10, 16, 50, 999, 1000  # 7 and 16 have halves to round.
  steps = [np.append(LIN[spacing](1000, n) + 1, 0).astype(int) for n in sizes]
  for n, chosen in zip(sizes, steps, strict=True):
    assert_array_equal(STEP_CHOICES[spacing](1000, n), chosen[:-1])
  levels, expected = compiled(lambda: (dj.level_grid(DDPM, 7, spacing), DDPM.at_step(steps[2])))
  assert_array_equal(levels.sigma, expected.sigma)


def paper_sections(T, counts):
  """Returns the paper's 0-based steps one by one, as in recipes 3.2."""
  kept, start = set(), 0
  for i, count in enumerate(counts):
    size = T // len(counts) + (1 if i < T % len(counts) else 0)
    stride = 1 if count <= 1 else (size - 1) / (count - 1)
    position = 0.0
    for _ in range(count):
      kept.add(start + round(position))
      position += stride
    start += size
  return sorted(kept)


SECTIONS = (
  st.integers(1, 5)
  .flatmap(
    lambda sections: st.tuples(
      st.integers(20 * sections, 1000),
      st.lists(st.integers(1, 20), min_size=sections, max_size=sections),
    )
  )
  .filter(lambda case: case[1] != [1])
)


@transcribes(
  'IDDPM (Nichol & Dhariwal 2021)',
  'respacing of the steps',
  '`respaced_steps`, `step_levels`',
)
@anything
@example((16, [15]))  # 7 * 15 / 14 is 7.5, but a running sum is less.
@example((7, [2, 1, 2]))
@given(SECTIONS)
def test_respaced_sections(case):
  T, counts = case
  found = dj.respaced_steps(T, ', '.join(map(str, counts)))
  assert_array_equal(found - 1, paper_sections(T, counts))
  assert len(found) == sum(counts)


@anything
@given(st.integers(101, 1000), st.integers(1, 100))
def test_respaced_with_an_integer_stride(T, stride):
  """The stride of a respaced list is the smallest with this number of steps."""
  n = len(range(0, T, stride))
  found = dj.respaced_steps(T, f'ddim{n}')
  smallest = next(k for k in range(1, T) if len(range(0, T, k)) == n)
  assert_array_equal(found - 1, range(0, T, smallest))


@transcribes('IDDPM (Nichol & Dhariwal 2021)', 'respacing of the steps')
@anything
@given(st.lists(st.integers(1, 1000), min_size=5, max_size=5, unique=True))
def test_a_grid_of_given_steps(steps):
  levels = dj.step_levels(DDPM, steps)
  index = np.sort([0, *steps])[::-1]
  assert_array_equal(np.rint(levels.t * 1000), index)
  alpha = np.exp(-0.5 * DDPM.neg_log_alpha_bar)[index]
  assert_allclose(levels.alpha, alpha, rtol=1e-6)
