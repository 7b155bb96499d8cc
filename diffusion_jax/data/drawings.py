"""Drawings of samples by what they are: pictures and texts."""

import numpy as np

from diffusion_jax.data import images
from diffusion_jax.data.text_files import draw_bytes
from diffusion_jax.data.values import Values


def pictures(values: Values, x: np.ndarray) -> np.ndarray:
  """Draws each of x [n, *values.shape] as a picture, uint8 [n, H, W, C].

  x: as files have it; see `Values.decode`.
  """
  return draw_bytes(x) if values.is_text else x


def sheet(
  values: Values, x: np.ndarray, columns: int, height: int = 48
) -> np.ndarray:
  """Draws x [n, *values.shape] on one sheet, uint8 [H, W, C], in columns.

  height: of a picture, at least, in pixels.
  """
  drawn = pictures(values, x)
  zoom = max(1, round(height / drawn.shape[1]))
  return images.grid(drawn, min(columns, len(drawn)), zoom)
