"""Writes result.json of a metric of real images."""

from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.runtime.files import write_json
from diffusion_jax.metrics import bits


def write_bits(
  metric: str,
  values: np.ndarray,
  split: str,
  out: Path,
  more: dict[str, Any] | None = None,
) -> None:
  """Writes the mean of values [N], bits/dim, and prints it in a line."""
  mean, error = bits.mean_and_error(values)
  result = {
    'metric': metric,
    'split': split,
    'images': len(values),
    'bits_per_dim': mean,
    'standard_error': error,
  }
  write_json(out / 'result.json', result | (more or {}))
  print(
    f'{metric}: {mean:.4f} +- {error:.4f} bits/dim, {len(values)} {split} '
    f'images: {out / "result.json"}'
  )
