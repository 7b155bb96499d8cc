"""Schedules: pytrees that map time t in [0, 1] to a NoiseLevel.

`schedule(t)`, t of shape [] or [B], is the level at time t, and
`schedule.from_logsnr(logsnr)` is the inverse (`levels.Schedule`). Equations
take levels, not schedules. Each schedule is a frozen `pytree_dataclass`, so it
can be an argument of a jitted function. These schedules are in continuous time;
for explicit sequences see `core/step_schedules.py`.

A level has the precision of its time or log-SNR. Times outside [0, 1] and
parameters out of range raise ValueError, except under `jit`, where they do not
have a value yet.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.aliases import Params
from diffusion_jax.core.arguments import (
  as_float,
  as_time,
  check_numbers,
  pytree_dataclass,
)
from diffusion_jax.core.checked import checked
from diffusion_jax.core.levels import NoiseLevel, Schedule, vp_level
from diffusion_jax.declared import declares
from diffusion_jax.ranges import Finite, Positive

Array = jax.Array


@declares(what='cos, sin of an angle linear in t')
@checked
@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class CosineSchedule:
  """alpha = cos(angle), sigma = sin(angle), the angle linear in t.

  Nichol & Dhariwal's cosine in continuous time, cut at the two log-SNRs given
  (Salimans & Ho 2022 use -20 and 20): sigma > 0 at t = 0, alpha > 0 at t = 1.
  """

  logsnr_min: Finite = -20.0
  logsnr_max: Finite = 20.0

  def __post_init__(self):
    _check_ascending(logsnr_min=self.logsnr_min, logsnr_max=self.logsnr_max)

  def __call__(self, t: ArrayLike) -> NoiseLevel:
    t = as_time(t)
    first, last = self._ends()
    span = jnp.pi / 2.0 - first - last
    # cos(angle) is computed as the sine of the other acute angle, which is
    # exact near angle = pi/2.
    return NoiseLevel(t, jnp.sin(last + (1.0 - t) * span), jnp.sin(first + t * span))

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """Returns the level for a log-SNR, clipped to the schedule's range."""
    logsnr = jnp.clip(logsnr, self.logsnr_min, self.logsnr_max)
    first, last = self._ends()
    angle = jnp.arctan(jnp.exp(-0.5 * logsnr))
    t = (angle - first) / (jnp.pi / 2.0 - first - last)
    alpha = jnp.sqrt(jax.nn.sigmoid(logsnr))
    return NoiseLevel(t, alpha, jnp.sqrt(jax.nn.sigmoid(-logsnr)))

  def _ends(self) -> tuple[Array, Array]:
    # The angle at t = 0, and pi/2 minus the angle at t = 1.
    first = jnp.arctan(jnp.exp(-0.5 * self.logsnr_max))
    return first, jnp.arctan(jnp.exp(0.5 * self.logsnr_min))


def _check_ascending(**ends):
  check_numbers(lambda low, high: low < high, ' must be below '.join(ends), **ends)


@declares(what='log α² = −∫β, β linear; σ² = 1 − α²')
@checked
@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class LinearVPSchedule:
  """The VP-SDE with beta(t) linear in t (Song et al. 2021, Eq. 33).

  alpha^2 = exp(-t beta_min - t^2 (beta_max - beta_min) / 2),
  sigma^2 = 1 - alpha^2.
  """

  beta_min: Positive = 0.1
  beta_max: Positive = 20.0

  def __post_init__(self):
    check_numbers(
      lambda low, high: low <= high,
      'beta_min cannot be above beta_max',
      beta_min=self.beta_min,
      beta_max=self.beta_max,
    )

  def __call__(self, t: ArrayLike) -> NoiseLevel:
    t = as_time(t)
    return self._level(t, self._integral(t))

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """Returns the level for a log-SNR, clipped to the schedule's range."""
    value = jnp.clip(self._neg_log_alpha_bar(logsnr), 0.0, self._integral(1.0))
    # This form of the inverse avoids a difference of nearly equal numbers.
    slope = self.beta_max - self.beta_min
    root = jnp.sqrt(self.beta_min**2 + 2.0 * slope * value)
    return self._level(2.0 * value / (self.beta_min + root), value)

  def _integral(self, t):
    # Returns the integral of beta from 0 to t, which is -log alpha^2.
    return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

  def _level(self, t, value):
    return vp_level(t, value)

  def _neg_log_alpha_bar(self, logsnr):
    return jax.nn.softplus(-logsnr)


@declares(what='α of `linear_vp`, σ = 1 − α²')
@checked
@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class SubVPSchedule(LinearVPSchedule):
  """The sub-VP SDE with beta(t) linear in t (Song et al. 2021, Eq. 12, 29).

  alpha is as in `LinearVPSchedule` and sigma = 1 - alpha^2, the square of the
  VP-SDE's, so alpha^2 + sigma^2 dips below 1 between the ends (to 3/4).
  """

  def _level(self, t, value):
    return NoiseLevel(t, jnp.exp(-0.5 * value), -jnp.expm1(-value))

  def _neg_log_alpha_bar(self, logsnr):
    # sigma / alpha = 1 / alpha - alpha = 2 sinh(value / 2)
    most = jnp.sinh(0.5 * self._integral(1.0))
    return 2.0 * jnp.arcsinh(jnp.minimum(0.5 * jnp.exp(-0.5 * logsnr), most))


