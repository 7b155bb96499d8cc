"""Pictures of many images on one sheet."""

import numpy as np

from diffusion_jax.app.model import Model
from diffusion_jax.app.sample_inputs import ImageConditions, takes_labels
from diffusion_jax.data import images


def of_images(
  model: Model, x: np.ndarray, conditions: ImageConditions | None = None
) -> np.ndarray:
  """Returns the sheet of images [B, H, W, C] in [-1, 1]."""
  return sheet(model, images.to_uint8(x, model.facts.num_levels), conditions)


def sheet(
  model: Model,
  pictures: np.ndarray,
  conditions: ImageConditions | None = None,
  limit: int = 400,
) -> np.ndarray:
  """Draws the first pictures, uint8, on one sheet.

  Columns are classes or prompts. conditions: each picture is drawn between its
  condition and the original.
  """
  pictures = model.pictures(pictures)
  if conditions is not None:
    threes = zip(conditions.shown, pictures, conditions.originals, strict=False)
    pictures = np.concatenate([np.stack(three) for three in threes])
    limit = 3 * (limit // 3)
  pictures = pictures[:limit]
  zoom = max(1, round(48 / pictures.shape[1]))
  columns = sheet_columns(model, len(pictures), conditions is not None)
  return images.grid(pictures, min(columns, len(pictures)), zoom)


def sheet_columns(model: Model, n: int, threes: bool) -> int:
  """Returns the number of columns; each class or prompt has its own.

  threes: three pictures at a time belong together.
  """
  c, columns = model.config.sampling, int(np.ceil(n**0.5))
  if threes:
    return 3 * max(1, columns // 3)
  group = (c.prompt or '').count('|') + 1
  if group == 1 and takes_labels(model):
    group = len(c.labels) or model.facts.num_classes
  # As near to a square as multiples of the group are.
  return group * max(1, round(columns / group)) if group <= 20 else 20
