"""Schedules: pytrees that map time t in [0, 1] to a NoiseLevel.

A schedule is called, `schedule(t) -> NoiseLevel`, with t of shape [] or [B],
and inverted, `schedule.from_logsnr(logsnr) -> NoiseLevel`. Nothing else in the
library sees a schedule: every equation takes levels. Each is a frozen dataclass
registered with JAX, so it can be an argument of a jitted function.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.levels import NoiseLevel, snap

Array = jax.Array

# What a last alpha of 0 adds to -log(alpha_bar): alpha = exp(-500) is exactly 0
# in float32, sigma exactly 1, and interpolation stays finite.
_NO_SIGNAL = 1000.0
# Beyond this -log(alpha_bar) alpha is taken as 0: float32 has no normal numbers
# for it (a long list of small alphas comes here).
_UNDERFLOW = 170.0


def _vp_level(t: Array, neg_log_alpha_bar: Array) -> NoiseLevel:
  """The variance-preserving level with alpha^2 = alpha_bar = 1 - sigma^2."""
  alpha = jnp.exp(-0.5 * neg_log_alpha_bar)
  return NoiseLevel(t, alpha, jnp.sqrt(-jnp.expm1(-neg_log_alpha_bar)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DiscreteSchedule:
  """DDPM's T steps, from an explicit sequence of alphas or betas.

  Data: -log(alpha_bar) at steps 0..T, [T+1], entry 0 is 0, float64 on the host.
  Step i is t = i / T. Between steps -log(alpha_bar) is linear in t, which is
  the VP-SDE with a piecewise constant beta; at steps the table is exact.
  """

  neg_log_alpha_bar: Array

  @classmethod
  def from_alphas(cls, alphas) -> 'DiscreteSchedule':
    """alphas: [T], each in (0, 1), any T >= 1; the last may be 0.

    Raises a ValueError that names the position of the first bad entry.
    """
    alphas = _checked('alphas', alphas, last=0.0, identity=1.0)
    return cls._from_log_alphas(alphas, np.log)

  @classmethod
  def from_betas(cls, betas) -> 'DiscreteSchedule':
    """betas: [T], each in (0, 1), any T >= 1; the last may be 1."""
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
    """T."""
    return len(self.neg_log_alpha_bar) - 1

  @property
  def alpha_bars(self) -> Array:
    """alpha_bar_1..alpha_bar_T, [T]."""
    return jnp.exp(-self.neg_log_alpha_bar[1:])

  @property
  def alphas(self) -> Array:
    """alpha_1..alpha_T (DDPM's, one per step), [T]."""
    return jnp.exp(self._log_alphas)

  @property
  def betas(self) -> Array:
    """beta_1..beta_T, [T]."""
    return -jnp.expm1(self._log_alphas)

  @property
  def _log_alphas(self):
    # the difference is taken in the table's own precision, float64 on the host
    return self.neg_log_alpha_bar[:-1] - self.neg_log_alpha_bar[1:]

  def at_step(self, i: int | Array) -> NoiseLevel:
    """Level of step i in 0..T (0 is clean), i of shape [] or [B]."""
    return self(jnp.asarray(i) / self.num_steps)

  def __call__(self, t: Array) -> NoiseLevel:
    """Level at t in [0, 1], [] or [B]."""
    t = jnp.asarray(t, jnp.result_type(float))
    alphas, table, slopes = self._entries()
    position = snap(t * self.num_steps, self.num_steps)
    lower = jnp.clip(jnp.floor(position).astype(int), 0, self.num_steps)
    beyond = (position - lower) * slopes[lower]  # 0 at a step: its own entry
    alpha = alphas[lower] * jnp.exp(-0.5 * beyond)
    sigma = jnp.sqrt(-jnp.expm1(-table[lower] - beyond))
    return NoiseLevel(position / self.num_steps, alpha, sigma)

  def _entries(self):
    # alpha, -log(alpha_bar) and its slope after each of the steps 0..T, [T+1].
    # On the host in float64: exp in float32 loses half a digit where alpha_T is
    # small. A schedule that is an argument of a jitted function has float32.
    table = self.neg_log_alpha_bar
    xp = np if isinstance(table, np.ndarray) else jnp
    slopes = xp.append(xp.diff(table), table[-1] - table[-2])
    alphas = xp.where(table > _UNDERFLOW, 0.0, xp.exp(-0.5 * table))
    return map(jnp.asarray, (alphas, table, slopes))

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """The level of a log-SNR, [] or [B], clipped to the schedule's range."""
    table = jnp.asarray(self.neg_log_alpha_bar)
    value = jnp.clip(jax.nn.softplus(-logsnr), 0.0, table[-1])
    times = jnp.linspace(0.0, 1.0, self.num_steps + 1)
    return _vp_level(jnp.interp(value, table, times), value)


def _checked(name, sequence, last, identity):
  # one list of numbers in (0, 1); `last` may end it, `identity` adds no noise
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
    why = f' ({value:g} is allowed as the last only)' if value == last else why
    raise ValueError(
      f'{name}[{i}] = {value:g}, step {i + 1} of {len(sequence)}, '
      f'is outside (0, 1){why}'
    )
  return sequence


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CosineSchedule:
  """alpha = cos(angle), sigma = sin(angle), the angle linear in t.

  Nichol & Dhariwal's cosine in continuous time, cut at the two log-SNRs given
  (Salimans & Ho 2022 use -20 and 20): sigma > 0 at t = 0, alpha > 0 at t = 1.
  """

  logsnr_min: float = -20.0
  logsnr_max: float = 20.0

  def __call__(self, t: Array) -> NoiseLevel:
    """Level at t in [0, 1], [] or [B]."""
    t = jnp.asarray(t, jnp.result_type(float))
    first, last = self._ends()
    span = jnp.pi / 2.0 - first - last
    # cos(angle) as the sine of the other acute angle: exact near angle = pi/2
    alpha = jnp.sin(last + (1.0 - t) * span)
    return NoiseLevel(t, alpha, jnp.sin(first + t * span))

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """The level of a log-SNR, [] or [B], clipped to the schedule's range."""
    logsnr = jnp.clip(logsnr, self.logsnr_min, self.logsnr_max)
    first, last = self._ends()
    angle = jnp.arctan(jnp.exp(-0.5 * logsnr))
    t = (angle - first) / (jnp.pi / 2.0 - first - last)
    alpha = jnp.sqrt(jax.nn.sigmoid(logsnr))
    return NoiseLevel(t, alpha, jnp.sqrt(jax.nn.sigmoid(-logsnr)))

  def _ends(self) -> tuple[Array, Array]:
    # the angle at t = 0, and how far the angle at t = 1 is from pi/2
    first = jnp.arctan(jnp.exp(-0.5 * self.logsnr_max))
    return first, jnp.arctan(jnp.exp(0.5 * self.logsnr_min))


def _linear_beta_integral(t, beta_min, beta_max):
  # the integral from 0 to t of beta_min + t (beta_max - beta_min)
  return t * (beta_min + 0.5 * (beta_max - beta_min) * t)


def _linear_beta_time(integral, beta_min, beta_max):
  # its inverse, without a difference of nearly equal numbers
  slope = beta_max - beta_min
  root = jnp.sqrt(beta_min**2 + 2.0 * slope * integral)
  return 2.0 * integral / (beta_min + root)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LinearVPSchedule:
  """The VP-SDE with beta(t) linear in t (Song et al. 2021, Eq. 33).

  alpha^2 = exp(-t beta_min - t^2 (beta_max - beta_min) / 2),
  sigma^2 = 1 - alpha^2.
  """

  beta_min: float = 0.1
  beta_max: float = 20.0

  def __call__(self, t: Array) -> NoiseLevel:
    """Level at t in [0, 1], [] or [B]."""
    t = jnp.asarray(t, jnp.result_type(float))
    return _vp_level(t, _linear_beta_integral(t, self.beta_min, self.beta_max))

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """The level of a log-SNR, [] or [B], clipped to the schedule's range."""
    ends = self.beta_min, self.beta_max
    value = jax.nn.softplus(-logsnr)
    value = jnp.clip(value, 0.0, _linear_beta_integral(1.0, *ends))
    return _vp_level(_linear_beta_time(value, *ends), value)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SubVPSchedule:
  """The sub-VP SDE with beta(t) linear in t (Song et al. 2021, Eq. 12, 29).

  alpha as in `LinearVPSchedule`, sigma = 1 - alpha^2: the noise of the VP-SDE
  squared, so alpha^2 + sigma^2 dips below 1 between the ends (to 3/4).
  """

  beta_min: float = 0.1
  beta_max: float = 20.0

  def __call__(self, t: Array) -> NoiseLevel:
    """Level at t in [0, 1], [] or [B]."""
    t = jnp.asarray(t, jnp.result_type(float))
    value = _linear_beta_integral(t, self.beta_min, self.beta_max)
    return self._level(t, value)

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """The level of a log-SNR, [] or [B], clipped to the schedule's range."""
    ends = self.beta_min, self.beta_max
    # sigma / alpha = 1 / alpha - alpha = 2 sinh(value / 2)
    value = 2.0 * jnp.arcsinh(0.5 * jnp.exp(-0.5 * logsnr))
    value = jnp.clip(value, 0.0, _linear_beta_integral(1.0, *ends))
    return self._level(_linear_beta_time(value, *ends), value)

  def _level(self, t, value):
    return NoiseLevel(t, jnp.exp(-0.5 * value), -jnp.expm1(-value))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GeometricVESchedule:
  """The VE-SDE: alpha = 1, sigma a geometric sequence in t.

  sigma = sigma_min (sigma_max / sigma_min)^t (Song et al. 2021, Eq. 9, 29;
  defaults are CIFAR-10's). sigma > 0 at t = 0.
  """

  sigma_min: float = 0.01
  sigma_max: float = 50.0

  def __call__(self, t: Array) -> NoiseLevel:
    """Level at t in [0, 1], [] or [B]."""
    t = jnp.asarray(t, jnp.result_type(float))
    sigma = self.sigma_min * jnp.exp(t * self._log_ratio())
    return NoiseLevel(t, jnp.ones_like(t), sigma)

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """The level of a log-SNR, [] or [B], clipped to sigma_min at t = 0.

    Beyond sigma_max it goes on to t > 1, where churn asks for more noise.
    """
    log_sigma = -0.5 * jnp.asarray(logsnr, jnp.result_type(float))
    beyond = jnp.maximum(log_sigma - jnp.log(self.sigma_min), 0.0)
    sigma = self.sigma_min * jnp.exp(beyond)
    return NoiseLevel(beyond / self._log_ratio(), jnp.ones_like(sigma), sigma)

  def _log_ratio(self):
    return jnp.log(self.sigma_max) - jnp.log(self.sigma_min)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LearnedSchedule:
  """alpha^2 = sigmoid(-gamma(t)), sigma^2 = sigmoid(gamma(t)).

  gamma(t) = gamma_fn(params, t) = -log SNR, t and gamma [] or [B], increases
  with t (Kingma et al. 2021, section 3.2). params is a pytree to take gradients
  of; gamma_fn is part of the structure. `networks.gamma` has three.
  """

  params: Any
  gamma_fn: Callable[[Any, Array], Array] = dataclasses.field(
    metadata={'static': True}
  )

  def __call__(self, t: Array) -> NoiseLevel:
    """Level at t in [0, 1], [] or [B]."""
    t = jnp.asarray(t, jnp.result_type(float))
    return _sigmoid_level(t, self.gamma_fn(self.params, t))

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """The level of a log-SNR, [] or [B], clipped to the schedule's range.

    t is found by bisection, so no gradient flows through it.
    """
    logsnr = jnp.asarray(logsnr, jnp.result_type(float))
    params = jax.lax.stop_gradient(self.params)
    ends = self.gamma_fn(params, jnp.array([0.0, 1.0]))
    gamma = jnp.clip(-logsnr, ends[0], ends[1])

    def halve(_, bounds):
      low, high = bounds
      middle = 0.5 * (low + high)
      below = self.gamma_fn(params, middle) < gamma
      return jnp.where(below, middle, low), jnp.where(below, high, middle)

    bounds = jnp.zeros_like(gamma), jnp.ones_like(gamma)
    # float32 has 24 binary digits
    _, t = jax.lax.fori_loop(0, 26, halve, bounds)
    return _sigmoid_level(t, gamma)


def _sigmoid_level(t: Array, gamma: Array) -> NoiseLevel:
  # never sqrt(1 - sigmoid): each is accurate where it is small
  alpha = jnp.sqrt(jax.nn.sigmoid(-gamma))
  return NoiseLevel(t, alpha, jnp.sqrt(jax.nn.sigmoid(gamma)))
