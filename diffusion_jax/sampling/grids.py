"""The levels that a sampler visits.

A grid is a NoiseLevel with a leading axis, noisiest first. This module has the
published ways to choose N levels of a schedule (`level_grid`) and the steps of
a respaced DDPM (`respaced_steps`, `step_levels`).
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.checked import Numbers, checked
from diffusion_jax.core.levels import (
  Grid,
  NoiseLevel,
  Schedule,
  check_level,
  check_schedule,
  clean_level,
)
from diffusion_jax.core.step_schedules import num_steps_of
from diffusion_jax.ranges import Probability, Size

Array = jax.Array

Spacing = Literal[
  'uniform', 'steps', 'quadratic', 'karras', 'logsnr', 'leading', 'linspace', 'trailing'
]
# The time of the last noisy level of a grid in continuous time if sigma(0) = 0:
# DPM-Solver's value for networks of 1000 steps.
_FIRST_TIME = 1e-3
# The log-SNRs of a grid are clipped to +-150, so alpha and sigma are normal
# numbers in float32.
_MAX_LOGSNR = 150.0


@checked
def level_grid(
  schedule: Schedule,
  num_steps: Size,
  spacing: Spacing = 'uniform',
  t_start: Array | Probability = 1.0,
  end_clean: bool = True,
  t_end: Probability | None = None,
) -> NoiseLevel:
  """Computes the N + 1 levels of N sampling steps, noisiest first, [N+1].

  Raises ValueError for arguments that do not fit, such as N > T steps, and
  TypeError for a schedule that does not return a `NoiseLevel`.

  Args:
    spacing: Even in t ('uniform'), sqrt(t) ('quadratic'), log-SNR ('logsnr') or
      (sigma / alpha)^(1/7) ('karras'), or steps of a schedule of steps: 'steps'
      (uniform, rounded), 'leading', 'linspace', 'trailing' (Lin et al. 2023).
    t_start: The first time.
    end_clean: Whether the last level is clean data (DDPM's T..0 for N = T) or
      the grid has N + 1 noisy levels (VDM).
    t_end: The last noisy time. By default 0 if sigma(0) > 0, else t_start / N
      ('uniform', 'steps'; 0 if not end_clean), step 1, or 1e-3.
  """
  check_level(schedule(t_start))
  count = num_steps if end_clean else num_steps + 1
  if spacing in STEP_CHOICES:
    levels = _step_choice(schedule, count, spacing, t_start, t_end)
  else:
    if t_end is not None and not 0.0 <= t_end < t_start:
      raise ValueError(f't_end={t_end} is not in [0, t_start={t_start})')
    end = t_end
    if end is None:
      end = _default_end(schedule, num_steps, spacing, t_start, end_clean)
    levels = SPACINGS[spacing](schedule, count, t_start, end)
  check_schedule(schedule, levels)
  return _append_clean(levels) if end_clean else levels


def last_noisy_level(schedule: Schedule) -> NoiseLevel:
  """Returns the last noisy level of a 'karras' or 'logsnr' grid, []."""
  return schedule(_default_end(schedule, 1, 'karras', 1.0, True))


def _append_clean(levels):
  return jax.tree.map(lambda field, last: jnp.append(field, last), levels, clean_level())


def _first_noisy_time(schedule):
  total = num_steps_of(schedule)
  return 1.0 / total if total else _FIRST_TIME


def _default_end(schedule, num_steps, spacing, t_start, end_clean):
  if spacing in ('uniform', 'steps'):
    first = t_start / num_steps if end_clean else 0.0
  elif spacing == 'quadratic' and not end_clean:
    first = 0.0
  else:
    first = jnp.minimum(_first_noisy_time(schedule), t_start)
  if num_steps_of(schedule):  # Step 0 is clean.
    return first
  return jnp.where(schedule(0.0).sigma == 0.0, first, 0.0)


def _require_steps(schedule, what) -> int:
  total = num_steps_of(schedule)
  if total is None:
    raise ValueError(f'{what} needs a schedule of steps')
  return total


def _check_fit(count, available, num_steps):
  if count > available + 1e-3:
    raise ValueError(
      f"{count} steps do not fit on the schedule's {num_steps}: use fewer, or spacing='uniform'"
    )


# The functions (schedule, count, t_start, t_end) -> NoiseLevel [count].


def _uniform(schedule, count, t_start, t_end):
  return schedule(jnp.linspace(t_start, t_end, count))


def _steps(schedule, count, t_start, t_end):
  num_steps = _require_steps(schedule, "spacing='steps'")
  _check_fit(count, (t_start - t_end) * num_steps + 1, num_steps)
  t = jnp.linspace(t_start, t_end, count)
  return schedule(jnp.round(t * num_steps) / num_steps)


# DDIM's quad, which starts at 0.8 T in its code, and DPM-Solver's
# time_quadratic.
def _quadratic(schedule, count, t_start, t_end):
  return schedule(jnp.linspace(t_start**0.5, t_end**0.5, count) ** 2)


def _logsnr(schedule, count, t_start, t_end):
  def interpolate(first, last, u):
    return (1.0 - u) * first + u * last

  return _by_logsnr(schedule, count, t_start, t_end, interpolate)


# Karras et al. 2022, Eq. 5, from sigma / alpha of the first level to the last.
def _karras(schedule, count, t_start, t_end, rho=7.0):
  def interpolate(first, last, u):
    # (sigma / alpha)^(1 / rho) is linear in u.
    first, last = jnp.exp(-0.5 * first / rho), jnp.exp(-0.5 * last / rho)
    return -2.0 * rho * jnp.log((1.0 - u) * first + u * last)

  return _by_logsnr(schedule, count, t_start, t_end, interpolate)


# If alpha(t_start) = 0 the first step goes to a level with signal, t_start /
# count (or a step) below t_start, and the interpolation starts there.
def _by_logsnr(schedule, count, t_start, t_end, interpolate):
  start = schedule(t_start)
  no_signal = start.alpha == 0.0
  gap = jnp.maximum(t_start / count, _first_noisy_time(schedule))
  ends = jnp.where(no_signal, t_start - gap, t_start), t_end
  first, last = (jnp.clip(schedule(t).logsnr, -_MAX_LOGSNR, _MAX_LOGSNR) for t in ends)
  # u goes from 0 to 1, with another 0 before it if the start has no signal.
  u = jnp.maximum(jnp.arange(count) - no_signal, 0)
  u = u / jnp.maximum(count - 1 - no_signal, 1)
  levels = schedule.from_logsnr(interpolate(first, last, u))
  return jax.tree.map(lambda field, x: field.at[0].set(x), levels, start)


SPACINGS = {
  'uniform': _uniform,
  'steps': _steps,
  'quadratic': _quadratic,
  'karras': _karras,
  'logsnr': _logsnr,
}


# The functions (T, N) -> N of the steps 1..T, descending (Lin et al. 2023,
# Table 2; rounded as in diffusers, whose index i is step i + 1). 'leading' does
# not start at T, which is its known flaw: it takes pure noise for a level with
# some signal.


def _leading(num_steps, n):
  return np.arange(n)[::-1] * (num_steps // n) + 1


def _linspace(num_steps, n):
  return np.rint(np.linspace(0, num_steps - 1, n))[::-1] + 1


def _trailing(num_steps, n):
  return np.rint(num_steps - np.arange(n) * (num_steps / n))


STEP_CHOICES = {'leading': _leading, 'linspace': _linspace, 'trailing': _trailing}


def _step_choice(schedule, count, spacing, t_start, t_end):
  if t_end is not None:
    raise ValueError(f'spacing={spacing!r} chooses its last step: no t_end')
  num_steps = _require_steps(schedule, f'spacing={spacing!r}')
  available = round(t_start * num_steps)
  _check_fit(count, available, num_steps)
  if count == 1 < available and spacing != 'trailing':
    raise ValueError(
      f"spacing={spacing!r} of one step is step 1, the cleanest: take 'trailing' or 'uniform'"
    )
  return schedule(STEP_CHOICES[spacing](available, count) / num_steps)


@checked
def step_levels(schedule: Schedule, steps: Numbers) -> NoiseLevel:
  """Returns the grid [N+1] of some of the steps 1..T and of clean data.

  steps: [N], in any order; ValueError for an empty list, for steps outside 1..T
  and for repeated steps.
  """
  steps = np.sort(np.asarray(steps))[::-1]
  total = _require_steps(schedule, 'step_levels')
  if steps.ndim != 1 or not steps.size or (np.diff(steps) == 0).any():
    raise ValueError('steps must be a list of 1 or more different steps')
  if steps[-1] < 1 or steps[0] > total:
    raise ValueError(f'steps {steps[-1]}..{steps[0]} are not in 1..{total}')
  return _append_clean(schedule(steps / total))


@checked
def staggered(levels: Grid, starts: Numbers) -> NoiseLevel:
  """Gives each element its own start in a grid, [M+1, 1, T], M = N + max(starts).

  Element i stays at levels[0] for starts[i] steps, then visits all levels, and stays at the
  last one (Diffusion Forcing, Chen et al. 2024, section 3.3). With N steps, starts of 0 are
  all together, d i a pyramid of delay d, N i one element after another, and N (i // k)
  blocks of k; -inf holds an element clean, as what is given, and inf at noise, which
  integrates it out. levels: [N+1]; starts: whole numbers or infinite, [T], or ValueError.
  """
  starts = np.asarray(starts)
  if jnp.ndim(levels.alpha) != 1 or starts.ndim != 1 or not starts.size:
    raise ValueError(
      f'staggered takes levels [N+1] and starts [T], not {list(jnp.shape(levels.alpha))} and '
      f'{list(starts.shape)}'
    )
  finite = starts[np.isfinite(starts)]
  if np.isnan(starts).any() or (finite != np.rint(finite)).any():
    raise ValueError(f'starts are whole numbers of steps or infinite, not {starts.tolist()}')
  num_steps = jnp.shape(levels.alpha)[0] - 1
  last = num_steps + int(np.max(finite, initial=0))
  step = np.arange(last + 1.0)[:, None] - starts[None]
  return levels.take(np.clip(step, 0, num_steps).astype(int)[:, None])


def count_steps(levels: Grid, num_steps: int) -> tuple[int, int]:
  """Counts the steps, and the levels between steps, that a grid visits.

  levels: a grid [N+1]; num_steps: T. Each of the steps 1..T counts once; a
  level is at a step if it is within 1e-3 of it.
  """
  position = np.asarray(levels.t, np.float64) * num_steps
  noisy = position[np.asarray(levels.sigma) > 0.0]
  steps = np.rint(noisy)
  at_step = np.abs(noisy - steps) < 1e-3
  return len(np.unique(steps[at_step])), int(np.sum(~at_step))


@checked
def respaced_steps(num_steps: Size, spec: str) -> np.ndarray:
  """Returns the steps of a respaced DDPM of T = num_steps, ascending, int [N].

  The result is for `step_levels`. spec is as in improved-diffusion (Nichol &
  Dhariwal 2021, section 4): '250' is 250 steps evenly spaced from 1 to T,
  '10,15,20' has 10, 15 and 20 steps in equal sections of 1..T, and 'ddim50' is
  1, 1 + k, 1 + 2k, ... for the smallest integer k < T that gives 50 steps.
  ValueError for others, also without such a k.
  """
  name, is_ddim = spec.strip(), spec.strip().startswith('ddim')
  try:
    counts = [int(n) for n in name.removeprefix('ddim').split(',')]
  except ValueError:
    counts = []
  if not counts or min(counts) < 1 or (is_ddim and len(counts) > 1):
    raise ValueError(
      f"{spec!r} does not specify steps: use a form such as '250', '10,15,20' or 'ddim50'"
    )
  if is_ddim:
    return _strided_steps(num_steps, counts[0])
  if counts == [1] and num_steps > 1:
    raise ValueError("'1' keeps only step 1, the cleanest: take one step of a grid instead")
  sections = np.array_split(np.arange(1, num_steps + 1), len(counts))
  kept = [_section_steps(*pair) for pair in zip(sections, counts, strict=True)]
  return np.concatenate(kept)


def _strided_steps(num_steps, count):
  for stride in range(1, num_steps):
    steps = np.arange(1, num_steps + 1, stride)
    if len(steps) == count:
      return steps
  raise ValueError(f'no integer stride through {num_steps} steps keeps exactly {count}')


def _section_steps(section, count):
  size = len(section)
  if count > size:
    raise ValueError(f'{count} steps do not fit in a section of {size}')
  stride = (size - 1) / (count - 1) if count > 1 else 1.0
  # A running sum, unlike a product, rounds halves as the published code does.
  positions = np.cumsum([0.0] + [stride] * (count - 1))
  return section[np.rint(positions).astype(int)]
