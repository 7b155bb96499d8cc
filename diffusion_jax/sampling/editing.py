"""Functions from images to images along the forward process."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.arguments import (
  as_float,
  check_same_shape,
  sum_data_axes,
)
from diffusion_jax.core.checked import Key, Numbers, checked
from diffusion_jax.core.denoiser import Denoiser
from diffusion_jax.core.keys import draw_normal, split_key
from diffusion_jax.core.levels import Grid
from diffusion_jax.core.process import forward_step, q_sample
from diffusion_jax.core.step_schedules import DiscreteSchedule
from diffusion_jax.ranges import Finite, Probability, Size
from diffusion_jax.sampling.ancestral import ddim_invert, ddim_solve
from diffusion_jax.sampling.inpainting import replace_known
from diffusion_jax.sampling.sampler import Sampler, sample

Array = jax.Array


@checked
def noise_image(key: Key, image: Array, schedule: DiscreteSchedule, steps: Sequence[int]) -> Array:
  """Noises one image by successive `forward_step`s; returns z_i, [N, ...].

  All z_i are on one path: z_j is z_i with more noise. key: []; image: [...],
  one example of any shape; steps: the i, ascending and in 0..T, where 0 is the
  image; ValueError for others.
  """
  ends = np.asarray(steps)
  last = schedule.num_steps
  if ends.ndim != 1 or not len(ends) or (np.diff(ends) < 0).any():
    raise ValueError(f'steps must be an ascending list, got {ends.tolist()}')
  if ends[0] < 0 or ends[-1] > last:
    raise ValueError(f'steps must be in 0..{last}, got {ends.tolist()}')
  all_steps = np.arange(1, ends[-1] + 1)
  # Step i is written into the frame of the first end >= i, where later steps
  # overwrite it until the end itself is reached.
  frames = jnp.asarray(np.searchsorted(ends, all_steps))
  all_steps = jnp.asarray(all_steps)

  def body(carry, inputs):
    x, kept = carry
    key, i, frame = inputs
    x = forward_step(x, draw_normal(key, x), schedule.at_step(i - 1), schedule.at_step(i))
    return (x, kept.at[frame].set(x)), None

  image = as_float(image)
  kept = jnp.broadcast_to(image, (len(ends), *image.shape))
  keys = split_key(key, len(all_steps))
  (_, kept), _ = jax.lax.scan(body, (image, kept), (keys, all_steps, frames))
  return kept


@checked
def sdedit(
  key: Key,
  denoise: Denoiser,
  sampler: Sampler,
  levels: Grid,
  guide: Array,
  strength: Probability,
  *,
  repeats: Size = 1,
  mask: Array | None = None,
) -> Array:
  """Noises an image and denoises it again (SDEdit, Meng et al. 2022).

  Args:
    key: [] or [B]; other keys give variations.
    levels: The grid of `sample`, [N+1].
    guide: [B, ...].
    strength: Fraction of the grid's steps, rounded: 0 returns the guide, 1
      gives a sample almost independent of it. ValueError outside [0, 1].
    repeats: The number of edits, each of the last result; ValueError for < 1.
    mask: True where the guide must not change (see `replace_known`).
  """
  if mask is not None:
    sampler = replace_known(sampler, guide, mask)
  num_steps = levels.t.shape[0] - 1
  levels = levels.take(slice(num_steps - round(strength * num_steps), None))

  def edit(x, key):
    noise_key, key = split_key(key, 2)
    x = q_sample(x, draw_normal(noise_key, x), levels.take(0))
    return sample(key, denoise, sampler, levels, x), None

  return jax.lax.scan(edit, as_float(guide), split_key(key, repeats))[0]


@checked
def interpolate(denoise: Denoiser, levels: Grid, a: Array, b: Array, weights: Numbers) -> Array:
  """Computes images between a and b (Song et al. 2021, DDIM, section 5.3).

  `ddim_invert` encodes both, `slerp` interpolates the latents, and the same ODE
  decodes them. Weights 0 and 1 give a and b up to the error of the inversion.
  levels: the grid of `sample`, [N+1]; a, b: [B, ...], ValueError for unequal
  shapes; weights: [N]. Returns [N, B, ...].
  """
  check_same_shape(a=a, b=b)
  start, end = (ddim_invert(denoise, levels, x) for x in (a, b))

  def decode(weight):
    return ddim_solve(denoise, levels, slerp(start, end, weight))

  return jax.lax.map(decode, jnp.asarray(weights, a.dtype))


@checked
def slerp(a: Array, b: Array, weight: Array | Finite) -> Array:
  """Interpolates each example [B, ...] spherically (Shoemake 1985).

  The result is sin((1 - w) angle) / sin(angle) a + sin(w angle) / sin(angle) b,
  or a linear interpolation if a and b are parallel. weight: [].
  """
  check_same_shape(a=a, b=b)

  def dot(x, y):
    return sum_data_axes(x * y, keepdims=True)

  norms = jnp.sqrt(dot(a, a) * dot(b, b))
  cosine = dot(a, b) / jnp.where(norms > 0.0, norms, 1.0)
  angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
  sine = jnp.sin(angle)
  parallel = (sine < 1e-4) | (norms == 0.0)
  sine = jnp.where(parallel, 1.0, sine)
  of_a = jnp.sin((1.0 - weight) * angle) / sine
  of_b = jnp.sin(weight * angle) / sine
  of_a = jnp.where(parallel, 1.0 - weight, of_a)
  return of_a * a + jnp.where(parallel, weight, of_b) * b
