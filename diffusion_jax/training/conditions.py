"""What a network is told in training: (key, batch) -> cond, arrays [B, ...]."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.training.masks import draw_masks

Array = jax.Array
Tell = Callable[[Array, dict], dict]
ImageCondition = Callable[[Array, Array], Array]


def nothing(key: Array, batch: dict) -> dict:
  """cond of an unconditional network: {}."""
  return {}


def tell(
  labels: bool = True,
  dropout: float = 0.0,
  image: ImageCondition | None = None,
  text: bool = False,
) -> Tell:
  """cond of a batch: what it has of what is asked for.

  labels: cond['label'] is batch['label']. image: cond['image'] is image(key,
  batch['image']), see `known_pixels` and the like. text: cond['text'], tokens
  [B, L], and cond['text_mask'], False at padding. dropout: each example is told
  nothing with this probability, by cond['drop'] [B], for classifier-free
  guidance (Ho & Salimans 2022). The draws are those of the whole batch.
  """

  def told(key, batch):
    drop_key, image_key = jax.random.split(key)
    cond = {'label': batch['label']} if labels else {}
    if text:
      cond |= {name: batch[name] for name in ('text', 'text_mask')}
    if image is not None:
      cond['image'] = image(image_key, batch['image'])
    if dropout:
      size = batch['image'].shape[:1]
      cond['drop'] = jax.random.bernoulli(drop_key, dropout, size)
    return cond

  return told


def known_pixels(x0: Array, mask: Array) -> Array:
  """What inpainting is told: [B, H, W, C + 1] (Palette, Saharia et al. 2022).

  The known pixels, 0 elsewhere (Palette has noise there), and the mask, 1 where
  a pixel is known. x0: [B, H, W, C]; mask: broadcasts to [B, H, W, 1].
  """
  mask = jnp.broadcast_to(mask, (*x0.shape[:-1], 1))
  return jnp.concatenate(
    [jnp.where(mask, x0, 0.0), mask.astype(x0.dtype)], axis=-1
  )


def pooled(x0: Array, factor: int) -> Array:
  """Means over factor x factor pixels: [B, H, W, C] -> [B, H/f, W/f, C].

  Raises ValueError if factor does not divide H and W.
  """
  b, h, w, c = x0.shape
  if factor < 1 or h % factor or w % factor:
    raise ValueError(f'images of {h}x{w} cannot be made {factor} times smaller')
  blocks = x0.reshape(b, h // factor, factor, w // factor, factor, c)
  return jnp.mean(blocks, axis=(2, 4))


def enlarged(x: Array, factor: int) -> Array:
  """Every pixel factor x factor times: what super-resolution is told (SR3).

  (Saharia et al. 2021, who enlarge by cubic splines.)
  """
  return jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)


# Rec. 601 luma, which Pillow takes for grey pictures
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def luminance(x0: Array) -> Array:
  """What colourisation is told: [B, H, W, 3] -> [B, H, W, 1], Rec. 601 luma.

  Raises ValueError for images that are not in colour.
  """
  if x0.shape[-1] != 3:
    raise ValueError(
      f'images of {x0.shape[-1]} channel(s) have no colours to leave out'
    )
  return jnp.sum(x0 * LUMA.reshape(1, 1, 1, 3), axis=-1, keepdims=True)


def image_condition(kind: str, factor: int = 2) -> ImageCondition:
  """(key [] or [B], x0 [B, H, W, C]) -> cond['image'], made of x0 itself.

  'inpainting': `known_pixels` under `draw_masks`; 'superres': `pooled` by
  `factor` and enlarged again; 'gray': `luminance`. Raises ValueError for other
  kinds.
  """
  kinds = {
    'inpainting': lambda key, x0: known_pixels(x0, draw_masks(key, x0.shape)),
    'superres': lambda key, x0: enlarged(pooled(x0, factor), factor),
    'gray': lambda key, x0: luminance(x0),
  }
  if kind not in kinds:
    raise ValueError(f'image {kind!r} is not one of {", ".join(kinds)}')
  return kinds[kind]
