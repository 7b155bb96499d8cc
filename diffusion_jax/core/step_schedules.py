"""Schedules of T steps, from a sequence of alphas or betas; published betas.

The published sequences are NumPy float64 arrays of length T.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion_jax.core.arguments import (
  as_float,
  as_time,
  check_numbers,
  pytree_dataclass,
)
from diffusion_jax.core.checked import Numbers, checked
from diffusion_jax.core.levels import NoiseLevel, round_near_step, vp_level
from diffusion_jax.declared import declares
from diffusion_jax.meshes import on_auto_axes
from diffusion_jax.ranges import Count, Levels, NonNegative, Probability

Array = jax.Array

# What a last alpha of 0 adds to -log(alpha_bar): alpha = exp(-500) is exactly 0
# in float32, sigma exactly 1, and interpolation stays finite.
_NO_SIGNAL = 1000.0
# Above this -log(alpha_bar), which a long list of small alphas reaches, alpha
# is 0: it would not be a normal number in float32.
_UNDERFLOW = 170.0


def num_steps_of(schedule: object) -> int | None:
  """Returns T of a schedule of steps; None in continuous time."""
  return getattr(schedule, 'num_steps', None)


@checked
@pytree_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DiscreteSchedule:
  """A schedule of T steps from an explicit sequence of alphas or betas.

  It stores -log(alpha_bar) at steps 0..T, [T+1], in float64 on the host. Step i
  is t = i / T. Between steps -log(alpha_bar) is linear in t, which is the
  VP-SDE with a piecewise constant beta; at steps it is exact. ValueError for a
  table that does not begin at 0, or falls.
  """

  neg_log_alpha_bar: np.ndarray | Array

  def __post_init__(self):
    table = self.neg_log_alpha_bar
    if isinstance(table, Tracer):
      return
    table = np.asarray(table)
    fits = table.ndim == 1 and len(table) > 1 and np.isfinite(table).all()
    if not fits or table[0] != 0.0 or table[-1] == 0.0 or (np.diff(table) < 0.0).any():
      raise ValueError(
        'neg_log_alpha_bar must be -log(alpha_bar) at steps 0..T, which begins at 0 and rises: '
        'DiscreteSchedule.from_betas(betas) and from_alphas(alphas) compute it'
      )

  @classmethod
  @declares(what='the list α_1 … α_T, clean at 0', needs='`schedule.values`')
  def from_alphas(cls, values: Sequence[float] | np.ndarray = ()) -> 'DiscreteSchedule':
    """Makes a schedule from alphas [T], each in (0, 1); the last may be 0.

    Raises ValueError with the position of the first bad entry.
    """
    return cls._from_log_alphas(_checked('alphas', values, last=0.0, identity=1.0), np.log)

  @classmethod
  def from_betas(cls, betas: Numbers) -> 'DiscreteSchedule':
    """Makes a schedule from betas [T], each in (0, 1); the last may be 1.

    Raises ValueError with the position of the first bad entry.
    """
    betas = _checked('betas', betas, last=1.0, identity=0.0)
    return cls._from_log_alphas(betas, lambda beta: np.log1p(-beta))

  @classmethod
  def _from_log_alphas(cls, sequence, log_alpha):
    with np.errstate(divide='ignore'):
      steps = -log_alpha(sequence)
    steps[np.isinf(steps)] = _NO_SIGNAL
    return cls(np.append(0.0, np.cumsum(steps)))

  @property
  def num_steps(self) -> int:
    """Returns T."""
    return len(self.neg_log_alpha_bar) - 1

  @property
  def alpha_bars(self) -> Array:
    """Returns alpha_bar_1..alpha_bar_T, [T]."""
    return jnp.exp(-self.neg_log_alpha_bar[1:])

  @property
  def alphas(self) -> Array:
    """Returns alpha_1..alpha_T (DDPM's, one per step), [T]."""
    return jnp.exp(self._log_alphas)

  @property
  def betas(self) -> Array:
    """Returns beta_1..beta_T, [T]."""
    return -jnp.expm1(self._log_alphas)

  @property
  def _log_alphas(self):
    # The difference keeps the precision of the table, float64 on the host.
    return self.neg_log_alpha_bar[:-1] - self.neg_log_alpha_bar[1:]

  @checked
  def at_step(self, i: Count | Array) -> NoiseLevel:
    """Returns the level of step i in 0..T (0 is clean), i of shape [] or [B].

    Raises ValueError for concrete steps outside 0..T.
    """
    last = self.num_steps
    check_numbers(lambda step: (0 <= step) & (step <= last), f'steps are in 0..{last}', i=i)
    return self(jnp.asarray(i) / last)

  def __call__(self, t: ArrayLike) -> NoiseLevel:
    """Returns the level at t in [0, 1], [] or [B].

    The slope in t at step i belongs to the interval below it: beta(t) is
    constant on (i - 1, i], so a step of the reverse SDE from i to i - 1 undoes
    alpha_i.
    """
    t = as_time(t)
    alphas, table, slopes = self._entries()
    position = round_near_step(t * self.num_steps, self.num_steps)
    lower = jnp.clip(jnp.floor(position).astype(int), 0, self.num_steps)
    below = jnp.clip(jnp.ceil(position).astype(int) - 1, 0, self.num_steps - 1)
    beyond = (position - lower) * _at(below, slopes)  # 0 at a step: its own entry
    alpha = _at(lower, alphas) * jnp.exp(-0.5 * beyond)
    sigma = jnp.sqrt(-jnp.expm1(-_at(lower, table) - beyond))
    level = position / self.num_steps, alpha, sigma
    return NoiseLevel(*(field.astype(t.dtype) for field in level))

  def _entries(self):
    # Returns alpha and -log(alpha_bar) at steps 0..T, [T+1], and the slopes of
    # -log(alpha_bar) between them, [T]. The host computes them in float64,
    # since exp in float32 loses half a digit where alpha_T is small. As an
    # argument of a jitted function the table has float32.
    table = self.neg_log_alpha_bar
    xp = np if isinstance(table, np.ndarray) else jnp
    alphas = xp.where(table > _UNDERFLOW, 0.0, xp.exp(-0.5 * table))
    return map(jnp.asarray, (alphas, table, xp.diff(table)))

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """Returns the level for a log-SNR, clipped to the schedule's range."""
    logsnr = as_float(logsnr)
    table = jnp.asarray(self.neg_log_alpha_bar)
    value = jnp.clip(jax.nn.softplus(-logsnr), 0.0, table[-1])
    times = jnp.linspace(0.0, 1.0, self.num_steps + 1)
    level = vp_level(_interpolated(value, table, times), value)
    return NoiseLevel(*(field.astype(logsnr.dtype) for field in level))


@on_auto_axes
def _at(index, table):
  return table[index]


@on_auto_axes
def _interpolated(x, places, values):
  return jnp.interp(x, places, values)


def of_betas(make_betas: Callable[..., np.ndarray]) -> Callable[..., DiscreteSchedule]:
  """Returns the constructor of the schedule that has these betas.

  It has the parameters of make_betas, such as `linear_betas`.
  """

  @declares(what='ᾱ of T steps, −log ᾱ linear between them')
  @functools.wraps(make_betas)
  def schedule(**parameters):
    return DiscreteSchedule.from_betas(make_betas(**parameters))

  return schedule


def betas_of(schedule: object, user: str) -> np.ndarray:
  """Returns the betas of a schedule of steps, float64 [T].

  Raises ValueError, about the function `user`, for another schedule.
  """
  if not isinstance(schedule, DiscreteSchedule):
    raise ValueError(f'{user} needs the betas of a schedule of steps, such as linear')
  return -np.expm1(-np.diff(np.asarray(schedule.neg_log_alpha_bar)))


@declares(what='[see below](#shifts-and-ends-without-signal)', needs='`schedule.schedule`')
def with_zero_terminal_snr(schedule: DiscreteSchedule) -> DiscreteSchedule:
  """Rescales the betas of a schedule: alpha_bar_T = 0 (Lin et al. 2023)."""
  return DiscreteSchedule.from_betas(zero_terminal_snr(betas_of(schedule, 'zero_terminal_snr')))


def _checked(name, sequence, last, identity):
  # The numbers must be in (0, 1), but the final one may be `last`.
  try:
    sequence = np.asarray(sequence, np.float64)
  except (TypeError, ValueError):
    raise ValueError(f'{name} must be a list of numbers, got {sequence!r}') from None
  if sequence.ndim != 1 or not len(sequence):
    what = 'empty' if not sequence.size else f'an array {list(sequence.shape)}'
    raise ValueError(f'the list of {name} is {what}: give a list of 1 or more')
  inside = (sequence > 0.0) & (sequence < 1.0)
  inside[-1] |= sequence[-1] == last
  if not inside.all():
    i = int(np.argmin(inside))
    value = float(sequence[i])
    why = f' ({value:g} adds no noise)' if value == identity else ''
    if value == last:
      why = f' ({value:g} is allowed only as the last)'
    raise ValueError(
      f'{name}[{i}] = {value:g}, step {i + 1} of {len(sequence)}, is outside (0, 1){why}'
    )
  return sequence


@checked
def linear_betas(
  num_steps: Levels = 1000, start: NonNegative = 1e-4, end: NonNegative = 0.02
) -> np.ndarray:
  """Returns betas evenly spaced from `start` to `end` (DDPM section 4), [T]."""
  return np.linspace(start, end, num_steps, dtype=np.float64)


@checked
def rescaled_linear_betas(num_steps: Levels = 1000) -> np.ndarray:
  """Returns DDPM's linear betas times 1000 / T (Nichol & Dhariwal's code), [T].

  This keeps alpha_bar_T near DDPM's 4e-5 for any T. At T = 20 the last beta is
  1, zero terminal SNR; for smaller T it is above 1, which `from_betas` refuses.
  """
  scale = 1000.0 / num_steps
  return linear_betas(num_steps, 1e-4 * scale, 0.02 * scale)


@checked
def quadratic_betas(
  num_steps: Levels = 1000, start: NonNegative = 1e-4, end: NonNegative = 0.02
) -> np.ndarray:
  """Returns betas with evenly spaced square roots (DDPM's 'quad'), [T]."""
  return linear_betas(num_steps, start**0.5, end**0.5) ** 2


@checked
def scaled_linear_betas(
  num_steps: Levels = 1000, start: NonNegative = 0.00085, end: NonNegative = 0.012
) -> np.ndarray:
  """Returns latent diffusion's 'scaled_linear': `quadratic_betas`, [T]."""
  return quadratic_betas(num_steps, start, end)


@checked
def cosine_betas(
  num_steps: Levels = 1000, s: NonNegative = 0.008, max_beta: Probability = 0.999
) -> np.ndarray:
  """Returns min(1 - abar(i/T) / abar((i-1)/T), max_beta) (IDDPM Eq. 17), [T].

  abar(t) = cos^2((t + s) / (1 + s) * pi / 2), up to a constant that cancels.
  """
  t = np.linspace(0.0, 1.0, num_steps + 1)
  alpha_bars = np.cos((t + s) / (1.0 + s) * np.pi / 2.0) ** 2
  return np.minimum(1.0 - alpha_bars[1:] / alpha_bars[:-1], max_beta)


@checked
def sigmoid_betas(
  num_steps: Levels = 1000, start: NonNegative = 1e-4, end: NonNegative = 0.02
) -> np.ndarray:
  """Returns a logistic curve over [-6, 6] from start to end (GeoDiff), [T]."""
  curve = 1.0 / (1.0 + np.exp(-np.linspace(-6.0, 6.0, num_steps)))
  return curve * (end - start) + start


@checked
def constant_betas(num_steps: Levels = 1000, value: NonNegative = 0.02) -> np.ndarray:
  """Returns `value` at every step ('const' in DDPM), [T]."""
  return linear_betas(num_steps, value, value)


@checked
def warmup_betas(
  num_steps: Levels = 1000,
  fraction: Probability = 0.1,
  start: NonNegative = 1e-4,
  end: NonNegative = 0.02,
) -> np.ndarray:
  """Returns a line to `end` over the first fraction * T steps, then `end`, [T].

  Ho et al.'s 'warmup10' and 'warmup50' use the fractions 0.1 and 0.5.
  """
  betas = constant_betas(num_steps, end)
  ramp = int(num_steps * fraction)
  betas[:ramp] = np.linspace(start, end, ramp)
  return betas


@checked
def reciprocal_betas(num_steps: Levels = 1000) -> np.ndarray:
  """Returns 1/T, 1/(T-1), ..., 1 ('jsd' in DDPM; Sohl-Dickstein 2015), [T].

  alpha_bar_i = 1 - i/T falls linearly to exactly zero.
  """
  return 1.0 / np.arange(num_steps, 0, -1, dtype=np.float64)


@checked
def zero_terminal_snr(betas: Numbers) -> np.ndarray:
  """Rescales betas [T] so that the last alpha_bar is 0 and the first is kept.

  It shifts and scales sqrt(alpha_bar) (Lin et al. 2023, Common Diffusion Noise
  Schedules and Sample Steps are Flawed, Alg. 1). T must be at least 2.
  """
  betas = np.asarray(betas, np.float64)
  if betas.ndim != 1 or len(betas) < 2:
    raise ValueError('zero_terminal_snr needs a sequence of 2 or more betas')
  root = np.sqrt(np.cumprod(1.0 - betas))
  root = (root - root[-1]) * root[0] / (root[0] - root[-1])
  alpha_bars = np.concatenate([[1.0], root**2])
  return 1.0 - alpha_bars[1:] / alpha_bars[:-1]
