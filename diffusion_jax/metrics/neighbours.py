"""Distances to the nearest rows of another set, without an N x N matrix."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from diffusion_jax.data.sources import Source, blocks
from diffusion_jax.data.spec import ArraySpec

_MEGABYTES = 256  # megabytes of distances in memory at a time

# A distance and a radius that are equal are computed by different sums: without
# a margin, rounding would decide on which side of the radius a point is.
_MARGIN = 1e-9


def radii(features: np.ndarray, k: int) -> np.ndarray:
  """Returns the distance of each row of [N, D] to its k-th neighbour, [N].

  A row is not its own neighbour. Raises ValueError for k >= N.
  """
  from sklearn.neighbors import NearestNeighbors

  if not 1 <= k < len(features):
    raise ValueError(f'{len(features)} images have no neighbour number {k}: more are needed')
  search = NearestNeighbors(n_neighbors=k, algorithm='brute')
  search.fit(features - np.mean(features, axis=0, dtype=np.float64))
  return search.kneighbors()[0][:, -1]


def nearest(features: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns (distance, index) of the row of [M, D] next to each of [N, D]."""
  from sklearn.metrics import pairwise_distances_argmin_min

  centre = np.mean(reference, axis=0, dtype=np.float64)
  x, y = features - centre, reference - centre
  index, _ = pairwise_distances_argmin_min(x, y)
  return np.linalg.norm(x - y[index], axis=1), index


def nearest_examples(
  values: ArraySpec, x: np.ndarray, source: Source, size: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the nearest examples of a source, decoded, and the distances [n].

  x: [n, ...] as models see it; size: how many examples are read at a time.
  """
  best, chosen = np.full(len(x), np.inf), values.decode(x)
  for index in blocks(len(source), size):
    real = values.encode(source.read(index)['x'])
    distance, at = nearest(x.reshape(len(x), -1), real.reshape(len(real), -1))
    closer = distance < best
    best[closer] = distance[closer]
    chosen[closer] = values.decode(real[at[closer]])
  return chosen, best / np.sqrt(x[0].size)


def each_block(
  features: np.ndarray,
  reference: np.ndarray,
  function: Callable[[np.ndarray], ArrayLike],
  radius: ArrayLike = np.nan,
) -> np.ndarray:
  """Returns function(distances [n, M]) -> [n, ...] of all rows, joined.

  radius: of each row [N, 1], or of each row of the reference [M]; a distance
  that is a radius but for rounding is the radius.
  """
  from sklearn.metrics import pairwise_distances_chunked

  centre = np.mean(reference, axis=0, dtype=np.float64)
  x, y = features - centre, reference - centre
  square = [np.sum(a**2, axis=1) for a in (x, y)]
  radius = np.asarray(radius)

  def reduce(block, start):
    rows = slice(start, start + len(block))
    each = radius[rows] if radius.ndim == 2 else radius
    # Two sums |x|^2 + |y|^2 - 2 x.y, each rounded by 2 D eps (|x|^2 + |y|^2).
    size = square[0][rows, None] + square[1]
    rounding = 4 * x.shape[1] * np.finfo(np.float64).eps * size
    same = np.abs(block**2 - each**2) <= rounding
    return function(np.where(same, each, block))

  blocks = pairwise_distances_chunked(x, y, reduce_func=reduce, working_memory=_MEGABYTES)
  return np.concatenate(list(blocks))


def inside(distances: np.ndarray, radius: np.ndarray) -> np.ndarray:
  """Returns whether distance < radius, by more than rounding."""
  return distances < radius * (1.0 - _MARGIN)


def inside_or_on(distances: np.ndarray, radius: np.ndarray) -> np.ndarray:
  """Returns whether distance <= radius, up to rounding."""
  return distances <= radius * (1.0 + _MARGIN)
