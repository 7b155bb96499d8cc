"""The losses of few-step models, one short function for each equation.

They take functions, not networks: u_fn(x [B, ...], t [B], s [B]) -> average
velocity [B, ...] and f_fn(x, level) -> x_0 [B, ...]. Times run from 0 (clean)
to 1 (noise); v is dx_t/dt, eps - x_0 on the straight path. Errors are means
over the data axes, [B]; papers that sum differ by a factor. No gradient flows
through targets. `jax.jvp` computes products with Jacobians, so the functions
need forward-mode rules, which cuDNN's attention lacks. Compute in float32:
these products have diverged in bfloat16.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import (
  check_same_shape,
  expand_to,
  mean_data_axes,
  sum_data_axes,
)
from diffusion_jax.core.levels import NoiseLevel, select_level
from diffusion_jax.ranges import NonNegative

Array = jax.Array
VelocityFn = Callable[[Array, Array, Array], Array]
ConsistencyFn = Callable[[Array, NoiseLevel], Array]
Distance = Callable[[Array, Array], Array]
sg = jax.lax.stop_gradient


def squared_error(a: Array, b: Array) -> Array:
  """Computes |a - b|^2, the mean over data axes, [B]."""
  check_same_shape(a=a, b=b)
  return mean_data_axes(jnp.square(a - b))


def adaptive_loss(error: Array, power: float, offset: float = 1e-3) -> Array:
  """Computes e / sg((e + c)^p), [B] (Geng et al. 2025, section 4.3).

  It has the gradient of (e + c)^(1 - p) / (1 - p): p = 0 is the squared error,
  p = 1/2 pseudo-Huber, p = 1 the Cauchy loss log(e + c), whose minimum is near
  a mode instead of at the mean.
  """
  if power == 0.0:
    return error
  return error / sg((error + offset) ** power)


# MeanFlow


def total_derivative(
  u_fn: VelocityFn, xt: Array, tangent: Array, t: Array, s: Array
) -> tuple[Array, Array]:
  """Returns u and du/dt = d_t u + tangent . grad_x u at fixed s, [B, ...]."""
  tangents = tangent, jnp.ones_like(t), jnp.zeros_like(s)
  return jax.jvp(u_fn, (xt, t, s), tangents)


def mean_flow_error(u_fn: VelocityFn, xt: Array, v: Array, t: Array, s: Array) -> Array:
  """Computes |u - sg(v - (t - s) du/dt)|^2, [B] (Geng et al. 2025, Eq. 9-11).

  xt, v: [B, ...]; t, s: [B]. du/dt is the derivative along v.
  """
  u, du = total_derivative(u_fn, xt, v, t, s)
  return squared_error(u, sg(v - expand_to(t - s, xt) * du))


def improved_mean_flow_error(
  u_fn: VelocityFn, xt: Array, v: Array, t: Array, s: Array
) -> tuple[Array, Array]:
  """Computes |u + (t - s) sg(du/dt) - v|^2 and |u(t, t) - v|^2, each [B].

  In improved MeanFlow (Geng et al. 2025b) du/dt is the derivative along the
  network's own velocity u(x_t, t, t), not along v. The target is then v itself,
  so losses of different models can be compared.
  """
  own = u_fn(xt, t, t)
  u, du = total_derivative(u_fn, xt, sg(own), t, s)
  compound = u + expand_to(t - s, xt) * sg(du)
  return squared_error(compound, v), squared_error(own, v)


def guided_velocity(v: Array, conditional: Array, null: Array, omega: Array, kappa: Array) -> Array:
  """Computes omega v + kappa u_c + (1 - omega - kappa) u_0, [B, ...].

  This is guidance with the scale omega / (1 - kappa); u_c and u_0 are the
  network's own velocities u(x_t, t, t) with and without the condition
  (MeanFlow, sections 4.2 and B, Geng et al. 2025). omega, kappa: [] or [B].
  """
  omega, kappa = expand_to(omega, v), expand_to(kappa, v)
  return omega * v + kappa * conditional + (1.0 - omega - kappa) * null


# Shortcut models and self-distillation


def two_step_velocity(
  u_fn: VelocityFn, xt: Array, t: Array, s: Array, share: Array | float = 0.5
) -> Array:
  """Computes the mean velocity over two steps from t to s, [B, ...].

  It is the target for one step: of shortcut models with two equal steps (Frans
  et al. 2024, Eq. 4), of progressive self-distillation with a first step of any
  share of t - s in [0, 1] (Boffi et al. 2025). t, s: [B]; share: [] or [B].
  """
  middle = t - share * (t - s)
  first = u_fn(xt, t, middle)
  second = u_fn(xt - expand_to(t - middle, xt) * first, middle, s)
  share = expand_to(share, xt)
  return sg(share * first + (1.0 - share) * second)


def lagrangian_error(u_fn: VelocityFn, xt: Array, t: Array, s: Array) -> Array:
  """Computes |dX/ds - sg u(X, s, s)|^2, [B] (Boffi et al. 2025).

  It is 0 where the map X = x_t - (t - s) u(x_t, t, s) follows the velocity in
  its end point. dX/ds = u - (t - s) du/ds, a derivative in s only.
  """
  u, du = jax.jvp(lambda s: u_fn(xt, t, s), (s,), (jnp.ones_like(s),))
  elapsed = expand_to(t - s, xt)
  velocity = u_fn(xt - elapsed * u, s, s)
  return squared_error(u - elapsed * du, sg(velocity))


# Progressive distillation


def two_step_target(xs: Array, xt: Array, level_s: NoiseLevel, level_t: NoiseLevel) -> Array:
  """Computes the x_0 for which one DDIM step from x_t ends at x_s, [B, ...].

  It is (x_s - (sigma_s / sigma_t) x_t) / (alpha_s - (sigma_s / sigma_t)
  alpha_t); two steps of the teacher give x_s (Salimans & Ho 2022, Alg. 2).
  """
  check_same_shape(xs=xs, xt=xt)
  s, t = level_s.expand_to(xt), level_t.expand_to(xt)
  ratio = s.sigma / t.sigma
  return sg((xs - ratio * xt) / (s.alpha - ratio * t.alpha))


# Consistency models


def pseudo_huber(offset: NonNegative | None = None) -> Distance:
  """Makes the distance sqrt(|a - b|^2 + c^2) - c, [B].

  The default c = 0.00054 sqrt(D), for D numbers in an example, is from Song &
  Dhariwal 2024, section 3.3. c = 0 is ECT's norm (Geng et al. 2024).
  """

  def distance(a, b):
    check_same_shape(a=a, b=b)
    c = 0.00054 * (a.size // len(a)) ** 0.5 if offset is None else offset
    square = sum_data_axes(jnp.square(a - b)) + c**2
    # The gradient of a root is infinite at 0.
    return jnp.sqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny)) - c

  return distance


def consistency_error(
  f_fn: ConsistencyFn,
  target_fn: ConsistencyFn,
  xt: Array,
  xr: Array,
  level_t: NoiseLevel,
  level_r: NoiseLevel,
  distance: Distance = squared_error,
) -> Array:
  """Computes d(f(x_t, t), sg f'(x_r, r)), [B] (Song et al. 2023, Eq. 7, 10).

  x_r has the same noise as x_t (training) or is one solver step away from it
  (distillation). If r is clean the target is x_r itself.
  """
  noisy = level_r.sigma > 0.0
  # The input of a network may be infinite at a clean level.
  safe = select_level(noisy, level_r, level_t)
  target = jnp.where(expand_to(noisy, xr), target_fn(xr, safe), xr)
  return distance(f_fn(xt, level_t), sg(target))


def trigflow_tangent(
  output_fn: Callable[[Array, Array], Array],
  x: Array,
  angle: Array,
  velocity: Array,
  warmup: Array | float = 1.0,
  sigma_data: float = 0.5,
) -> tuple[Array, Array]:
  """Returns sg F and g = cos(a) df/da, each [B, ...] (Lu & Song 2025, Alg. 1).

  g = -cos^2 (s_d F - dx/da) - r cos sin (x + s_d dF/da) with r = warmup in
  [0, 1] and f = cos(a) x - sin(a) s_d F. output_fn: (x / s_d, a [B]) -> F;
  velocity: dx/da, cos(a) z - sin(a) x_0 or a teacher's s_d F. The tangents
  include the factor cos(a) sin(a), which keeps the product finite at the noisy
  end.
  """
  cos, sin = (expand_to(f(angle), x) for f in (jnp.cos, jnp.sin))
  tangents = cos * sin * velocity / sigma_data, jnp.cos(angle) * jnp.sin(angle)
  output, slope = jax.jvp(output_fn, (x / sigma_data, angle), tangents)
  g = -(cos**2) * (sigma_data * output - velocity)
  g -= warmup * (cos * sin * x + sigma_data * slope)
  return sg(output), sg(g)


def normalized(g: Array, offset: float = 0.1) -> Array:
  """Computes g / (|g| + c) for each example (Lu & Song 2025, section 4)."""
  norm = jnp.sqrt(sum_data_axes(jnp.square(g)))
  return g / expand_to(norm + offset, g)
