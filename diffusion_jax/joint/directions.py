"""A variable of angles, directions or rotations, and its sampler: flow matching on geodesics."""

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import sum_data_axes
from diffusion_jax.core.checked import checked
from diffusion_jax.core.levels import NoiseLevel, Schedule
from diffusion_jax.core.schedules import RectifiedFlowSchedule
from diffusion_jax.joint.geodesics import Manifold
from diffusion_jax.joint.variables import Variable
from diffusion_jax.meshes import placed_as
from diffusion_jax.ranges import Size
from diffusion_jax.sampling.sampler import Sampler

Array = jax.Array
FLOW = RectifiedFlowSchedule()


@checked
def directions(manifold: Manifold, schedule: Schedule = FLOW, level_axes: Size = 1) -> Variable:
  """Makes a variable of points of a manifold, by flow matching (Chen & Lipman 2023).

  x_t is on the geodesic from x_0 to a uniform point, at the part sigma of its length. The
  network returns tangent vectors: the velocity towards x_0, log_{x_t}(x_0) / sigma. The loss
  is their squared error, and no bound. schedule: its sigma rises from 0 to 1.
  """

  def prior(key, shape, level):
    return manifold.uniform(key, shape)

  def noised(key, x0, level):
    v = manifold.log(x0, placed_as(x0, manifold.uniform(key, x0.shape)))
    sigma = level.expand_to(x0).sigma
    return manifold.exp(x0, sigma * v), -manifold.velocity(x0, v, sigma)

  def estimate(output, xt, level):
    return manifold.tangent(xt, output.astype(xt.dtype))

  def loss(output, x0, xt, velocity, level):
    return sum_data_axes(jnp.square(estimate(output, xt, level) - velocity))

  return Variable(
    schedule,
    prior,
    noised,
    estimate,
    loss,
    seen=lambda xt, level: manifold.seen(xt),
    level_axes=level_axes,
  )


@checked
def geodesic(manifold: Manifold) -> Sampler:
  """Makes the sampler of `directions`: a step along the geodesic of the mean velocity.

  denoise(x_t, level) -> E[log_{x_t}(x_0)] / sigma, as `JointNetwork` returns; alone too, for
  `dj.sample`. The step to clean data goes all the way, sigma times the velocity. An Euler
  step, of first order.
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    s, t = level_s.expand_to(x), NoiseLevel.expand_to(level_t, x)
    return manifold.exp(x, (t.sigma - s.sigma) * denoise(x, level_t)), state

  return Sampler(lambda x: (), step)
