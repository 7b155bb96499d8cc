"""Noise levels: points on a schedule, as two numbers.

A level stores alpha and sigma, not the log-SNR, for precision. In float32 they
determine the log-SNR to 5e-7 for schedules of steps and to 2.5e-6 for all
schedules (log-SNRs from -41 to 22, T up to 4000); a log-SNR stored in float32
would be rounded by up to 1.9e-6. The property `logsnr` is computed in float32
and accurate to 2.5e-6 (tests/core/test_levels.py).
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion_jax.core.arguments import check_numbers, computed_now, expand_to, kind_of
from diffusion_jax.core.checked import needed
from diffusion_jax.ranges import Rule

Array = jax.Array
ROUNDING = 1e-5  # the relative error of an alpha or a sigma


_LEVEL = 'a level, a dj.NoiseLevel(t, alpha, sigma), as a schedule returns'


@needed(_LEVEL)
class NoiseLevel(NamedTuple):
  """A point on a schedule: x_t = alpha * x_0 + sigma * eps.

  The three fields share one shape, which fits the leading axes of x: [], [B]
  with one level per example, [B, T] or [1, T] with one per element (tokens,
  frames). A grid has a leading axis [N+1], which `lax.scan` consumes. Elements are
  independent given x_0, so that every equation holds element by element, and an
  element between equal levels stays. `t` in [0, 1] only serves networks that are
  conditioned on the time or the step.
  """

  t: Array
  alpha: Array
  sigma: Array

  @property
  def logsnr(self) -> Array:
    """Returns log(alpha^2 / sigma^2); +inf if clean, -inf if alpha = 0."""
    return 2.0 * (jnp.log(self.alpha) - jnp.log(self.sigma))

  @property
  def snr(self) -> Array:
    """Returns alpha^2 / sigma^2."""
    return jnp.square(jnp.divide(self.alpha, self.sigma))

  def expand_to(self, x: Array) -> 'NoiseLevel':
    """Reshapes the fields to broadcast against x [B, ...]."""
    check_level(self)  # Equations call NoiseLevel.expand_to(level, x).
    return jax.tree.map(lambda a: expand_to(a, x, 'a noise level'), self)

  def take(self, index: int | slice | np.ndarray | Array) -> 'NoiseLevel':
    """Returns entries of a grid, such as `levels.take(slice(1, None))`.

    (`levels[0]` would be the field `t`, since a NoiseLevel is a tuple.)
    ValueError, NaN under `jit`, for an index outside the grid.
    """
    if not isinstance(index, slice):
      size = jnp.shape(self.alpha)[0]
      rule = f'the grid has the levels 0 to {size - 1}'
      check_numbers(lambda i: (-size <= i) & (i < size), rule, index=index)
    if not isinstance(index, Tracer):
      return jax.tree.map(lambda field: field[index], self)
    return jax.tree.map(lambda field: jnp.asarray(field).at[index].get(mode='fill'), self)


def is_grid(value: Any) -> bool:
  """Returns whether a value is a grid of levels: [N+1], [N+1, B], [N+1, 1, T] or [N+1, B, T]."""
  return isinstance(value, NoiseLevel) and getattr(value.alpha, 'ndim', 0) >= 1


Grid = Annotated[NoiseLevel, Rule('a grid of levels, [N+1], as level_grid returns', is_grid)]


def equal_levels(level: NoiseLevel, other: NoiseLevel) -> Array:
  """Returns whether alpha and sigma of two levels are equal up to rounding."""
  return jnp.isclose(level.alpha, other.alpha, ROUNDING, 0.0) & jnp.isclose(
    level.sigma, other.sigma, ROUNDING, 0.0
  )


def check_axes(levels: NoiseLevel, x: Array) -> None:
  """Raises ValueError for a grid [N+1, T] of x [B, T, ...] with T = B: of examples or elements?"""
  shape = jnp.shape(levels.alpha)
  if len(shape) == 2 and x.ndim > 1 and shape[1] == x.shape[0] == x.shape[1] > 1:
    raise ValueError(
      f'levels {list(shape)} may be of examples or of elements of x {list(x.shape)}: '
      'write [N+1, B, 1] or [N+1, 1, T]'
    )


def select_level(condition: Array, level: NoiseLevel, other: NoiseLevel) -> NoiseLevel:
  """Returns `level` where the condition holds, and `other` elsewhere."""
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), level, other)


def check_level(level: object) -> None:
  """Raises TypeError unless the argument is a `NoiseLevel`."""
  if not isinstance(level, NoiseLevel):
    raise TypeError(f'level must be {_LEVEL}, not {kind_of(level)}')


def check_order(
  level_s: NoiseLevel,
  level_t: NoiseLevel,
  rule: str = 'level s must be the cleaner one: a grid falls from its noisiest',
) -> None:
  """Raises ValueError if level s is noisier than level t, unless traced."""
  check_numbers(
    lambda a, b, c, d: a * d * (1.0 + ROUNDING) >= b * c,
    rule,
    alpha_s=level_s.alpha,
    sigma_s=level_s.sigma,
    alpha_t=level_t.alpha,
    sigma_t=level_t.sigma,
  )


@needed('a schedule, such as CosineSchedule()')
class Schedule(Protocol):
  """A path from clean data at t = 0 to noise at t = 1.

  A schedule is a pytree (`pytree_dataclass`), so it can be an argument of a
  jitted function. A schedule of T steps also has the attribute `num_steps`.
  """

  def __call__(self, t: ArrayLike, /) -> NoiseLevel:
    """Returns the level at t in [0, 1], [] or [B]."""
    ...

  def from_logsnr(self, logsnr: Array, /) -> NoiseLevel:
    """Returns the level with the given log-SNR, [] or [B]."""
    ...


def check_schedule(schedule: Callable[..., object], levels: NoiseLevel | None = None) -> None:
  """Raises ValueError for a schedule from noise to data, unless traced.

  levels: some of its levels [N], the noisiest first, if they are known.
  """
  if levels is None or isinstance(levels.alpha, Tracer):
    levels = _ends_of(schedule)
  if isinstance(levels, NoiseLevel):
    arrays: Any = np.broadcast_arrays(*levels)
    ends = NoiseLevel(*arrays)
    check_order(ends.take(-1), ends.take(0), 'a schedule must go from data to noise')


def _ends_of(schedule):
  return computed_now(lambda t: schedule(t), np.array([1.0, 0.0], np.float32))


def clean_level() -> NoiseLevel:
  """Returns the level of clean data: t = 0, alpha = 1, sigma = 0."""
  return NoiseLevel(jnp.zeros(()), jnp.ones(()), jnp.zeros(()))


def vp_level(t: Array, neg_log_alpha_bar: Array) -> NoiseLevel:
  """Returns the level with alpha^2 = alpha_bar = 1 - sigma^2."""
  alpha = jnp.exp(-0.5 * neg_log_alpha_bar)
  return NoiseLevel(t, alpha, jnp.sqrt(-jnp.expm1(-neg_log_alpha_bar)))


def round_near_step(position: Array, num_steps: int) -> Array:
  """Rounds a position t * T if t is within 1e-6 of a step; the slope stays 1.

  Other positions do not change. float32 resolves t to about 1e-7. For T > 1000
  the tolerance is 1e-3 of a step.
  """
  offset = jax.lax.stop_gradient(jnp.round(position) - position)
  near = jnp.abs(offset) < min(1e-6 * num_steps, 1e-3)
  return jnp.where(near, position + offset, position)


def check_one_level(level: NoiseLevel, what: str, axes: int = 1) -> None:
  """Raises ValueError for levels of more axes; 1: a level for each example, 0: for the batch."""
  shape = jnp.shape(level.alpha)
  if len(shape) > axes:
    takes = ('[]', '[] or [B]', '[], [B] or [B, T]')[axes]
    raise ValueError(
      f'{what} takes levels {takes}, not {list(shape)}: its elements have no levels of their own'
    )
