"""Measurements y of an image: what is known of x_0, and with how much noise."""

import dataclasses
import math
import weakref
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.arguments import (
  as_float,
  check_numbers,
  check_positive,
  computed_now,
  expand_to,
  sum_data_axes,
)
from diffusion_jax.core.checked import checked
from diffusion_jax.ranges import NonNegative, Positive

Array = jax.Array

# x_0 [B, ...] -> [B] in nats: `Measurement.log_prob`, a reward.
LogLikelihood = Callable[[Array], Array]


@checked
@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
  """A measurement y = forward(x_0) + std n, n ~ N(0, I).

  y: [B, ...] or [1, ...]; forward: x_0 [B, ...] -> [B, ...], for each image
  separately; std: in the units of y, [], [B] or like y; 0 is an exact y.
  ValueError for a std that is negative, infinite or NaN, unless it is traced.
  """

  y: Array
  forward: Callable[[Array], Array]
  std: Array | NonNegative = 0.0

  def __post_init__(self):
    check_numbers(lambda x: x >= 0.0, 'it cannot be negative', std=self.std)

  @checked
  def residual(self, x0: Array) -> Array:
    """Computes y - forward(x_0), [B, ...].

    Raises ValueError if y has another shape; its first axis may be 1.
    """
    estimate = as_float(self.forward(as_float(x0)))
    shape, size = jnp.shape(self.y), estimate.shape
    if shape[1:] != size[1:] or shape[:1] not in ((1,), size[:1]):
      raise ValueError(
        f'y has the shape {list(shape)}, and forward(x_0) {list(size)}: they '
        'must be equal, or the first axis of y 1'
      )
    return self.y - estimate

  def variance(self, like: Array) -> Array:
    """Returns std^2, which broadcasts to an array [B, ...]."""
    return expand_to(jnp.asarray(self.std, like.dtype) ** 2, like)

  @checked
  def log_prob(self, x0: Array) -> Array:
    """Computes log p(y | x_0) in nats, [B]; ValueError unless std > 0."""
    check_positive(std=self.std)
    residual = self.residual(x0)
    variance = self.variance(residual)
    square = residual**2 / variance
    return -0.5 * sum_data_axes(square + jnp.log(2.0 * math.pi * variance))

  @checked
  def distance(self, x0: Array) -> Array:
    """Computes |y - forward(x_0)|, [B]."""
    square = sum_data_axes(self.residual(x0) ** 2)
    # The gradient of a square root at 0 would be NaN.
    return jnp.sqrt(square + 1e-12)

  @checked
  def transpose(self, x0: Array) -> Callable[[Array], Array]:
    """Returns the adjoint of `forward`, y -> x, for images of x0's shape.

    Raises TypeError if `forward` is not linear.
    """
    x0 = as_float(x0)
    check_linear(self.forward, x0)
    dtype = jax.eval_shape(self.forward, x0).dtype
    transposed = jax.linear_transpose(self.forward, x0)
    return lambda y: transposed(y.astype(dtype))[0]


def check_linear(forward: Callable[[Array], Array], x0: Array) -> None:
  """Raises TypeError unless `forward` is linear; see `is_linear`."""
  if not is_linear(forward, x0):
    raise TypeError(
      'forward is not linear, as this method needs: take one that needs only log p(y | x_0)'
    )


_ANSWERS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def is_linear(forward: Callable[[Array], Array], x0: Array | np.ndarray) -> bool:
  """Returns whether forward(u + v) is forward(u) + forward(v).

  u and v are random images of x0's shape. A function that depends on traced
  arrays is taken for linear. The answer is kept by function, shape and type.
  """
  try:
    answers = _ANSWERS.setdefault(forward, {})
  except TypeError:  # the callable has no hash or no weak references
    answers = {}
  kind = tuple(x0.shape), jnp.promote_types(x0.dtype, jnp.float32)
  if kind not in answers:
    u, v = np.random.default_rng(0).standard_normal((2, *x0.shape))
    three = np.stack([u, v, u + v]).astype(kind[1])
    # A loop, because `forward` is then traced and compiled once.
    y = computed_now(lambda three: jax.lax.map(forward, three), three)
    if y is None:
      return True
    rounding = 1e-3 if y.dtype.itemsize >= 4 else 0.03  # 0.03 is for bfloat16
    y = y.astype(kind[1])
    summed = y[0] + y[1]
    result = np.abs(y[2] - summed).max() <= rounding * np.abs(summed).max()
    answers[kind] = bool(result)
  return answers[kind]


@checked
def poisson_log_prob(y: Array, forward: Callable[[Array], Array], peak: Positive) -> LogLikelihood:
  """Returns x_0 -> log p(y | x_0) [B] of counts y, in nats.

  The rate of a count is peak (forward(x_0) + 1) / 2, at least 0.001: `peak`
  photons for white.
  """

  def log_prob(x0):
    rate = jnp.maximum(peak * 0.5 * (forward(x0) + 1.0), 1e-3)
    return sum_data_axes(jax.scipy.stats.poisson.logpmf(y, rate))

  return log_prob