@declares(what='α = 1, σ geometric (from 0.01 to 50 for data in [0, 1])')
@checked
@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class GeometricVESchedule:
  """The VE-SDE: alpha = 1, sigma geometric in t.

  sigma = sigma_min (sigma_max / sigma_min)^t (Song et al. 2021, Eq. 9, 29). The
  defaults are for CIFAR-10 with data in [-1, 1]: twice the published 0.01 and
  50 for data in [0, 1]. sigma > 0 at t = 0.
  """

  sigma_min: Positive = 0.02
  sigma_max: Positive = 100.0

  def __post_init__(self):
    _check_ascending(sigma_min=self.sigma_min, sigma_max=self.sigma_max)

  def __call__(self, t: ArrayLike) -> NoiseLevel:
    t = as_time(t)
    return NoiseLevel(t, jnp.ones_like(t), self.sigma_min * jnp.exp(t * self._log_ratio()))

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """Returns the level for a log-SNR, clipped to sigma_min at t = 0.

    Beyond sigma_max it continues to t > 1, for the noise that `churn` adds.
    """
    log_sigma = -0.5 * as_float(logsnr)
    beyond = jnp.maximum(log_sigma - jnp.log(self.sigma_min), 0.0)
    sigma = self.sigma_min * jnp.exp(beyond)
    return NoiseLevel(beyond / self._log_ratio(), jnp.ones_like(sigma), sigma)

  def _log_ratio(self):
    return jnp.log(self.sigma_max) - jnp.log(self.sigma_min)


@declares(what='α = 1, σ^(1/ρ) linear')
@checked
@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class KarrasSchedule:
  """EDM's noise levels: alpha = 1, sigma^(1 / rho) linear in t.

  sigma = (sigma_min^(1/rho) + t (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho
  (Karras et al. 2022, Eq. 5), so a uniform grid of N times is EDM's grid.
  """

  sigma_min: Positive = 0.002
  sigma_max: Positive = 80.0
  rho: Positive = 7.0

  def __post_init__(self):
    _check_ascending(sigma_min=self.sigma_min, sigma_max=self.sigma_max)

  def __call__(self, t: ArrayLike) -> NoiseLevel:
    t = as_time(t)
    first, last = self._ends()
    return NoiseLevel(t, jnp.ones_like(t), ((1.0 - t) * first + t * last) ** self.rho)

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """Returns the level for a log-SNR, clipped to sigma_min at t = 0.

    Beyond sigma_max it continues to t > 1, for the noise that `churn` adds.
    """
    logsnr = as_float(logsnr)
    first, last = self._ends()
    root = jnp.maximum(jnp.exp(-0.5 * logsnr / self.rho), first)
    t = (root - first) / (last - first)
    return NoiseLevel(t, jnp.ones_like(t), root**self.rho)

  def _ends(self):
    # sigma^(1 / rho) at t = 0 and t = 1.
    ends = self.sigma_min, self.sigma_max
    return (jnp.asarray(end ** (1.0 / self.rho)) for end in ends)


@declares(what='α = 1 − t, σ = t')
@checked
@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class RectifiedFlowSchedule:
  """The straight path: alpha = 1 - t, sigma = t (Liu et al. 2022).

  This is flow matching's conditional optimal transport with sigma_min = 0
  (Lipman et al. 2022). `shift` multiplies sigma / alpha: sigma = shift t / (1 +
  (shift - 1) t), the resolution-dependent shift of Esser et al. 2024, section
  5.3.2. x is clean at t = 0 and has no signal at t = 1.
  """

  shift: Positive = 1.0

  def __call__(self, t: ArrayLike) -> NoiseLevel:
    t = as_time(t)
    total = (1.0 - t) + self.shift * t  # 1 + (shift - 1) t
    return NoiseLevel(t, (1.0 - t) / total, self.shift * t / total)

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """Returns the level for a log-SNR, which may be infinite."""
    log_ratio = -0.5 * as_float(logsnr)
    t = jax.nn.sigmoid(log_ratio - jnp.log(self.shift))
    return NoiseLevel(t, jax.nn.sigmoid(-log_ratio), jax.nn.sigmoid(log_ratio))


