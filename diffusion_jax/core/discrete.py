"""Schedules of T steps, from an explicit sequence of alphas or betas."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from diffusion_jax.core.arguments import (
  as_float,
  as_time,
  check_numbers,
  pytree_dataclass,
)
from diffusion_jax.core.betas import zero_terminal_snr
from diffusion_jax.core.levels import NoiseLevel, round_near_step, vp_level

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


@pytree_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DiscreteSchedule:
  """A schedule of T steps from an explicit sequence of alphas or betas.

  It stores -log(alpha_bar) at steps 0..T, [T+1], in float64 on the host. Step i
  is t = i / T. Between steps -log(alpha_bar) is linear in t, which is the
  VP-SDE with a piecewise constant beta; at steps it is exact.
  """

  neg_log_alpha_bar: np.ndarray | Array

  @classmethod
  def from_alphas(
    cls, values: Sequence[float] | np.ndarray = ()
  ) -> 'DiscreteSchedule':
    """Makes a schedule from alphas [T], each in (0, 1); the last may be 0.

    Raises ValueError with the position of the first bad entry.
    """
    alphas = _checked('alphas', values, last=0.0, identity=1.0)
    return cls._from_log_alphas(alphas, np.log)

  @classmethod
  def from_betas(cls, betas: npt.ArrayLike) -> 'DiscreteSchedule':
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

  def at_step(self, i: int | Array) -> NoiseLevel:
    """Returns the level of step i in 0..T (0 is clean), i of shape [] or [B].

    Raises ValueError for concrete steps outside 0..T.
    """
    last = self.num_steps
    check_numbers(
      lambda step: (0 <= step) & (step <= last), f'steps are in 0..{last}', i=i
    )
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
    beyond = (position - lower) * slopes[below]  # 0 at a step: its own entry
    alpha = alphas[lower] * jnp.exp(-0.5 * beyond)
    sigma = jnp.sqrt(-jnp.expm1(-table[lower] - beyond))
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
    level = vp_level(jnp.interp(value, table, times), value)
    return NoiseLevel(*(field.astype(logsnr.dtype) for field in level))


def of_betas(
  make_betas: Callable[..., np.ndarray],
) -> Callable[..., DiscreteSchedule]:
  """Returns the constructor of the schedule that has these betas.

  It has the parameters of make_betas, such as `linear_betas`.
  """

  @functools.wraps(make_betas)
  def schedule(**parameters):
    return DiscreteSchedule.from_betas(make_betas(**parameters))

  return schedule


def betas_of(schedule: object, user: str) -> np.ndarray:
  """Returns the betas of a schedule of steps, float64 [T].

  Raises ValueError, about the function `user`, for another schedule.
  """
  if not isinstance(schedule, DiscreteSchedule):
    raise ValueError(
      f'{user} needs the betas of a schedule of steps, such as linear'
    )
  return -np.expm1(-np.diff(np.asarray(schedule.neg_log_alpha_bar)))


def with_zero_terminal_snr(schedule: DiscreteSchedule) -> DiscreteSchedule:
  """Rescales the betas of a schedule: alpha_bar_T = 0 (Lin et al. 2023)."""
  betas = betas_of(schedule, 'zero_terminal_snr')
  return DiscreteSchedule.from_betas(zero_terminal_snr(betas))


def _checked(name, sequence, last, identity):
  # The numbers must be in (0, 1), but the final one may be `last`. `identity`
  # is the value that adds no noise.
  try:
    sequence = np.asarray(sequence, np.float64)
  except (TypeError, ValueError):
    raise ValueError(
      f'{name} must be a list of numbers, got {sequence!r}'
    ) from None
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
      f'{name}[{i}] = {value:g}, step {i + 1} of {len(sequence)}, '
      f'is outside (0, 1){why}'
    )
  return sequence
