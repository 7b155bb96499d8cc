"""Likelihoods and rates as papers report them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.metrics.estimates import mean, per_number
from diffusion_jax.metrics.metric import Arrays, ExampleArrays, ModelMetric, Score

Array = jax.Array
_Measured = TypeVar('_Measured')
Details = Callable[[Arrays, Path], Json]


def rate_distortion(
  prior: float, terms: np.ndarray, squared_errors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (rate [T], distortion [T]) of progressive decoding, from t = T on.

  terms [T]: L_0..L_{T-1}, where L_{t-1} is the transition from t;
  squared_errors [T]: mean of (x_0 - x0_hat(x_t))^2 per dimension in [-1, 1],
  t = 1..T. rate[i] is the information sent when x_{T-i} is known, in the unit
  of the terms, and distortion[i] the RMSE of the estimate of x_0 from it, on
  the scale 0..255 (DDPM section 4.3, Figure 5).
  """
  sent = np.cumsum(np.concatenate([[prior], terms[:0:-1]]))
  return sent, 127.5 * np.sqrt(np.asarray(squared_errors)[::-1])


def pixel_histogram(batches: Iterable[np.ndarray], num_levels: int) -> np.ndarray:
  """Returns log p(level) of each pixel, nats, float32 [H, W, C, num_levels].

  The counts are over batches of images, uint8 [n, H, W, C] with
  0..num_levels - 1, plus 1 for each level (Laplace). A model of independent
  pixels is a baseline for likelihoods.
  """
  counts = np.ones(())
  for images in batches:
    counts = counts + np.stack(
      [np.sum(images == level, axis=0) for level in range(num_levels)], axis=-1
    )
  return np.log(counts / counts.sum(axis=-1, keepdims=True)).astype(np.float32)


def independent_pixels_nll(x0: Array, log_prob: Array) -> Array:
  """Returns -log p, [B], of [B, H, W, C] in [-1, 1] by `pixel_histogram`."""
  level = jnp.rint((x0 + 1.0) * ((log_prob.shape[-1] - 1) / 2.0)).astype(int)
  chosen = jnp.take_along_axis(log_prob[None], level[..., None], axis=-1)
  return -jnp.sum(chosen, axis=(1, 2, 3, 4))


def in_bits(
  name: str,
  measure: Callable[[_Measured], ExampleArrays],
  details: Details | None = None,
  **parts: Any,
) -> ModelMetric[_Measured]:
  """Makes the metric of `measure`, whose array 'total' [B] is in bits/dim.

  Of real numbers it is 'nats' in nats/dim, with 'truncated' within a box. Of examples with
  lengths 'numbers' [B] says how many dimensions each has, and the mean is over these.
  details: further entries of the report; parts: of `ModelMetric`.
  """

  def compute(arrays):
    if 'truncated' in arrays:
      return [
        Score(name, mean(arrays['nats']), 'nats/dim, beyond the box too'),
        Score(f'{name}_truncated', mean(arrays['truncated']), 'nats/dim, within the box'),
      ]
    numbers = arrays.get('numbers')
    if 'nats' in arrays:
      return [Score(name, per_number(arrays['nats'], numbers), 'nats/dim')]
    return [Score(name, per_number(arrays['total'], numbers), 'bits/dim')]

  return ModelMetric(measure, compute, details, **parts)
