"""The objective of bridges, from the points of a source to the data."""

import jax
import jax.numpy as jnp

from diffusion_jax.core.bridges import BridgePrediction, bridge_error, bridge_sample
from diffusion_jax.core.denoiser import Network
from diffusion_jax.core.levels import Schedule
from diffusion_jax.core.losses import TimeSampler, uniform_times
from diffusion_jax.ranges import NonNegative
from diffusion_jax.training.objectives import Objective, draw_inputs, mean_loss

Array = jax.Array


def bridge(
  network: Network,
  schedule: Schedule,
  *,
  diffusion: NonNegative = 0.5,
  times: TimeSampler = uniform_times,
) -> Objective:
  """Makes score and flow matching on bridges (Tong et al. 2023), `bridge_error`.

  The points of the source are batch['context'], as models see x. diffusion: of
  the path, in the units of models; 0 makes it flow matching. The schedule is
  `RectifiedFlowSchedule`. params: {'network': ...}, whose output is
  `predicted`. Metrics: loss, also per quarter of t.
  """
  network.check_options('bridge')

  def draw(key, batch, context):
    inputs, keys = draw_inputs(key, batch, schedule, network, times)
    if not diffusion:
      inputs = inputs._replace(eps=jnp.zeros_like(inputs.eps))
    return (inputs, batch['context']), keys

  def loss(params, context, inputs, keys):
    (x0, z, level, time_weight, cond, *_), y = inputs
    xt = bridge_sample(x0, y, z, level.t, diffusion)
    output = network.output(params['network'], xt, level, cond, keys[0])
    losses = bridge_error(predicted(output, diffusion), x0, y, z)
    return mean_loss(time_weight * losses, level.t)

  return Objective(draw, loss)


def predicted(output: Array, diffusion: float) -> BridgePrediction:
  """Returns the prediction in a network's output, [B, ..., 2 C].

  Without diffusion the output is [B, ..., C], and z is 0.
  """
  if not diffusion:
    return BridgePrediction(output, jnp.zeros_like(output))
  return BridgePrediction(*jnp.split(output, 2, axis=-1))
