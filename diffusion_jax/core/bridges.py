"""Bridges: noisy paths between two sets, score and flow matching.

A pair of a data point x_0 and a point y of the source is joined by a Brownian
bridge, x_t = (1 - t) x_0 + t y + w(t) z with w(t) = diffusion sqrt(t (1 - t))
and z ~ N(0, I). Velocity and score of the path are (Tong et al. 2023)

  u = E[y - x_0 | x_t] + w'(t) E[z | x_t],   s = -E[z | x_t] / w(t),

so a network that predicts the two expectations, which are finite at both ends,
predicts both. With entropic pairs, epsilon = 2 diffusion^2 for the cost
|x_0 - y|^2, it is a Schrodinger bridge; diffusion = 0 is flow matching.

x_0, x_t, y, z: [B, ...]; times t in [0, 1], 0 data and 1 source: [] or [B].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import as_time, check_same_shape, data_axes, expand_to
from diffusion_jax.core.normal import Normal

Array = jax.Array


class BridgePrediction(NamedTuple):
  """Holds E[y - x_0 | x_t] and E[z | x_t], [B, ...]."""

  displacement: Array
  z: Array


# Takes (x_t [B, ...], t [] or [B]).
BridgeFn = Callable[[Array, Array], BridgePrediction]


def bridge_width(t: Array | float, diffusion: Array | float) -> Array:
  """Computes w(t) = diffusion sqrt(t (1 - t)), the noise of the path."""
  t = as_time(t)
  return diffusion * jnp.sqrt(jnp.maximum(t * (1.0 - t), 0.0))


def bridge_sample(x0: Array, y: Array, z: Array, t: Array, diffusion: Array | float) -> Array:
  """Computes x_t = (1 - t) x_0 + t y + w(t) z, [B, ...]."""
  check_same_shape(x0=x0, y=y, z=z)
  share, width = (expand_to(a, x0) for a in (as_time(t), bridge_width(t, diffusion)))
  return (1.0 - share) * x0 + share * y + width * z


def bridge_error(prediction: BridgePrediction, x0: Array, y: Array, z: Array) -> Array:
  """Computes |displacement - (y - x_0)|^2 + |z - noise|^2, [B].

  Both are means over the data axes. The minimum has the velocity and the score
  of the losses of Tong et al. 2023, whose targets are infinite at the ends.
  """
  check_same_shape(x0=x0, y=y, z=z, prediction=prediction.displacement)
  square = jnp.square(prediction.displacement - (y - x0)) + jnp.square(prediction.z - z)
  return jnp.mean(square, axis=data_axes(x0))


def bridge_velocity(prediction: BridgePrediction, t: Array, diffusion: Array | float) -> Array:
  """Computes u = dx_t/dt, [B, ...], of the deterministic path; 0 < t < 1.

  Of x_0, y and z themselves it is the target of Tong et al. 2023, (1 - 2t) /
  (2t (1 - t)) (x_t - (1 - t) x_0 - t y) + y - x_0.
  """
  t = as_time(t)
  slope = diffusion * (0.5 - t) / jnp.sqrt(t * (1.0 - t))
  return prediction.displacement + expand_to(slope, prediction.z) * prediction.z


def bridge_score(prediction: BridgePrediction, t: Array, diffusion: Array | float) -> Array:
  """Computes s = grad log p_t(x_t) = -E[z | x_t] / w(t), [B, ...]; 0 < t < 1.

  The drifts of the two diffusions are u + diffusion^2 s / 2 from data to
  source and u - diffusion^2 s / 2 from source to data.
  """
  return -prediction.z / expand_to(bridge_width(t, diffusion), prediction.z)


def bridge_ode_step(
  xt: Array, prediction: BridgePrediction, t: Array, s: Array, diffusion: Array | float
) -> Array:
  """Computes x_s = x_t + (s - t) displacement + (w(s) - w(t)) z, [B, ...].

  It is a step of dx = u dt in either direction, of first order, and exact for a
  constant prediction. It is finite at both ends.
  """
  widths = bridge_width(s, diffusion) - bridge_width(t, diffusion)
  moved = expand_to(s - t, xt) * prediction.displacement
  return xt + moved + expand_to(widths, xt) * prediction.z


def bridge_posterior(
  xt: Array, prediction: BridgePrediction, t: Array, s: Array, diffusion: Array | float
) -> Normal:
  """Computes p(x_s | x_t), 0 <= s < t: a step of the diffusion to the data.

  Its mean is the Euler-Maruyama step of dx = (u - diffusion^2 score / 2) dt,
  and its variance diffusion^2 s (t - s) / t that of the Brownian bridge to the
  estimate of x_0, so that the last step adds no noise.
  """
  t, s = (expand_to(as_time(a), xt) for a in (t, s))
  x0 = xt - t * prediction.displacement - bridge_width(t, diffusion) * prediction.z
  mean = x0 + s / t * (xt - x0)
  return Normal(mean, diffusion**2 * s * (t - s) / t)


def reversed_bridge(predict: BridgeFn) -> BridgeFn:
  """Returns the bridge whose data are the source, and whose source the data."""

  def predict_reversed(xt, t):
    displacement, z = predict(xt, 1.0 - t)
    return BridgePrediction(-displacement, z)

  return predict_reversed
