import jax
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.sampling.grids import count_steps

DDPM = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
ZERO_SNR = dj.DiscreteSchedule.from_betas(
  dj.zero_terminal_snr(dj.linear_betas(1000))
)
UNDERFLOW = dj.DiscreteSchedule.from_alphas(np.linspace(0.999, 0.001, 500))
KARRAS, FLOW = dj.KarrasSchedule(), dj.RectifiedFlowSchedule()
SPACED = ['quadratic', 'karras', 'logsnr']


def grid(*args, **options):
  """As level_grid, compiled as a whole: no program for each operation."""
  return jax.device_get(jax.jit(lambda: dj.level_grid(*args, **options))())


def test_grid_of_all_steps_is_ddpms_own():
  levels = dj.level_grid(DDPM, 1000)
  expected = DDPM.at_step(np.arange(1000, -1, -1))
  for found, value in zip(levels, expected, strict=True):
    np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize('n', [1, 7, 100])
@pytest.mark.parametrize(
  'schedule', [DDPM, dj.CosineSchedule(), dj.LinearVPSchedule()]
)
def test_grids_fall_from_noise_to_clean(schedule, n):
  levels = dj.level_grid(schedule, n)
  assert levels.t.shape == (n + 1,)
  assert levels.t[0] == 1.0
  assert (np.diff(levels.sigma) < 0).all()
  assert levels.sigma[-1] == 0.0 and levels.alpha[-1] == 1.0
  assert levels.sigma[-2] > 0.0


def test_the_last_noisy_level_is_zero_or_a_step_away():
  assert dj.level_grid(dj.CosineSchedule(), 10).t[-2] == 0.0
  np.testing.assert_allclose(dj.level_grid(DDPM, 10).t[-2], 0.1)


def test_grid_that_does_not_end_clean():
  levels = dj.level_grid(dj.CosineSchedule(), 4, end_clean=False)
  np.testing.assert_allclose(levels.t, [1.0, 0.75, 0.5, 0.25, 0.0])
  assert levels.sigma[-1] > 0.0


def test_grid_from_the_middle():
  levels = dj.level_grid(DDPM, 5, t_start=0.5)
  np.testing.assert_allclose(
    levels.t, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], atol=1e-6
  )


def test_spacing_in_steps_visits_steps_only():
  levels = grid(DDPM, 300, 'steps')
  steps = np.asarray(levels.t) * 1000
  np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
  assert len(np.unique(np.rint(steps))) == 301


@pytest.mark.parametrize(
  'n, spacing, expected',
  [
    (1000, 'uniform', (1000, 0)),
    (10, 'uniform', (10, 0)),
    (5000, 'uniform', (1000, 4000)),  # at every fifth
    (300, 'uniform', (100, 200)),  # 1000 i / 300 is a step where 3 divides i
    (300, 'steps', (300, 0)),
    (2, 'quadratic', (2, 0)),
  ],
)
def test_steps_that_a_grid_visits_are_counted(n, spacing, expected):
  assert count_steps(grid(DDPM, n, spacing), 1000) == expected


def test_a_step_that_is_visited_twice_counts_once():
  levels = DDPM(np.array([1.0, 0.5, 0.5, 0.4995, 0.0], np.float32))
  assert count_steps(levels, 1000) == (2, 1)


def test_grid_refusals():
  with pytest.raises(ValueError, match='num_steps is 0'):
    dj.level_grid(DDPM, 0)
  with pytest.raises(ValueError, match='1001 steps do not fit on the 1000'):
    dj.level_grid(DDPM, 1001, 'steps')
  known = "'log' is not one of 'uniform', 'steps', 'quadratic', 'karras', "
  with pytest.raises(
    ValueError, match=known + "'logsnr', 'leading', 'linspace'"
  ):
    dj.level_grid(DDPM, 10, 'log')
  with pytest.raises(ValueError, match=r't_end=0.5 is not in \[0, t_start=0.5'):
    dj.level_grid(DDPM, 10, t_start=0.5, t_end=0.5)
  for spacing in ('steps', 'leading', 'linspace', 'trailing'):
    with pytest.raises(ValueError, match='needs a schedule of steps'):
      dj.level_grid(dj.CosineSchedule(), 10, spacing)
  for spacing in ('leading', 'linspace', 'trailing'):
    with pytest.raises(ValueError, match='chooses its last step'):
      dj.level_grid(DDPM, 10, spacing, t_end=0.1)
    with pytest.raises(ValueError, match='501 steps do not fit'):
      dj.level_grid(DDPM, 501, spacing, t_start=0.5)


def ratio(levels):
  return np.asarray(levels.sigma[:-1], np.float64) / levels.alpha[:-1]


