"""Pictures of many images on one sheet."""

import numpy as np

from diffusion_jax.app.model import Model
from diffusion_jax.app.sample_inputs import ImageConditions, takes_labels
from diffusion_jax.data import drawings


def of_images(
  model: Model, x: np.ndarray, conditions: ImageConditions | None = None
) -> np.ndarray:
  """Returns the sheet of samples [B, ...] as the model has them."""
  return sheet(model, model.facts.x.decode(x), conditions)


def sheet(
  model: Model,
  samples: np.ndarray,
  conditions: ImageConditions | None = None,
  limit: int = 400,
) -> np.ndarray:
  """Draws the first samples, as files have them, on one sheet.

  Columns are classes or prompts. conditions: each picture is drawn between its
  condition and the original.
  """
  if conditions is not None:
    threes = zip(conditions.shown, samples, conditions.originals, strict=False)
    samples = np.concatenate([np.stack(three) for three in threes])
    limit = 3 * (limit // 3)
  samples = samples[:limit]
  columns = sheet_columns(model, len(samples), conditions is not None)
  return drawings.sheet(model.facts.x, samples, columns)


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
