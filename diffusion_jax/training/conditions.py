"""Conditions in training: functions (key, batch) -> cond, arrays [B, ...]."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.core import operators
from diffusion_jax.core.denoiser import Condition
from diffusion_jax.ranges import Size
from diffusion_jax.training.masks import draw_masks, draw_subsets

Array = jax.Array
# (key [] or [B], x0 [B, H, W, C]) -> cond['image']
ImageCondition = Callable[[Array, Array], Array]


def make_condition(
  labels: bool = True,
  dropout: float = 0.0,
  image: ImageCondition | None = None,
  text: bool = False,
  context: bool = False,
  known: ImageCondition | None = None,
) -> Condition:
  """Returns a function (key, batch) -> cond for a whole batch.

  labels: cond['label'] is batch['label']. image: cond['image'] is image(key,
  batch['x']), such as `inpaint()`. text: cond['text'], tokens [B, L], and
  cond['text_mask'], False at padding. context: cond['context'] is
  batch['context']. known: cond['known'] is known(key, batch['x']), such as
  `subsets(2)`. dropout: the probability that an example is trained without
  any of these, marked in cond['drop'] [B], for classifier-free guidance (Ho &
  Salimans 2022).
  """

  def condition(key, batch):
    drop_key, x_key = jax.random.split(key)
    cond = {'label': batch['label']} if labels else {}
    if text:
      cond |= {name: batch[name] for name in ('text', 'text_mask')}
    if context:
      cond['context'] = batch['context']
    if image is not None:
      cond['image'] = image(x_key, batch['x'])
    if known is not None:
      cond['known'] = known(x_key, batch['x'])
    if dropout:
      size = batch['x'].shape[:1]
      cond['drop'] = jax.random.bernoulli(drop_key, dropout, size)
    return cond

  return condition


def known_pixels(x0: Array, mask: Array) -> Array:
  """Returns the condition of inpainting, [B, H, W, C + 1].

  It is the known pixels, 0 elsewhere, and the mask, 1 where a pixel is known
  (Palette, Saharia et al. 2022, has noise at the unknown pixels). x0: [B, H, W,
  C]; mask: broadcasts to [B, H, W, 1].
  """
  mask = jnp.broadcast_to(mask, (*x0.shape[:-1], 1))
  return jnp.concatenate(
    [jnp.where(mask, x0, 0.0), mask.astype(x0.dtype)], axis=-1
  )


def enlarged(x: Array, factor: int) -> Array:
  """Repeats every pixel factor x factor times.

  Enlarged small images are the condition of super-resolution (SR3, Saharia et
  al. 2021, who enlarge by cubic splines).
  """
  return jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)


def inpaint() -> ImageCondition:
  """Shows the network some pixels (Palette, Saharia et al. 2022)."""
  return lambda key, x0: known_pixels(x0, draw_masks(key, x0.shape))


def superres(factor: Size = 2) -> ImageCondition:
  """Shows the network the image, `factor` times smaller (SR3)."""
  return lambda key, x0: enlarged(operators.pooled(x0, factor), factor)


def colorize() -> ImageCondition:
  """Shows the network the image in grey."""
  return lambda key, x0: operators.luminance(x0)


def subsets(parameters: Size) -> ImageCondition:
  """Shows the network some numbers of x_0 [B, D], NaN elsewhere (Simformer).

  The first `parameters` numbers are a simulator's parameters, the others what
  it returns; see `draw_subsets`.
  """

  def known(key, x0):
    return jnp.where(draw_subsets(key, x0.shape, parameters), x0, jnp.nan)

  return known
