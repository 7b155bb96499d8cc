"""Images in, images out, along the forward process."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.broadcasting import check_same_shape, data_axes
from diffusion_jax.core.concrete import as_float
from diffusion_jax.core.denoiser import Denoiser, predict
from diffusion_jax.core.discrete import DiscreteSchedule
from diffusion_jax.core.keys import draw_normal, split_key
from diffusion_jax.core.levels import NoiseLevel
from diffusion_jax.core.process import forward_step, q_sample
from diffusion_jax.sampling.ancestral import ddim_invert, ddim_step
from diffusion_jax.sampling.inpainting import replace_known
from diffusion_jax.sampling.sampler import Sampler, sample

Array = jax.Array


def noise_image(
  key: Array, image: Array, schedule: DiscreteSchedule, steps: Sequence[int]
) -> Array:
  """z_i for each i of `steps`, one `forward_step` after the other, [N, ...].

  image: [...] of any shape (all of it is one example); steps: ascending, each
  in 0..T, 0 being the image itself. z_i and z_j belong to one noising. Raises
  ValueError for other steps.
  """
  chosen = np.asarray(steps)
  last = schedule.num_steps
  if chosen.ndim != 1 or not len(chosen) or (np.diff(chosen) < 0).any():
    raise ValueError(f'steps must be an ascending list, got {chosen.tolist()}')
  if chosen[0] < 0 or chosen[-1] > last:
    raise ValueError(f'steps must be in 0..{last}, got {chosen.tolist()}')
  all_steps = jnp.arange(1, chosen[-1] + 1)
  # Step i is written into the frame of the first chosen step >= i, where later
  # steps overwrite it until the chosen step itself is reached.
  frames = jnp.asarray(np.searchsorted(chosen, np.arange(1, chosen[-1] + 1)))

  def body(carry, inputs):
    x, kept = carry
    key, i, frame = inputs
    levels = schedule.at_step(i - 1), schedule.at_step(i)
    x = forward_step(x, draw_normal(key, x), *levels)
    return (x, kept.at[frame].set(x)), None

  image = as_float(image)
  kept = jnp.broadcast_to(image, (len(chosen), *image.shape))
  keys = split_key(key, len(all_steps))
  (_, kept), _ = jax.lax.scan(body, (image, kept), (keys, all_steps, frames))
  return kept


def sdedit(
  key: Array,
  denoise: Denoiser,
  sampler: Sampler,
  levels: NoiseLevel,
  guide: Array,
  strength: float,
  *,
  repeats: int = 1,
  mask: Array | None = None,
) -> Array:
  """Noises the guide [B, ...] and walks back down (SDEdit, Meng et al. 2022).

  Over the last strength * N steps of the grid [N+1], rounded: of a uniform grid
  from t = strength on. 0 is the guide itself, 1 a sample that is almost
  independent of it. `repeats`: what comes out is the next guide. mask: True
  where the guide is known and stays exactly (see `replace_known`). Other keys
  give variations. Raises ValueError for a strength outside [0, 1] or
  repeats < 1.
  """
  if not 0.0 <= strength <= 1.0:
    raise ValueError(f'strength is {strength}: it must be in [0, 1]')
  if repeats < 1:
    raise ValueError(f'repeats is {repeats}: at least 1 is needed')
  if mask is not None:
    sampler = replace_known(sampler, guide, mask)
  num_steps = levels.t.shape[0] - 1
  levels = levels.take(slice(num_steps - round(strength * num_steps), None))

  def edit(x, key):
    noise_key, key = split_key(key, 2)
    x = q_sample(x, draw_normal(noise_key, x), levels.take(0))
    return sample(key, denoise, sampler, levels, x), None

  return jax.lax.scan(edit, guide, split_key(key, repeats))[0]


def interpolate(
  denoise: Denoiser, levels: NoiseLevel, a: Array, b: Array, weights: Array
) -> Array:
  """Images between a and b [B, ...], [N, B, ...] for weights [N].

  Both go up to noise by `ddim_invert`, and what lies between them there, by
  `slerp`, comes down by the same ODE (Song et al. 2021, DDIM, section 5.3).
  Weights 0 and 1 give a and b to the error of the inversion. Raises ValueError
  for unequal shapes.
  """
  check_same_shape(a=a, b=b)
  start, end = (ddim_invert(denoise, levels, x) for x in (a, b))
  pairs = levels.take(slice(None, -1)), levels.take(slice(1, None))

  def denoising_step(x, pair):
    level_t, level_s = pair
    x0 = predict(denoise, x, level_t).x0
    return ddim_step(x0, x, level_s.expand_to(x), level_t.expand_to(x)), None

  def decode(weight):
    return jax.lax.scan(denoising_step, slerp(start, end, weight), pairs)[0]

  return jax.lax.map(decode, jnp.asarray(weights, a.dtype))


def slerp(a: Array, b: Array, weight: Array) -> Array:
  """Spherical interpolation of each example [B, ...] (Shoemake 1985).

  sin((1 - w) angle) / sin(angle) a + sin(w angle) / sin(angle) b, along the
  line where a and b are parallel. weight: [].
  """

  def dot(x, y):
    return jnp.sum(x * y, axis=data_axes(x), keepdims=True)

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
