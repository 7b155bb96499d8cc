"""The objective of bridges from a source to the data, and its pairs."""

import jax
import jax.numpy as jnp

from diffusion_jax.bridges.equations import (
  BridgePrediction,
  bridge_error,
  bridge_sample,
)
from diffusion_jax.core.checked import checked
from diffusion_jax.core.denoiser import Network
from diffusion_jax.core.levels import Schedule
from diffusion_jax.core.losses import TimeSampler, uniform_times
from diffusion_jax.declared import declares
from diffusion_jax.ranges import NonNegative, Positive, Size
from diffusion_jax.training.couplings import Coupling, entropic_coupling, paired
from diffusion_jax.training.objectives import Objective, draw_inputs, mean_loss

Array = jax.Array


@declares(
  what='score and flow matching on [bridges](bridges.md) (Tong et al. 2023)', estimates=False
)
def bridge(
  network: Network,
  schedule: Schedule,
  *,
  diffusion: NonNegative = 0.5,
  times: TimeSampler = uniform_times,
  coupling: Coupling | None = None,
) -> Objective:
  """Makes score and flow matching on bridges (Tong et al. 2023), `bridge_error`.

  y is batch['context'], encoded as x is. diffusion: of the path, in
  the units of models. coupling: pairs the x and the y of a batch; by default the
  pairs are the data's. schedule: `RectifiedFlowSchedule`. params: {'network':
  ...}, see `predicted`. Metrics: loss, also per quarter of t.
  """
  network.check_options('bridge')

  def draw(key, batch, context):
    key, coupling_key = jax.random.split(key)
    inputs, keys = draw_inputs(key, batch, schedule, network, times)
    y = batch['context']
    if coupling is not None:
      y, metrics = paired(coupling, coupling_key, inputs.x0, y, inputs.cond)
      inputs = inputs._replace(metrics=metrics)
    if not diffusion:
      inputs = inputs._replace(eps=jnp.zeros_like(inputs.eps))
    return (inputs, y), keys

  def loss(params, context, inputs, keys):
    (x0, z, level, time_weight, cond, *_), y = inputs
    xt = bridge_sample(x0, y, z, level.t, diffusion)
    output = network.output(params['network'], xt, level, cond, keys[0])
    losses = bridge_error(predicted(output, diffusion), x0, y, z)
    return mean_loss(losses, level.t, time_weight, **inputs[0].metrics)

  return Objective(draw, loss)


def predicted(output: Array, diffusion: float) -> BridgePrediction:
  """Returns a network's output [B, ..., 2 C] in parts.

  Without diffusion it is the displacement, [B, ..., C], and z is 0.
  """
  if not diffusion:
    return BridgePrediction(output, jnp.zeros_like(output))
  return BridgePrediction(*jnp.split(output, 2, axis=-1))


@checked
def schrodinger_coupling(diffusion: Positive, num_iterations: Size = 1000) -> Coupling:
  """Draws pairs of the entropic plan of a batch with epsilon = 2 diffusion^2.

  They make the bridge of this diffusion a Schrodinger bridge. num_iterations,
  at most: see `entropic_coupling`. Raises ValueError.
  """
  return entropic_coupling(lambda x0, y: 2.0 * diffusion**2, num_iterations, 0.05)
