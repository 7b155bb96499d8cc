"""Which levels a sampler visits.

A grid is a NoiseLevel with a leading axis, noisiest first. Here are the
published ways to choose N of them on a schedule (`level_grid`), and the steps
that a respaced DDPM keeps (`respaced_steps`, `step_levels`).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.levels import NoiseLevel, clean_level

# The end of grids that cannot go down to t = 0 in continuous time (that of
# DPM-Solver for networks of 1000 steps).
_FIRST_TIME = 1e-3
# Log-SNRs of a grid stay within +- this: alpha and sigma are normal float32.
_MAX_LOGSNR = 150.0


def level_grid(
  schedule: Callable,
  num_steps: int,
  spacing: str = 'uniform',
  t_start: float = 1.0,
  end_clean: bool = True,
  t_end: float | None = None,
) -> NoiseLevel:
  """The N + 1 levels that N sampling steps visit, noisiest first, [N+1].

  N noisy levels from t_start to t_end, then clean data: DDPM's own steps T..1
  and 0 for N = T. end_clean=False: N + 1 noisy levels (VDM). spacing is even in
  t ('uniform'), sqrt(t) ('quadratic'), log-SNR ('logsnr') or (sigma /
  alpha)^(1/7) ('karras'); or it chooses steps of a schedule of steps: 'steps'
  (uniform, rounded), 'leading', 'linspace', 'trailing' (Lin et al. 2023).
  t_end=None is t = 0 where sigma(0) > 0, else the first level with noise: at
  t_start / N ('uniform', 'steps'; 0 if not end_clean), step 1, or t = 1e-3.
  Raises a ValueError for what does not fit, such as N > T steps.
  """
  if num_steps < 1:
    raise ValueError(f'num_steps is {num_steps}: at least 1 step is needed')
  count = num_steps if end_clean else num_steps + 1
  if spacing in STEP_CHOICES:
    levels = _chosen_steps(schedule, count, spacing, t_start, t_end)
  elif spacing in SPACINGS:
    if t_end is None:
      t_end = _last_time(schedule, num_steps, spacing, t_start, end_clean)
    elif not 0.0 <= t_end < t_start:
      raise ValueError(f't_end={t_end} is not in [0, t_start={t_start})')
    levels = SPACINGS[spacing](schedule, count, t_start, t_end)
  else:
    known = ', '.join(map(repr, SPACINGS | STEP_CHOICES))
    raise ValueError(f'spacing {spacing!r} is not one of {known}')
  return _then_clean(levels) if end_clean else levels


def _then_clean(levels):
  return jax.tree.map(
    lambda field, last: jnp.append(field, last), levels, clean_level()
  )


def _first_time(schedule):
  # the first time that is not clean
  has_steps = hasattr(schedule, 'num_steps')
  return 1.0 / schedule.num_steps if has_steps else _FIRST_TIME


def _last_time(schedule, num_steps, spacing, t_start, end_clean):
  if spacing in ('uniform', 'steps'):
    first = t_start / num_steps if end_clean else 0.0
  elif spacing == 'quadratic' and not end_clean:
    first = 0.0
  else:
    first = _first_time(schedule)
  if hasattr(schedule, 'num_steps'):  # step 0 is clean
    return first
  return jnp.where(schedule(0.0).sigma == 0.0, first, 0.0)


def _num_steps(schedule, spacing):
  if not hasattr(schedule, 'num_steps'):
    raise ValueError(f'spacing={spacing!r} needs a schedule of steps')
  return schedule.num_steps


def _check_fit(count, available, num_steps):
  if count > available + 1e-3:
    raise ValueError(
      f'{count} steps do not fit on the {num_steps} of the schedule: take '
      "fewer, or spacing='uniform'"
    )


# Levels: (schedule, count, t_start, t_end) -> NoiseLevel [count].


def _uniform(schedule, count, t_start, t_end):
  return schedule(jnp.linspace(t_start, t_end, count))


def _steps(schedule, count, t_start, t_end):
  num_steps = _num_steps(schedule, 'steps')
  _check_fit(count, (t_start - t_end) * num_steps + 1, num_steps)
  t = jnp.linspace(t_start, t_end, count)
  return schedule(jnp.round(t * num_steps) / num_steps)


# DDIM's quad (which starts at 0.8 T in its code), DPM-Solver's time_quadratic
def _quadratic(schedule, count, t_start, t_end):
  return schedule(jnp.linspace(t_start**0.5, t_end**0.5, count) ** 2)


def _logsnr(schedule, count, t_start, t_end):
  def between(first, last, u):
    return (1.0 - u) * first + u * last

  return _by_logsnr(schedule, count, t_start, t_end, between)


# Karras et al. 2022, Eq. 5, between the ratios of the first level and the last
def _karras(schedule, count, t_start, t_end, rho=7.0):
  def between(first, last, u):
    # (sigma / alpha)^(1 / rho), linear in u
    first, last = jnp.exp(-0.5 * first / rho), jnp.exp(-0.5 * last / rho)
    return -2.0 * rho * jnp.log((1.0 - u) * first + u * last)

  return _by_logsnr(schedule, count, t_start, t_end, between)


# Where alpha(t_start) = 0 the first step goes from there straight to a level
# with signal, t_start / count (or a step) below it; `between` begins at that.
def _by_logsnr(schedule, count, t_start, t_end, between):
  start = schedule(t_start)
  no_signal = start.alpha == 0.0
  gap = jnp.maximum(t_start / count, _first_time(schedule))
  ends = jnp.where(no_signal, t_start - gap, t_start), t_end
  first, last = (
    jnp.clip(schedule(t).logsnr, -_MAX_LOGSNR, _MAX_LOGSNR) for t in ends
  )
  # u from 0 to 1, after a 0 of its own for a start without signal
  u = jnp.maximum(jnp.arange(count) - no_signal, 0)
  u = u / jnp.maximum(count - 1 - no_signal, 1)
  levels = schedule.from_logsnr(between(first, last, u))
  return jax.tree.map(lambda field, x: field.at[0].set(x), levels, start)


SPACINGS = {
  'uniform': _uniform,
  'steps': _steps,
  'quadratic': _quadratic,
  'karras': _karras,
  'logsnr': _logsnr,
}


# Steps: (T, N) -> N of 1..T, descending (Lin et al. 2023, Table 2; rounding as
# in diffusers, whose index i is step i + 1). 'leading' does not begin at T, its
# known flaw: pure noise is taken for a level that has some signal left.


def _leading(num_steps, n):
  return np.arange(n)[::-1] * (num_steps // n) + 1


def _linspace(num_steps, n):
  return np.rint(np.linspace(0, num_steps - 1, n))[::-1] + 1


def _trailing(num_steps, n):
  return np.rint(num_steps - np.arange(n) * (num_steps / n))


STEP_CHOICES = {
  'leading': _leading,
  'linspace': _linspace,
  'trailing': _trailing,
}


def _chosen_steps(schedule, count, spacing, t_start, t_end):
  if t_end is not None:
    raise ValueError(f'spacing={spacing!r} chooses its last step: no t_end')
  num_steps = _num_steps(schedule, spacing)
  available = round(t_start * num_steps)
  _check_fit(count, available, num_steps)
  return schedule(STEP_CHOICES[spacing](available, count) / num_steps)


def step_levels(schedule: Callable, steps: Sequence[int]) -> NoiseLevel:
  """The levels of some of the steps 1..T, then the clean one, [N+1].

  Noisiest first, in whatever order `steps` [N] are. schedule: one of steps.
  Raises a ValueError for steps outside 1..T, for repeated ones and for none.
  """
  steps = np.sort(np.asarray(steps))[::-1]
  if not hasattr(schedule, 'num_steps'):
    raise ValueError('step_levels needs a schedule of steps')
  if steps.ndim != 1 or not steps.size or (np.diff(steps) == 0).any():
    raise ValueError('steps must be a list of 1 or more, each once')
  if steps[-1] < 1 or steps[0] > schedule.num_steps:
    raise ValueError(
      f'steps {steps[-1]}..{steps[0]} are not in 1..{schedule.num_steps}'
    )
  return _then_clean(schedule(steps / schedule.num_steps))


def respaced_steps(num_steps: int, spec: str) -> np.ndarray:
  """The steps that a respaced DDPM of T = num_steps keeps, ascending, int [N].

  spec as improved-diffusion writes it (Nichol & Dhariwal 2021, section 4):
  '250', so many steps, evenly spaced from 1 to T; '10,15,20', so many in each
  of equal sections of the T steps; 'ddim50', 1, 1 + k, 1 + 2k, ... for the
  smallest integer k that gives 50. Raises a ValueError where that is not to be
  had. For `step_levels`.
  """
  name, is_ddim = spec.strip(), spec.strip().startswith('ddim')
  try:
    counts = [int(n) for n in name.removeprefix('ddim').split(',')]
  except ValueError:
    counts = []
  if not counts or min(counts) < 1 or (is_ddim and len(counts) > 1):
    raise ValueError(
      f"{spec!r} does not say which steps to keep: '250', '10,15,20' or "
      "'ddim50' would"
    )
  if is_ddim:
    return _strided_steps(num_steps, counts[0])
  sections = np.array_split(np.arange(1, num_steps + 1), len(counts))
  kept = [_section_steps(*pair) for pair in zip(sections, counts, strict=True)]
  return np.concatenate(kept)


def _strided_steps(num_steps, count):
  for stride in range(1, num_steps):
    steps = np.arange(1, num_steps + 1, stride)
    if len(steps) == count:
      return steps
  raise ValueError(
    f'no integer stride through {num_steps} steps keeps exactly {count}'
  )


def _section_steps(section, count):
  size = len(section)
  if count > size:
    raise ValueError(f'{count} steps do not fit in a section of {size}')
  stride = (size - 1) / (count - 1) if count > 1 else 1.0
  # summed up, not multiplied, to round halves as published
  positions = np.cumsum([0.0] + [stride] * (count - 1))
  return section[np.rint(positions).astype(int)]