@declares(
  what=('α² = (sig(e) − sig(s + t (e − s))) / (sig(e) − sig(s)), s = start / τ, e = end / τ')
)
@checked
@pytree_dataclass
@dataclasses.dataclass(frozen=True)
class SigmoidSchedule:
  """alpha_bar = alpha^2 falls from 1 to 0 along a logistic curve.

  alpha_bar = (sig(e) - sig(s + t (e - s))) / (sig(e) - sig(s)), s = start / tau
  and e = end / tau (Jabri et al. 2022; Chen 2023). In `sigmoid_betas` the betas
  lie on the curve instead. x is clean at t = 0 and has no signal at t = 1
  (Chen's code stops at alpha_bar = 1e-9).
  """

  start: Finite = -3.0
  end: Finite = 3.0
  tau: Positive = 1.0

  def __post_init__(self):
    _check_ascending(start=self.start, end=self.end)

  def __call__(self, t: ArrayLike) -> NoiseLevel:
    t = as_time(t)
    s, e = self._ends()
    x = (1.0 - t) * s + t * e

    # Both quotients use sig(a) - sig(b) = sig(a) sig(-b) (1 - exp(b - a)).
    def share(part):
      return jnp.expm1(-part * (e - s)) / jnp.expm1(s - e)

    alpha_bar = jax.nn.sigmoid(-x) / jax.nn.sigmoid(-s) * share(1.0 - t)
    variance = jax.nn.sigmoid(x) / jax.nn.sigmoid(e) * share(t)
    return NoiseLevel(t, jnp.sqrt(alpha_bar), jnp.sqrt(variance))

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """Returns the level for a log-SNR, which may be infinite."""
    logsnr = as_float(logsnr)
    s, e = self._ends()
    total = jax.nn.sigmoid(e) * jax.nn.sigmoid(-s) * -jnp.expm1(s - e)

    # The distance from an end of the curve where the curve has risen by this
    # share of its height.
    def distance(share, end):
      height = total * jnp.minimum(share, 0.5)
      above = jnp.log1p(height / jax.nn.sigmoid(end))
      return above - jnp.log1p(-height / jax.nn.sigmoid(-end))

    from_start = distance(jax.nn.sigmoid(-logsnr), s) / (e - s)
    from_end = distance(jax.nn.sigmoid(logsnr), -e) / (e - s)
    t = jnp.where(logsnr > 0.0, from_start, 1.0 - from_end)
    return _sigmoid_level(t, -logsnr)

  def _ends(self):
    return self.start / self.tau, self.end / self.tau


@declares(what='[see below](#shifts-and-ends-without-signal)', needs='`schedule.schedule`')
@checked
@pytree_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ShiftedSchedule:
  """A variance-preserving schedule with sigma / alpha times `shift` > 0.

  This moves the log-SNR by -2 log(shift) at every t. shift = resolution / 64 is
  Hoogeboom et al. 2023 (simple diffusion); Chen 2023's input scaling b is
  shift = 1 / b. `RectifiedFlowSchedule` has its own shift.
  """

  schedule: Schedule
  shift: Positive

  @property
  def num_steps(self) -> int:
    """Returns T; AttributeError unless the schedule has steps."""
    return self.schedule.num_steps  # pyright: ignore[reportAttributeAccessIssue]

  def __call__(self, t: ArrayLike) -> NoiseLevel:
    return self._shifted(self.schedule(t))

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """Returns the level for a log-SNR, clipped to the schedule's range."""
    logsnr = logsnr + 2.0 * jnp.log(self.shift)
    return self._shifted(self.schedule.from_logsnr(logsnr))

  def _shifted(self, level):
    sigma = self.shift * level.sigma
    norm = jnp.sqrt(level.alpha**2 + sigma**2)
    return NoiseLevel(level.t, level.alpha / norm, sigma / norm)


@checked
@pytree_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LearnedSchedule:
  """alpha^2 = sigmoid(-gamma(t)), sigma^2 = sigmoid(gamma(t)).

  gamma(t) = gamma_fn(params, t) = -log SNR, t and gamma [] or [B], increases
  with t (Kingma et al. 2021, section 3.2); `networks.gamma` has three examples.
  params is a pytree of leaves with gradients, gamma_fn is static.
  """

  params: Params
  gamma_fn: Callable[[Params, Array], Array] = dataclasses.field(metadata={'static': True})

  def __call__(self, t: ArrayLike) -> NoiseLevel:
    t = as_time(t)
    return _sigmoid_level(t, self.gamma_fn(self.params, t))

  def from_logsnr(self, logsnr: Array) -> NoiseLevel:
    """Returns the level for a log-SNR, clipped to the schedule's range.

    t is found by bisection, so no gradient flows through it.
    """
    logsnr = as_float(logsnr)
    params = jax.lax.stop_gradient(self.params)
    ends = self.gamma_fn(params, jnp.array([0.0, 1.0], logsnr.dtype))
    gamma = jnp.clip(-logsnr, ends[0], ends[1])

    def halve(_, bounds):
      low, high = bounds
      middle = 0.5 * (low + high)
      below = self.gamma_fn(params, middle) < gamma
      return jnp.where(below, middle, low), jnp.where(below, high, middle)

    bounds = jnp.zeros_like(gamma), jnp.ones_like(gamma)
    # float32 has 24 binary digits, so 26 bisections suffice.
    _, t = jax.lax.fori_loop(0, 26, halve, bounds)
    return _sigmoid_level(t, gamma)


def _sigmoid_level(t: Array, gamma: Array) -> NoiseLevel:
  # sqrt(1 - sigmoid(gamma)) would lose the digits of small values.
  return NoiseLevel(t, jnp.sqrt(jax.nn.sigmoid(-gamma)), jnp.sqrt(jax.nn.sigmoid(gamma)))