def test_quadratic_times():
  """t^(1/2) evenly spaced (DPM-Solver's time_quadratic)."""
  t = dj.level_grid(FLOW, 10, 'quadratic').t
  expected = np.linspace(1.0, 1e-3**0.5, 10) ** 2
  np.testing.assert_allclose(t, [*expected, 0.0], rtol=1e-5)


def test_karras_spacing_of_ddpm():
  """Eq. 5 of Karras et al. 2022 between the ends of DDPM's sigma / alpha."""
  n = 18
  bars = np.cumprod(1 - dj.linear_betas(1000))
  first, last = ((1 - bars[[-1, 0]]) / bars[[-1, 0]]) ** (1 / 14)
  expected = (first + np.arange(n) / (n - 1) * (last - first)) ** 7
  levels = grid(DDPM, n, 'karras')
  np.testing.assert_allclose(ratio(levels), expected, rtol=2e-5)
  # the level of that ratio, on the schedule
  sigma = jax.jit(lambda: DDPM(levels.t).sigma)()
  np.testing.assert_allclose(sigma[:-1], levels.sigma[:-1], rtol=2e-4)
  np.testing.assert_allclose(levels.t[[0, -2]], [1.0, 1e-3], rtol=1e-5)


def test_karras_spacing_of_karras_is_uniform():
  found, expected = (
    grid(KARRAS, 18, spacing) for spacing in ('karras', 'uniform')
  )
  np.testing.assert_allclose(found.sigma, expected.sigma, rtol=3e-6)


@pytest.mark.parametrize('schedule', [DDPM, KARRAS, dj.CosineSchedule()])
def test_logsnr_spacing(schedule):
  levels = grid(schedule, 9, 'logsnr')
  logsnr = -2.0 * np.log(ratio(levels))
  t_end = 1e-3 if schedule is DDPM else 0.0
  first, last = schedule(1.0).logsnr, schedule(t_end).logsnr
  np.testing.assert_allclose(logsnr, np.linspace(first, last, 9), atol=2e-5)


@pytest.mark.parametrize('spacing', SPACED)
@pytest.mark.parametrize('schedule', [ZERO_SNR, FLOW, dj.SigmoidSchedule()])
@pytest.mark.parametrize('n', [1, 2, 10, 2000])
def test_grids_from_no_signal_to_clean(schedule, spacing, n):
  levels = grid(schedule, n, spacing)
  assert levels.t.shape == (n + 1,)
  assert np.isfinite(np.stack(levels)).all()
  assert (np.diff(levels.t) < 0.0).all()
  assert levels.alpha[0] == 0.0 and levels.sigma[0] == schedule(1.0).sigma
  assert (levels.alpha[1:] > 0.0).all()
  assert (levels.sigma[:-1] > 0.0).all() and levels.sigma[-1] == 0.0
  if spacing != 'quadratic' and n == 10:
    np.testing.assert_allclose(levels.t[1], 0.9, rtol=1e-5)
    np.testing.assert_allclose(levels.t[-2], 1e-3, rtol=1e-3)


@pytest.mark.parametrize('spacing', SPACED)
def test_grids_of_a_long_list_of_small_alphas_are_finite(spacing):
  """Alpha has underflowed to 0 long before t = 1."""
  levels = grid(UNDERFLOW, 10, spacing)
  assert np.isfinite(np.stack(levels)).all()
  assert (np.diff(levels.t) < 0.0).all()


@pytest.mark.parametrize('spacing', ['uniform', 'steps', *SPACED])
def test_where_the_noisy_levels_end(spacing):
  levels = grid(DDPM, 5, spacing, t_start=0.8, t_end=0.1)
  np.testing.assert_allclose(levels.t[0], 0.8, rtol=1e-6)
  np.testing.assert_allclose(levels.t[-2:], [0.1, 0.0], rtol=1e-4)
  levels = grid(DDPM, 5, spacing, t_end=0.1, end_clean=False)
  assert levels.t.shape == (6,)
  np.testing.assert_allclose(levels.t[-1], 0.1, rtol=1e-4)
  with pytest.raises(ValueError, match='101 steps do not fit'):
    dj.level_grid(DDPM, 101, 'steps', t_start=0.2, t_end=0.101)


