"""Inpainting by the sampler: functions sampler -> sampler.

`mask` is True where the image `known` is known; its other pixels are ignored.
Any network will do, whereas Palette's networks take cond['image']
(`training.conditions`).
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.arguments import check_same_shape, expand_to
from diffusion_jax.core.checked import checked
from diffusion_jax.core.keys import draw_normal, split_key
from diffusion_jax.core.levels import Grid, NoiseLevel, check_one_level
from diffusion_jax.core.process import forward_step, q_sample
from diffusion_jax.ranges import Size
from diffusion_jax.sampling.sampler import Sampler

Array = jax.Array


@checked
def replace_known(sampler: Sampler, known: Array, mask: Array) -> Sampler:
  """Draws the known pixels with new noise after each step (Song et al. 2021).

  They become `q_sample` of `known`, and `known` itself at the clean level. This
  is biased: their noise does not depend on the other pixels. sampler: any
  except `unipc`; known: [B, ...] like x; mask: True where known, broadcasts to
  `known`. ValueError for other shapes.
  """
  check_mask(known, mask)

  def step(key, x, state, denoise, *, level_s, level_t):
    check_same_shape(x=x, known=known)
    key, noise_key = split_key(key, 2)
    x, state = sampler.step(key, x, state, denoise, level_s=level_s, level_t=level_t)
    eps = draw_normal(noise_key, x)
    return jnp.where(mask, _noisy_known(known, eps, level_s), x), state

  return Sampler(sampler.init, step)


@checked
def hold_padding(sampler: Sampler, valid: Array) -> Sampler:
  """Holds what pads an example at 0, also where the steps draw noise.

  valid: bool [B, T], False at elements of x [B, T, ...] that are no part of the example. Of states
  0 is the state 0. The denoiser has x_0 = 0 there, as `Network.denoiser` with cond['valid'].
  """

  def held(x):
    return jnp.where(expand_to(valid, x), x, jnp.zeros((), x.dtype))

  def step(key, x, state, denoise, *, level_s, level_t):
    x, state = sampler.step(key, held(x), state, denoise, level_s=level_s, level_t=level_t)
    return held(x), state

  return sampler._replace(init=lambda x: sampler.init(held(x)), step=step)


@checked
def repaint(sampler: Sampler, known: Array, mask: Array) -> Sampler:
  """Makes the sampler of RePaint (Lugmayr et al. 2022, Alg. 1).

  It samples along the levels of `repaint_levels`. Where they go to a noisier
  level, `forward_step` noises x without a call of the network, and the state is
  initialised again. Before other steps known pixels are drawn with new noise at
  level t; at the clean level they are `known`. Levels are []; for the arguments
  see `replace_known`.
  """
  check_mask(known, mask)

  def step(key, x, state, denoise, *, level_s, level_t):
    check_same_shape(x=x, known=known)
    check_one_level(level_t, 'repaint', axes=0)
    key, noise_key = split_key(key, 2)
    eps = draw_normal(noise_key, x)

    def add_noise(x, state):
      return forward_step(x, eps, level_t, level_s), sampler.init(x)

    def denoising_step(x, state):
      x = jnp.where(mask, _noisy_known(known, eps, level_t), x)
      x, state = sampler.step(key, x, state, denoise, level_s=level_s, level_t=level_t)
      clean = level_s.expand_to(x).sigma == 0.0
      return jnp.where(clean & mask, known, x), state

    # This grid is the one place where level_s may be the noisier level.
    is_noisier = level_s.logsnr < level_t.logsnr
    return jax.lax.cond(is_noisier, add_noise, denoising_step, x, state)

  return Sampler(sampler.init, step)


@checked
def repaint_levels(levels: Grid, num_resamples: Size = 10, jump: Size = 10) -> NoiseLevel:
  """Returns RePaint's grid, which returns to noisier levels, [M+1].

  At every `jump`-th level it goes up `jump` levels, one by one, num_resamples -
  1 times, so it samples each section num_resamples times. The last section
  begins one step before the clean level. With the defaults 250 steps become
  2,410 steps down, each a call of the network, and 2,160 up. levels: the grid
  of `sample`, [N+1]; ValueError unless 1 <= num_resamples and 1 <= jump < N.
  """
  num_steps = levels.t.shape[0] - 1
  if jump >= num_steps:
    raise ValueError(f'jump is {jump}: it must be less than the {num_steps} steps of the grid')
  # Steps are counted from the clean level, as the steps of a model are.
  repeats = {i: num_resamples - 1 for i in range(1, num_steps - jump + 1, jump)}
  steps = [num_steps]
  while steps[-1] > 0:
    steps.append(steps[-1] - 1)
    if repeats.get(steps[-1]):
      repeats[steps[-1]] -= 1
      steps.extend(range(steps[-1] + 1, steps[-1] + jump + 1))
  return levels.take(num_steps - np.array(steps))


def _noisy_known(known, eps, level):
  # At the clean level the result is exactly `known`.
  clean = level.expand_to(known).sigma == 0.0
  return jnp.where(clean, known, q_sample(known, eps, level))


def check_mask(known: Array, mask: Array) -> None:
  """Raises ValueError unless mask broadcasts to known, axis by axis."""
  shape, known_shape = jnp.shape(mask), jnp.shape(known)
  if len(shape) != len(known_shape) or any(
    n not in (1, m) for n, m in zip(shape, known_shape, strict=True)
  ):
    raise ValueError(
      f'a mask of shape {list(shape)} does not fit images {list(known_shape)}: '
      'each axis must be the same or 1, as in [B, H, W, 1]'
    )
