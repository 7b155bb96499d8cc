"""Bridges: noisy paths from a source to data (Tong et al. 2023, [SF]2M).

A data point x_0 and a point y of the source are joined by a Brownian bridge,
x_t = (1 - t) x_0 + t y + w(t) z with z ~ N(0, I) and w(t) = diffusion sqrt(t (1
- t)). The velocity and the score of x_t are

  u = E[y - x_0 | x_t] + w'(t) E[z | x_t],   s = -E[z | x_t] / w(t).

A network that predicts the two expectations, which are finite at both ends,
predicts both. With the entropic plan for |x_0 - y|^2 and epsilon = 2
diffusion^2 the path is a Schrodinger bridge; without diffusion it is a line.

x_0, x_t, y, z: [B, ...]; t, s: times in [0, 1], 0 at the data, [] or [B].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import as_time, check_same_shape, expand_to, mean_data_axes
from diffusion_jax.core.normal import Normal

Array = jax.Array


class BridgePrediction(NamedTuple):
  """Holds E[y - x_0 | x_t] and E[z | x_t], [B, ...]."""

  displacement: Array
  z: Array


BridgeFn = Callable[[Array, Array], BridgePrediction]  # (x_t, t) -> prediction


def bridge_width(t: Array | float, diffusion: Array | float) -> Array:
  """Computes w(t) = diffusion sqrt(t (1 - t)), of the shape of t."""
  t = as_time(t)
  return diffusion * jnp.sqrt(jnp.maximum(t * (1.0 - t), 0.0))


def bridge_sample(x0: Array, y: Array, z: Array, t: Array, diffusion: Array | float) -> Array:
  """Computes x_t = (1 - t) x_0 + t y + w(t) z, [B, ...]."""
  check_same_shape(x0=x0, y=y, z=z)
  share, width = (expand_to(a, x0) for a in (as_time(t), bridge_width(t, diffusion)))
  return (1.0 - share) * x0 + share * y + width * z


def bridge_error(prediction: BridgePrediction, x0: Array, y: Array, z: Array) -> Array:
  """Computes |displacement - (y - x_0)|^2 + |E[z] - z|^2, means over axes, [B].

  The losses of Tong et al. 2023 for velocity and score have the same minimum,
  but targets that are infinite at the ends.
  """
  check_same_shape(x0=x0, y=y, z=z, prediction=prediction.displacement)
  square = jnp.square(prediction.displacement - (y - x0)) + jnp.square(prediction.z - z)
  return mean_data_axes(square)


def bridge_velocity(prediction: BridgePrediction, t: Array, diffusion: Array | float) -> Array:
  """Computes u, the slope dx_t/dt of the ODE, [B, ...]; 0 < t < 1.

  For the z and displacement of one pair it is the target of Tong et al. 2023,
  (1 - 2t) / (2t (1 - t)) (x_t - (1 - t) x_0 - t y) + y - x_0.
  """
  t = as_time(t)
  slope = diffusion * (0.5 - t) / jnp.sqrt(t * (1.0 - t))
  return prediction.displacement + expand_to(slope, prediction.z) * prediction.z


def bridge_score(prediction: BridgePrediction, t: Array, diffusion: Array | float) -> Array:
  """Computes s = grad log p_t(x_t), [B, ...]; 0 < t < 1.

  The diffusion has the drift u + diffusion^2 s / 2 towards the source, and
  u - diffusion^2 s / 2 towards the data.
  """
  return -prediction.z / expand_to(bridge_width(t, diffusion), prediction.z)


def bridge_ode_step(
  xt: Array, prediction: BridgePrediction, t: Array, s: Array, diffusion: Array | float
) -> Array:
  """Computes x_s = x_t + (s - t) displacement + (w(s) - w(t)) z, [B, ...].

  It is a step of dx = u dt of first order, which is finite at both ends.
  """
  widths = bridge_width(s, diffusion) - bridge_width(t, diffusion)
  moved = expand_to(s - t, xt) * prediction.displacement
  return xt + moved + expand_to(widths, xt) * prediction.z


def bridge_posterior(
  xt: Array, prediction: BridgePrediction, t: Array, s: Array, diffusion: Array | float
) -> Normal:
  """Computes p(x_s | x_t) for s < t, a step of the diffusion to the data.

  The mean is the step of Euler and Maruyama, the variance diffusion^2 s (t -
  s) / t of a Brownian bridge to the estimate of x_0: the last step has no
  noise.
  """
  t, s = (expand_to(as_time(a), xt) for a in (t, s))
  x0 = xt - t * prediction.displacement - bridge_width(t, diffusion) * prediction.z
  mean = x0 + s / t * (xt - x0)
  return Normal(mean, diffusion**2 * s * (t - s) / t)


def reversed_bridge(predict: BridgeFn) -> BridgeFn:
  """Returns the bridge with data and source exchanged."""

  def predict_reversed(xt, t):
    displacement, z = predict(xt, 1.0 - t)
    return BridgePrediction(-displacement, z)

  return predict_reversed