# recipes 2.4, literally; index i of diffusers is step i + 1
LIN = {
  'leading': lambda T, n: (np.arange(0, n) * (T // n)).round()[::-1],
  'linspace': lambda T, n: np.linspace(0, T - 1, n).round()[::-1],
  'trailing': lambda T, n: np.round(np.arange(T, 0, -T / n)) - 1,
}


@pytest.mark.parametrize('spacing', LIN)
# 7 and 16 have halves to round
@pytest.mark.parametrize('n', [1, 3, 7, 10, 16, 50, 999, 1000])
def test_step_choices_of_lin_et_al(spacing, n):
  steps = np.append(LIN[spacing](1000, n) + 1, 0).astype(int)
  levels, expected = jax.device_get(
    jax.jit(lambda: (dj.level_grid(DDPM, n, spacing), DDPM.at_step(steps)))()
  )
  np.testing.assert_array_equal(np.rint(levels.t * 1000), steps)
  np.testing.assert_array_equal(levels.sigma, expected.sigma)


def test_step_choices_of_table_2():
  """The example of Lin et al. 2023: T = 1000, 10 steps."""
  found = {
    spacing: np.rint(grid(DDPM, 10, spacing).t * 1000) for spacing in LIN
  }
  trailing = [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
  leading = [901, 801, 701, 601, 501, 401, 301, 201, 101, 1, 0]
  linspace = [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1, 0]
  np.testing.assert_array_equal(found['trailing'], trailing)
  np.testing.assert_array_equal(found['leading'], leading)
  np.testing.assert_array_equal(found['linspace'], linspace)


def paper_sections(T, counts):
  """recipes 3.2, one step at a time: a set of the paper's 0-based steps."""
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


@pytest.mark.parametrize(
  'T, spec',
  [
    (1000, '250'),
    (1000, '1'),
    (1000, '1000'),
    (1000, '10,15,20'),
    (4000, '100'),
    (300, ' 10, 10,8,6,6'),
    (7, '2,1,2'),
    (7, '5'),
    (12, '3,3'),
    (16, '15'),  # 7 * 15 / 14 is 7.5, and a running sum is less
  ],
)
def test_respaced_sections(T, spec):
  found = dj.respaced_steps(T, spec)
  expected = paper_sections(T, [int(n) for n in spec.split(',')])
  np.testing.assert_array_equal(found - 1, expected)


@pytest.mark.parametrize(
  'T, spec, kept',
  [
    (7, '5', [0, 2, 3, 4, 6]),  # of 0, 1.5, 3, 4.5, 6
    (12, '3,3', [0, 2, 5, 6, 8, 11]),  # of 0, 2.5, 5 in each half
    (6, '3', [0, 2, 5]),
  ],
)
def test_halves_are_rounded_to_even_steps(T, spec, kept):
  """As Python's round does, of the paper's 0-based steps."""
  np.testing.assert_array_equal(dj.respaced_steps(T, spec) - 1, kept)


@pytest.mark.parametrize(
  'T, n, stride', [(1000, 50, 20), (1000, 25, 40), (1000, 334, 3), (10, 10, 1)]
)
def test_respaced_with_an_integer_stride(T, n, stride):
  found = dj.respaced_steps(T, f'ddim{n}')
  np.testing.assert_array_equal(found - 1, range(0, T, stride))
  assert len(found) == n


@pytest.mark.parametrize(
  'spec, message',
  [
    ('ddim300', 'no integer stride through 1000 steps keeps exactly 300'),
    ('1001', '1001 steps do not fit in a section of 1000'),
    ('10,501', '501 steps do not fit in a section of 500'),
    ('', "'' does not say which steps"),
    ('fast', "'fast' does not say"),
    ('ddim5,5', "'ddim5,5' does not say"),
    ('10,0', "'10,0' does not say"),
  ],
)
def test_respacing_refusals(spec, message):
  with pytest.raises(ValueError, match=message):
    dj.respaced_steps(1000, spec)


def test_levels_of_respaced_steps():
  """beta_i = 1 - abar[S_i] / abar[S_(i-1)] between those that are kept."""
  steps = dj.respaced_steps(1000, '10,15,20')
  levels, kept = jax.device_get(
    jax.jit(lambda: (
      dj.step_levels(DDPM, steps), DDPM.at_step(np.append(steps[::-1], 0))
    ))()
  )  # fmt: skip
  bars = np.cumprod(1 - dj.linear_betas(1000))[steps - 1]
  betas = 1 - bars / np.append(1.0, bars[:-1])
  found = levels.alpha[:-1] / levels.alpha[1:]  # sqrt(1 - beta), falling
  np.testing.assert_allclose(found[::-1] ** 2, 1 - betas, rtol=1e-6)
  np.testing.assert_array_equal(levels.sigma, kept.sigma)


@pytest.mark.parametrize(
  'steps, message',
  [
    ([0, 5], r'steps 0..5 are not in 1..1000'),
    ([1, 1001], r'steps 1..1001 are not in 1..1000'),
    ([3, 3], 'each once'),
    ([], 'a list of 1 or more'),
  ],
)
def test_step_levels_refusals(steps, message):
  with pytest.raises(ValueError, match=message):
    dj.step_levels(DDPM, steps)
  with pytest.raises(ValueError, match='needs a schedule of steps'):
    dj.step_levels(FLOW, steps)
