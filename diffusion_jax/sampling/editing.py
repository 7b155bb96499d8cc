"""Images in, images out, along the forward process."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.discrete import DiscreteSchedule
from diffusion_jax.core.keys import draw_normal, split_key
from diffusion_jax.core.process import forward_step

Array = jax.Array


def noise_image(
  key: Array, image: Array, schedule: DiscreteSchedule, steps: Sequence[int]
) -> Array:
  """z_i for each i of `steps`, one `forward_step` after the other, [N, ...].

  image: [...] of any shape (all of it is one example); steps: ascending, each
  in 0..T, 0 being the image itself. z_i and z_j belong to one noising. Raises
  ValueError for other steps.
  """
  steps = np.asarray(steps)
  last = schedule.num_steps
  if steps.ndim != 1 or not len(steps) or (np.diff(steps) < 0).any():
    raise ValueError(f'steps must be an ascending list, got {steps.tolist()}')
  if steps[0] < 0 or steps[-1] > last:
    raise ValueError(f'steps must be in 0..{last}, got {steps.tolist()}')
  walked = jnp.arange(1, steps[-1] + 1)
  # step i goes into the frame of the first chosen step >= i, and is overwritten
  # there until that step itself is reached
  frames = jnp.asarray(np.searchsorted(steps, np.arange(1, steps[-1] + 1)))

  def body(carry, inputs):
    x, kept = carry
    key, i, frame = inputs
    levels = schedule.at_step(i - 1), schedule.at_step(i)
    x = forward_step(x, draw_normal(key, x), *levels)
    return (x, kept.at[frame].set(x)), None

  image = jnp.asarray(image, jnp.result_type(float))
  kept = jnp.broadcast_to(image, (len(steps), *image.shape))
  keys = split_key(key, len(walked))
  (_, kept), _ = jax.lax.scan(body, (image, kept), (keys, walked, frames))
  return kept
