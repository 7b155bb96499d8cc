"""Elements of a sequence that are drawn given others, and windows that move along it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import as_float, expand_to
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.denoiser import Denoiser, predict
from diffusion_jax.core.keys import split_key
from diffusion_jax.core.levels import Grid, NoiseLevel, check_axes, clean_level, select_level
from diffusion_jax.ranges import Size

Array = jax.Array


@checked
def is_known(known: Array) -> Array:
  """Returns which elements of known [B, T, ...] have no NaN, bool [B, T]."""
  return ~jnp.isnan(known).reshape(*known.shape[:2], -1).any(axis=-1)


@checked
def hold_known(levels: Grid, x: Array, known: Array) -> tuple[NoiseLevel, Array]:
  """Holds what is known clean: returns a grid [N+1, B, T] and x at its first level.

  The other elements are then drawn given these, `dj.sample(key, denoise, sampler,
  *dj.hold_known(levels, x, known))` (Diffusion Forcing, Chen et al. 2024, section 3.3).
  levels: as for `sample`; x: noise [B, T, ...]; known: [B, T, ...], NaN in elements that
  are drawn, also if only some numbers of an element are NaN. ValueError if the shapes of x
  and known differ, or for levels that do not fit x.
  """
  if known.shape != x.shape:
    raise ValueError(f'known has the shape {list(known.shape)}, and x {list(x.shape)}')
  check_axes(levels, x)
  levels.take(0).expand_to(x)
  shape = (*levels.t.shape, *[1] * (3 - levels.t.ndim))
  levels = jax.tree.map(lambda a: a.reshape(shape), levels)
  levels = select_level(is_known(known)[None], clean_level(), levels)
  return levels, _where_known(known, x)


@checked
def given_known(denoise: Denoiser, known: Array) -> Denoiser:
  """Makes the denoiser of the other elements given what is known, at any level of these.

  Whatever x is at known elements, `denoise` gets them, at the clean level, and they are
  its x_0. It is for functions with levels of their own, such as `split_gibbs`. known:
  [B, T, ...], NaN in elements that are unknown.
  """
  held = is_known(known)

  def denoise_others(xt, level):
    axes = [1] * (2 - jnp.ndim(level.t))
    level = jax.tree.map(lambda a: jnp.reshape(a, (*jnp.shape(a), *axes)), level)
    level = select_level(held, clean_level(), level)
    prediction = predict(denoise, _where_known(known, xt), level)
    return prediction._replace(x0=_where_known(known, prediction.x0))

  return denoise_others


def _where_known(known, x):
  return jnp.where(expand_to(is_known(known), x), known, as_float(x))


@checked
def roll_out(
  key: Key, draw: Callable[[Array, Array], Array], known: Array, window: Size, stride: Size
) -> Array:
  """Draws the unknown elements of a sequence of any length by a window that moves along it.

  draw: (key, known [B, window, ...]) -> [B, window, ...], as `hold_known` makes; what a
  window has drawn is known to the next one, which begins `stride` elements later, the
  last one at the end. known: [B, T, ...], NaN in elements that are drawn. ValueError
  for T < window, and for a stride above the window, which would leave gaps.
  """
  length = known.shape[1]
  if length < window or stride > window:
    raise ValueError(
      f'a window of {window} with stride={stride} does not pass over {length} elements: '
      f'take at least {window} elements, and a stride of at most {window}'
    )
  starts = [*range(0, length - window, stride), length - window]

  def step(x, inputs):
    key, start = inputs
    part = jax.lax.dynamic_slice_in_dim(x, start, window, axis=1)
    return jax.lax.dynamic_update_slice_in_dim(x, draw(key, part), start, axis=1), None

  inputs = split_key(key, len(starts)), jnp.array(starts)
  return jax.lax.scan(step, known, inputs)[0]
